/** Where to listen or dial. Port 0 lets the system choose. */
export interface Address {
  host: string
  port: number
}

/** Reads `host:port` or `[ipv6]:port`; null where the text is neither. */
export function parseAddress(text: string): Address | null {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text)
  if (match === null) return null
  const port = Number(match[3])
  return port <= 65_535 ? { host: match[1] ?? match[2] ?? '', port } : null
}

/** The text `parseAddress` reads. */
export function formatAddress(address: Address): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return `${host}:${address.port}`
}

/** Whether only this machine can reach a listener on `host`. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}

/** Whether `host` means every address of a machine, and so none that could be dialled. */
export function isAnyHost(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

/** Addresses of hubs that a list may have. */
const MAX_HUB_URLS = 32

/** Normalizes URLs of a hub's nodes, separated by commas, each once; null where one of them is none. */
export function parseHubUrls(text: string): string[] | null {
  const urls = text.split(',').map(part => parseHubUrl(part.trim()))
  const known = urls.filter(url => url !== null)
  return known.length === urls.length && known.length <= MAX_HUB_URLS ? [...new Set(known)] : null
}

/** Normalizes a hub's URL to `ws://host:port` or `wss://host:port`; null where it is none. */
export function parseHubUrl(text: string): string | null {
  if (!URL.canParse(text)) return null
  const url = new URL(text)
  const secure = url.protocol === 'wss:' || url.protocol === 'https:'
  if (!secure && url.protocol !== 'ws:' && url.protocol !== 'http:') return null
  const extras = url.username + url.password + url.search + url.hash
  if (url.host === '' || extras !== '' || url.pathname !== '/') return null
  return `${secure ? 'wss' : 'ws'}://${url.host}`
}

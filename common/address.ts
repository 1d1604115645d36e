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

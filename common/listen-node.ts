import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, Server } from 'node:http'
import { createServer, STATUS_CODES } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { Duplex } from 'node:stream'
import { WebSocketServer } from 'ws'
import type { Address } from './address.ts'
import { formatAddress, isLoopback } from './address.ts'
import type { Link } from './env.ts'
import { messageOf, systemErrorCode, TributaryError } from './errors.ts'
import { wsLink } from './net-node.ts'
import type { MutualTls } from './tls.ts'

/** Listens for links of other nodes, and lets in nobody else. */

/** Connections at once: more than a cluster has nodes, with room for those that others gave up. */
const MAX_CONNECTIONS = 1_024

/** For who takes it for the port of clients. */
const WRONG_PORT = JSON.stringify({
  error: {
    code: 'protocol_error',
    message:
      'this port is for other nodes alone (cluster.peerListen): clients, edges and REST are served at --http',
    details: {},
  },
})

export interface PeerListenerOptions {
  /** Port 0 lets the system choose. */
  address: Address
  path: string
  /** What diallers send as `Authorization: Bearer`; null: they need not. */
  secret: string | null
  /** Diallers must show a certificate of the authority `caPem`; null: no TLS. */
  tls: MutualTls | null
  maxFrameBytes: number
  accept(link: Link): void
}

export interface PeerListener {
  /** Where it listens. */
  address: Address
  /** Accepts no more; links that were accepted are their owner's. */
  close(): Promise<void>
}

/** Throws `config_invalid` where strangers could join the cluster. */
function refuseOpenPeerListener({ address, secret, tls }: Omit<PeerListenerOptions, 'accept'>): void {
  if (secret !== null || tls !== null || isLoopback(address.host)) return
  throw new TributaryError(
    'config_invalid',
    `cluster.peerListen (--peer-listen) ${formatAddress(address)} is reachable from other machines, and anybody there could join the cluster: ` +
      'give all nodes the same secret by cluster.peerSecretFile (--peer-secret-file), or certificates by cluster.peerTls',
  )
}

/** Starts to listen. Rejects with `config_invalid` (see above), `port_in_use`, `invalid_argument` for an address that this machine does not have. */
export async function listenForPeers(options: PeerListenerOptions): Promise<PeerListener> {
  refuseOpenPeerListener(options)
  const server = serverOf(options)
  const webSockets = new WebSocketServer({
    noServer: true,
    maxPayload: options.maxFrameBytes,
    perMessageDeflate: false,
    skipUTF8Validation: true,
  })
  server.maxConnections = MAX_CONNECTIONS
  server.on('request', (_request, response) => {
    response.writeHead(426, { 'content-type': 'application/json; charset=utf-8' }).end(WRONG_PORT)
  })
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy())
    const status = refusalOf(request, options)
    if (status !== null) {
      socket.end(
        `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`,
        () => socket.destroy(),
      )
      return
    }
    webSockets.handleUpgrade(request, socket, head, webSocket => {
      const { remoteAddress = 'unknown', remotePort = 0 } = request.socket
      options.accept(wsLink(webSocket, `${remoteAddress}:${remotePort}`))
    })
  })
  await listening(server, options.address)
  const bound = server.address()
  const { host, port } = options.address
  return {
    address: { host, port: typeof bound === 'object' && bound !== null ? bound.port : port },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeIdleConnections()
      }),
  }
}

function serverOf({ tls }: PeerListenerOptions): Server {
  if (tls === null) return createServer()
  const { certPem: cert, keyPem: key, caPem: ca } = tls
  return createSecureServer({ cert, key, ca, requestCert: true, rejectUnauthorized: true })
}

/** The HTTP status to turn somebody away with; null for who may come in. */
function refusalOf({ url, headers }: IncomingMessage, options: PeerListenerOptions): number | null {
  // Browsers send it with every WebSocket; nodes do not. A page must not reach a node through the browser of this machine.
  if (headers.origin !== undefined) return 403
  if ((url ?? '').split('?', 1)[0] !== options.path) return 404
  if (options.secret === null) return null
  const given = /^bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1] ?? ''
  return timingSafeEqual(digestOf(given), digestOf(options.secret)) ? null : 401
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

function listening(server: Server, address: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', error => reject(listenError(error, formatAddress(address))))
    server.listen({ host: address.host, port: address.port }, resolve)
  })
}

function listenError(error: Error, place: string): Error {
  const details = { flag: '--peer-listen', address: place }
  switch (systemErrorCode(error)) {
    case 'EADDRINUSE':
      return new TributaryError(
        'port_in_use',
        `${place} is in use by another process: choose another address for other nodes with --peer-listen HOST:PORT`,
        { cause: error, details },
      )
    case 'EACCES':
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new TributaryError(
        'invalid_argument',
        `can't listen for other nodes on ${place} (${messageOf(error)}): choose an address of this machine with --peer-listen HOST:PORT`,
        { cause: error, details },
      )
    default:
      return error
  }
}

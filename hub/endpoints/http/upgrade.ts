import type { IncomingMessage, Server } from 'node:http'
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import { WebSocketServer } from 'ws'
import type { Timer } from '../../../common/env.ts'
import { ERROR_CODES, isTributaryError, TributaryError } from '../../../common/errors.ts'
import type { AccessCheck } from './auth.ts'
import type { HttpContext } from './context.ts'
import { countLimit } from './context.ts'
import { errorBody } from './errors.ts'

/**
 * WebSocket upgrades on the HTTP port: token, path and number are checked before the handshake, so that whoever is refused
 * gets an HTTP status and a JSON body like everybody else.
 */

/** How often it is looked whether this node can still serve who is connected to it. */
const READY_POLL_MS = 500

/** What an endpoint makes of a WebSocket. */
export interface SocketSession {
  /** Finishes what is under way, closes the WebSocket with 1001 and resolves when it is gone. */
  close(): Promise<void>
  /** Tells the other end to go to another node, and closes at once. */
  sendAway(reason: string): void
}

/** Takes a WebSocket that was let in; `remote` is its address, for logs. */
export type AcceptSocket = (socket: WebSocket, remote: string) => SocketSession

/** Who takes the WebSockets of which path. */
export type UpgradeRoutes = Readonly<Record<string, AcceptSocket>>

export interface Upgrades {
  /** Open WebSockets by path. */
  counts(): ReadonlyMap<string, number>
  /** Refuses further ones, closes the sessions, resolves when all are gone; cuts what is left after `closeGraceMs`. */
  close(): Promise<void>
}

export function serveUpgrades(
  server: Server,
  routes: UpgradeRoutes,
  checkAccess: AccessCheck,
  context: HttpContext,
): Upgrades {
  const webSockets = new WebSocketServer({
    noServer: true,
    maxPayload: context.limits.maxFrameBytes,
    perMessageDeflate: false,
    // Our frames are binary; text is refused by the endpoints and need not be checked first.
    skipUTF8Validation: true,
  })
  const counts = new Map<string, number>(Object.keys(routes).map(path => [path, 0]))
  const sessions = new Set<SocketSession>()
  let closing = false
  let watch = context.clock.setTimer(watchReadiness, READY_POLL_MS)

  webSockets.on('wsClientError', (error, socket) => {
    refuse(socket, new TributaryError('protocol_error', `no valid WebSocket handshake: ${error.message}`))
  })
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy())
    try {
      const path = admittedPath(request)
      const accept = routes[path]
      if (accept === undefined) throw unknownPath(path)
      webSockets.handleUpgrade(request, socket, head, webSocket => admit(path, webSocket, request, accept))
    } catch (error) {
      refuse(socket, error)
    }
  })

  /** The path of a request that may be upgraded. */
  function admittedPath(request: IncomingMessage): string {
    if (closing) throw new TributaryError('closed', 'the hub is stopping: try again soon, or another node')
    checkAccess(request.headers)
    const path = (request.url ?? '').split('?', 1)[0] ?? ''
    if (!Object.hasOwn(routes, path)) throw unknownPath(path)
    if (webSockets.clients.size >= context.limits.maxConnections) {
      countLimit(context, 'maxConnections')
      throw new TributaryError(
        'not_available',
        `the hub has ${webSockets.clients.size} connections (limits.maxConnections): try again later`,
      )
    }
    return path
  }

  function unknownPath(path: string): TributaryError {
    const known = Object.keys(routes).join(' and ')
    return new TributaryError(
      'not_found',
      `there is no WebSocket at ${path.slice(0, 200)}; there are ${known}`,
    )
  }

  function admit(path: string, webSocket: WebSocket, request: IncomingMessage, accept: AcceptSocket): void {
    counts.set(path, (counts.get(path) ?? 0) + 1)
    const { remoteAddress = 'unknown', remotePort = 0 } = request.socket
    // Garbage and oversize messages: ws closes the connection with the right code, whatever the endpoint does.
    webSocket.on('error', error =>
      context.log.debug({ err: error, remote: remoteAddress }, 'a WebSocket failed'),
    )
    const session = accept(webSocket, `${remoteAddress}:${remotePort}`)
    sessions.add(session)
    webSocket.once('close', () => {
      counts.set(path, (counts.get(path) ?? 0) - 1)
      sessions.delete(session)
    })
  }

  /** Who is at a node that lost its cluster would wait there for as long as that lasts. */
  function watchReadiness(): void {
    const reason = context.ports.notReadyReason()
    if (reason !== null && context.ports.addresses().length > 0) {
      for (const session of sessions) session.sendAway(reason)
    }
    watch = context.clock.setTimer(watchReadiness, READY_POLL_MS)
  }

  async function close(): Promise<void> {
    closing = true
    watch.cancel()
    const timer: Timer = context.clock.setTimer(() => {
      for (const webSocket of webSockets.clients) webSocket.terminate()
    }, context.limits.closeGraceMs)
    const gone = Array.from(
      webSockets.clients,
      webSocket => new Promise<void>(resolve => webSocket.once('close', () => resolve())),
    )
    for (const session of sessions) {
      session
        .close()
        .catch((error: unknown) => context.log.error({ err: error }, 'closing a WebSocket session failed'))
    }
    await Promise.all(gone)
    timer.cancel()
  }

  return { counts: () => counts, close }
}

function refuse(socket: Duplex, error: unknown): void {
  const known = isTributaryError(error) ? error : new TributaryError('internal', 'the upgrade failed')
  const { httpStatus } = ERROR_CODES[known.code]
  const body = JSON.stringify(errorBody(known))
  const challenge = known.code === 'unauthorized' ? 'WWW-Authenticate: Bearer\r\n' : ''
  socket.end(
    `HTTP/1.1 ${httpStatus} ${STATUS_CODES[httpStatus] ?? 'Error'}\r\nConnection: close\r\n${challenge}` +
      `Content-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    () => socket.destroy(),
  )
}

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import type { Address } from '../../../common/address.ts'
import { TributaryError } from '../../../common/errors.ts'
import { errorBody, RETRY_AFTER_SECONDS } from './errors.ts'
import { listenError } from './listen-error.ts'

/**
 * What the HTTP port answers while the node starts, which takes as long as the nodes that it waits for: it is alive, and not ready. Whoever
 * watches over it neither kills it nor sends anybody there.
 */

/** Connections at once: probes, and clients that are sent away. */
const MAX_CONNECTIONS = 1_024

export interface StartingListener {
  /** Frees the port. */
  close(): Promise<void>
}

/** Rejects as startHttp does. `reason` is why the node does not serve yet. */
export async function listenWhileStarting(address: Address, reason: () => string): Promise<StartingListener> {
  const server = createServer((request, response) => answer(request, response, reason()))
  server.maxConnections = MAX_CONNECTIONS
  await listening(server, address)
  return {
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function answer({ url }: IncomingMessage, response: ServerResponse, reason: string): void {
  const isHealth = (url ?? '').split('?', 1)[0] === '/healthz'
  const body = isHealth
    ? { status: 'ok' }
    : errorBody(new TributaryError('not_available', `not ready: ${reason}`))
  response.setHeader('content-type', 'application/json; charset=utf-8')
  response.setHeader('connection', 'close')
  if (!isHealth) response.setHeader('retry-after', RETRY_AFTER_SECONDS)
  response.writeHead(isHealth ? 200 : 503).end(JSON.stringify(body))
}

function listening(server: Server, address: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', error => reject(listenError(error, address)))
    server.listen(address, resolve)
  })
}

import { isUtf8 } from 'node:buffer'
import type { AddressInfo } from 'node:net'
import type { FastifyBaseLogger, FastifyError, FastifyInstance } from 'fastify'
import Fastify, { LogController } from 'fastify'
import type { Address } from '../../../common/address.ts'
import type { Clock, Codec } from '../../../common/env.ts'
import { isTributaryError, messageOf, systemErrorCode, TributaryError } from '../../../common/errors.ts'
import { MAX_TOPIC_NAME_LENGTH, SECOND_MS } from '../../../common/limits.ts'
import type { Metrics } from '../../../common/metrics.ts'
import { mapReading } from '../../../common/metrics.ts'
import type { Ports } from '../../ports.ts'
import { createAccessCheck, refuseOpenListener } from './auth.ts'
import { registerCluster } from './cluster.ts'
import type { HttpContext, HttpLimits } from './context.ts'
import { countLimit, createByteBudget, HTTP_LIMITS } from './context.ts'
import type { Drain } from './drain.ts'
import { createDrain } from './drain.ts'
import { edgeReadings, registerEdges } from './edges.ts'
import { errorBody, fromFastify, sendError } from './errors.ts'
import { listenError } from './listen-error.ts'
import { handleUnknown } from './not-found.ts'
import { registerProduce } from './produce.ts'
import { registerRead } from './read.ts'
import { OPEN_PATHS, registerStatus } from './status.ts'
import type { Streams } from './stream.ts'
import { registerStream } from './stream.ts'
import { registerTopics } from './topics.ts'
import type { UpgradeRoutes, Upgrades } from './upgrade.ts'
import { serveUpgrades } from './upgrade.ts'

/** The hub's HTTP port: REST, server-sent events, health, metrics, and the door to the WebSocket endpoints. */

export interface HttpEndpointOptions {
  ports: Ports
  clock: Clock
  codec: Codec
  log: FastifyBaseLogger
  metrics: Metrics
  software: { name: string; version: string }
  /** Where to listen; port 0 lets the system choose. */
  address: Address
  tokens: readonly string[]
  allowAnonymous: boolean
  limits?: Partial<HttpLimits>
  upgrades: UpgradeRoutes
}

export interface HttpEndpoint {
  /** Where it listens. */
  address: Address
  /** Stops accepting, ends streams and WebSockets, lets requests in progress finish, within `closeGraceMs`. */
  close(): Promise<void>
}

/** A request must have arrived whole within this: a slow sender holds a connection and its share of memory. */
const REQUEST_TIMEOUT_MS = 60 * SECOND_MS
/** Connections left for REST and health when WebSockets are at their limit. */
const SPARE_CONNECTIONS = 256

/**
 * Starts to listen. Rejects with `config_invalid` where the hub would be open to a network without having been told so,
 * `port_in_use`, `invalid_argument` for an address that this machine does not have.
 */
export async function startHttp(options: HttpEndpointOptions): Promise<HttpEndpoint> {
  const rules = { tokens: options.tokens, allowAnonymous: options.allowAnonymous, address: options.address }
  refuseOpenListener(rules)
  const checkAccess = createAccessCheck(rules)
  const context = createContext(options)
  const app = createApp(options.log)
  app.addHook('onRequest', async request => {
    if (!OPEN_PATHS.has(request.routeOptions.url ?? '')) checkAccess(request.headers)
  })
  handleUnknown(app)
  registerStatus(app, context, options.metrics, options.software)
  registerTopics(app, context)
  registerProduce(app, context)
  registerRead(app, context)
  registerEdges(app, context)
  registerCluster(app, context)
  const streams = registerStream(app, context)

  const drain = createDrain(app.server)
  app.server.maxConnections = context.limits.maxConnections + SPARE_CONNECTIONS
  app.server.on('drop', () => countLimit(context, 'maxConnections'))
  const upgrades = serveUpgrades(app.server, options.upgrades, checkAccess, context)
  addReadings(options, context, streams, upgrades)
  await listen(app, options.address)
  return {
    address: boundAddress(app, options.address),
    close: () => closeAll(app, context, drain, streams, upgrades),
  }
}

function createContext(options: HttpEndpointOptions): HttpContext {
  const { ports, clock, codec, log } = options
  const limits = { ...HTTP_LIMITS, ...options.limits }
  const limitHits = new Map<string, number>()
  return {
    ports,
    clock,
    codec,
    log,
    limits,
    limitHits,
    budget: createByteBudget(limits.maxBusyBytes, limitHits),
  }
}

function createApp(log: FastifyBaseLogger): FastifyInstance {
  const app: FastifyInstance = Fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    requestTimeout: REQUEST_TIMEOUT_MS,
    // While it closes, what still comes on open connections is served.
    return503OnClosing: false,
    routerOptions: { maxParamLength: 3 * MAX_TOPIC_NAME_LENGTH },
    // Clients that offer HTTP/2 by `Upgrade: h2c` on each request (Java's do) are answered in HTTP/1.1.
    http: { shouldUpgradeCallback: request => request.headers.upgrade?.toLowerCase() === 'websocket' },
    frameworkErrors: (error, _request, reply) => {
      sendError(reply, fromFastify(error)?.error ?? internalError())
    },
    clientErrorHandler: (error, socket) => {
      if (systemErrorCode(error) === 'ECONNRESET' || !socket.writable) return
      const body = JSON.stringify(
        errorBody(new TributaryError('protocol_error', `no valid HTTP: ${error.message}`)),
      )
      socket.end(
        `HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json; charset=utf-8\r\n` +
          `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
        () => socket.destroy(),
      )
    },
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      done(null, parseJson(body))
    } catch (error) {
      done(error instanceof Error ? error : new Error(messageOf(error)))
    }
  })
  app.addContentTypeParser('text/plain', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  app.setErrorHandler((error: FastifyError, request, reply) => {
    if (isTributaryError(error)) return sendError(reply, error)
    const refused = fromFastify(error)
    if (refused !== null) return sendError(reply, refused.error, refused.status)
    request.log.error({ err: error, method: request.method, url: request.url }, 'a request failed')
    return sendError(reply, internalError())
  })
  return app
}

function internalError(): TributaryError {
  return new TributaryError('internal', 'the hub failed at this request; its log says why')
}

/** The value of a JSON body, undefined where it is empty. */
function parseJson(body: string | Buffer): unknown {
  const bytes = Buffer.from(body)
  if (bytes.length === 0) return undefined
  if (!isUtf8(bytes)) throw new TributaryError('invalid_argument', 'the body is not UTF-8, as JSON must be')
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    throw new TributaryError('invalid_argument', `the body is no JSON: ${messageOf(error)}`, { cause: error })
  }
}

async function listen(app: FastifyInstance, address: Address): Promise<void> {
  try {
    await app.listen({
      ...address,
      listenTextResolver: url => `listening on ${url}`,
    })
  } catch (error) {
    await app.close()
    throw listenError(error, address)
  }
}

function boundAddress(app: FastifyInstance, wanted: Address): Address {
  const bound: AddressInfo | string | null = app.server.address()
  return typeof bound === 'object' && bound !== null ? { host: wanted.host, port: bound.port } : wanted
}

async function closeAll(
  app: FastifyInstance,
  context: HttpContext,
  drain: Drain,
  streams: Streams,
  upgrades: Upgrades,
): Promise<void> {
  streams.close()
  drain.start()
  const deadline = context.clock.setTimer(() => app.server.closeAllConnections(), context.limits.closeGraceMs)
  await Promise.all([upgrades.close(), app.close()])
  deadline.cancel()
}

function addReadings(
  options: HttpEndpointOptions,
  context: HttpContext,
  streams: Streams,
  upgrades: Upgrades,
): void {
  options.metrics.add([
    {
      name: 'tributary_connections',
      help: 'Open WebSockets and event streams, by path.',
      kind: 'gauge',
      labels: ['path'],
      read: () => [
        ...Array.from(upgrades.counts(), ([path, value]) => ({ labels: { path }, value })),
        { labels: { path: '/v1/topics/:name/stream' }, value: streams.count() },
      ],
    },
    {
      name: 'tributary_http_busy_bytes',
      help: 'Request bodies and range reads being worked on.',
      kind: 'gauge',
      read: () => context.budget.usedBytes(),
    },
    mapReading(
      'tributary_limit_hits_total',
      'Times that a limit of the HTTP port has bitten.',
      'limit',
      context.limitHits,
    ),
    ...edgeReadings(context.ports.fleet),
  ])
}

import pino from 'pino'
import { nodeCodec } from '../../../../common/compression.ts'
import type { Reading } from '../../../../common/metrics.ts'
import { createMetrics } from '../../../../common/metrics.ts'
import type { HttpLimits } from '../../../../hub/endpoints/http/context.ts'
import { startHttp } from '../../../../hub/endpoints/http/server.ts'
import type { UpgradeRoutes } from '../../../../hub/endpoints/http/upgrade.ts'
import type { Ports } from '../../../../hub/ports.ts'
import type { FakePorts, FakePortsOptions } from '../../../fake-ports.ts'
import { createFakePorts } from '../../../fake-ports.ts'
import { liveClock } from '../../../live-clock.ts'

export interface ServeOptions {
  tokens?: readonly string[]
  allowAnonymous?: boolean
  host?: string
  port?: number
  limits?: Partial<HttpLimits>
  upgrades?: UpgradeRoutes
  readings?: readonly Reading[]
  ports?: FakePortsOptions
  /** Put between the endpoint and the fake engine. */
  wrap?: (ports: Ports) => Ports
}

/** The HTTP endpoint over the fake engine on a free port. */
export interface Served {
  fake: FakePorts
  url: string
  port: number
  /** fetch of a path, with JSON where a body is given. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>
  close(): Promise<void>
}

export interface Answer {
  status: number
  headers: Headers
  text: string
  /** Parsed where it is JSON, null else. */
  json: Shown
}

/** What answers have in them; a test reads what its route promises. */
export interface Shown {
  name: string
  topicId: string
  partitions: { partition: number }[]
  config: unknown
  topics: unknown[]
  edges: { id: string; lag: unknown }[]
  records: { offset: number; value: unknown }[]
  ranges: { first: number; count: number; partition: number; offset: number }[]
  nextOffset: number
  highWatermark: number
  links: Record<string, string>
  error: { code: string; message: string; details: Record<string, unknown> }
}

const open: Served[] = []

/** Closes what a test has left open; for `afterEach`. */
export async function closeServed(): Promise<void> {
  await Promise.all(open.splice(0).map(served => served.close()))
}

export async function serve(options: ServeOptions = {}): Promise<Served> {
  const fake = createFakePorts({ defaultPartitions: 3, ...options.ports })
  const metrics = createMetrics()
  metrics.add(options.readings ?? [])
  const endpoint = await startHttp({
    ports: options.wrap?.(fake) ?? fake,
    clock: liveClock,
    codec: nodeCodec(),
    log: pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' }),
    metrics,
    software: { name: 'tributary', version: '0.0.0' },
    address: { host: options.host ?? '127.0.0.1', port: options.port ?? 0 },
    tokens: options.tokens ?? [],
    allowAnonymous: options.allowAnonymous ?? false,
    limits: { closeGraceMs: 1_000, ...options.limits },
    upgrades: options.upgrades ?? {},
  })
  const url = `http://127.0.0.1:${endpoint.address.port}`
  const served: Served = {
    fake,
    url,
    port: endpoint.address.port,
    call: (method, path, body, headers) => call(url, method, path, body, headers),
    close: () => endpoint.close(),
  }
  open.push(served)
  return served
}

async function call(
  url: string,
  method: string,
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const init: RequestInit = { method, headers }
  if (body !== undefined) {
    init.body = typeof body === 'string' ? body : JSON.stringify(body)
    if (headers['content-type'] === undefined)
      init.headers = { ...headers, 'content-type': 'application/json' }
  }
  const response = await fetch(url + path, init)
  const text = await response.text()
  const isJson = response.headers.get('content-type')?.includes('json') === true && text !== ''
  return {
    status: response.status,
    headers: response.headers,
    text,
    json: JSON.parse(isJson ? text : 'null'),
  }
}

/** Waits until `condition` holds, at most `limitMs`. */
export async function until(condition: () => boolean, limitMs = 5_000): Promise<void> {
  const deadline = performance.now() + limitMs
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not so within ${limitMs} ms: ${condition.toString()}`)
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

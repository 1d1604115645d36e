import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import type { Address } from '../common/address.ts'
import { parseAddress } from '../common/address.ts'
import { messageOf, systemErrorCode, TributaryError } from '../common/errors.ts'
import { SECOND_MS } from '../common/limits.ts'
import type { Metrics, Reading, Sample } from '../common/metrics.ts'
import { createMetrics, dataDirReadings } from '../common/metrics.ts'
import type { LaneStatus, StatusSources } from './report.ts'
import { edgeStatus, laneStatus } from './report.ts'
import type { WindowStats } from './windows.ts'

/** The edge's own HTTP port: `/status`, `/healthz`, `/readyz`, `/metrics`; there whether the hub is or not. */

/** A status server needs few; more wait in the listen backlog. */
const MAX_CONNECTIONS = 64
const REQUEST_TIMEOUT_MS = 10 * SECOND_MS

export interface StatusServer {
  address: Address
  close(): Promise<void>
}

/** Listens at `listen` (HOST:PORT). Rejects with `port_in_use`, `config_invalid`. */
export async function startStatus(listen: string, sources: StatusSources): Promise<StatusServer> {
  const wanted = parseAddress(listen)
  if (wanted === null) {
    throw new TributaryError(
      'config_invalid',
      `http is "${listen}"; it must be HOST:PORT, such as 127.0.0.1:7601`,
    )
  }
  const metrics = createMetrics()
  metrics.add(edgeReadings(sources))
  metrics.add(dataDirReadings(() => sources.store.directory.stats()))
  const server = createServer((request, response) => {
    answer(request, response, sources, metrics).catch(() => response.destroy())
  })
  server.maxConnections = MAX_CONNECTIONS
  server.requestTimeout = REQUEST_TIMEOUT_MS
  server.headersTimeout = REQUEST_TIMEOUT_MS
  await new Promise<void>((resolve, reject) => {
    // Rejecting does nothing once it listens: then it is out of file descriptors, for one, and goes on.
    server.on('error', error => reject(listenError(error, listen)))
    server.listen(wanted.port, wanted.host, resolve)
  })
  const bound = server.address()
  const port = typeof bound === 'object' && bound !== null ? bound.port : wanted.port
  return {
    address: { host: wanted.host, port },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function listenError(error: Error, listen: string): Error {
  const code = systemErrorCode(error)
  if (code === 'EADDRINUSE') {
    const message = `${listen} for status and metrics is in use: choose another address with --http HOST:PORT`
    return new TributaryError('port_in_use', message, { cause: error })
  }
  const message = `status can't listen on ${listen} (${code ?? messageOf(error)}): choose another address with --http HOST:PORT`
  return new TributaryError('config_invalid', message, { cause: error })
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  sources: StatusSources,
  metrics: Metrics,
): Promise<void> {
  const send = (status: number, type: string, body: string): void => {
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' })
    response.end(request.method === 'HEAD' ? undefined : body)
  }
  const json = (status: number, body: object): void =>
    send(status, 'application/json', `${JSON.stringify(body)}\n`)
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return json(405, { error: { code: 'invalid_argument', message: 'only GET is answered here' } })
  }
  const [path] = (request.url ?? '/').split('?')
  switch (path) {
    case '/':
      return json(200, { name: 'tributary edge', version: sources.version, id: sources.id, links })
    case '/status':
      return json(200, edgeStatus(sources))
    case '/healthz':
      return json(200, { status: 'ok' })
    case '/readyz': {
      const reason = sources.store.notReadyReason()
      if (reason === null) return json(200, { status: 'ready' })
      return json(503, { error: { code: 'not_available', message: `not ready: ${reason}` } })
    }
    case '/metrics':
      return send(200, metrics.contentType, await metrics.text())
    default: {
      const message = `there is nothing at ${path}; try ${Object.values(links).join(', ')}`
      return json(404, { error: { code: 'not_found', message } })
    }
  }
}

const links = { status: '/status', health: '/healthz', readiness: '/readyz', metrics: '/metrics' }

/** What `/metrics` has beside the process and the data directory. */
function edgeReadings(sources: StatusSources): Reading[] {
  const { store, uplink } = sources
  const uplinkReading = (
    name: string,
    kind: Reading['kind'],
    help: string,
    key: 'framesSent' | 'bytesSent' | 'bytesRead' | 'connections' | 'inflightBytes',
  ): Reading => ({ name: `tributary_edge_uplink_${name}`, help, kind, read: () => uplink.stats()[key] })
  const ingest = (name: string, help: string, key: 'appended' | 'refused' | 'failures'): Reading => ({
    name: `tributary_edge_ingest_${name}_total`,
    help,
    kind: 'counter',
    read: () => store.stats()[key],
  })
  return [
    {
      name: 'tributary_edge_connected',
      help: '1 while a session with the hub is up.',
      kind: 'gauge',
      read: () => Number(uplink.stats().connected),
    },
    uplinkReading('frames_sent_total', 'counter', 'Append frames sent.', 'framesSent'),
    uplinkReading('sent_bytes_total', 'counter', 'Bytes of batches sent.', 'bytesSent'),
    uplinkReading('read_bytes_total', 'counter', 'Bytes of local logs behind them.', 'bytesRead'),
    uplinkReading('connections_total', 'counter', 'Connections made.', 'connections'),
    uplinkReading('inflight_bytes', 'gauge', 'Bytes sent and not committed.', 'inflightBytes'),
    ingest('records', 'Records taken.', 'appended'),
    ingest('refused', 'Records refused: no room, too large, too many topics.', 'refused'),
    ingest('failures', 'Commits that failed.', 'failures'),
    laneReading(sources, 'lag_records', 'Records the hub has not committed.', lane => lane.lagRecords),
    laneReading(sources, 'lag_bytes', 'Their bytes, estimated.', lane => lane.lagBytes),
    laneReading(sources, 'dropped_records', 'Records dropped since start.', lane => lane.droppedRecords),
    laneReading(sources, 'dead_records', 'Records sent to _dead since start.', lane => lane.deadRecords),
    laneReading(sources, 'gaps', 'Losses the hub has not confirmed.', lane => lane.gaps.length),
    laneReading(
      sources,
      'conflated_readings',
      'Readings that newer ones replaced since start (conflate).',
      lane => lane.conflatedReadings,
    ),
    laneReading(
      sources,
      'thinned_readings',
      'Readings left out since start (thin).',
      lane => lane.thinnedReadings,
    ),
    laneReading(
      sources,
      'held_readings',
      'Readings held until their window ends.',
      lane => lane.heldReadings,
    ),
    ...windowReadings(store),
    {
      name: 'tributary_edge_disk_bytes',
      help: 'Bytes of local logs.',
      kind: 'gauge',
      read: () => store.space.usedBytes(),
    },
    {
      name: 'tributary_edge_disk_budget_bytes',
      help: 'Bytes they may take.',
      kind: 'gauge',
      read: () => store.space.budgetBytes(),
    },
    {
      name: 'tributary_edge_waiting_appends',
      help: 'Appends that wait for room or the disk.',
      kind: 'gauge',
      read: () => store.stats().waiting,
    },
    {
      name: 'tributary_edge_alarms',
      help: 'Alarms raised since start, by kind.',
      kind: 'gauge',
      labels: ['kind'],
      read: () => alarmSamples(sources),
    },
    {
      name: 'tributary_edge_mqtt',
      help: 'What the MQTT broker counts, by name; see the README.',
      kind: 'gauge',
      labels: ['count'],
      read: () => mqttSamples(sources),
    },
  ]
}

/** The limits of policies, and how often they bit. */
function windowReadings({ windows }: StatusSources['store']): Reading[] {
  const reading = (name: string, kind: Reading['kind'], help: string, key: keyof WindowStats): Reading => ({
    name: `tributary_edge_${name}`,
    help,
    kind,
    read: () => windows.stats()[key],
  })
  return [
    reading('held_bytes', 'gauge', 'Bytes of readings held until their window ends.', 'heldBytes'),
    reading('thinned_keys', 'gauge', 'Keys whose next reading is not due.', 'thinnedKeys'),
    reading('windows_ended_early_total', 'counter', 'Windows ended early for want of room.', 'endedEarly'),
    reading('unthinned_total', 'counter', 'Readings let through, too many keys being known.', 'unthinned'),
  ]
}

/** One sample a lane; lanes are bounded by maxTopics. */
function laneReading(
  { store, uplink }: StatusSources,
  name: string,
  help: string,
  read: (lane: LaneStatus) => number,
): Reading {
  return {
    name: `tributary_edge_${name}`,
    help,
    kind: 'gauge',
    labels: ['topic', 'lane'],
    read: () =>
      [...store.lanes.values()].map(lane => {
        const { topic, lane: index } = lane.ledger
        return { labels: { topic, lane: String(index) }, value: read(laneStatus(store, uplink, lane)) }
      }),
  }
}

function alarmSamples({ store }: StatusSources): Sample[] {
  const counts = new Map<string, number>()
  for (const { kind, count } of store.alarms.list()) counts.set(kind, (counts.get(kind) ?? 0) + count)
  return Array.from(counts, ([kind, value]) => ({ labels: { kind }, value }))
}

function mqttSamples({ mqtt }: StatusSources): Sample[] {
  return Object.entries(mqtt() ?? {}).flatMap(([count, value]) => {
    if (typeof value === 'number') return [{ labels: { count }, value }]
    if (!Array.isArray(value)) return []
    return value.map((each, index) => ({ labels: { count: `${count}_${index}` }, value: Number(each) }))
  })
}

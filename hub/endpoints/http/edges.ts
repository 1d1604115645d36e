import type { FastifyInstance } from 'fastify'
import type { Reading, Sample } from '../../../common/metrics.ts'
import type { EdgeInfo, Fleet } from '../../ports.ts'
import type { HttpContext } from './context.ts'
import { pathParam } from './query.ts'

/**
 * Edges over REST.
 *
 *   GET /v1/edges           {"edges":[{...EdgeInfo,"lag":{"records","bytes","oldestMs"}}]}, lag null before the first report
 *   DELETE /v1/edges/:id    204; an edge that is connected is not removed
 */

/** What the hub has not committed of an edge's logs, as the edge last reported. */
export interface EdgeLag {
  records: number
  bytes: number
  /** Edge time of the oldest such record; null without any. */
  oldestMs: number | null
}

/** Edges with metrics of their own, those that lag most; the others are summed up. */
export const MAX_METERED_EDGES = 200
const OTHERS = '(others)'

export function registerEdges(app: FastifyInstance, context: HttpContext): void {
  const { fleet } = context.ports

  app.get('/v1/edges', async () => {
    const edges = await fleet.list()
    return { edges: edges.map(edge => ({ ...edge, lag: lagOf(edge) })) }
  })

  app.delete('/v1/edges/:id', async (request, reply) => {
    await fleet.remove(pathParam(request, 'id'))
    return reply.code(204).send()
  })
}

function lagOf(edge: EdgeInfo): EdgeLag | null {
  if (edge.report === null) return null
  const lag: EdgeLag = { records: 0, bytes: 0, oldestMs: null }
  for (const lane of edge.report.lanes) {
    lag.records += lane.lagRecords
    lag.bytes += lane.lagBytes
    if (lane.oldestMs !== null) lag.oldestMs = Math.min(lag.oldestMs ?? lane.oldestMs, lane.oldestMs)
  }
  return lag
}

/** Metrics per edge as this node hears of it; those of the whole fleet are the engine's. */
export function edgeReadings(fleet: Fleet): Reading[] {
  const perEdge = (name: string, help: string, pick: (edge: EdgeInfo, lag: EdgeLag) => number): Reading => ({
    name: `tributary_edge_${name}`,
    help,
    kind: 'gauge',
    labels: ['edge'],
    read: () => samplesByEdge(fleet.local(), pick),
  })
  return [
    perEdge('lag_records', 'Records the hub has not committed, as reported.', (_, lag) => lag.records),
    perEdge('lag_bytes', 'Bytes the hub has not committed, as reported.', (_, lag) => lag.bytes),
    perEdge('dropped_records', 'Records dropped by policy, as reported.', edge =>
      (edge.report?.lanes ?? []).reduce((total, lane) => total + lane.droppedRecords, 0),
    ),
  ]
}

function samplesByEdge(edges: readonly EdgeInfo[], pick: (edge: EdgeInfo, lag: EdgeLag) => number): Sample[] {
  const samples: Sample[] = []
  let others = 0
  const reported = edges
    .flatMap(edge => {
      const lag = lagOf(edge)
      return lag === null ? [] : [{ edge, lag }]
    })
    .sort((left, right) => right.lag.bytes - left.lag.bytes)
  reported.forEach(({ edge, lag }, rank) => {
    if (rank < MAX_METERED_EDGES) samples.push({ labels: { edge: edge.id }, value: pick(edge, lag) })
    else others += pick(edge, lag)
  })
  if (reported.length > MAX_METERED_EDGES) samples.push({ labels: { edge: OTHERS }, value: others })
  return samples
}

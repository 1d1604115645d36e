import type { EdgeAlarm } from '../ports.ts'
import type { MetadataRecordOf } from './records.ts'
import type { Fork, SessionState } from './sessions.ts'
import { NO_SESSION } from './sessions.ts'

/** The edges of an image. States are replaced, never changed, so that a copy of the image may share them. */

/** Newest alarms kept per edge. */
export const MAX_ALARMS_PER_EDGE = 20

/** An edge as the metadata knows it; what changes by the second (connections, reports) is the engine's. */
export interface EdgeState {
  readonly id: string
  readonly session: SessionState
  readonly fork: Fork | null
  /** What is to be alarmed of when the edge is known to hold that number. */
  readonly claim: Claim | null
  readonly alarms: readonly EdgeAlarm[]
  readonly address: string
  readonly software: string
  readonly firstSeenMs: number
  readonly lastSeenMs: number
  /** Topic id -> lane -> partition; bindings to deleted topics stay, so that their names are not made again. */
  readonly lanes: ReadonlyMap<string, ReadonlyMap<number, number>>
}

export interface Claim {
  readonly session: number
  readonly fork: Fork
  readonly alarm: EdgeAlarm
}

export type EdgeRecord = MetadataRecordOf<
  'edge_registered' | 'session_granted' | 'session_confirmed' | 'edge_removed' | 'lane_bound'
>

export interface EdgeTable {
  get(edgeId: string): EdgeState | undefined
  all(): EdgeState[]
  count(): number
  /** Records about edges it does not know are passed over. */
  replay(record: EdgeRecord): void
  records(): EdgeRecord[]
  copy(): EdgeTable
}

export function createEdgeTable(edges: Map<string, EdgeState> = new Map()): EdgeTable {
  function replay(record: EdgeRecord): void {
    const { edgeId } = record
    const edge = edges.get(edgeId)
    if (record.type === 'edge_registered') edges.set(edgeId, newEdge(edgeId, record.atMs))
    else if (record.type === 'edge_removed') edges.delete(edgeId)
    else if (edge !== undefined) edges.set(edgeId, changed(edge, record))
  }

  return {
    get: edgeId => edges.get(edgeId),
    all: () => [...edges.values()],
    count: () => edges.size,
    replay,
    records: () => [...edges.values()].flatMap(recordsOf),
    copy: () => createEdgeTable(new Map(edges)),
  }
}

function newEdge(id: string, atMs: number): EdgeState {
  return {
    id,
    session: NO_SESSION,
    fork: null,
    claim: null,
    alarms: [],
    address: '',
    software: '',
    firstSeenMs: atMs,
    lastSeenMs: atMs,
    lanes: new Map(),
  }
}

function changed(
  edge: EdgeState,
  record: MetadataRecordOf<'session_granted' | 'session_confirmed' | 'lane_bound'>,
): EdgeState {
  if (record.type === 'session_confirmed') return settled({ ...edge, session: record.session })
  if (record.type === 'lane_bound') {
    const bound = new Map(edge.lanes.get(record.topicId)).set(record.lane, record.partition)
    return { ...edge, lanes: new Map(edge.lanes).set(record.topicId, bound) }
  }
  const { session, fork, alarm, address, software, atMs: lastSeenMs } = record
  const alarms = alarm === null ? edge.alarms : withAlarm(edge.alarms, alarm)
  const after = settled({ ...edge, session, fork, alarms, address, software, lastSeenMs })
  return record.claim === null ? after : { ...after, claim: record.claim }
}

/** The edge confirmed a number, or presented it: then it holds it. */
function settled(edge: EdgeState): EdgeState {
  const { claim, session, alarms } = edge
  if (claim?.session !== session.confirmed) return edge
  return { ...edge, claim: null, fork: claim.fork, alarms: withAlarm(alarms, claim.alarm) }
}

function withAlarm(alarms: readonly EdgeAlarm[], alarm: EdgeAlarm): readonly EdgeAlarm[] {
  return [...alarms, alarm].slice(-MAX_ALARMS_PER_EDGE)
}

function recordsOf(edge: EdgeState): EdgeRecord[] {
  const made: EdgeRecord[] = [{ type: 'edge_registered', edgeId: edge.id, atMs: edge.firstSeenMs }]
  const { session, fork, claim, address, software, lastSeenMs } = edge
  // One grant per alarm brings the list of alarms back; the last one carries the state.
  for (const alarm of edge.alarms.length === 0 ? [null] : edge.alarms) {
    const common = { session, fork, alarm, address, software, atMs: lastSeenMs, claim }
    made.push({ type: 'session_granted', edgeId: edge.id, ...common })
  }
  for (const [topicId, lanes] of edge.lanes) {
    for (const [lane, partition] of lanes) {
      made.push({ type: 'lane_bound', edgeId: edge.id, topicId, lane, partition })
    }
  }
  return made
}

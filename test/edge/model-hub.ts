import { assert, must } from '../../common/assert.ts'
import type {
  GapReason,
  LaneTip,
  OpenFrame,
  RefusedFrame,
  RunFrame,
  UplinkHubFrame,
} from '../../common/wire.ts'
import { isSummary } from '../../common/wire.ts'
import { pastOf } from '../../hub/replica/lanes.ts'

/** The hub as wire.ts specifies it, without bytes: what the forwarder is tested against. All of its state is plain data. */

/** An append as the model sees it: the ids of records with consecutive sequences of one run. */
export interface ModelAppend {
  t: 'append'
  log: number
  run: number
  sequence: number
  ids: string[]
}

export type ModelEdgeFrame = Exclude<import('../../common/wire.ts').EdgeFrame, { t: 'append' }> | ModelAppend

/** What stands in a lane's log at the hub, in order. */
export type Entry =
  | { kind: 'record'; id: string }
  | {
      kind: 'gap'
      run: number
      from: number
      to: number
      localFrom: number
      localTo: number
      reason: GapReason
      /** Of a summary. */
      count: number | null
    }
  | { kind: 'run'; run: number; reason: RunFrame['reason'] }

export interface HubLane {
  topic: string
  lane: number
  entries: Entry[]
  tip: LaneTip | null
  /** What the tip's run followed. */
  prev: RunFrame['prev']
}

export interface HubState {
  clusterId: string
  topics: Map<string, string>
  deleted: { topic: string; id: string }[]
  lanes: Map<string, HubLane>
  granted: number
  started: number
  nextTopic: number
}

export function newHub(clusterId: string): HubState {
  return {
    clusterId,
    topics: new Map(),
    deleted: [],
    lanes: new Map(),
    granted: 0,
    started: 0,
    nextTopic: 1,
  }
}

/** One connection's handles. */
export interface HubConnection {
  hub: HubState
  logs: Map<number, { key: string; blocked: boolean }>
  session: number
}

export function hello(hub: HubState, session: number, clusterId: string | null): UplinkHubFrame {
  const known = clusterId === hub.clusterId ? session : 0
  const verdict = known < hub.started ? 'fork' : known > hub.granted ? 'hub-rollback' : 'ok'
  hub.granted = Math.max(hub.granted, known) + 1
  return {
    t: 'welcome',
    protocol: 1,
    clusterId: hub.clusterId,
    nodeId: 1,
    nowMs: 0,
    maxFrameBytes: 1_000_000,
    heartbeatMs: 20_000,
    deadMs: 60_000,
    edge: { session: hub.granted, verdict },
  }
}

/** Takes a frame; `tooLarge` names records no topic takes. Answers at once; `commit` acks later. */
export function take(
  connection: HubConnection,
  frame: ModelEdgeFrame,
  tooLarge: (id: string) => boolean,
): UplinkHubFrame[] {
  const { hub } = connection
  if (frame.t === 'start') {
    assert(frame.session === hub.granted, 'start names the session granted last')
    hub.started = frame.session
    connection.session = frame.session
    return []
  }
  if (frame.t === 'open') return open(connection, frame)
  if (frame.t !== 'run' && frame.t !== 'gap' && frame.t !== 'append') return []
  assert(connection.session > 0, 'nothing comes before start')
  const handle = must(connection.logs.get(frame.log), `handle ${frame.log} was opened`)
  if (handle.blocked) return []
  const lane = must(hub.lanes.get(handle.key), 'an opened lane is there')
  const refusal = apply(lane, frame, tooLarge)
  if (refusal === null) return []
  handle.blocked = true
  const tip = lane.tip === null ? {} : { run: lane.tip.run, next: lane.tip.next }
  return [{ t: 'refused', log: frame.log, message: 'model', ...tip, ...refusal }]
}

function open(connection: HubConnection, frame: OpenFrame): UplinkHubFrame[] {
  const { hub } = connection
  const known = hub.topics.get(frame.topic)
  const wasDeleted = hub.deleted.some(({ topic, id }) =>
    known === undefined ? topic === frame.topic : id === frame.topicId,
  )
  if (wasDeleted) {
    connection.logs.set(frame.log, { key: '', blocked: true })
    return [{ t: 'refused', log: frame.log, code: 'topic_deleted', message: 'model' }]
  }
  const topicId = known ?? `${hub.clusterId}-${hub.nextTopic++}`
  hub.topics.set(frame.topic, topicId)
  const key = `${topicId}/${frame.lane}`
  const lane = hub.lanes.get(key) ?? {
    topic: frame.topic,
    lane: frame.lane,
    entries: [],
    tip: null,
    prev: null,
  }
  hub.lanes.set(key, lane)
  connection.logs.set(frame.log, { key, blocked: false })
  return [
    {
      t: 'opened',
      log: frame.log,
      topicId,
      partition: 0,
      leaderEpoch: 0,
      maxRecordBytes: 1_000,
      maxBatchBytes: 1_000_000,
      tip: lane.tip === null ? null : { ...lane.tip },
    },
  ]
}

type Refusal = Pick<RefusedFrame, 'code' | 'sequence'>

function apply(
  lane: HubLane,
  frame: Extract<ModelEdgeFrame, { t: 'run' | 'gap' | 'append' }>,
  tooLarge: (id: string) => boolean,
): Refusal | null {
  const { tip } = lane
  if (frame.t === 'run') {
    if (tip?.run === frame.run) return null
    const isBehind = lane.prev?.run === frame.run || tip?.past?.some(({ run }) => run === frame.run) === true
    if (isBehind) return { code: 'unknown_run' }
    if (frame.prev !== null && (tip?.run !== frame.prev.run || tip.next < frame.prev.end)) {
      return { code: 'unknown_run' }
    }
    // The design has no other way than these to begin without a predecessor.
    assert(frame.prev === null || frame.reason === 'next', 'a run with a predecessor says next')
    assert(frame.prev !== null || frame.reason !== 'next', 'a run without one says why')
    assert(frame.reason !== 'first' || tip === null, 'first is said only to a hub without tip')
    const before = tip === null ? undefined : { edge: '', lane: lane.lane, prev: lane.prev, past: [], ...tip }
    lane.tip = { run: frame.run, next: 0, committed: 0, past: pastOf(before) }
    lane.prev = frame.prev
    lane.entries.push({ kind: 'run', run: frame.run, reason: frame.reason })
    return null
  }
  if (tip === null || tip.run !== frame.run) return { code: 'unknown_run' }
  if (frame.t === 'gap') {
    if (frame.from > tip.next) return { code: 'out_of_order_sequence' }
    const skip = tip.next - frame.from
    if (frame.to <= tip.next) return null
    const { run, to, localTo, reason, count = null } = frame
    assert(
      isSummary(reason) ? count !== null && to === frame.from + 1 : count === null,
      'summaries say a count',
    )
    lane.entries.push({
      kind: 'gap',
      run,
      from: tip.next,
      to,
      localFrom: frame.localFrom + skip,
      localTo,
      reason,
      count,
    })
    tip.next = to
    return null
  }
  const end = frame.sequence + frame.ids.length
  if (end <= tip.next) return null
  if (frame.sequence !== tip.next) return { code: 'out_of_order_sequence' }
  const bad = frame.ids.findIndex(tooLarge)
  if (bad >= 0) return { code: 'record_too_large', sequence: frame.sequence + bad }
  for (const id of frame.ids) lane.entries.push({ kind: 'record', id })
  tip.next = end
  return null
}

/** Everything appended is committed: the acks a connection gets for it. */
export function commitAll(connection: HubConnection): UplinkHubFrame[] {
  const acks: UplinkHubFrame[] = []
  for (const [log, handle] of connection.logs) {
    const tip = connection.hub.lanes.get(handle.key)?.tip
    if (tip === null || tip === undefined || tip.committed === tip.next) continue
    tip.committed = tip.next
    acks.push({ t: 'ack', log, ...tip })
  }
  return acks
}

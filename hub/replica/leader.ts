import { TributaryError } from '../../common/errors.ts'
import type { ReadResult } from '../../common/log/types.ts'
import type { LaneTip } from '../../common/wire.ts'
import { clientAppends } from './client-appends.ts'
import type { ReplicaContext } from './context.ts'
import type { GapControl } from './control.ts'
import type { InSync } from './in-sync.ts'
import { laneOperations } from './lane-operations.ts'
import type { GapRange, LaneId, RunAnnouncement } from './lanes.ts'
import { searchByTime } from './log-access.ts'
import type { Needs } from './pipeline.ts'
import { createPipeline } from './pipeline.ts'
import type { ReplicaStore } from './store.ts'

/** Where a partition stands, see ports.ts. */
export interface Bounds {
  startOffset: number
  endOffset: number
  highWatermark: number
  leaderEpoch: number
  sizeBytes: number
}

/** What a partition's leader does. Operations take effect in the order of their calls; see Logs in ports.ts for their errors. */
export interface Leading {
  append(batches: Uint8Array, acks: 0 | 1 | 'all'): Promise<{ baseOffset: number }>
  appendLane(id: LaneId, batches: Uint8Array): Promise<LaneTip>
  /** The lane's tip, with what came before, when all of it is committed; null where there is none. */
  openLane(id: LaneId): Promise<LaneTip | null>
  startRun(id: LaneId, start: RunAnnouncement): Promise<LaneTip>
  declareGap(id: LaneId, gap: GapRange): Promise<LaneTip>
  /** Forgets a lane, durably. */
  removeLane(id: LaneId): Promise<void>
  /** Appends the hub's own batch of one record, even into the disk reserve; it gets its offset in this synchronous turn. */
  appendOwn(batch: Uint8Array): Promise<void>
  /** Resolves when all is committed that the log holds now. */
  committed(): Promise<void>
  tip(id: LaneId): LaneTip | null
  read(offset: number, maxBytes: number): Promise<ReadResult>
  offsetForTime(timeMs: number): Promise<number>
}

/** A leader under one epoch. */
export interface Leader extends Leading {
  /** The watermark or the durable end moved. */
  advance(): void
  /** Takes nothing more, and what waits is rejected: it may be committed yet, or not. */
  shut(error: TributaryError): void
}

export interface LeaderContext extends ReplicaContext {
  store: ReplicaStore
  inSync: InSync
  leaderEpoch: number
}

const QUORUM: Needs = { alone: false, quorum: true }
const CONTROL: Needs = { alone: true, quorum: true }
const OWN_DISK: Needs = { alone: false, quorum: false }

/** Begins to lead with a store that is quiet. */
export function createLeader(context: LeaderContext): Leader {
  const { store, inSync, leaderEpoch, codec } = context
  const { log, producers, reflected, damage } = store
  store.epochs.assign(leaderEpoch, log.endOffset())
  const pipeline = createPipeline({ ...context, log, reflected, onFailed: store.appendFailed })
  const { inOrder } = pipeline
  const appending = {
    ...context,
    log,
    onGap: (gap: GapControl, offset: number): void => {
      store.gaps.note(offset)
      context.onGap(gap, offset)
    },
  }
  const clients = clientAppends(appending, producers, pipeline)
  const lanes = laneOperations(appending, producers, pipeline)

  return {
    append: (batches, acks) => inOrder(acks === 'all' ? QUORUM : OWN_DISK, () => clients(batches, acks)),
    appendLane: (id, batches) => inOrder(QUORUM, () => lanes.append(id, batches)),
    openLane: id => inOrder(CONTROL, () => lanes.open(id)),
    startRun: (id, start) => inOrder(CONTROL, () => lanes.startRun(id, start)),
    declareGap: (id, gap) => inOrder(CONTROL, () => lanes.declareGap(id, gap)),
    removeLane: id => inOrder(CONTROL, () => lanes.remove(id)),
    appendOwn: batch =>
      pipeline.commit(batch, { isData: false, undo: [], until: 'committed' }, () => {
        context.counters.batchesIn++
        context.counters.recordsIn++
        context.counters.bytesIn += batch.length
      }),
    committed: () => pipeline.committed('committed', () => undefined),
    tip: lanes.tip,
    read: async (offset, maxBytes) => {
      const closedBy = pipeline.closedBy()
      if (closedBy?.code === 'topic_deleted') throw closedBy
      return readCommitted(context, offset, maxBytes)
    },
    offsetForTime: timeMs => searchByTime(log, damage.read, timeMs, inSync.highWatermark(), codec),
    advance: pipeline.advance,
    shut: pipeline.shut,
  }
}

async function readCommitted(context: LeaderContext, offset: number, maxBytes: number): Promise<ReadResult> {
  const { counters, name, store, inSync } = context
  const { log } = store
  const [startOffset, highWatermark] = [log.startOffset(), inSync.highWatermark()]
  if (offset < startOffset || offset > highWatermark) {
    throw inSync.settled() ? outOfRange(name, offset, startOffset, highWatermark) : notSettled(name)
  }
  if (offset === highWatermark) return { batches: NO_BYTES, nextOffset: offset }
  const result = await store.damage.read(offset, maxBytes, highWatermark)
  counters.bytesOut += result.batches.length
  counters.recordsOut += result.nextOffset - offset
  return result
}

const NO_BYTES = new Uint8Array(0)

/** The refusal of an offset that is not there. */
export function outOfRange(
  name: string,
  offset: number,
  startOffset: number,
  highWatermark: number,
): TributaryError {
  return new TributaryError(
    'offset_out_of_range',
    `${name}: offset ${offset} is not between ${startOffset} and ${highWatermark}`,
    { details: { startOffset, highWatermark } },
  )
}

/** The refusal to say where the log ends, before all that a former leader may have said is known to be committed. */
export function notSettled(name: string): TributaryError {
  return new TributaryError(
    'not_available',
    `${name}: its new leader waits for the other replicas to tell how far they are; try again`,
  )
}

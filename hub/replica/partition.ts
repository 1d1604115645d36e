import { TributaryError } from '../../common/errors.ts'
import { DAY_MS, HOUR_MS, MIB, MINUTE_MS } from '../../common/limits.ts'
import type { ReadResult } from '../../common/log/types.ts'
import type { LaneTip } from '../../common/wire.ts'
import { clientAppends } from './client-appends.ts'
import type { PartitionContext } from './context.ts'
import { laneOperations } from './lane-operations.ts'
import type { GapRange, LaneId, RunAnnouncement } from './lanes.ts'
import { readPastDamage, restoreProducers, searchByTime, tellKnownDamage } from './log-access.ts'
import type { Pipeline } from './pipeline.ts'
import { createPipeline } from './pipeline.ts'
import { encodeSnapshot } from './producer-snapshot.ts'
import type { Producers } from './producers.ts'
import { createWaiters } from './waiters.ts'

/** Where a partition stands, see ports.ts. */
export interface Bounds {
  startOffset: number
  endOffset: number
  highWatermark: number
  leaderEpoch: number
  sizeBytes: number
}

/** One replica of a partition, the leader's. Operations take effect in the order of their calls; see Logs in ports.ts for their errors. */
export interface Partition {
  bounds(): Bounds
  append(batches: Uint8Array, acks: 0 | 1 | 'all'): Promise<{ baseOffset: number }>
  appendLane(id: LaneId, batches: Uint8Array): Promise<LaneTip>
  startRun(id: LaneId, start: RunAnnouncement): Promise<LaneTip>
  declareGap(id: LaneId, gap: GapRange): Promise<LaneTip>
  /** Forgets a lane, durably. */
  removeLane(id: LaneId): Promise<void>
  /** Appends the hub's own batch of one record, even into the disk reserve; it gets its offset in this synchronous turn. */
  appendOwn(batch: Uint8Array): Promise<void>
  tip(id: LaneId): LaneTip | null
  read(offset: number, maxBytes: number): Promise<ReadResult>
  offsetForTime(timeMs: number): Promise<number>
  whenPast(offset: number, listener: () => void): () => void
  /** Snapshots if due, expires producers, applies retention (`retentionTimeMs` null: paused). */
  maintain(retentionTimeMs: number | null): Promise<void>
  /** Writes a producer snapshot unless less than `growthBytes` were appended since the last. */
  snapshot(growthBytes: number): Promise<void>
  producerStats(): { clients: number; lanes: number; evicted: number }
  /** Takes nothing more; waiters are woken. */
  shut(error: TributaryError): void
}

/** Bytes appended after which a snapshot is due, so that a start replays no more. */
const SNAPSHOT_AFTER_BYTES = 64 * MIB
/** Time after which it is where whole segments wait for it to be deleted, so that retention is not late by more. */
const SNAPSHOT_FOR_RETENTION_MS = 10 * MINUTE_MS
/** Time after which it is wherever anything was appended. */
const SNAPSHOT_AFTER_MS = 6 * HOUR_MS
/** As Kafka's producer.id.expiration.ms, with the design's value. */
const PRODUCER_ID_EXPIRATION_MS = 7 * DAY_MS

/** Opens a partition on its log: producers come from the newest snapshot and the batches behind it. */
export async function openPartition(context: PartitionContext): Promise<Partition> {
  const { log, snapshots, clock, onDamage } = context
  tellKnownDamage(log, onDamage)
  const producers = await restoreProducers(log, snapshots, clock.nowMs(), onDamage)
  const waiters = createWaiters(clock, () => pipeline.highWatermark())
  const pipeline = createPipeline({ ...context, onAdvance: waiters.moved })
  const { inOrder, committed, highWatermark } = pipeline
  const clients = clientAppends(context, producers, pipeline)
  const lanes = laneOperations(context, producers, pipeline)
  const keeper = snapshotKeeper(context, producers, pipeline)

  return {
    bounds: () => ({
      startOffset: log.startOffset(),
      endOffset: log.endOffset(),
      highWatermark: highWatermark(),
      leaderEpoch: context.leaderEpoch,
      sizeBytes: log.sizeBytes(),
    }),
    append: (batches, acks) => inOrder(false, () => clients(batches, acks)),
    appendLane: (id, batches) => inOrder(false, () => lanes.append(id, batches)),
    startRun: (id, start) => inOrder(true, () => lanes.startRun(id, start)),
    declareGap: (id, gap) => inOrder(true, () => lanes.declareGap(id, gap)),
    removeLane: id => inOrder(true, () => lanes.remove(id)),
    appendOwn: batch =>
      pipeline.commit(batch, false, [], () => {
        context.counters.batchesIn++
        context.counters.recordsIn++
        context.counters.bytesIn += batch.length
      }),
    tip: lanes.tip,
    read: (offset, maxBytes) => readCommitted(context, pipeline, offset, maxBytes),
    offsetForTime: timeMs => searchByTime(log, timeMs, highWatermark(), context.codec, onDamage),
    whenPast: (offset, listener) => waiters.add(offset, highWatermark(), listener),
    snapshot: async growthBytes => {
      if (keeper.growthBytes() >= growthBytes) await keeper.snapshot()
    },
    maintain: async retentionTimeMs => {
      // By the clock of retention: a wall clock that jumps makes no producer's batches new again.
      if (retentionTimeMs !== null) producers.expire(retentionTimeMs - PRODUCER_ID_EXPIRATION_MS)
      if (keeper.due(highWatermark())) await keeper.snapshot()
      if (retentionTimeMs === null || pipeline.closedBy() !== null) return
      await committed(() => undefined)
      // A segment may go only when the producers that wrote it stand in a durable snapshot.
      await log.applyRetention(retentionTimeMs, Math.min(snapshots.newestOffset(), highWatermark()))
    },
    producerStats: () => producers.stats(),
    shut: error => {
      pipeline.shut(error)
      waiters.wakeAll()
    },
  }
}

async function readCommitted(
  context: PartitionContext,
  pipeline: Pipeline,
  offset: number,
  maxBytes: number,
): Promise<ReadResult> {
  const closedBy = pipeline.closedBy()
  if (closedBy?.code === 'topic_deleted') throw closedBy
  const { log, counters, name } = context
  const [startOffset, highWatermark] = [log.startOffset(), pipeline.highWatermark()]
  if (offset < startOffset || offset > highWatermark) {
    throw new TributaryError(
      'offset_out_of_range',
      `${name}: offset ${offset} is not between ${startOffset} and ${highWatermark}`,
      { details: { startOffset, highWatermark } },
    )
  }
  if (offset === highWatermark) return { batches: NO_BYTES, nextOffset: offset }
  const result = await readPastDamage(log, offset, maxBytes, highWatermark, context.onDamage)
  counters.bytesOut += result.batches.length
  counters.recordsOut += result.nextOffset - offset
  return result
}

const NO_BYTES = new Uint8Array(0)

interface SnapshotKeeper {
  due(highWatermark: number): boolean
  growthBytes(): number
  snapshot(): Promise<void>
}

function snapshotKeeper(
  { log, clock, snapshots }: PartitionContext,
  producers: Producers,
  { committed, closedBy }: Pipeline,
): SnapshotKeeper {
  let atMs = clock.monotonicMs()
  let sizeBytesThen = snapshots.newestOffset() === log.endOffset() ? log.sizeBytes() : 0
  let saving: Promise<void> | null = null

  /** About: what retention took meanwhile counts as if it had been appended. */
  const growthBytes = (): number => Math.abs(log.sizeBytes() - sizeBytesThen)

  async function save(): Promise<void> {
    const offset = log.endOffset()
    if (offset === snapshots.newestOffset() || closedBy() !== null) return
    const bytes = encodeSnapshot(producers)
    sizeBytesThen = log.sizeBytes()
    atMs = clock.monotonicMs()
    // What is in it must be in the log first, or a full disk could take back what it tells.
    await committed(() => undefined)
    await snapshots.save(offset, bytes)
  }

  return {
    growthBytes,
    due: highWatermark => {
      const ageMs = clock.monotonicMs() - atMs
      if (growthBytes() >= SNAPSHOT_AFTER_BYTES || ageMs >= SNAPSHOT_AFTER_MS) return true
      if (ageMs < SNAPSHOT_FOR_RETENTION_MS) return false
      return log.bytesBefore(highWatermark) > log.bytesBefore(snapshots.newestOffset())
    },
    snapshot: async () => {
      // One at a time: two of the same offset would write the same file.
      while (saving !== null) await saving
      saving = save().finally(() => {
        saving = null
      })
      await saving
    },
  }
}

import { TributaryError } from '../../common/errors.ts'
import type { ReadResult } from '../../common/log/types.ts'
import type { SnapshotKeeper } from './snapshot-keeper.ts'
import type { ReplicaStore } from './store.ts'

/** What a leader gives to those that follow it, beside its batches' numbers. */

/** A producer snapshot of a leader. */
export interface GivenSnapshot {
  offset: number
  bytes: Uint8Array
}

/** Batches for a follower, and the hub time of the newest of them. */
export interface GivenBatches extends ReadResult {
  hubTimeMs: number
  /** What lies between the offset asked for and here is lost. */
  lostBefore?: number
}

/**
 * Reads what is durable, committed or not, past what is lost for good. Where their hub time is not known they are as new as can be.
 * Rejects as DamageKeeper.read.
 */
export async function readForFollower(
  { log, damage }: ReplicaStore,
  offset: number,
  maxBytes: number,
  nowMs: number,
): Promise<GivenBatches> {
  let from = offset
  let result = await damage.read(from, maxBytes)
  while (result.batches.length === 0 && result.nextOffset > from) {
    from = result.nextOffset
    result = await damage.read(from, maxBytes)
  }
  const hubTimeMs = (await log.hubTimeAt(result.nextOffset - 1)) ?? nowMs
  return { ...result, hubTimeMs, ...(from === offset ? {} : { lostBefore: from }) }
}

/**
 * Batches of a stretch for a replica whose own are damaged, none past `coveredEnd` and none past damage here. Rejects with `corrupt_log`
 * where they are damaged here too, `not_found` where they are given up here, `offset_out_of_range`.
 */
export async function readStretch(
  { log, damage }: ReplicaStore,
  fromOffset: number,
  toOffset: number,
  maxBytes: number,
  coveredEnd: number,
): Promise<ReadResult> {
  if (fromOffset >= log.durableEndOffset()) throw nothingThere(fromOffset)
  const waiting = damage.waiting()
  let limit = Math.min(toOffset, coveredEnd)
  for (const bad of log.damage()) {
    if (bad.toOffset <= fromOffset || bad.fromOffset >= limit) continue
    limit = bad.fromOffset
    if (limit > fromOffset) continue
    const details = { fromOffset: bad.fromOffset, toOffset: bad.toOffset }
    if (waiting.includes(bad))
      throw new TributaryError('corrupt_log', `${log.name} is damaged there too`, { details })
    throw new TributaryError('not_found', `${log.name} has lost it for good`, { details })
  }
  return log.read(fromOffset, maxBytes, limit)
}

/** The refusal of a replica that has none to give yet. */
export function noSnapshot(name: string): TributaryError {
  return new TributaryError('not_available', `${name} has no producer snapshot yet; try again`)
}

/** The refusal of a stretch that the log does not reach. */
export function nothingThere(fromOffset: number): TributaryError {
  return new TributaryError('offset_out_of_range', `nothing is held here from offset ${fromOffset} on`)
}

/**
 * The newest producer snapshot, for a replica whose log begins at `startOffset`: all of it is committed, so whoever leads later has what
 * it tells of. Made where there is none. Undefined where the log has nothing to tell.
 */
export async function snapshotFor(
  { log, snapshots, wanting }: ReplicaStore,
  keeper: SnapshotKeeper,
  startOffset: number,
): Promise<GivenSnapshot | undefined> {
  if (wanting()) return undefined
  if (snapshots.newestOffset() < Math.max(1, startOffset)) await keeper.save()
  const found = await snapshots.loadAtOrBelow(log.durableEndOffset())
  return found !== undefined && found.offset >= startOffset ? found : undefined
}

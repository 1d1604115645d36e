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
}

/** Reads what is durable, committed or not. Where their hub time is not known they are as new as can be. Rejects as Log.read. */
export async function readForFollower(
  { log }: ReplicaStore,
  offset: number,
  maxBytes: number,
  nowMs: number,
): Promise<GivenBatches> {
  const result = await log.read(offset, maxBytes)
  const hubTimeMs = (await log.hubTimeAt(result.nextOffset - 1)) ?? nowMs
  return { ...result, hubTimeMs }
}

/**
 * The newest producer snapshot, for a replica that begins at the log's start: all of it is committed, so whoever leads later has what
 * it tells of. Made where there is none. Undefined where the log has nothing to tell.
 */
export async function snapshotForFollower(
  { log, snapshots }: ReplicaStore,
  keeper: SnapshotKeeper,
): Promise<GivenSnapshot | undefined> {
  if (snapshots.newestOffset() < Math.max(1, log.startOffset())) await keeper.save()
  const found = await snapshots.loadAtOrBelow(log.durableEndOffset())
  return found !== undefined && found.offset >= log.startOffset() ? found : undefined
}

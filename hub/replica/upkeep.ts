import { DAY_MS } from '../../common/limits.ts'
import type { SnapshotKeeper } from './snapshot-keeper.ts'
import type { ReplicaStore } from './store.ts'

/** As Kafka's producer.id.expiration.ms, with the design's value. */
const PRODUCER_ID_EXPIRATION_MS = 7 * DAY_MS

/** A replica that is looked after. */
export interface Upkept {
  store: ReplicaStore
  keeper: SnapshotKeeper
  leads: boolean
  /** Below it all is committed and durable here. */
  covered: number
  /** Where the leader's log starts, which a follower's does too. */
  leaderStart: number
}

/** What there is to do with a replica once in a while, besides deleting: forgets silent producers, and tells whether a snapshot is due. */
export function lookAfter(
  { store, keeper, leads, covered, leaderStart }: Upkept,
  retentionTimeMs: number | null,
): boolean {
  // By the clock of retention: a wall clock that jumps makes no producer's batches new again.
  if (retentionTimeMs !== null) store.producers.expire(retentionTimeMs - PRODUCER_ID_EXPIRATION_MS)
  return keeper.due(leads ? covered : leaderStart)
}

/**
 * Deletes what retention lets go (`retentionTimeMs` null: nothing while it is paused), or where it follows what its leader let go. A
 * segment may go only when the producers that wrote it stand in a durable snapshot, and nothing goes that is not committed.
 */
export async function deleteOld(
  { store, leads, covered, leaderStart }: Upkept,
  retentionTimeMs: number | null,
): Promise<void> {
  const { log, snapshots, epochs } = store
  const limit = Math.min(snapshots.newestOffset(), covered)
  if (!leads) await log.truncateBefore(Math.min(leaderStart, limit))
  else if (retentionTimeMs !== null) await log.applyRetention(retentionTimeMs, limit)
  epochs.cutBefore(log.startOffset())
}

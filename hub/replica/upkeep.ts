import type { SnapshotKeeper } from './snapshot-keeper.ts'
import type { ReplicaStore } from './store.ts'

/** A replica that is looked after. */
export interface Upkept {
  store: ReplicaStore
  keeper: SnapshotKeeper
  leads: boolean
  /** No other replica has a say in what is committed. */
  alone: boolean
  /** Below it all is committed and durable here. */
  covered: number
  /** Where the leader's log starts, which a follower's does too. */
  leaderStart: number
}

/** A replica as it is now; null while its log is changed, or where there is none. */
export type Look = () => Upkept | null

/** What there is to do with a replica once in a while: snapshots if due, expires producers, applies retention or follows the leader's. */
export async function maintain(
  look: Look,
  retentionTimeMs: number | null,
  producerIdExpirationMs: number,
): Promise<void> {
  const before = look()
  if (before === null) return
  if (lookAfter(before, retentionTimeMs, producerIdExpirationMs)) await saveSnapshot(look, 0)
  const after = look()
  if (after !== null) await deleteOld(after, retentionTimeMs)
}

/** Writes a producer snapshot unless less than `growthBytes` were appended since the last; where it waits for other nodes, later. */
export async function saveSnapshot(look: Look, growthBytes: number): Promise<void> {
  const now = look()
  if (now === null || now.keeper.growthBytes() < growthBytes) return
  const saved = now.keeper.save()
  if (now.alone || now.covered >= now.store.log.endOffset()) await saved
  // It is tried again when it is due again.
  else saved.catch(() => {})
}

/** Forgets silent producers, and tells whether a snapshot is due. */
function lookAfter(
  { store, keeper, leads, covered, leaderStart }: Upkept,
  retentionTimeMs: number | null,
  producerIdExpirationMs: number,
): boolean {
  // By the clock of retention: a wall clock that jumps makes no producer's batches new again.
  if (retentionTimeMs !== null) store.producers.expire(retentionTimeMs - producerIdExpirationMs)
  return keeper.due(leads ? covered : leaderStart)
}

/**
 * Deletes what retention lets go (`retentionTimeMs` null: nothing while it is paused), or where it follows what its leader let go. A
 * segment may go only when the producers that wrote it stand in a durable snapshot, and nothing goes that is not committed.
 */
async function deleteOld(
  { store, leads, covered, leaderStart }: Upkept,
  retentionTimeMs: number | null,
): Promise<void> {
  const { log, snapshots, epochs } = store
  const limit = Math.min(snapshots.newestOffset(), covered)
  if (!leads) await log.truncateBefore(Math.min(leaderStart, limit))
  else if (retentionTimeMs !== null) await log.applyRetention(retentionTimeMs, limit)
  epochs.cutBefore(log.startOffset())
}

import type { GivenSnapshot } from './followers.ts'
import type { EpochEnd } from './leader-epochs.ts'
import { divergence } from './leader-epochs.ts'
import type { SnapshotKeeper } from './snapshot-keeper.ts'
import type { FetchedFacts, ReplicaStore } from './store.ts'

/** What a follower has of a partition: what it asks its leader for. */
export interface Position {
  /** Where its log ends. */
  offset: number
  /** Of its last batch, -1 without any. */
  lastEpoch: number
  durableEnd: number
}

/**
 * What a replica does that follows a leader. All of it is for the epoch named, and rejects with `not_available` where the replica does not
 * follow under it (any more).
 */
export interface Following {
  /** Where it stands; without a log, at the beginning. */
  position(): Position
  /** Whether its producers are all known; else it needs the leader's snapshot before it fetches. */
  isComplete(): boolean
  /** What the leader told, whose log this one is as far as it goes: how far it is committed, and where the leader's log starts. */
  learn(highWatermark: number, startOffset: number): void
  /** Takes batches fetched; they count in this turn, and the promise resolves when they are durable. The log must be open. */
  append(leaderEpoch: number, batches: Uint8Array, told: FetchedFacts): Promise<void>
  /** The leader's log parts from this one at `told`: cuts it, and tells whether that was below what was known to be committed. */
  part(leaderEpoch: number, told: EpochEnd): Promise<boolean>
  /** Begins anew at the leader's log start, which is past the end of this log, with the leader's producers. */
  restartAt(leaderEpoch: number, startOffset: number, snapshot: GivenSnapshot): Promise<void>
  /** Takes the leader's producers for a log whose own snapshots are lost. */
  takeSnapshot(leaderEpoch: number, snapshot: GivenSnapshot): Promise<void>
}

/** What of a replica is needed to follow. */
export interface FollowingContext {
  store(): ReplicaStore | null
  keeper(): SnapshotKeeper | null
  /** The store, while it follows under this epoch. Throws `not_available`. */
  under(leaderEpoch: number): ReplicaStore
  /** Runs what nothing else may go on beside. */
  alone(work: () => Promise<void>): Promise<void>
  open(): Promise<void>
  /** What is known of the leader. */
  known: Known
}

/** What a replica knows of its partition as a whole. */
export interface Known {
  highWatermark: number
  /** Where the leader's log starts. */
  leaderStart: number
}

export function createFollowing(context: FollowingContext): Following {
  const { known, under } = context

  /** Changes the log where nothing is on its way into it, and no snapshot of it on its way to the disk. */
  function change(store: ReplicaStore, work: () => Promise<void>): Promise<void> {
    return context.alone(async () => {
      await store.quiet()
      await context.keeper()?.idle()
      await work()
      context.keeper()?.advanced()
    })
  }

  return {
    position: () => {
      const store = context.store()
      if (store === null) return { offset: 0, lastEpoch: -1, durableEnd: 0 }
      const { log, epochs } = store
      return { offset: log.endOffset(), lastEpoch: epochs.last(), durableEnd: log.durableEndOffset() }
    },
    isComplete: () => context.store()?.complete() ?? true,
    learn: (highWatermark, startOffset) => {
      known.highWatermark = Math.max(known.highWatermark, highWatermark)
      known.leaderStart = startOffset
      context.keeper()?.advanced()
    },
    append: async (leaderEpoch, batches, told) => {
      const store = under(leaderEpoch)
      try {
        const before = store.log.endOffset()
        const appended = store.appendFetched(batches, told)
        if (told.lostBefore !== undefined) store.damage.lostByLeader(before, told.lostBefore)
        await appended
      } catch (error) {
        // What the log took back is forgotten before more is taken.
        if (store.log.endOffset() < store.reflected.end) await context.alone(() => store.quiet())
        throw error
      }
    },
    part: async (leaderEpoch, told) => {
      const store = under(leaderEpoch)
      let isBelow = false
      await change(store, async () => {
        const before = store.log.endOffset()
        await store.cutAfter(divergence(store.epochs, before, told))
        const end = store.log.endOffset()
        isBelow = end < Math.min(before, known.highWatermark)
        known.highWatermark = Math.min(known.highWatermark, end)
      })
      return isBelow
    },
    restartAt: async (leaderEpoch, startOffset, snapshot) => {
      await context.open()
      const store = under(leaderEpoch)
      await change(store, () => store.restartAt(startOffset, snapshot))
    },
    takeSnapshot: async (leaderEpoch, snapshot) => {
      const store = under(leaderEpoch)
      await change(store, () => store.install(snapshot))
    },
  }
}

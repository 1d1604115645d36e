import { TributaryError } from '../../common/errors.ts'
import type { Damage, ReadResult } from '../../common/log/types.ts'
import type { GivenSnapshot } from './followers.ts'
import { noSnapshot, nothingThere, readStretch, snapshotFor } from './followers.ts'
import type { LeaderEpochs } from './leader-epochs.ts'
import { decodeSnapshot } from './producer-snapshot.ts'
import type { SnapshotKeeper } from './snapshot-keeper.ts'
import type { ReplicaStore } from './store.ts'

/** What is done about damaged stretches of a replica's log, see damage.ts; who has them is for others to find. */
export interface Repairs {
  /** Stretches that another replica may have. */
  damaged(): Damage[]
  /** Puts in what another replica has; what is left of the stretch, undefined where it is whole. See Log.repairStretch. */
  repair(damage: Damage, batches: Uint8Array): Promise<Damage | undefined>
  /** No other replica has it. A leader tells of the loss. */
  giveUp(damage: Damage): void
  /** Nothing is damaged any more: what had to be derived without it is made anew, and a leader leads that waited for it. */
  repaired(): Promise<void>
  /**
   * Whether it is to lead and does not know who wrote below its log's start, as its snapshots are damaged: it takes nothing before it does,
   * or it would store again what it has.
   */
  lacksProducers(): boolean
  /** Takes another replica's snapshot; false where it is not one of this log. */
  takeProducers(snapshot: GivenSnapshot): Promise<boolean>
  /** No other replica can tell: it leads with what its log holds. */
  giveUpProducers(): Promise<void>
  /** A snapshot for the one who leads under this epoch. Rejects with `not_found` where none will ever be here, else `not_available`. */
  snapshotForLeader(leaderEpoch: number): Promise<GivenSnapshot>
  /** Batches for another replica's repair, by one that leads or follows under the same epoch. See followers.ts. */
  readStretch(
    leaderEpoch: number,
    fromOffset: number,
    toOffset: number,
    maxBytes: number,
  ): Promise<ReadResult>
}

/** What of a replica is needed for it. */
export interface RepairsContext {
  store(): ReplicaStore | null
  keeper(): SnapshotKeeper | null
  /** Whether it takes no part in anything before it is repaired. */
  isHeldUp(): boolean
  /** Steps down, does the work with nothing beside, and acts by its role again. */
  beginAnew(work: () => Promise<void>): Promise<void>
  /** It is the leader, as far as is known. */
  tells(): boolean
  /** Below it all is committed and durable here. */
  covered(): number
  /** Where the leader's log starts, as far as is known. */
  leaderStart(): number
  /** Why nothing can be said under this epoch, or null. */
  refusal(leaderEpoch: number): TributaryError | null
}

export function createRepairs(context: RepairsContext): Repairs {
  function lacksProducers(): boolean {
    return context.isHeldUp() && context.tells() && context.store()?.complete() === false
  }

  /** Steps down for work upon what is derived, with nothing on its way to the disk. */
  function change(store: ReplicaStore, work: () => Promise<void>): Promise<void> {
    return context.beginAnew(async () => {
      await store.quiet()
      await context.keeper()?.idle()
      await work()
      context.keeper()?.advanced()
    })
  }

  return {
    damaged: () => context.store()?.damage.waiting() ?? [],
    repair: async (damage, batches) => context.store()?.log.repairStretch(damage, batches),
    giveUp: damage => context.store()?.damage.giveUp(damage, context.tells()),
    repaired: async () => {
      const store = context.store()
      if (store === null || !context.isHeldUp()) return
      await change(store, () => store.rebuild())
    },
    lacksProducers,
    takeProducers: async snapshot => {
      const store = context.store()
      if (store === null || !lacksProducers() || !isOf(store, snapshot)) return false
      await change(store, () => store.install(snapshot))
      return true
    },
    giveUpProducers: async () => {
      const store = context.store()
      if (store === null || !lacksProducers()) return
      // Who follows by now asks its leader.
      await change(store, async () => {
        if (context.tells()) await store.stand()
      })
    },
    snapshotForLeader: async leaderEpoch => {
      const refusal = context.refusal(leaderEpoch)
      if (refusal !== null) throw refusal
      const [store, keeper] = [context.store(), context.keeper()]
      if (store === null || keeper === null || !store.complete() || store.ahead()) {
        throw new TributaryError('not_found', 'this replica does not know all producers either')
      }
      const startOffset = Math.max(store.log.startOffset(), context.leaderStart())
      const found = await snapshotFor(store, keeper, startOffset)
      if (found === undefined) throw noSnapshot(store.log.name)
      return found
    },
    readStretch: async (leaderEpoch, fromOffset, toOffset, maxBytes) => {
      const refusal = context.refusal(leaderEpoch)
      if (refusal !== null) throw refusal
      const store = context.store()
      if (store === null) throw nothingThere(fromOffset)
      return readStretch(store, fromOffset, toOffset, maxBytes, context.covered())
    },
  }
}

/** Whether a snapshot tells of what this log holds below it: else it would call records stored that are not. */
function isOf({ log, epochs }: ReplicaStore, { offset, bytes }: GivenSnapshot): boolean {
  if (offset > log.endOffset() || offset < log.startOffset()) return false
  // Logs with a batch of the same epoch at a place are the same up to there; what lies below a log's start is committed.
  return (
    offset === log.startOffset() ||
    epochBelow(epochs, offset) === epochBelow(decodeSnapshot(bytes).epochs, offset)
  )
}

function epochBelow(epochs: LeaderEpochs, offset: number): number | undefined {
  return epochs.entries().findLast(({ startOffset }) => startOffset < offset)?.epoch
}

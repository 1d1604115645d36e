import type { TributaryError } from '../../common/errors.ts'
import type { Damage, ReadResult } from '../../common/log/types.ts'
import { nothingThere, readStretch } from './followers.ts'
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
  /** Why nothing can be said under this epoch, or null. */
  refusal(leaderEpoch: number): TributaryError | null
}

export function createRepairs(context: RepairsContext): Repairs {
  return {
    damaged: () => context.store()?.damage.waiting() ?? [],
    repair: async (damage, batches) => context.store()?.log.repairStretch(damage, batches),
    giveUp: damage => context.store()?.damage.giveUp(damage, context.tells()),
    repaired: async () => {
      const store = context.store()
      if (store === null || !context.isHeldUp()) return
      await context.beginAnew(async () => {
        await store.quiet()
        await context.keeper()?.idle()
        await store.rebuild()
        context.keeper()?.advanced()
      })
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

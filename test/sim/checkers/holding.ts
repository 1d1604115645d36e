import type { FetchPosition } from '../../../common/wire-peer.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'

/**
 * What all followers in sync told to be durable of one leader's log may be acked by now. So none of them gives it up, as long as they are
 * led by one another. Nothing need be acked, and nobody need lose it, for a follower to be found out that cuts off too much.
 */
export class Holding {
  /** All of `holders` hold what lies below it. */
  #end = 0
  #holders: ReadonlySet<number> = new Set()
  #leaderEpoch = -1
  /** Durable ends of followers whose last batch is of this epoch: their logs are the leader's as far as they go. */
  readonly #ends = new Map<number, number>()

  /** The controller committed it; null where it is not known what. */
  committed(state: PartitionState | null): void {
    const isNew = state === null || state.leaderEpoch !== this.#leaderEpoch
    if (isNew) this.#ends.clear()
    this.#leaderEpoch = state?.leaderEpoch ?? -1
    const leader = state?.leader ?? null
    // The former leader need not hold what the others do.
    if (state === null || (isNew && leader !== null && !this.#holders.has(leader))) {
      this.#end = 0
      this.#holders = new Set()
    } else this.#holders = new Set([...this.#holders].filter(id => state.isr.includes(id)))
  }

  /**
   * A follower tells its leader where it is; `followers`: all that the leader may wait for. Gives what it held and has given up, null
   * where that is nothing.
   */
  told(position: FetchPosition, nodeId: number, followers: readonly number[]): number | null {
    const { offset, leaderEpoch, lastEpoch, durableEnd } = position
    if (leaderEpoch !== this.#leaderEpoch || offset < 0) return null
    if (this.#holders.has(nodeId) && offset < this.#end) return this.#end
    if (lastEpoch === leaderEpoch) this.#ends.set(nodeId, durableEnd)
    const end = Math.min(...followers.map(id => this.#ends.get(id) ?? 0))
    if (followers.length > 0 && end > this.#end) {
      this.#end = end
      this.#holders = new Set(followers)
    }
    return null
  }
}

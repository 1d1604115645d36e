import type { FetchedFrame } from '../../../common/wire-peer.ts'
import type { SimProcess } from '../process.ts'
import type { World } from '../world.ts'

/** One leader per epoch and incarnation: a partition's epoch is served by one process alone. */
export class LeadersChecker {
  readonly #world: World
  readonly #leaders = new Map<string, SimProcess>()
  /** The newest epoch of each partition that a process served. */
  readonly #newest = new Map<string, number>()

  constructor(world: World) {
    this.#world = world
  }

  /** A leader answers its followers; throws what is wrong. */
  fetched({ partitions }: FetchedFrame, from: SimProcess): void {
    for (const { topicId, partition, leaderEpoch, diverging, error } of partitions) {
      if (error !== undefined) {
        this.#world.count(`fetch ${error}`)
        continue
      }
      if (diverging !== undefined) this.#world.count('replica diverged')
      const place = `${topicId}/${partition}`
      const key = `${place} ${leaderEpoch}`
      const leader = this.#leaders.get(key)
      if (leader === undefined) {
        this.#leaders.set(key, from)
        const known = this.#newest.get(place) ?? -1
        if (leaderEpoch > known) this.#newest.set(place, leaderEpoch)
        if (known >= 0) this.#world.count('leader changed')
      } else if (leader !== from) {
        const same = leader.name === from.name ? ' after a restart' : ''
        throw new Error(`${leader.name} and ${from.name}${same} both lead epoch ${leaderEpoch} of ${place}`)
      }
    }
  }
}

import type { Clock, Rng, Timer } from '../../../../common/env.ts'
import type { Input, Outcome, Status } from '../../../raft/types.ts'
import { nodeIdOf } from '../../../raft/types.ts'

/**
 * Standing for election without waiting for a timeout, where the leader's process is known to be gone: nothing listens where it was. Pre-vote
 * and the voters' own view keep it harmless where that is wrong.
 */

/** Between the moments at which one voter after another stands, so that votes rarely split. */
const STEP_MS = 40
/** Random part of each wait. */
const SPREAD_MS = 15

export interface Standing {
  /** Nothing listens where the node was. */
  gone(nodeId: number): void
  /** The node answers. */
  back(nodeId: number): void
  /** After each change of the status. */
  changed(status: Status): void
  stop(): void
}

export interface StandingContext {
  clock: Clock
  rng: Rng
  nodeId: number
  /** Not from within a step of the core. */
  feed(input: Input): Outcome | null
  status(): Status
}

export function createStanding({ clock, rng, nodeId, feed, status }: StandingContext): Standing {
  const gone = new Set<number>()
  let timer: Timer | null = null
  let stopped = false
  let last: number | null = null

  function voters(): number[] {
    return status().config.voters.map(nodeIdOf)
  }

  /** The voters that are left stand one after another, by their ids. */
  function waitMs(): number {
    const left = voters().filter(voter => !gone.has(voter))
    const rank = left.filter(voter => voter < nodeId).length
    return STEP_MS * rank + rng.float() * SPREAD_MS
  }

  function consider(delayMs: number): void {
    if (stopped || timer !== null || last === null || !gone.has(last)) return
    if (!voters().includes(nodeId)) return
    timer = clock.setTimer(() => {
      timer = null
      stand()
    }, delayMs)
  }

  function stand(): void {
    const { leader, role } = status()
    if (leader !== null && role !== 'leader' && gone.has(nodeIdOf(leader)))
      feed({ t: 'gone', member: leader })
    if (role === 'leader' || status().leader !== null || last === null || !gone.has(last)) return
    feed({ t: 'campaign' })
    // Others may not have noticed yet, or hold a longer log and stand themselves.
    consider(STEP_MS * Math.max(2, voters().length) + waitMs())
  }

  return {
    gone: id => {
      if (id === nodeId) return
      gone.add(id)
      const { leader } = status()
      if (leader !== null && nodeIdOf(leader) === id) {
        last = id
        feed({ t: 'gone', member: leader })
      }
      if (last === id) consider(waitMs())
    },
    back: id => {
      gone.delete(id)
    },
    changed: ({ leader }) => {
      if (leader === null) return
      last = nodeIdOf(leader)
      // What it had sent before it went arrives late.
      if (gone.has(last)) consider(waitMs())
    },
    stop: () => {
      stopped = true
      timer?.cancel()
      timer = null
    },
  }
}

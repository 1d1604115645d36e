import { play } from './script.ts'
import { Sim } from './sim.ts'
import type { Wanted } from './swarm.ts'
import { planOf } from './swarm.ts'

/** Runs one seed. */

export interface SeedResult {
  seed: number
  /** Null where all is well. */
  failure: string | null
  hash: string
  simMs: number
  events: number
  acks: number
  counters: Record<string, number>
}

/** In one turn of the event loop, which must not be a promise callback's. `log`: told of all that happens. */
function runNow(seed: number, wanted: Wanted, log: ((line: string) => void) | null): SeedResult {
  const sim = new Sim(planOf(seed, wanted), log)
  const { world } = sim
  let failure: string | null = null
  try {
    world.run(() => play(sim))
  } catch (error) {
    failure = error instanceof Error ? (error.stack ?? error.message) : String(error)
  }
  const counters = Object.fromEntries([...world.counters].sort(([one], [other]) => (one < other ? -1 : 1)))
  const acks = (counters['edge acks'] ?? 0) + (counters['client acks'] ?? 0)
  const { events } = world
  return { seed, failure, hash: world.hash(), simMs: Math.round(world.nowMs()), events, acks, counters }
}

export function runSeed(
  seed: number,
  wanted: Wanted = {},
  log: ((line: string) => void) | null = null,
): Promise<SeedResult> {
  return new Promise(resolve => {
    setImmediate(() => resolve(runNow(seed, wanted, log)))
  })
}

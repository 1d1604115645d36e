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
  /** What it cost; all else is the same whenever the seed is run. */
  cpuMs: number
  counters: Record<string, number>
}

/** `log`: told of all that happens. */
export async function runSeed(
  seed: number,
  wanted: Wanted = {},
  log: ((line: string) => void) | null = null,
): Promise<SeedResult> {
  const startCpu = process.cpuUsage()
  const sim = new Sim(planOf(seed, wanted), log)
  const { world } = sim
  let failure: string | null = null
  try {
    await world.run(() => play(sim))
  } catch (error) {
    failure = error instanceof Error ? (error.stack ?? error.message) : String(error)
  }
  const counters = Object.fromEntries([...world.counters].sort(([one], [other]) => (one < other ? -1 : 1)))
  const acks = world.acks()
  const { events } = world
  const { user, system } = process.cpuUsage(startCpu)
  const cpuMs = Math.round((user + system) / 1_000)
  return {
    seed,
    failure,
    hash: world.hash(),
    simMs: Math.round(world.nowMs()),
    events,
    acks,
    cpuMs,
    counters,
  }
}

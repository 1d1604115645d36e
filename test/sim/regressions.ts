import type { Wanted } from './swarm.ts'

/** Seeds that found something once. What a seed does changes with the simulator, so these are worth most while it stays as it is. */
export const REGRESSIONS: readonly { seed: number; wanted: Wanted; why: string }[] = [
  {
    seed: 508,
    wanted: {},
    why: 'a leader that had not heard of the next one told a reader that what it had of that was lost',
  },
]

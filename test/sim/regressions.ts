import type { Wanted } from './swarm.ts'

/** Seeds that found something once. What a seed does changes with the simulator, so these are worth most while it stays as it is. */
export const REGRESSIONS: readonly { seed: number; wanted: Wanted; why: string }[] = []

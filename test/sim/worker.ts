import type { SeedResult } from './run.ts'
import { runSeed } from './run.ts'
import type { Wanted } from './swarm.ts'

/** A process that runs the seeds it is sent. */

export interface Job {
  seed: number
  wanted: Wanted
}

function isJob(message: unknown): message is Job {
  return typeof message === 'object' && message !== null && 'seed' in message && 'wanted' in message
}

process.on('message', message => {
  if (!isJob(message)) return
  void runSeed(message.seed, message.wanted).then((result: SeedResult) => process.send?.(result))
})

import { KNOBS } from './knobs.ts'
import { patchModules } from './patches.ts'
import { plantOf } from './plants.ts'
import type { Job } from './pool.ts'
import { READY } from './pool.ts'

/** A process that runs the seeds it is sent, with the bug that it is told to plant. */

const plant = process.env.SIM_PLANT
const allApplied = patchModules([...KNOBS, ...(plant === undefined ? [] : plantOf(plant).patches)])
const { runSeed } = await import('./run.ts')
allApplied()

function isJob(message: unknown): message is Job {
  return typeof message === 'object' && message !== null && 'seed' in message && 'wanted' in message
}

process.on('disconnect', () => process.exit())
process.on('message', message => {
  if (!isJob(message)) return
  const log = message.isWatched ? (line: string) => console.log(line) : null
  void runSeed(message.seed, message.wanted, log).then(result => process.send?.(result))
})
process.send?.(READY)

import { execFileSync } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import type { PlantResult } from './plants-run.ts'
import { runPlants } from './plants-run.ts'
import { runJobs } from './pool.ts'
import { REGRESSIONS } from './regressions.ts'
import type { SeedResult } from './run.ts'
import { runSeed } from './run.ts'
import { Tally } from './summary.ts'
import type { Job } from './worker.ts'

/**
 * npm run sim -- --seeds N [--seed S]    runs N seeds from S on (default: a random one), in two processes
 *                --seed S --verbose      tells what happens in one seed
 *                --plants [--only NAME]  plants known bugs, one after the other, and shows that each is caught
 *                --regressions           runs the seeds that found something once
 *                --check [--seed S]      runs a seed twice: both must be the same, event for event
 */

const WORKERS = 2
/** Over so many seeds everything must have happened. */
const MANY_SEEDS = 2_000
const PROGRESS_MS = 10_000
const PLANTS_SEED = 1
const MAX_SEED = 2 ** 31

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1' },
    seed: { type: 'string' },
    nodes: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    regressions: { type: 'boolean', default: false },
    plants: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    check: { type: 'boolean', default: false },
  },
})

const first = values.seed === undefined ? randomInt(MAX_SEED) : Number(values.seed)
const wanted = values.nodes === undefined ? {} : { nodes: Number(values.nodes) }

if (values.check) await selfCheck()
else if (values.plants) await plantAll()
else if (values.verbose) await tellOne()
else await runMany()

async function tellOne(): Promise<void> {
  const result = await runSeed(first, wanted, line => console.log(line))
  console.log(JSON.stringify(result, null, 1))
  if (result.failure !== null) tellFailure(result)
}

/** Same seed, same trace. */
async function selfCheck(): Promise<void> {
  const one = await runSeed(first, wanted)
  const other = await runSeed(first, wanted)
  const isSame = JSON.stringify(one) === JSON.stringify(other)
  console.log(JSON.stringify({ seed: first, hashes: [one.hash, other.hash], isSame }))
  if (!isSame) process.exitCode = 1
}

/** Seeds are the same each time, so that what is caught once is caught again. */
async function plantAll(): Promise<void> {
  const results: PlantResult[] = []
  await runPlants(values.seed === undefined ? PLANTS_SEED : first, WORKERS, values.only, result => {
    results.push(result)
    const { name, caught, seeds, within, failure } = result
    console.error(`${caught ? 'caught' : 'MISSED'} in ${seeds} of ${within} seeds: ${name}: ${failure}`)
  })
  const missed = results.filter(({ caught }) => !caught).map(({ name }) => name)
  console.log(JSON.stringify({ ok: missed.length === 0, planted: results.length, missed, results }))
  if (missed.length > 0) process.exitCode = 1
}

async function runMany(): Promise<void> {
  const tally = new Tally()
  const jobs: Job[] = values.regressions
    ? [...REGRESSIONS]
    : Array.from({ length: Number(values.seeds) }, (_, index) => ({ seed: first + index, wanted }))
  let done = 0
  const progress = setInterval(() => console.error(`${done} of ${jobs.length} seeds`), PROGRESS_MS)
  await runJobs(jobs.values(), {
    workers: Math.min(WORKERS, jobs.length),
    onResult: result => {
      done++
      tally.add(result)
      if (result.failure !== null) tellFailure(result)
      return false
    },
  })
  clearInterval(progress)
  const summary = tally.summary()
  const isComplete = summary.missing.length === 0 || summary.seeds < MANY_SEEDS
  console.log(JSON.stringify({ ok: summary.failed.length === 0 && isComplete, first, ...summary }))
  if (summary.failed.length > 0 || !isComplete) process.exitCode = 1
}

function tellFailure({ seed, failure, hash, simMs }: SeedResult): void {
  process.exitCode = 1
  console.error(
    `seed ${seed} failed after ${simMs} simulated ms, trace ${hash}, commit ${commit()}: ${failure}`,
  )
  const nodes = values.nodes === undefined ? '' : ` --nodes ${values.nodes}`
  console.error(`run it again with: npm run sim -- --seed ${seed}${nodes} --verbose`)
}

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8' }).trim()
  } catch {
    return 'unknown'
  }
}

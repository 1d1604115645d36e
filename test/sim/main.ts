import { execFileSync } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import type { Plant } from './plants.ts'
import { PLANTS } from './plants.ts'
import type { Job } from './pool.ts'
import { runJobs } from './pool.ts'
import { REGRESSIONS } from './regressions.ts'
import type { SeedResult } from './run.ts'
import { Tally } from './summary.ts'

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
  for (const result of await runAll([{ seed: first, wanted, isWatched: true }])) {
    console.log(JSON.stringify(result, null, 1))
    if (result.failure !== null) tellFailure(result)
  }
}

async function runAll(jobs: readonly Job[]): Promise<SeedResult[]> {
  const results: SeedResult[] = []
  await runJobs(jobs.values(), {
    workers: 1,
    onResult: result => {
      results.push(result)
      return false
    },
  })
  return results
}

/** Same seed, same trace. */
async function selfCheck(): Promise<void> {
  const job = { seed: first, wanted }
  const [one, other] = await runAll([job, job])
  const isSame = JSON.stringify({ ...one, cpuMs: 0 }) === JSON.stringify({ ...other, cpuMs: 0 })
  console.log(JSON.stringify({ seed: first, hashes: [one?.hash, other?.hash], isSame }))
  if (!isSame) process.exitCode = 1
}

/** Seeds are the same each time, so that what is caught once is caught again. */
async function plantAll(): Promise<void> {
  const results = []
  for (const plant of PLANTS.filter(({ name }) => name.includes(values.only))) {
    const result = await catchPlant(plant, values.seed === undefined ? PLANTS_SEED : first)
    results.push(result)
    const { name, isCaught, seeds, within, seed, by, failure } = result
    const told = isCaught ? `caught by ${by}, seed ${seed},` : 'MISSED'
    console.error(`${told} in ${seeds} of ${within} seeds: ${name}: ${failure}`)
  }
  const missed = results.filter(({ isCaught }) => !isCaught).map(({ name }) => name)
  console.log(JSON.stringify({ ok: missed.length === 0, planted: results.length, missed, results }))
  if (missed.length > 0) process.exitCode = 1
}

/** A seed catches the bug that fails with it and does not fail without it. */
async function catchPlant(plant: Plant, from: number) {
  const { name, seeds: within } = plant
  const asked = { ...wanted, ...plant.wanted }
  const jobs = Array.from({ length: within }, (_, index) => ({ seed: from + index, wanted: asked })).values()
  let seeds = 0
  let failed: SeedResult[] = []
  do {
    failed = []
    await runJobs(jobs, {
      workers: WORKERS,
      plant: name,
      onResult: result => {
        seeds++
        if (result.failure !== null) failed.push(result)
        return result.failure !== null
      },
    })
    for (const { seed, failure } of failed) {
      const [without] = await runAll([{ seed, wanted: asked }])
      const told = failure?.split('\n')[0]?.slice(0, 300) ?? ''
      if (without?.failure === null) {
        return { name, isCaught: true, seeds, within, seed, by: placeOf(failure), failure: told }
      }
      console.error(`seed ${seed} fails without the bug, too: ${name}: ${told}`)
    }
  } while (failed.length > 0)
  return { name, isCaught: false, seeds, within, seed: null, by: '', failure: '' }
}

/** The file that an error was raised in. */
function placeOf(failure: string | null): string {
  return failure?.match(/\n\s+at .*?((?:test|hub|edge|common)\/[\w/-]+\.ts)/)?.[1] ?? 'the end of its process'
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
  const ok = summary.failed.length === 0 && summary.slight.length === 0 && isComplete
  console.log(JSON.stringify({ ok, first, commit: commit(), ...summary }))
  if (!ok) process.exitCode = 1
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

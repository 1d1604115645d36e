import type { ChildProcess, StdioOptions } from 'node:child_process'
import { fork } from 'node:child_process'
import type { SeedResult } from './run.ts'
import type { Wanted } from './swarm.ts'

/** Worker processes that share a list of seeds. */

/** A seed that takes so long in real time hangs in a loop that no simulated time passes in. */
const HUNG_MS = 120_000

/** A worker says so when all is loaded, with the bug in it where there is one. */
export const READY = 'ready'

function isResult(message: unknown): message is SeedResult {
  return typeof message === 'object' && message !== null && 'seed' in message && 'hash' in message
}

export interface Job {
  seed: number
  wanted: Wanted
  /** Told on standard output as it happens. */
  isWatched?: boolean
}

export interface PoolOptions {
  workers: number
  /** The name of a planted bug. */
  plant?: string
  /** Told of each result; true to take no more jobs. */
  onResult(result: SeedResult): boolean
}

/** Runs all jobs; resolves when the last one is done. */
export async function runJobs(jobs: Iterator<Job>, options: PoolOptions): Promise<void> {
  let isEnough = false
  const next = (): Job | null => {
    if (isEnough) return null
    const { value, done } = jobs.next()
    return done === true ? null : value
  }
  const enough = (result: SeedResult): void => {
    isEnough = options.onResult(result) || isEnough
  }
  await Promise.all(Array.from({ length: options.workers }, () => work(next, enough, options.plant)))
}

async function work(
  next: () => Job | null,
  onResult: (result: SeedResult) => void,
  plant: string | undefined,
): Promise<void> {
  let worker: ChildProcess | null = null
  for (let job = next(); job !== null; job = next()) {
    worker ??= await startWorker(plant)
    const result = await runIn(worker, job)
    if (result === null) {
      worker.kill('SIGKILL')
      worker = null
    }
    onResult(result ?? lost(job))
  }
  worker?.kill()
}

/** Rejects where it can not begin: a bug that does not fit the code is no bug that was caught. */
function startWorker(plant: string | undefined): Promise<ChildProcess> {
  const env = plant === undefined ? process.env : { ...process.env, SIM_PLANT: plant }
  const stdio: StdioOptions = ['ignore', 'inherit', 'inherit', 'ipc']
  const worker = fork(new URL('./worker.ts', import.meta.url), { env, execArgv: [], stdio })
  return new Promise((resolve, reject) => {
    const onExit = (): void =>
      reject(new Error(`a worker ended at its start${plant === undefined ? '' : ` with "${plant}"`}`))
    worker.once('exit', onExit)
    worker.once('message', () => {
      worker.off('exit', onExit)
      resolve(worker)
    })
  })
}

/** Null where the worker ended or hangs. */
function runIn(worker: ChildProcess, job: Job): Promise<SeedResult | null> {
  return new Promise(resolve => {
    const end = (result: SeedResult | null): void => {
      clearTimeout(timer)
      worker.off('message', onMessage)
      worker.off('exit', onExit)
      resolve(result)
    }
    const onMessage = (message: unknown): void => {
      if (isResult(message)) end(message)
    }
    const onExit = (): void => end(null)
    const timer = setTimeout(onExit, HUNG_MS)
    worker.on('message', onMessage)
    worker.on('exit', onExit)
    worker.send(job)
  })
}

function lost({ seed }: Job): SeedResult {
  const failure = 'the worker process ended, or hung for two minutes'
  return { seed, failure, hash: '', simMs: 0, events: 0, acks: 0, cpuMs: 0, counters: {} }
}

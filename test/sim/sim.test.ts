import { expect, test } from 'vitest'
import { EventQueue } from './event-queue.ts'
import type { Job } from './pool.ts'
import { runJobs } from './pool.ts'
import type { SeedResult } from './run.ts'
import { LEAST_ACKS, LEAST_SIM_MS } from './summary.ts'

const SMOKE_SEEDS = [1, 3, 4, 5, 6, 7, 8]

test('events come by time, and in the order of scheduling where times are equal', () => {
  const queue = new EventQueue()
  const times = [5, 1, 3, 1, 4, 1, 5, 9, 2, 6]
  const events = times.map((atMs, order) => ({ atMs, order, cancelled: false, run: () => {} }))
  for (const event of events) queue.push(event)
  const cancelled = events[7]
  if (cancelled !== undefined) queue.cancel(cancelled)
  const came: [number, number][] = []
  for (let event = queue.pop(); event !== null; event = queue.pop()) came.push([event.atMs, event.order])
  const expected = times.map((atMs, order): [number, number] => [atMs, order]).filter(([atMs]) => atMs !== 9)
  expect(came).toEqual(expected.toSorted(([one, left], [other, right]) => one - other || left - right))
})

/** Each in a process of its own, as `npm run sim` runs them. */
async function run(jobs: readonly Job[]): Promise<SeedResult[]> {
  const results: SeedResult[] = []
  await runJobs(jobs.values(), {
    workers: 2,
    onResult: result => {
      results.push(result)
      return false
    },
  })
  return results
}

test(`seeds ${SMOKE_SEEDS}: nothing acked is lost, repeated or reordered`, async () => {
  const results = await run(SMOKE_SEEDS.map(seed => ({ seed, wanted: {} })))
  expect(results.length).toBe(SMOKE_SEEDS.length)
  for (const { seed, failure, simMs, acks } of results) {
    expect(failure, `seed ${seed}: npm run sim -- --seed ${seed} --verbose`).toBeNull()
    expect(simMs).toBeGreaterThanOrEqual(LEAST_SIM_MS)
    expect(acks).toBeGreaterThanOrEqual(LEAST_ACKS)
  }
}, 120_000)

test('the same seed is the same run, event for event, in any process', async () => {
  const job = { seed: 7, wanted: {} }
  const [one, other] = await run([job, job])
  expect({ ...other, cpuMs: 0 }).toEqual({ ...one, cpuMs: 0 })
}, 60_000)

import { expect, test } from 'vitest'
import { EventQueue } from './event-queue.ts'
import { LEAST_ACKS, LEAST_SIM_MS, runSeed } from './run.ts'

const SMOKE_SEEDS = [1, 2, 3, 4, 5, 6]

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

test(`seeds ${SMOKE_SEEDS}: nothing acked is lost, repeated or reordered`, async () => {
  for (const seed of SMOKE_SEEDS) {
    const { failure, simMs, acks } = await runSeed(seed)
    expect(failure, `seed ${seed}: npm run sim -- --seed ${seed} --verbose`).toBeNull()
    expect(simMs).toBeGreaterThanOrEqual(LEAST_SIM_MS)
    expect(acks).toBeGreaterThanOrEqual(LEAST_ACKS)
  }
}, 120_000)

test('the same seed is the same run, event for event', async () => {
  expect(await runSeed(7)).toEqual(await runSeed(7))
}, 60_000)

import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Run } from '../../edge/runs.ts'
import {
  closeRun,
  FIRST_RUN_ID,
  findRun,
  MAX_FREED_RUNS,
  MAX_RUN_RECORDS,
  openRun,
  pruneRuns,
  recutRuns,
  runAt,
} from '../../edge/runs.ts'

const id = (index: number): number => FIRST_RUN_ID + index

/** Runs of the given lengths from offset 0 on, all closed. */
function chain(lengths: readonly number[]): Run[] {
  const runs: Run[] = []
  let at = 0
  for (const [index, length] of lengths.entries()) {
    openRun(runs, id(index), at, null)
    at += length
    closeRun(runs, at)
  }
  return runs
}

test('a run names its predecessor and that one’s end', () => {
  const runs = chain([3, 4])
  openRun(runs, id(9), 7, null)
  expect(runs.map(({ prev, reason }) => ({ prev, reason }))).toEqual([
    { prev: null, reason: 'first' },
    { prev: { run: id(0), end: 3 }, reason: 'next' },
    { prev: { run: id(1), end: 4 }, reason: 'next' },
  ])
})

test('a run without records goes when it is closed', () => {
  const runs = chain([3])
  openRun(runs, id(1), 3, null)
  expect(closeRun(runs, 3)?.run).toBe(id(1))
  expect(runs.length).toBe(1)
})

const lengths = fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 8 })

test('every offset has one run, before and after a recut, and sequences start at 0', () => {
  fc.assert(
    fc.property(lengths, fc.nat(200), (sizes, cut) => {
      const runs = chain(sizes)
      const end = sizes.reduce((total, size) => total + size, 0)
      const from = cut % (end + 1)
      let next = 100
      const before = structuredClone(runs)
      const began = recutRuns(runs, from, end, 'fork', () => id(next++))
      expect(began).toBe(from < end)
      for (let offset = 0; offset < end; offset++) {
        const run = runAt(runs, offset)
        expect(run?.run).toBe(offset < from ? runAt(before, offset)?.run : id(100))
      }
      if (began) {
        expect(findRun(runs, id(100))).toMatchObject({ start: from, end: null, prev: null, reason: 'fork' })
      }
    }),
  )
})

test('a recut of more records than a run may have makes several, each named by the next', () => {
  const runs: Run[] = []
  openRun(runs, id(0), 0, null)
  let next = 1
  recutRuns(runs, 0, 2 * MAX_RUN_RECORDS + 5, 'moved', () => id(next++))
  expect(runs.map(({ start, end, reason }) => ({ start, end, reason }))).toEqual([
    { start: 0, end: MAX_RUN_RECORDS, reason: 'moved' },
    { start: MAX_RUN_RECORDS, end: 2 * MAX_RUN_RECORDS, reason: 'next' },
    { start: 2 * MAX_RUN_RECORDS, end: null, reason: 'next' },
  ])
})

test('pruning keeps what is not freed, the last run, and a bounded past', () => {
  const runs = chain(Array.from({ length: 200 }, () => 2))
  pruneRuns(runs, 2 * 150)
  expect(runs[0]?.start).toBe(2 * (150 - MAX_FREED_RUNS))
  pruneRuns(runs, Number.MAX_SAFE_INTEGER)
  expect(runs.length).toBe(MAX_FREED_RUNS + 1)
  expect(runs.at(-1)?.start).toBe(398)
})

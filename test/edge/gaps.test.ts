import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { LocalGap } from '../../edge/gaps.ts'
import {
  addGap,
  foldSummaries,
  gapAt,
  gapFrame,
  lostBetween,
  MAX_LANE_GAPS,
  nextGapFrom,
  pruneGaps,
  skipGaps,
  takeBackGap,
} from '../../edge/gaps.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'

const range = fc.record({
  from: fc.nat(60),
  length: fc.integer({ min: 1, max: 15 }),
  reason: fc.constantFrom('disk-full' as const, 'refused' as const),
})

const declared = (gaps: readonly LocalGap[]): (string | undefined)[] =>
  Array.from({ length: 80 }, (_, offset) => gapAt(gaps, offset)?.reason)

test('the first declaration of a record stands, and neighbours of one reason are one gap', () => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), fc.nat(80), fc.nat(80), (ranges, one, other) => {
      let gaps: LocalGap[] = []
      const model: (string | undefined)[] = new Array(80).fill(undefined)
      for (const { from, length, reason } of ranges) {
        gaps = addGap(gaps, { from, to: from + length, reason, firstMs: from, lastMs: from })
        for (let offset = from; offset < from + length; offset++) model[offset] ??= reason
      }
      expect(declared(gaps)).toEqual(model)
      for (const [index, gap] of gaps.entries()) {
        const next = gaps[index + 1]
        if (next === undefined) continue
        expect(gap.to).toBeLessThanOrEqual(next.from)
        if (gap.to === next.from) expect(gap.reason).not.toBe(next.reason)
      }
      const [from, to] = [Math.min(one, other), Math.max(one, other)]
      expect(lostBetween(gaps, from, to)).toBe(model.slice(from, to).filter(Boolean).length)
      const free = model.findIndex((reason, offset) => offset >= from && reason === undefined)
      expect(skipGaps(gaps, from)).toBe(free === -1 ? Math.max(80, from) : free)
      const lost = model.findIndex((reason, offset) => offset >= from && reason !== undefined)
      expect(nextGapFrom(gaps, from)).toBe(lost === -1 ? Number.POSITIVE_INFINITY : lost)
      const back = takeBackGap(gaps, from, to)
      expect(declared(back)).toEqual(
        model.map((reason, offset) => (offset >= from && offset < to ? undefined : reason)),
      )
      expect(declared(pruneGaps(gaps, from)).slice(from)).toEqual(model.slice(from))
    }),
  )
})

test('weeks of dropping are one gap, from its first time to its last', () => {
  let gaps: LocalGap[] = []
  for (let at = 0; at < 1_000; at++) {
    gaps = addGap(gaps, { from: 10 * at, to: 10 * at + 10, reason: 'disk-full', firstMs: at, lastMs: at + 5 })
  }
  expect(gaps).toEqual([{ from: 0, to: 10_000, reason: 'disk-full', firstMs: 0, lastMs: 1_004 }])
})

test('a gap frame speaks in sequences of its run and in local offsets', () => {
  const run = { run: FIRST_RUN_ID, start: 100, end: 200, prev: null, reason: 'first' as const }
  const gap = { from: 50, to: 150, reason: 'damage' as const, firstMs: null, lastMs: 7 }
  expect(gapFrame(3, run, gap, 100, 150)).toEqual({
    t: 'gap',
    log: 3,
    run: FIRST_RUN_ID,
    from: 0,
    to: 50,
    reason: 'damage',
    firstMs: null,
    lastMs: 7,
    localFrom: 100,
    localTo: 150,
  })
})

test('a summary keeps its place among losses, and says how many readings it stands for', () => {
  const summary = { from: 5, to: 6, reason: 'thinned' as const, firstMs: 1, lastMs: 2, count: 40, keys: 3 }
  const loss = { from: 0, to: 10, reason: 'disk-full' as const, firstMs: 1, lastMs: 2 }
  const gaps = addGap(addGap([], summary), loss)
  expect(gaps.map(({ from, to, reason }) => [from, to, reason])).toEqual([
    [0, 5, 'disk-full'],
    [5, 6, 'thinned'],
    [6, 10, 'disk-full'],
  ])
  const run = { run: FIRST_RUN_ID, start: 3, end: null, prev: null, reason: 'first' as const }
  expect(gapFrame(7, run, gaps[1] ?? loss, 5, 6)).toMatchObject({ from: 2, to: 3, count: 40, keys: 3 })
  expect(gapFrame(7, run, gaps[2] ?? loss, 6, 10)).not.toHaveProperty('count')
  const neighbours = addGap(addGap([], summary), { ...summary, from: 6, to: 7 })
  expect(neighbours).toHaveLength(2)
})

test('too many summaries among losses become few, and none of what they stand for is forgotten', () => {
  let gaps: LocalGap[] = []
  const at = { firstMs: 1, lastMs: 2 }
  const summaries = 700
  for (let offset = 0; offset < summaries * 3; offset += 3) {
    const reason = offset % 2 === 0 ? ('thinned' as const) : ('conflated' as const)
    gaps = addGap(gaps, { from: offset + 2, to: offset + 3, reason, count: 5, keys: 1, ...at })
  }
  gaps = addGap(gaps, { from: 0, to: summaries * 3, reason: 'disk-full', ...at })
  expect(gaps.length).toBe(2 * summaries)
  const folded = foldSummaries(gaps)
  expect(folded.length).toBeLessThanOrEqual(MAX_LANE_GAPS)
  const covered = folded.reduce((sum, { from, to }) => sum + to - from, 0)
  const readings = folded.reduce((sum, { count = 0 }) => sum + count, 0)
  expect([covered, readings]).toEqual([summaries * 3, summaries * 5])
  // The older half may be on its way to the hub: it stays as it is.
  expect(folded.slice(0, summaries - 2)).toEqual(gaps.slice(0, summaries - 2))
  expect(folded.every((gap, index) => index === 0 || folded[index - 1]?.to === gap.from)).toBe(true)
  expect(foldSummaries(folded)).toEqual(folded)
})

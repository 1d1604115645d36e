import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { LocalGap } from '../../edge/gaps.ts'
import {
  addGap,
  gapAt,
  gapFrame,
  lostBetween,
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

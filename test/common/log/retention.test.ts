import { expect, test } from 'vitest'
import {
  advanceRetentionClock,
  MAX_CLOCK_JUMP_MS,
  retentionStart,
  startRetentionClock,
} from '../../../common/log/retention.ts'

const segment = (endOffset: number, newestTimeMs: number | undefined, sizeBytes = 100) => ({
  endOffset,
  newestTimeMs,
  sizeBytes,
})
const never = { retentionBytes: Number.POSITIVE_INFINITY, retentionMs: Number.POSITIVE_INFINITY }

test('the oldest segments go by size, never the last one', () => {
  const segments = [segment(10, 1), segment(20, 2), segment(30, 3)]
  expect(retentionStart(segments, { ...never, retentionBytes: 250 }, 0, 1000)).toBe(10)
  expect(retentionStart(segments, { ...never, retentionBytes: 0 }, 0, 1000)).toBe(20)
  expect(retentionStart(segments, never, 0, 1000)).toBe(0)
})

test('segments go by their newest hub time, the last one too', () => {
  const segments = [segment(10, 1000), segment(20, 2000), segment(30, 3000)]
  expect(retentionStart(segments, { ...never, retentionMs: 500 }, 2400, 1000)).toBe(10)
  expect(retentionStart(segments, { ...never, retentionMs: 500 }, 9000, 1000)).toBe(30)
})

test('a segment of unknown age stays, and all after it', () => {
  const segments = [segment(10, 1000), segment(20, undefined), segment(30, 3000)]
  expect(retentionStart(segments, { ...never, retentionMs: 1 }, 1e9, 1000)).toBe(10)
})

test('nothing past the limit goes', () => {
  const segments = [segment(10, 1000), segment(20, 2000)]
  expect(retentionStart(segments, { ...never, retentionMs: 1 }, 1e9, 19)).toBe(10)
})

test('the clock advances no faster than the monotonic one and never back', () => {
  let clock = startRetentionClock(1_000_000, 0)
  clock = advanceRetentionClock(clock, 1_000_000 + 50_000, 1000)
  expect(clock.timeMs).toBe(1_001_000)
  clock = advanceRetentionClock(clock, 1_000_000 - 50_000, 2000)
  expect(clock.timeMs).toBe(1_001_000)
  expect(clock.pausedByJumpMs).toBeUndefined()
})

test('a jump of over an hour, either way, pauses it until the wall clock is back', () => {
  for (const jump of [86_400_000, -86_400_000]) {
    const start = startRetentionClock(1e12, 0)
    const jumped = advanceRetentionClock(start, 1e12 + jump, 1000)
    expect(jumped.timeMs).toBe(1e12)
    expect(jumped.pausedByJumpMs).toBe(jump - 1000)
    const still = advanceRetentionClock(jumped, 1e12 + jump + 5_000_000, 5_001_000)
    expect(still.timeMs).toBe(1e12)
    expect(still.pausedByJumpMs).toBeDefined()
    const back = advanceRetentionClock(still, 1e12 + 6_000_000, 6_000_000)
    expect(back).toMatchObject({ timeMs: 1e12 + 6_000_000, pausedByJumpMs: undefined })
  }
  expect(
    advanceRetentionClock(startRetentionClock(1e12, 0), 1e12 + MAX_CLOCK_JUMP_MS, 0).pausedByJumpMs,
  ).toBeUndefined()
})

import { assert } from '../common/assert.ts'
import type { GapFrame, GapReason } from '../common/wire.ts'
import type { Run } from './runs.ts'

/**
 * Ranges of a lane's offsets that will never reach the hub and must be declared there. A list is sorted, without overlaps,
 * and neighbours of one reason are one gap, so that dropping for weeks is one entry.
 */

/** Records [from, to) of a lane are lost, by its own offsets. */
export interface LocalGap {
  from: number
  to: number
  reason: GapReason
  /** Edge time of its first record where known, and when it was dropped last. */
  firstMs: number | null
  lastMs: number | null
}

/** Adds what of `gap` is not covered yet; the earlier declaration of a record stands. */
export function addGap(gaps: readonly LocalGap[], gap: LocalGap): LocalGap[] {
  assert(gap.from < gap.to, 'a gap has at least one record')
  const pieces: LocalGap[] = []
  let at = gap.from
  for (const old of gaps) {
    if (old.to <= at) continue
    if (old.from >= gap.to) break
    if (old.from > at) pieces.push({ ...gap, from: at, to: old.from })
    at = old.to
  }
  if (at < gap.to) pieces.push({ ...gap, from: at })
  const sorted = [...gaps, ...pieces].sort((left, right) => left.from - right.from)
  const merged: LocalGap[] = []
  for (const next of sorted) {
    const last = merged.at(-1)
    if (last !== undefined && last.to === next.from && last.reason === next.reason) {
      merged[merged.length - 1] = {
        ...last,
        to: next.to,
        firstMs: last.firstMs ?? next.firstMs,
        lastMs: later(last.lastMs, next.lastMs),
      }
    } else merged.push(next)
  }
  return merged
}

function later(left: number | null, right: number | null): number | null {
  if (left === null || right === null) return left ?? right
  return Math.max(left, right)
}

/** Forgets gaps the hub has committed. */
export function pruneGaps(gaps: readonly LocalGap[], committed: number): LocalGap[] {
  return gaps.filter(gap => gap.to > committed)
}

/** The gap that holds `offset`. */
export function gapAt(gaps: readonly LocalGap[], offset: number): LocalGap | undefined {
  return gaps.find(gap => gap.from <= offset && offset < gap.to)
}

/** Where the first gap at or after `offset` begins; Infinity for none. */
export function nextGapFrom(gaps: readonly LocalGap[], offset: number): number {
  for (const gap of gaps) if (gap.to > offset) return Math.max(gap.from, offset)
  return Number.POSITIVE_INFINITY
}

/** The first offset at or after `offset` that no gap covers. */
export function skipGaps(gaps: readonly LocalGap[], offset: number): number {
  let at = offset
  for (const gap of gaps) if (gap.from <= at && at < gap.to) at = gap.to
  return at
}

/** Offsets in [from, to) that gaps cover. */
export function lostBetween(gaps: readonly LocalGap[], from: number, to: number): number {
  let lost = 0
  for (const gap of gaps) lost += Math.max(0, Math.min(gap.to, to) - Math.max(gap.from, from))
  return lost
}

/** The frame that declares the part [from, to) of `gap`, which lies in `run`. */
export function gapFrame(log: number, run: Run, gap: LocalGap, from: number, to: number): GapFrame {
  assert(from >= run.start && (run.end === null || to <= run.end), 'a gap frame stays within its run')
  return {
    t: 'gap',
    log,
    run: run.run,
    from: from - run.start,
    to: to - run.start,
    reason: gap.reason,
    firstMs: gap.firstMs,
    lastMs: gap.lastMs,
    localFrom: from,
    localTo: to,
  }
}

/** Without the part [from, to): it was declared and could not be stored. */
export function takeBackGap(gaps: readonly LocalGap[], from: number, to: number): LocalGap[] {
  return gaps.flatMap(gap => {
    if (gap.to <= from || gap.from >= to) return [gap]
    const left = gap.from < from ? [{ ...gap, to: from }] : []
    return gap.to > to ? [...left, { ...gap, from: to }] : left
  })
}

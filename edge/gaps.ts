import { assert } from '../common/assert.ts'
import type { GapFrame, GapReason } from '../common/wire.ts'
import { isSummary } from '../common/wire.ts'
import type { Run } from './runs.ts'
import type { PlacedSummary } from './summary.ts'

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
  /** Of a summary that is deleted unsent: what it stood for, see GapFrame. */
  count?: number
  keys?: number
}

/** Gaps of a lane above which summaries among them are folded, so that weeks of dropping are no endless list. */
export const MAX_LANE_GAPS = 1_000

/** The gap that a summary at `offset` is told as. */
export function summaryGap({ offset, summary }: PlacedSummary): LocalGap {
  return { from: offset, to: offset + 1, ...summary }
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
  return joinNeighbours([...gaps, ...pieces].sort((left, right) => left.from - right.from))
}

function joinNeighbours(sorted: readonly LocalGap[]): LocalGap[] {
  const merged: LocalGap[] = []
  for (const next of sorted) {
    const last = merged.at(-1)
    const isOne = last?.to === next.from && last.reason === next.reason && !isSummary(next.reason)
    if (last !== undefined && isOne) {
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

/**
 * Over MAX_LANE_GAPS, the newer half of the summaries, which are furthest from being sent, become one for each reason, in the
 * last one's place. The places of the others count as records lost, so a little too much is declared.
 */
export function foldSummaries(gaps: readonly LocalGap[]): LocalGap[] {
  if (gaps.length <= MAX_LANE_GAPS) return [...gaps]
  const kept = new Map<GapReason, LocalGap>()
  const folded: LocalGap[] = []
  for (const [index, gap] of [...gaps.entries()].reverse()) {
    if (!isSummary(gap.reason) || index < gaps.length / 2) {
      folded.push(gap)
      continue
    }
    const into = kept.get(gap.reason)
    if (into === undefined) {
      const copy = { ...gap }
      kept.set(gap.reason, copy)
      folded.push(copy)
      continue
    }
    into.count = (into.count ?? 0) + (gap.count ?? 0)
    into.keys = Math.max(into.keys ?? 0, gap.keys ?? 0)
    into.firstMs = earlier(into.firstMs, gap.firstMs)
    const { from, to, firstMs, lastMs } = gap
    folded.push({ from, to, reason: 'disk-full', firstMs, lastMs })
  }
  return joinNeighbours(folded.reverse())
}

function earlier(left: number | null, right: number | null): number | null {
  if (left === null || right === null) return left ?? right
  return Math.min(left, right)
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
    ...(gap.count === undefined || gap.keys === undefined ? {} : { count: gap.count, keys: gap.keys }),
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

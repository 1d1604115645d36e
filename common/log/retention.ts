import type { LogOptions } from './types.ts'

/** What retention looks at, oldest segment first. */
export interface RetentionSegment {
  endOffset: number
  sizeBytes: number
  /** Newest hub time in it; undefined where not known, and then it is kept. */
  newestTimeMs: number | undefined
}

/**
 * The offset at which a log should start: whole segments go from the oldest on while the log is larger than
 * `retentionBytes` or the segment's newest hub time is older than `retentionMs`, none past `limitOffset`. 0: all stay.
 */
export function retentionStart(
  segments: readonly RetentionSegment[],
  options: Pick<LogOptions, 'retentionBytes' | 'retentionMs'>,
  hubTimeMs: number,
  limitOffset: number,
): number {
  let sizeBytes = 0
  for (const segment of segments) sizeBytes += segment.sizeBytes
  let start = 0
  for (let at = 0; at < segments.length; at++) {
    const segment = segments[at]
    if (segment === undefined || segment.endOffset > limitOffset) break
    // The last one is being written: it goes by age alone, or a log under constant load would lose its newest.
    const large = at < segments.length - 1 && sizeBytes > options.retentionBytes
    const old = segment.newestTimeMs !== undefined && hubTimeMs - segment.newestTimeMs > options.retentionMs
    if (!large && !old) break
    start = segment.endOffset
    sizeBytes -= segment.sizeBytes
  }
  return start
}

/** A jump of the wall clock against the monotonic one beyond this pauses retention. */
export const MAX_CLOCK_JUMP_MS = 3_600_000

/** Retention's own clock; all of it is values, so that it can be tested and simulated. */
export interface RetentionClock {
  /** The time retention runs on. */
  timeMs: number
  /** Wall and monotonic time that were last believed. */
  wallMs: number
  monotonicMs: number
  /** By how much the wall clock jumped, while that pauses retention; raise an alarm. */
  pausedByJumpMs: number | undefined
}

/** A clock that believes the wall clock as it is now. */
export function startRetentionClock(wallMs: number, monotonicMs: number): RetentionClock {
  return { timeMs: wallMs, wallMs, monotonicMs, pausedByJumpMs: undefined }
}

/**
 * The clock a while later. Its time advances no faster than the monotonic clock and never goes back. While the wall
 * clock is more than an hour from where the monotonic clock says it should be, time stands still; it goes on when the
 * wall clock is back, or from a new `startRetentionClock` when an operator says the new time is right.
 */
export function advanceRetentionClock(
  clock: RetentionClock,
  wallMs: number,
  monotonicMs: number,
): RetentionClock {
  const elapsedMs = Math.max(0, monotonicMs - clock.monotonicMs)
  const jumpMs = wallMs - (clock.wallMs + elapsedMs)
  if (Math.abs(jumpMs) > MAX_CLOCK_JUMP_MS) return { ...clock, pausedByJumpMs: jumpMs }
  const timeMs = Math.max(clock.timeMs, Math.min(wallMs, clock.timeMs + elapsedMs))
  return { timeMs, wallMs, monotonicMs, pausedByJumpMs: undefined }
}

import type { RetentionClock } from '../../common/log/retention.ts'
import { advanceRetentionClock, startRetentionClock } from '../../common/log/retention.ts'

/** Hub time of a node: what appends are stamped with, and what retention runs by. */
export interface HubTime {
  /** Never behind a wall clock that was set back, so that nothing looks older than it is. */
  appendTimeMs(wallMs: number, monotonicMs: number): number
  /** The time for retention, or null while the wall clock is not where it should be. */
  retentionTimeMs(wallMs: number, monotonicMs: number): number | null
  /** How far the wall clock jumped, while that pauses retention; else null. */
  jumpMs(): number | null
}

/** Hub time from a first reading of both clocks; a restart believes the wall clock again. */
export function createHubTime(wallMs: number, monotonicMs: number): HubTime {
  let clock: RetentionClock = startRetentionClock(wallMs, monotonicMs)
  return {
    appendTimeMs: (nowWallMs, nowMonotonicMs) =>
      Math.floor(Math.max(nowWallMs, clock.timeMs + Math.max(0, nowMonotonicMs - clock.monotonicMs))),
    retentionTimeMs: (nowWallMs, nowMonotonicMs) => {
      clock = advanceRetentionClock(clock, nowWallMs, nowMonotonicMs)
      return clock.pausedByJumpMs === undefined ? clock.timeMs : null
    },
    jumpMs: () => clock.pausedByJumpMs ?? null,
  }
}

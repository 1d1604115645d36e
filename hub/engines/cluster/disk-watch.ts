import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../common/env.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { DataDir } from '../../../common/log/types.ts'

/**
 * Looks after a disk that hangs without failing: nothing of this node is acked meanwhile, and what it leads stands still. Beyond a limit
 * the node stands aside, so that others lead: it says nothing more in the quorum and does not tell that it lives, until the disk answers.
 */

/**
 * A commit under way in which the disk answers nothing for so long is stuck: some sessions long, and longer than a disk takes that is busy
 * but works, as its calls end one by one (see answering-disk.ts).
 */
export const DISK_STUCK_MS = 15 * SECOND_MS
const LOOK_EVERY_MS = SECOND_MS / 2

export interface DiskWatch {
  /** The node leads nothing and is not heard, as long as it is so. */
  isAside(): boolean
  stop(): void
}

export interface DiskWatchContext {
  clock: Clock
  log: Logger
  dataDir: Pick<DataDir, 'stuckMs'>
  /** Nobody else could lead anything, or let anybody else lead. */
  isAlone(): boolean
}

export function watchDisk({ clock, log, dataDir, isAlone }: DiskWatchContext): DiskWatch {
  let timer: Timer | null = null
  let lookedMs = clock.monotonicMs()
  /** Time in which the process itself was there to see it: one that was stopped for a while has a disk that works. */
  let seenMs = 0
  let aside = false
  let told = false
  let stopped = false

  function look(): void {
    const nowMs = clock.monotonicMs()
    const passedMs = nowMs - lookedMs
    lookedMs = nowMs
    const stuckMs = dataDir.stuckMs()
    seenMs = stuckMs < passedMs ? 0 : Math.min(stuckMs, seenMs + Math.min(passedMs, 2 * LOOK_EVERY_MS))
    if (seenMs >= DISK_STUCK_MS) stuck(stuckMs)
    else if (seenMs === 0 && told) answers()
    if (!stopped) timer = clock.setTimer(look, LOOK_EVERY_MS)
  }

  function stuck(stuckMs: number): void {
    const alone = isAlone()
    aside = !alone
    if (told) return
    told = true
    const facts = { stuckMs: Math.round(stuckMs), limitMs: DISK_STUCK_MS }
    if (alone) log.error(facts, 'the disk does not answer: nothing is acked until it does; check it')
    else log.error(facts, 'the disk does not answer: the node stands aside until it does; check it')
  }

  function answers(): void {
    log.warn(aside ? 'the disk answers again: the node takes part again' : 'the disk answers again')
    aside = false
    told = false
  }

  timer = clock.setTimer(look, LOOK_EVERY_MS)
  return {
    isAside: () => aside,
    stop: () => {
      stopped = true
      timer?.cancel()
    },
  }
}

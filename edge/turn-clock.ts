import type { Clock } from '../common/env.ts'

/**
 * The wall clock in whole milliseconds, read once a synchronous turn: a chunk from a socket holds hundreds of messages, and
 * asking the system for each of them costs as much as routing them.
 */
export function turnClock(clock: Clock): () => number {
  let known = 0
  const forget = () => {
    known = 0
  }
  return () => {
    if (known === 0) {
      known = Math.floor(clock.nowMs())
      queueMicrotask(forget)
    }
    return known
  }
}

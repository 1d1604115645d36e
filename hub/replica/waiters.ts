import type { Clock } from '../../common/env.ts'
import { TributaryError } from '../../common/errors.ts'

/** Readers at the end of a partition, woken when the high watermark passes them. */

/** Readers waiting on one partition; the next is refused. */
const MAX_WAITERS_PER_PARTITION = 100_000

export interface Waiters {
  /** Calls `listener` once, later, when the watermark is past `offset`; the result cancels. Throws `limit_exceeded`. */
  add(offset: number, highWatermark: number, listener: () => void): () => void
  /** Calls `listener` once, soon: there is nothing here to wait for. The result cancels. */
  addForNow(listener: () => void): () => void
  /** The watermark moved: wakes who it passed, once per turn of the event loop however often it moves. */
  moved(): void
  /** The partition is led by another, or goes away: wakes all that wait. */
  wakeAll(): void
  size(): number
}

interface Waiter {
  offset: number
  listener(): void
}

/** No waiters yet; `highWatermark` is asked when they are woken. */
export function createWaiters(clock: Clock, highWatermark: () => number): Waiters {
  const waiting = new Set<Waiter>()
  let scheduled = false
  let all = false

  function wake(): void {
    scheduled = false
    const watermark = highWatermark()
    const isForAll = all
    all = false
    for (const waiter of [...waiting]) {
      if (!isForAll && waiter.offset >= watermark) continue
      // An earlier listener of this round may have cancelled it.
      if (waiting.delete(waiter)) waiter.listener()
    }
  }

  function schedule(): void {
    if (scheduled || waiting.size === 0) return
    scheduled = true
    clock.soon(wake)
  }

  return {
    add: (offset, watermark, listener) => {
      if (waiting.size >= MAX_WAITERS_PER_PARTITION) {
        throw new TributaryError(
          'limit_exceeded',
          `${MAX_WAITERS_PER_PARTITION} readers wait on this partition`,
        )
      }
      const waiter = { offset, listener }
      waiting.add(waiter)
      if (watermark > offset) schedule()
      return () => void waiting.delete(waiter)
    },
    addForNow: listener => {
      let isWanted = true
      clock.soon(() => {
        if (isWanted) listener()
      })
      return () => {
        isWanted = false
      }
    },
    moved: schedule,
    wakeAll: () => {
      all = waiting.size > 0
      schedule()
    },
    size: () => waiting.size,
  }
}

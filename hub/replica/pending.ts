import type { TributaryError } from '../../common/errors.ts'
import type { Undo } from './producers.ts'

/** Appends that wait for their commit, in the order of their offsets. */

export interface PendingAppend {
  /** One past its last offset; settled when the high watermark gets there, or the durable end does. */
  readonly endOffset: number
  /** Whether the leader's own disk is enough (acks=1). */
  readonly ownDisk: boolean
  /** True for records of producers, false for the hub's control batches, which may use the disk reserve. */
  readonly isData: boolean
  /** Undoes what it changed, in reverse order. */
  readonly undo: readonly Undo[]
  resolve(): void
  reject(error: TributaryError): void
}

export interface Pending {
  push(append: PendingAppend): void
  /** Whether data is not durable yet, which a full disk may take back. */
  hasData(): boolean
  size(): number
  /** Resolves what ends at or below `highWatermark`, of acks=1 what ends at or below `durableEnd`, which is no less. */
  settle(highWatermark: number, durableEnd: number): void
  /** The log took back what is above `endOffset`: undoes and rejects it, newest first. */
  rollBack(endOffset: number, error: TributaryError): void
  /** Rejects all. What it changed stays: the batches are in the log. */
  rejectAll(error: TributaryError): void
}

/** An empty queue. */
export function createPending(): Pending {
  let queue: PendingAppend[] = []
  /** Before it all is committed, before `durable` all is durable. */
  let head = 0
  let durable = 0
  let dataCount = 0

  function settleDurable(durableEnd: number): void {
    for (;;) {
      const append = queue[durable]
      if (append === undefined || append.endOffset > durableEnd) return
      durable++
      if (append.isData) dataCount--
      if (append.ownDisk) append.resolve()
    }
  }

  return {
    push: append => {
      queue.push(append)
      if (append.isData) dataCount++
    },
    hasData: () => dataCount > 0,
    size: () => queue.length - head,
    settle: (highWatermark, durableEnd) => {
      settleDurable(durableEnd)
      while (head < durable) {
        const append = queue[head]
        if (append === undefined || append.endOffset > highWatermark) break
        head++
        if (!append.ownDisk) append.resolve()
      }
      // Shifting one by one would be quadratic in a long queue.
      if (head === queue.length || head > 1024) {
        queue = queue.slice(head)
        durable -= head
        head = 0
      }
    },
    rollBack: (endOffset, error) => {
      while (queue.length > durable) {
        const append = queue.at(-1)
        if (append === undefined || append.endOffset <= endOffset) return
        queue.pop()
        if (append.isData) dataCount--
        for (const undo of append.undo.toReversed()) undo()
        append.reject(error)
      }
    },
    rejectAll: error => {
      const rejected = queue.slice(head)
      const done = durable - head
      queue = []
      head = 0
      durable = 0
      dataCount = 0
      for (const [at, append] of rejected.entries()) {
        if (!(append.ownDisk && at < done)) append.reject(error)
      }
    },
  }
}

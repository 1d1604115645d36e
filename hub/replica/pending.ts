import type { TributaryError } from '../../common/errors.ts'
import type { Undo } from './producers.ts'

/** Appends that wait for their commit, in the order of their offsets. */

export interface PendingAppend {
  /** One past its last offset; settled when the high watermark gets there. */
  readonly endOffset: number
  /** True for records of producers, false for the hub's control batches, which may use the disk reserve. */
  readonly isData: boolean
  /** Undoes what it changed, in reverse order. */
  readonly undo: readonly Undo[]
  resolve(): void
  reject(error: TributaryError): void
}

export interface Pending {
  push(append: PendingAppend): void
  /** The end offset of the newest, or null without any. */
  lastEndOffset(): number | null
  hasData(): boolean
  size(): number
  /** Resolves what ends at or below `highWatermark`. */
  settle(highWatermark: number): void
  /** Undoes and rejects, newest first, what ends above `endOffset`. */
  rollBack(endOffset: number, error: TributaryError): void
}

/** An empty queue. */
export function createPending(): Pending {
  let queue: PendingAppend[] = []
  let head = 0
  let dataCount = 0

  return {
    push: append => {
      queue.push(append)
      if (append.isData) dataCount++
    },
    lastEndOffset: () => (queue.length > head ? (queue.at(-1)?.endOffset ?? null) : null),
    hasData: () => dataCount > 0,
    size: () => queue.length - head,
    settle: highWatermark => {
      for (;;) {
        const append = queue[head]
        if (append === undefined || append.endOffset > highWatermark) break
        head++
        if (append.isData) dataCount--
        append.resolve()
      }
      // Shifting one by one would be quadratic in a long queue.
      if (head === queue.length || head > 1024) {
        queue = queue.slice(head)
        head = 0
      }
    },
    rollBack: (endOffset, error) => {
      while (queue.length > head) {
        const append = queue.at(-1)
        if (append === undefined || append.endOffset <= endOffset) return
        queue.pop()
        if (append.isData) dataCount--
        for (const undo of append.undo.toReversed()) undo()
        append.reject(error)
      }
    },
  }
}

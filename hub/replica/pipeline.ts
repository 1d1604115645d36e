import { AssertionFailure } from '../../common/assert.ts'
import { messageOf, TributaryError } from '../../common/errors.ts'
import type { Log } from '../../common/log/types.ts'
import { createPending } from './pending.ts'
import type { Undo } from './producers.ts'
import type { TopicCounters } from './stats.ts'
import { countRefusal } from './stats.ts'

/**
 * How operations of one partition get into its log: one after another, each judged upon what the ones before it changed,
 * though none of that is durable yet. Where the log takes appends back (disk full), all they changed is undone.
 */

/** Operations waiting behind a run or gap that itself waits for a commit; beyond it they are refused as `throttled`. */
const MAX_QUEUED_OPERATIONS = 10_000

export interface Pipeline {
  /**
   * Runs an operation now, or behind those that wait. `alone`: it may use the disk reserve, so it must not follow data in
   * flight: a full disk would take the data back and leave what was judged upon it. Refusals are counted.
   */
  inOrder<T>(alone: boolean, operation: () => Promise<T>): Promise<T>
  /** Hands batches to the log; resolves with `value()` when they are committed. On refusal `undo` is run. */
  commit<T>(bytes: Uint8Array, isData: boolean, undo: readonly Undo[], value: () => T): Promise<T>
  /** Resolves with `value()` when all that was appended so far is committed. */
  committed<T>(value: () => T): Promise<T>
  highWatermark(): number
  /** Why nothing is taken any more, or null. */
  closedBy(): TributaryError | null
  /** Refuses all that waits and comes. */
  shut(error: TributaryError): void
}

export interface PipelineContext {
  name: string
  log: Log
  leaderEpoch: number
  hubTimeMs(): number
  counters: TopicCounters
  /** After each move of the high watermark. */
  onAdvance(): void
}

/** The pipeline of a partition; it is the log's `onDurable` listener. */
export function createPipeline(context: PipelineContext): Pipeline {
  const { log, leaderEpoch, counters } = context
  const pending = createPending()
  const queue: { alone: boolean; run(): void }[] = []
  let highWatermark = log.durableEndOffset()
  /** Where the log ends if no append was taken back. */
  let expectedEnd = log.endOffset()
  let closedBy: TributaryError | null = null

  log.onDurable(durableEnd => {
    highWatermark = durableEnd
    pending.settle(highWatermark)
    runQueue()
    context.onAdvance()
  })

  function runQueue(): void {
    for (;;) {
      const first = queue[0]
      if (first === undefined || (first.alone && pending.hasData())) return
      queue.shift()
      first.run()
    }
  }

  async function attempt<T>(operation: () => Promise<T>): Promise<T> {
    try {
      if (closedBy !== null) throw closedBy
      noticeTakenBack(null)
      return await operation()
    } catch (error) {
      if (error instanceof TributaryError) countRefusal(counters, error.code)
      throw error
    }
  }

  /** The log took appends back: so do the producers, before anything is judged by what is not there. */
  function noticeTakenBack(cause: TributaryError | null): void {
    const end = log.endOffset()
    if (end >= expectedEnd) return
    expectedEnd = end
    const message = `${context.name}: an append before this one did not fit the disk; free some space`
    pending.rollBack(end, cause ?? new TributaryError('disk_full', message))
  }

  function appendFailed(cause: unknown): void {
    const message = `${context.name}: ${messageOf(cause)}`
    const error =
      cause instanceof TributaryError ? cause : new TributaryError('disk_failed', message, { cause })
    noticeTakenBack(error)
    // Only a full disk is survived; after anything else what the log holds is not known before a restart.
    if (error.code !== 'disk_full') shut(error)
    runQueue()
  }

  function shut(error: TributaryError): void {
    closedBy ??= error
    pending.rollBack(-1, error)
    runQueue()
  }

  function wait<T>(endOffset: number, isData: boolean, undo: readonly Undo[], value: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      pending.push({ endOffset, isData, undo, resolve: () => resolve(value()), reject })
    })
  }

  return {
    inOrder: (alone, operation) => {
      if (queue.length === 0 && !(alone && pending.hasData())) return attempt(operation)
      if (queue.length >= MAX_QUEUED_OPERATIONS) {
        countRefusal(counters, 'throttled')
        const message = `${context.name}: ${MAX_QUEUED_OPERATIONS} operations wait for a commit; try again`
        return Promise.reject(new TributaryError('throttled', message))
      }
      return new Promise((resolve, reject) => {
        queue.push({ alone, run: () => void attempt(operation).then(resolve, reject) })
      })
    },
    commit: (bytes, isData, undo, value) => {
      noticeTakenBack(null)
      const before = log.endOffset()
      const options = { leaderEpoch, appendTimeMs: context.hubTimeMs(), useReserve: !isData }
      const appended = log.append(bytes, options)
      const endOffset = log.endOffset()
      if (endOffset === before) {
        for (const revert of undo.toReversed()) revert()
        return appended.then(tookNothing)
      }
      expectedEnd = endOffset
      appended.catch(appendFailed)
      return wait(endOffset, isData, undo, value)
    },
    committed: value => {
      const endOffset = pending.lastEndOffset()
      return endOffset === null ? Promise.resolve(value()) : wait(endOffset, false, [], value)
    },
    highWatermark: () => highWatermark,
    closedBy: () => closedBy,
    shut,
  }
}

function tookNothing(): never {
  throw new AssertionFailure('the log took an append without giving it offsets')
}

import { AssertionFailure } from '../../common/assert.ts'
import { TributaryError } from '../../common/errors.ts'
import type { Log } from '../../common/log/types.ts'
import type { InSync } from './in-sync.ts'
import { createPending } from './pending.ts'
import type { Undo } from './producers.ts'
import type { TopicCounters } from './stats.ts'
import { countRefusal } from './stats.ts'
import type { Reflected } from './store.ts'
import { diskFailed } from './store.ts'

/**
 * How operations of one partition get into its log while this node leads it: one after another, each judged upon what the ones
 * before it changed, though none of that is durable yet. Where the log takes appends back (disk full), all they changed is undone.
 */

/** Operations waiting behind a run or gap that itself waits for a commit; beyond it they are refused as `throttled`. */
const MAX_QUEUED_OPERATIONS = 10_000

/** When an append counts as done: on the leader's own disk (acks=1), or when it is committed. */
export type Until = 'durable' | 'committed'

/** What an operation needs to be run. */
export interface Needs {
  /** It may use the disk reserve, so it must not follow data in flight: a full disk would take the data back and leave what was judged upon it. */
  alone: boolean
  /** Enough replicas in sync to commit it. */
  quorum: boolean
}

export interface Pipeline {
  /** Runs an operation now, or behind those that wait. Refusals are counted. */
  inOrder<T>(needs: Needs, operation: () => Promise<T>): Promise<T>
  /** Hands batches to the log; resolves with `value()` when they are done. On refusal `undo` is run. */
  commit<T>(bytes: Uint8Array, append: Append, value: () => T): Promise<T>
  /** Resolves with `value()` when all that the log holds so far is done. */
  committed<T>(until: Until, value: () => T): Promise<T>
  /** The watermark or the durable end moved. */
  advance(): void
  /** Why nothing is taken any more, or null. */
  closedBy(): TributaryError | null
  /** Refuses all that waits and comes; what is in the log stays there. */
  shut(error: TributaryError): void
}

/** What is appended, and what undoes the changes that go with it. */
export interface Append {
  isData: boolean
  undo: readonly Undo[]
  until: Until
}

export interface PipelineContext {
  name: string
  log: Log
  leaderEpoch: number
  inSync: InSync
  hubTimeMs(): number
  counters: TopicCounters
  reflected: Reflected
  /** An append that the log had taken failed. */
  onFailed(error: unknown): void
}

/** The pipeline of a partition under one leader epoch. */
export function createPipeline(context: PipelineContext): Pipeline {
  const { log, leaderEpoch, counters, inSync, reflected } = context
  const pending = createPending()
  const queue: { alone: boolean; run(): void }[] = []
  let closedBy: TributaryError | null = null

  function runQueue(): void {
    for (;;) {
      const first = queue[0]
      if (first === undefined || (first.alone && pending.hasData())) return
      queue.shift()
      first.run()
    }
  }

  async function attempt<T>({ quorum }: Needs, operation: () => Promise<T>): Promise<T> {
    try {
      if (closedBy !== null) throw closedBy
      if (quorum && !inSync.mayCommit()) throw tooFewInSync(context.name, inSync)
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
    if (end >= reflected.end || closedBy !== null) return
    reflected.end = end
    reflected.cuts++
    const message = `${context.name}: an append before this one did not fit the disk; free some space`
    pending.rollBack(end, cause ?? new TributaryError('disk_full', message))
  }

  function appendFailed(cause: unknown): void {
    const error = diskFailed(context.name, cause)
    noticeTakenBack(error)
    // Only a full disk is survived; after anything else what the log holds is not known before a restart.
    if (error.code !== 'disk_full') shut(error)
    runQueue()
    context.onFailed(error)
  }

  function shut(error: TributaryError): void {
    closedBy ??= error
    pending.rejectAll(error)
    runQueue()
  }

  function wait<T>(endOffset: number, { isData, undo, until }: Append, value: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const ownDisk = until === 'durable'
      pending.push({ endOffset, ownDisk, isData, undo, resolve: () => resolve(value()), reject })
    })
  }

  return {
    inOrder: (needs, operation) => {
      if (queue.length === 0 && !(needs.alone && pending.hasData())) return attempt(needs, operation)
      if (queue.length >= MAX_QUEUED_OPERATIONS) {
        countRefusal(counters, 'throttled')
        const message = `${context.name}: ${MAX_QUEUED_OPERATIONS} operations wait for a commit; try again`
        return Promise.reject(new TributaryError('throttled', message))
      }
      return new Promise((resolve, reject) => {
        queue.push({ alone: needs.alone, run: () => void attempt(needs, operation).then(resolve, reject) })
      })
    },
    commit: (bytes, append, value) => {
      if (closedBy !== null) return Promise.reject(closedBy)
      noticeTakenBack(null)
      const before = log.endOffset()
      const options = { leaderEpoch, appendTimeMs: context.hubTimeMs(), useReserve: !append.isData }
      const appended = log.append(bytes, options)
      const endOffset = log.endOffset()
      if (endOffset === before) {
        for (const revert of append.undo.toReversed()) revert()
        return appended.then(tookNothing)
      }
      reflected.end = endOffset
      appended.catch(appendFailed)
      return wait(endOffset, append, value)
    },
    committed: (until, value) => {
      const endOffset = log.endOffset()
      const done = until === 'durable' ? log.durableEndOffset() : inSync.highWatermark()
      if (done >= endOffset) return Promise.resolve(value())
      return wait(endOffset, { isData: false, undo: [], until }, value)
    },
    advance: () => {
      pending.settle(inSync.highWatermark(), log.durableEndOffset())
      runQueue()
    },
    closedBy: () => closedBy,
    shut,
  }
}

function tookNothing(): never {
  throw new AssertionFailure('the log took an append without giving it offsets')
}

function tooFewInSync(name: string, known: Pick<InSync, 'standing'>): TributaryError {
  const { inSync, required } = known.standing()
  return new TributaryError(
    'not_available',
    `${name}: ${inSync} ${inSync === 1 ? 'replica is' : 'replicas are'} in sync, ${required} must be to take this (minInsyncReplicas): bring its other nodes back ("tributary cluster status" names them), then try again`,
    { details: { inSync, required } },
  )
}

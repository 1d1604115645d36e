import { TributaryError } from '../../common/errors.ts'
import type { Log } from '../../common/log/types.ts'
import { admitBatches, countFresh, takeFresh } from './admission.ts'
import type { ReplicaContext } from './context.ts'
import type { Pipeline } from './pipeline.ts'
import type { Producers } from './producers.ts'
import { countRefusal } from './stats.ts'

/** What appending takes. */
export interface AppendContext extends ReplicaContext {
  log: Log
}

/**
 * Appends of clients, with or without idempotence. Resolves when committed; with acks=1 when durable here; without acks at once, and
 * then a failure is only counted. A repeat gets the offset of its original.
 */
export function clientAppends(
  { log, clock, limits, counters }: AppendContext,
  producers: Producers,
  { commit, committed }: Pipeline,
): (batches: Uint8Array, acks: 0 | 1 | 'all') => Promise<{ baseOffset: number }> {
  return (batches, acks) => {
    const admitted = admitBatches(batches, limits())
    let baseOffset = -1
    let offset = log.endOffset()
    const fresh = takeFresh(
      admitted,
      batches,
      header => {
        const judgement = producers.judgeClient(header)
        if (baseOffset < 0) baseOffset = judgement.kind === 'duplicate' ? judgement.baseOffset : offset
        return judgement.kind
      },
      header => {
        const undo = producers.applyBatch(header, offset, clock.nowMs())
        offset += header.lastOffsetDelta + 1
        return undo
      },
    )
    const value = (): { baseOffset: number } => {
      countFresh(counters, admitted, fresh)
      return { baseOffset }
    }
    const until = acks === 'all' ? 'committed' : 'durable'
    if (fresh === null) return committed(until, value)
    const done = commit(fresh.bytes, { isData: true, undo: fresh.undo, until }, value)
    if (acks !== 0) return done
    done.catch(error => countRefusal(counters, error instanceof TributaryError ? error.code : 'disk_failed'))
    return Promise.resolve({ baseOffset })
  }
}

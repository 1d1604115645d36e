import { TributaryError } from '../../common/errors.ts'
import { admitBatches, countFresh, takeFresh } from './admission.ts'
import type { PartitionContext } from './context.ts'
import type { Pipeline } from './pipeline.ts'
import type { Producers } from './producers.ts'
import { countRefusal } from './stats.ts'

/**
 * Appends of clients, with or without idempotence. Resolves when committed; without acks at once, and then a failure of
 * the disk is only counted. A repeat gets the offset of its original.
 */
export function clientAppends(
  { log, clock, limits, counters }: PartitionContext,
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
    if (fresh === null) return committed(value)
    const done = commit(fresh.bytes, true, fresh.undo, value)
    if (acks !== 0) return done
    done.catch(error => countRefusal(counters, error instanceof TributaryError ? error.code : 'disk_failed'))
    return Promise.resolve({ baseOffset })
  }
}

import { eachBatch } from '../../../common/batch.ts'
import { concat } from '../../../common/bytes.ts'
import type { Damage, Log } from '../../../common/log/types.ts'

/** What another replica has of a log. */

export interface ReplicaBatch {
  baseOffset: number
  lastOffset: number
  bytes: Uint8Array
}

/** All batches of a log, epochs and offsets as they are; a damaged stretch ends it. */
export async function batchesOf(log: Log, maxBytes = 5000): Promise<ReplicaBatch[]> {
  const found: ReplicaBatch[] = []
  for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
    const { batches, nextOffset } = await log.read(offset, maxBytes)
    for (const { at, header } of eachBatch(batches)) {
      const { baseOffset, lastOffset, sizeBytes } = header
      found.push({ baseOffset, lastOffset, bytes: Uint8Array.from(batches.subarray(at, at + sizeBytes)) })
    }
    offset = nextOffset
  }
  return found
}

/** The batches of a damaged stretch, at most `count`. */
export function stretchOf(batches: readonly ReplicaBatch[], damage: Damage, count = 1000): Uint8Array {
  const inside = batches.filter(
    batch => batch.lastOffset >= damage.fromOffset && batch.baseOffset < damage.toOffset,
  )
  return concat(inside.slice(0, count).map(({ bytes }) => bytes))
}

import { eachBatch } from '../../../common/batch.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { MIB } from '../../../common/limits.ts'
import type { Snapshots } from '../../../common/log/snapshots.ts'
import type { Log } from '../../../common/log/types.ts'
import { decodeSnapshot } from '../../../hub/replica/producer-snapshot.ts'

/**
 * What a replica remembers of producers is in its log: who is remembered by a batch that was cut off would be told that its next try is
 * a repeat, and lose it.
 */

/** Throws what snapshots that a start would believe tell of, and the log has not. */
export async function checkRemembered(log: Log, snapshots: Snapshots, where: string): Promise<void> {
  const end = log.durableEndOffset()
  // What is damaged is told of all the same.
  if (log.damage().length > 0) return
  const written = new Map<number, string>()
  for (let offset = log.startOffset(); offset < end; ) {
    const read = await readOrNull(log, offset)
    if (read === null) return
    for (const { header } of eachBatch(read.batches)) {
      written.set(header.baseOffset, `producer ${header.producerId} from ${header.baseSequence} on`)
    }
    offset = read.nextOffset
  }
  for (let limit = end; ; ) {
    const snapshot = await snapshots.loadAtOrBelow(limit)
    if (snapshot === undefined) return
    for (const [producerId, { batches }] of decodeSnapshot(snapshot.bytes).producers.clients()) {
      for (const { baseOffset, baseSequence } of batches) {
        const told = `producer ${producerId} from ${baseSequence} on`
        const found = written.get(baseOffset)
        if (baseOffset < log.startOffset() || found === told) continue
        throw new Error(
          `${where}: a snapshot of ${snapshot.offset} tells of ${told} at offset ${baseOffset}, there is ${found ?? 'nothing'}`,
        )
      }
    }
    limit = snapshot.offset - 1
  }
}

/** Null where it rotted. */
async function readOrNull(log: Log, offset: number) {
  try {
    return await log.read(offset, MIB)
  } catch (error) {
    if (isTributaryError(error, 'corrupt_log')) return null
    throw error
  }
}

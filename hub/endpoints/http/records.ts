import { eachBatch } from '../../../common/batch.ts'
import type { DecodedRecord } from '../../../common/batch-records.ts'
import { decodeRecords } from '../../../common/batch-records.ts'
import type { HttpContext } from './context.ts'
import { MAX_DECODED_BATCH_BYTES } from './context.ts'

/**
 * Calls `take` with the records of `batches` from `fromOffset` on, without control records, a batch at a time: it may be
 * async, and ends the walk with false.
 */
export async function eachRecords(
  context: Pick<HttpContext, 'codec'>,
  batches: Uint8Array,
  fromOffset: number,
  take: (records: readonly DecodedRecord[]) => boolean | Promise<boolean>,
): Promise<void> {
  for (const { at, header } of eachBatch(batches)) {
    if (header.isControl || header.lastOffset < fromOffset) continue
    const records = await decodeRecords(batches, at, context.codec, MAX_DECODED_BATCH_BYTES)
    const wanted =
      header.baseOffset >= fromOffset ? records : records.filter(({ offset }) => offset >= fromOffset)
    if (!(await take(wanted))) return
  }
}

import type { BatchHeader } from '../../common/batch.ts'
import { BATCH_HEADER_BYTES, validateBatch } from '../../common/batch.ts'
import { ByteReader, readU32 } from '../../common/bytes.ts'
import { TributaryError } from '../../common/errors.ts'
import type { Judgement, Undo } from './producers.ts'
import type { TopicCounters } from './stats.ts'

/** What a partition checks of batches before it looks at their sequences. Headers and lengths only: no record is decoded. */

export interface AdmissionLimits {
  /** The largest whole batch, as sent. */
  maxBatchBytes: number
  /** The largest record, uncompressed; what that means for compressed batches stands at TopicConfig in hub/ports.ts. */
  maxRecordBytes: number
}

export interface Admitted {
  at: number
  header: BatchHeader
}

/**
 * The batches of an append, each checked for CRC, counts and sizes. Throws `corrupt_batch`, `invalid_argument` (control or
 * transactional batches, which are not a producer's to send here), `record_too_large` (`details.sequence` where the producer numbers them).
 */
export function admitBatches(bytes: Uint8Array, limits: AdmissionLimits): Admitted[] {
  if (bytes.length === 0) throw new TributaryError('corrupt_batch', 'an append holds no batch')
  const admitted: Admitted[] = []
  for (let at = 0; at < bytes.length; ) {
    const header = validateBatch(bytes, at, limits)
    if (header.isControl || header.isTransactional) {
      const kind = header.isControl ? 'control' : 'transactional'
      throw new TributaryError(
        'invalid_argument',
        `the batch at byte ${at} is ${kind}; producers send plain ones`,
      )
    }
    checkRecordSizes(bytes, at, header, limits.maxRecordBytes)
    admitted.push({ at, header })
    at += header.sizeBytes
  }
  return admitted
}

function checkRecordSizes(bytes: Uint8Array, at: number, header: BatchHeader, maxRecordBytes: number): void {
  const sectionBytes = header.sizeBytes - BATCH_HEADER_BYTES
  if (header.compression === 'none') {
    if (sectionBytes > maxRecordBytes) checkEachLength(bytes, at, header, maxRecordBytes)
    return
  }
  // What several compressed records come to each is not to be had without unpacking them, which Kafka does not do either:
  // its max.message.bytes bounds the batch as it was sent, as maxBatchBytes does here. A single one tells.
  if (header.recordCount !== 1) return
  const plainBytes = plainSizeBytes(bytes, at, header)
  if (plainBytes > maxRecordBytes + MAX_VARINT_BYTES) refuseRecord(header, 0, plainBytes, maxRecordBytes)
}

const MAX_VARINT_BYTES = 5

function checkEachLength(bytes: Uint8Array, at: number, header: BatchHeader, maxRecordBytes: number): void {
  const reader = new ByteReader(bytes, at + BATCH_HEADER_BYTES, at + header.sizeBytes)
  for (let index = 0; index < header.recordCount; index++) {
    const length = reader.varint()
    if (length > maxRecordBytes) refuseRecord(header, index, length, maxRecordBytes)
    reader.skip(length)
  }
}

function refuseRecord(header: BatchHeader, index: number, sizeBytes: number, maxRecordBytes: number): never {
  const sequence = header.producerId === -1 ? null : header.baseSequence + index
  throw new TributaryError(
    'record_too_large',
    `a record of ${sizeBytes} bytes is over the topic's maxRecordBytes of ${maxRecordBytes}: send smaller records or raise it`,
    { details: { sizeBytes, maxRecordBytes, ...(sequence === null ? {} : { sequence }) } },
  )
}

const ZSTD_MAGIC = 0x28b52ffd

/** Uncompressed bytes as gzip's trailer (RFC 1952) or zstd's frame header (RFC 8878) tells; the compressed size where neither does. */
function plainSizeBytes(bytes: Uint8Array, at: number, header: BatchHeader): number {
  const end = at + header.sizeBytes
  const start = at + BATCH_HEADER_BYTES
  if (header.compression === 'gzip' && end - start > 8) return littleEndian(bytes, end - 4, 4)
  if (header.compression === 'zstd' && end - start > 14 && readU32(bytes, start) === ZSTD_MAGIC) {
    const descriptor = bytes[start + 4] ?? 0
    const singleSegment = (descriptor & 0x20) !== 0
    const width = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6] ?? 0
    const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0
    const sizeAt = start + 5 + (singleSegment ? 0 : 1) + dictionaryBytes
    if (width > 0 && sizeAt + width <= end)
      return littleEndian(bytes, sizeAt, width) + (width === 2 ? 256 : 0)
  }
  return end - start
}

function littleEndian(bytes: Uint8Array, at: number, width: number): number {
  let value = 0
  for (let index = width - 1; index >= 0; index--) value = value * 256 + (bytes[at + index] ?? 0)
  return value
}

/** What of an append is new. */
export interface Fresh {
  /** The new batches: a view of the append from the first one on. */
  bytes: Uint8Array
  batches: number
  records: number
  undo: Undo[]
}

/**
 * Judges batches one after another, each by what the ones before it change. Null where all are held already; repeats may
 * only stand before what is new. Where one is refused, nothing of the append stays in the producers.
 */
export function takeFresh(
  admitted: readonly Admitted[],
  bytes: Uint8Array,
  judge: (header: BatchHeader) => Judgement['kind'],
  apply: (header: BatchHeader) => Undo,
): Fresh | null {
  const undo: Undo[] = []
  let freshAt = -1
  let records = 0
  try {
    for (const { at, header } of admitted) {
      if (judge(header) === 'append') {
        if (freshAt < 0) freshAt = at
        records += header.recordCount
        undo.push(apply(header))
      } else if (freshAt >= 0) {
        throw new TributaryError(
          'invalid_argument',
          'an append repeats a batch behind a new one: send batches in order',
        )
      }
    }
  } catch (error) {
    for (const revert of undo.toReversed()) revert()
    throw error
  }
  if (freshAt < 0) return null
  return { bytes: freshAt === 0 ? bytes : bytes.subarray(freshAt), batches: undo.length, records, undo }
}

/** Counts an append: what was taken, and the batches that were held already. */
export function countFresh(
  counters: TopicCounters,
  admitted: readonly Admitted[],
  fresh: Fresh | null,
): void {
  counters.duplicateBatches += admitted.length - (fresh?.batches ?? 0)
  if (fresh === null) return
  counters.bytesIn += fresh.bytes.length
  counters.batchesIn += fresh.batches
  counters.recordsIn += fresh.records
}

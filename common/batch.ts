import { assert } from './assert.ts'
import { readI16, readI32, readI64OrNaN, readU32, writeI64, writeU16, writeU32 } from './bytes.ts'
import { crc32c } from './crc32c.ts'
import { TributaryError } from './errors.ts'

/**
 * Kafka's RecordBatch v2 (KIP-98, Kafka's "message format" page), as it lies on disk and on every wire of ours:
 *
 *   baseOffset i64 · batchLength i32 (what follows) · partitionLeaderEpoch i32 · magic i8 = 2 · crc u32 ·
 *   attributes i16 · lastOffsetDelta i32 · baseTimestamp i64 · maxTimestamp i64 · producerId i64 ·
 *   producerEpoch i16 · baseSequence i32 · recordCount i32 · records
 *
 * All big-endian. The CRC (CRC-32C) covers attributes to the end, so that base offset and leader epoch can be stamped
 * without summing again. This file reads headers and never looks into records; batch-builder.ts writes batches,
 * batch-records.ts decodes them, batch-join.ts re-encodes them.
 */

/** Bytes before the records. */
export const BATCH_HEADER_BYTES = 61

/** The largest sequence number (int32). Runs end before it, so sequences of ours never wrap. */
export const MAX_SEQUENCE = 0x7fffffff

/** Base offset and length, which `batchLength` does not count. */
const LENGTH_OVERHEAD_BYTES = 12
const MAGIC_AT = 16
const CRC_AT = 17
const ATTRIBUTES_AT = 21
/** The least a record takes: six one-byte varints and the attributes. */
export const MIN_RECORD_BYTES = 7

const COMPRESSIONS = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const

/** How the records of a batch are compressed. We produce none, gzip and zstd; snappy and lz4 are only moved. */
export type Compression = (typeof COMPRESSIONS)[number]

/** Bits of `attributes`. */
export const ATTRIBUTE_LOG_APPEND_TIME = 1 << 3
export const ATTRIBUTE_TRANSACTIONAL = 1 << 4
export const ATTRIBUTE_CONTROL = 1 << 5

/** What a batch says of itself before its records. */
export interface BatchHeader {
  baseOffset: number
  /** baseOffset + lastOffsetDelta. */
  lastOffset: number
  /** The whole batch, with the 12 bytes that the length field does not count. */
  sizeBytes: number
  leaderEpoch: number
  magic: number
  crc: number
  compression: Compression
  isControl: boolean
  isTransactional: boolean
  /** The records' timestamps are all `maxTimestampMs`, set by a broker. */
  logAppendTime: boolean
  lastOffsetDelta: number
  baseTimestampMs: number
  maxTimestampMs: number
  /** -1: none, and then producerEpoch and baseSequence mean nothing whatever they are. */
  producerId: number
  producerEpoch: number
  /** -1: none (control batches). */
  baseSequence: number
  recordCount: number
}

/** What `validateBatch` allows. */
export interface BatchLimits {
  /** The largest whole batch. */
  maxBatchBytes: number
  /** Compaction took records out: there may be fewer than offsets, or none. Default false. */
  allowCompacted?: boolean
}

/** The attribute bits of a compression. */
export function compressionBits(compression: Compression): number {
  return COMPRESSIONS.indexOf(compression)
}

function corrupt(at: number, why: string): never {
  throw new TributaryError(
    'corrupt_batch',
    `batch at byte ${at}: ${why}; it was damaged or is no RecordBatch v2`,
  )
}

/**
 * The whole size in bytes of the batch that starts at `at`, by its length field alone; 0 where fewer than 12 bytes
 * remain. It may be more than `bytes` holds. Throws `corrupt_batch` where the length can't be a batch's.
 */
export function batchSizeAt(bytes: Uint8Array, at: number): number {
  if (bytes.length - at < LENGTH_OVERHEAD_BYTES) return 0
  const length = readI32(bytes, at + 8)
  if (length < BATCH_HEADER_BYTES - LENGTH_OVERHEAD_BYTES) corrupt(at, `a length of ${length} is too small`)
  return length + LENGTH_OVERHEAD_BYTES
}

/**
 * The header of the batch at `at`, of which only the first 61 bytes need be there. Checks magic and length and that
 * numbers are ones we can hold, not the CRC. Throws `corrupt_batch`.
 */
export function readHeader(bytes: Uint8Array, at: number): BatchHeader {
  if (bytes.length - at < BATCH_HEADER_BYTES) corrupt(at, `${bytes.length - at} bytes are no whole header`)
  const sizeBytes = batchSizeAt(bytes, at)
  const magic = bytes[at + MAGIC_AT] ?? 0
  if (magic !== 2) corrupt(at, `magic is ${magic}, only 2 is supported`)
  const attributes = readI16(bytes, at + ATTRIBUTES_AT)
  const compression = COMPRESSIONS[attributes & 7]
  if (compression === undefined) corrupt(at, `unknown compression ${attributes & 7}`)
  const baseOffset = readSafe(bytes, at, 0, 'base offset')
  const lastOffsetDelta = readI32(bytes, at + 23)
  return {
    baseOffset,
    lastOffset: baseOffset + lastOffsetDelta,
    sizeBytes,
    leaderEpoch: readI32(bytes, at + 12),
    magic,
    crc: readU32(bytes, at + CRC_AT),
    compression,
    isControl: (attributes & ATTRIBUTE_CONTROL) !== 0,
    isTransactional: (attributes & ATTRIBUTE_TRANSACTIONAL) !== 0,
    logAppendTime: (attributes & ATTRIBUTE_LOG_APPEND_TIME) !== 0,
    lastOffsetDelta,
    baseTimestampMs: readSafe(bytes, at, 27, 'base timestamp'),
    maxTimestampMs: readSafe(bytes, at, 35, 'max timestamp'),
    producerId: readSafe(bytes, at, 43, 'producer id'),
    producerEpoch: readI16(bytes, at + 51),
    baseSequence: readI32(bytes, at + 53),
    recordCount: readI32(bytes, at + 57),
  }
}

function readSafe(bytes: Uint8Array, at: number, field: number, name: string): number {
  const value = readI64OrNaN(bytes, at + field)
  if (Number.isNaN(value)) corrupt(at, `${name} is beyond 2^53`)
  return value
}

/**
 * Checks a whole batch without decoding records: length, magic, CRC-32C, counts, producer fields. Returns its header.
 * Throws `record_too_large` over `limits.maxBatchBytes`, else `corrupt_batch` with the reason.
 */
export function validateBatch(bytes: Uint8Array, at: number, limits: BatchLimits): BatchHeader {
  const sizeBytes = batchSizeAt(bytes, at)
  if (sizeBytes > limits.maxBatchBytes) {
    throw new TributaryError(
      'record_too_large',
      `a batch of ${sizeBytes} bytes is over the limit of ${limits.maxBatchBytes}: send smaller batches or raise the limit`,
      { details: { sizeBytes, maxBatchBytes: limits.maxBatchBytes } },
    )
  }
  const header = readHeader(bytes, at)
  verifyCrc(bytes, at, header)
  checkCounts(at, header, limits.allowCompacted ?? false)
  checkProducer(at, header)
  return header
}

/** Throws `corrupt_batch` unless the batch at `at` is all there and its CRC-32C is right. */
export function verifyCrc(bytes: Uint8Array, at: number, header: BatchHeader): void {
  const { sizeBytes, crc } = header
  if (sizeBytes > bytes.length - at)
    corrupt(at, `it has ${sizeBytes} bytes, only ${bytes.length - at} are there`)
  const actual = crc32c(bytes.subarray(at + ATTRIBUTES_AT, at + sizeBytes))
  if (actual !== crc) corrupt(at, `CRC-32C is ${hex(actual)}, the header says ${hex(crc)}`)
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0')
}

function checkCounts(at: number, header: BatchHeader, allowCompacted: boolean): void {
  const { recordCount, lastOffsetDelta, compression, sizeBytes, baseOffset } = header
  if (lastOffsetDelta < 0) corrupt(at, `last offset delta is ${lastOffsetDelta}`)
  if (baseOffset < 0 || !Number.isSafeInteger(header.lastOffset)) corrupt(at, `base offset is ${baseOffset}`)
  if (allowCompacted) {
    if (recordCount < 0 || recordCount > lastOffsetDelta + 1) {
      corrupt(at, `${recordCount} records do not fit ${lastOffsetDelta + 1} offsets`)
    }
  } else if (recordCount !== lastOffsetDelta + 1) {
    corrupt(at, `record count is ${recordCount}, last offset delta ${lastOffsetDelta}`)
  }
  if (compression === 'none' && recordCount * MIN_RECORD_BYTES > sizeBytes - BATCH_HEADER_BYTES) {
    corrupt(at, `${recordCount} records do not fit ${sizeBytes} bytes`)
  }
}

function checkProducer(at: number, header: BatchHeader): void {
  const { producerId, producerEpoch, baseSequence, isControl } = header
  if (producerId < -1) corrupt(at, `producer id is ${producerId}`)
  // Clients without idempotence disagree: epoch and sequence are -1 (Java) or 0 (kafkajs) beside producer id -1.
  if (producerId === -1) return
  if (producerEpoch < 0) corrupt(at, `producer epoch is ${producerEpoch}`)
  if (baseSequence < (isControl ? -1 : 0)) corrupt(at, `base sequence is ${baseSequence}`)
}

/** Where a batch starts in a buffer, with its header. */
export interface BatchAt {
  at: number
  header: BatchHeader
}

/** The batches in a buffer of whole batches end to end, without CRC checks; stops at a partial tail. Throws `corrupt_batch`. */
export function* eachBatch(bytes: Uint8Array): Generator<BatchAt, void, void> {
  let at = 0
  for (;;) {
    const sizeBytes = batchSizeAt(bytes, at)
    if (sizeBytes === 0 || sizeBytes > bytes.length - at) return
    yield { at, header: readHeader(bytes, at) }
    at += sizeBytes
  }
}

/** Writes base offset and leader epoch into the batch at `at`, in place; both lie outside the CRC. */
export function stampBatch(bytes: Uint8Array, at: number, baseOffset: number, leaderEpoch: number): void {
  assert(baseOffset >= 0, 'a base offset must be a safe integer >= 0')
  writeI64(bytes, at, baseOffset)
  writeU32(bytes, at + 12, leaderEpoch)
}

/** The fields of a header that `writeHeader` does not derive. */
export interface HeaderFields
  extends Pick<
    BatchHeader,
    | 'sizeBytes'
    | 'leaderEpoch'
    | 'lastOffsetDelta'
    | 'baseTimestampMs'
    | 'maxTimestampMs'
    | 'producerId'
    | 'producerEpoch'
    | 'baseSequence'
    | 'recordCount'
  > {
  attributes: number
}

/** Writes the 61 bytes of a header at `at`, before records that are already there, and seals them with the CRC. */
export function writeHeader(bytes: Uint8Array, at: number, baseOffset: number, fields: HeaderFields): void {
  writeU32(bytes, at + 8, fields.sizeBytes - LENGTH_OVERHEAD_BYTES)
  stampBatch(bytes, at, baseOffset, fields.leaderEpoch)
  bytes[at + MAGIC_AT] = 2
  writeU16(bytes, at + ATTRIBUTES_AT, fields.attributes)
  writeU32(bytes, at + 23, fields.lastOffsetDelta)
  writeI64(bytes, at + 27, fields.baseTimestampMs)
  writeI64(bytes, at + 35, fields.maxTimestampMs)
  writeI64(bytes, at + 43, fields.producerId)
  writeU16(bytes, at + 51, fields.producerEpoch)
  writeU32(bytes, at + 53, fields.baseSequence)
  writeU32(bytes, at + 57, fields.recordCount)
  writeU32(bytes, at + CRC_AT, crc32c(bytes.subarray(at + ATTRIBUTES_AT, at + fields.sizeBytes)))
}

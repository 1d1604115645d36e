import { assert, must } from './assert.ts'
import type { BatchHeader, Compression, HeaderFields } from './batch.ts'
import {
  ATTRIBUTE_CONTROL,
  ATTRIBUTE_LOG_APPEND_TIME,
  ATTRIBUTE_TRANSACTIONAL,
  BATCH_HEADER_BYTES,
  batchSizeAt,
  compressionBits,
  MAX_SEQUENCE,
  validateBatch,
  writeHeader,
} from './batch.ts'
import { batchBuffers } from './batch-builder.ts'
import { plainRecords, recordSection } from './batch-records.ts'
import { ByteReader, varintBytes, writeVarint } from './bytes.ts'
import type { Codec } from './env.ts'
import { TributaryError } from './errors.ts'

/**
 * The only places that re-encode batches: compressing one, and joining many small ones into one for the uplink. Both
 * verify the old CRC first, so that damage is never sealed under a new one.
 */

/** What the three numbers in front of a record (length, timestamp and offset delta) can grow by at most. */
const MAX_RECORD_GROWTH_BYTES = 15

/** What we compress with. */
export type CompressionKind = 'gzip' | 'zstd'

export interface JoinOptions {
  codec: Codec
  /** Of the batch that comes out; it stays plain where compression would not shrink it. */
  compression: 'none' | CompressionKind
  /** The largest batch, before compression, that may come out, and what any one going in may decompress to. */
  maxBytes: number
  /** Leave out this many records at the start, where the receiver has them already; default 0. */
  skipRecords?: number
}

/**
 * The one uncompressed batch in `batch`, compressed; `batch` itself where it is compressed already or would not shrink.
 * Rejects with `corrupt_batch`.
 */
export async function compressBatch(
  batch: Uint8Array,
  kind: CompressionKind,
  codec: Codec,
): Promise<Uint8Array> {
  const header = validateBatch(batch, 0, { maxBatchBytes: MAX_SEQUENCE, allowCompacted: true })
  assert(header.sizeBytes === batch.length, 'compressBatch takes one batch')
  if (header.compression !== 'none') return batch
  const section = recordSection(batch, 0, header)
  const packed = await codec.compress(kind, section)
  if (packed.length >= section.length) return batch
  return seal(header.baseOffset, fieldsOf(header), packed, kind)
}

/**
 * One batch with the records of all `bytes`: whole batches end to end, of one producer, contiguous in offsets and
 * sequences. Keys, values, headers and times stay as they are; only the numbers in front of each record are encoded
 * anew. Batches that must not be joined (another producer id, epoch or transaction, control batches, broker's times, a
 * jump) are a bug of the caller and fail an assertion. Rejects with `corrupt_batch` (an old CRC is wrong),
 * `record_too_large` (over `maxBytes`; joining can add some bytes a record, so leave slack or send them as they are) and
 * `unsupported_version` (snappy, lz4). May return `bytes` itself.
 */
export async function joinBatches(bytes: Uint8Array, options: JoinOptions): Promise<Uint8Array> {
  const { codec, compression, maxBytes, skipRecords = 0 } = options
  const parts = validParts(bytes)
  const first = must(parts[0], 'joinBatches needs a batch').header
  if (parts.length === 1 && skipRecords === 0) {
    if (compression === 'none' || first.isControl) return bytes
    return compressBatch(bytes, compression, codec)
  }
  const sections: Uint8Array[] = []
  for (const { at, header } of parts) {
    const isPlain = header.compression === 'none'
    sections.push(
      isPlain ? recordSection(bytes, at, header) : await plainRecords(bytes, at, header, codec, maxBytes),
    )
  }
  const headers = parts.map(part => part.header)
  const work = layOut(headers, sections)
  try {
    const joined = rewriteRecords(work, headers, skipRecords)
    refuseOver(maxBytes, BATCH_HEADER_BYTES + joined.sectionBytes)
    const section = work.buffer.subarray(0, joined.sectionBytes)
    const packed = compression === 'none' ? section : await codec.compress(compression, section)
    const shrank = packed.length < section.length
    const fields = joinedFields(first, joined, skipRecords)
    const baseOffset = first.baseOffset + skipRecords
    return seal(baseOffset, fields, shrank ? packed : section, shrank ? compression : 'none')
  } finally {
    batchBuffers.give(work.buffer)
  }
}

function refuseOver(maxBytes: number, sizeBytes: number): void {
  if (sizeBytes <= maxBytes) return
  throw new TributaryError(
    'record_too_large',
    `joined batches have ${sizeBytes} bytes, the limit is ${maxBytes}`,
  )
}

interface Part {
  at: number
  header: BatchHeader
}

/** The batches in `bytes`, all valid and allowed to be joined. */
function validParts(bytes: Uint8Array): Part[] {
  const parts: Part[] = []
  let previous: BatchHeader | undefined
  let at = 0
  while (at < bytes.length) {
    assert(batchSizeAt(bytes, at) > 0, 'joinBatches takes whole batches')
    const header = validateBatch(bytes, at, { maxBatchBytes: MAX_SEQUENCE })
    if (previous !== undefined) assertJoinable(previous, header)
    parts.push({ at, header })
    previous = header
    at += header.sizeBytes
  }
  return parts
}

function assertJoinable(left: BatchHeader, right: BatchHeader): void {
  assert(!left.isControl && !right.isControl, 'control batches are never joined')
  assert(!left.logAppendTime && !right.logAppendTime, 'batches with broker times are never joined')
  assert(left.isTransactional === right.isTransactional, 'transactions are never joined with other records')
  assert(left.producerId === right.producerId, 'batches of two producer ids are never joined')
  assert(
    left.lastOffset + 1 === right.baseOffset,
    'batches with an offset jump between them are never joined',
  )
  if (left.producerId === -1) return
  assert(left.producerEpoch === right.producerEpoch, 'batches of two producer epochs are never joined')
  const nextSequence = left.baseSequence + left.recordCount
  assert(nextSequence === right.baseSequence, 'batches with a sequence jump between them are never joined')
}

/** A pooled buffer with room for the joined records at its start and the old ones from `inputAt`: copies inside one buffer are the cheapest there are. */
interface Work {
  buffer: Buffer
  inputAt: number
  sectionEnds: number[]
}

function layOut(headers: readonly BatchHeader[], sections: readonly Uint8Array[]): Work {
  let sectionBytes = 0
  let recordCount = 0
  for (const section of sections) sectionBytes += section.length
  for (const header of headers) recordCount += header.recordCount
  const inputAt = sectionBytes + recordCount * MAX_RECORD_GROWTH_BYTES
  const buffer = batchBuffers.take(inputAt + sectionBytes)
  const sectionEnds: number[] = []
  let at = inputAt
  for (const section of sections) {
    buffer.set(section, at)
    at += section.length
    sectionEnds.push(at)
  }
  return { buffer, inputAt, sectionEnds }
}

interface Joined {
  sectionBytes: number
  recordCount: number
  baseTimestampMs: number
  maxTimestampMs: number
}

/** Writes all records but the first `skipRecords` to the start of the work buffer, numbered anew from 0. */
function rewriteRecords(work: Work, headers: readonly BatchHeader[], skipRecords: number): Joined {
  const { buffer, sectionEnds } = work
  const reader = new ByteReader(buffer, work.inputAt, work.inputAt)
  const joined: Joined = { sectionBytes: 0, recordCount: 0, baseTimestampMs: 0, maxTimestampMs: 0 }
  let skipsLeft = skipRecords
  let target = 0
  for (let index = 0; index < headers.length; index++) {
    const header = must(headers[index], 'a header for each section')
    const sectionEnd = must(sectionEnds[index], 'a section for each header')
    for (let record = 0; record < header.recordCount; record++) {
      reader.end = sectionEnd
      const length = reader.varint()
      const restEnd = reader.at + length
      reader.end =
        length >= 0 && restEnd <= sectionEnd ? restEnd : reader.fail(`a length of ${length} does not fit`)
      const attributes = reader.byte()
      const timestampMs = header.baseTimestampMs + reader.varlong()
      const offsetDelta = reader.varint()
      if (offsetDelta !== record) reader.fail(`offset delta is ${offsetDelta} for record ${record}`)
      const restAt = reader.at
      reader.at = restEnd
      if (skipsLeft > 0) {
        skipsLeft--
        continue
      }
      const count = joined.recordCount
      if (count === 0) joined.baseTimestampMs = timestampMs
      if (count === 0 || timestampMs > joined.maxTimestampMs) joined.maxTimestampMs = timestampMs
      const timestampDelta = timestampMs - joined.baseTimestampMs
      const restBytes = restEnd - restAt
      target = writeVarint(buffer, target, 1 + varintBytes(timestampDelta) + varintBytes(count) + restBytes)
      buffer[target++] = attributes
      target = writeVarint(buffer, target, timestampDelta)
      target = writeVarint(buffer, target, count)
      buffer.copyWithin(target, restAt, restEnd)
      target += restBytes
      joined.recordCount = count + 1
    }
    reader.end = sectionEnd
    if (reader.at !== sectionEnd) reader.fail('bytes are left over after the last record')
  }
  assert(joined.recordCount > 0, 'joinBatches must leave at least one record')
  joined.sectionBytes = target
  return joined
}

function fieldsOf(header: BatchHeader): HeaderFields {
  const { logAppendTime, isControl, isTransactional } = header
  const attributes =
    (isTransactional ? ATTRIBUTE_TRANSACTIONAL : 0) |
    (isControl ? ATTRIBUTE_CONTROL : 0) |
    (logAppendTime ? ATTRIBUTE_LOG_APPEND_TIME : 0)
  return { ...header, attributes }
}

function joinedFields(first: BatchHeader, joined: Joined, skipRecords: number): HeaderFields {
  return {
    ...fieldsOf(first),
    lastOffsetDelta: joined.recordCount - 1,
    recordCount: joined.recordCount,
    baseTimestampMs: joined.baseTimestampMs,
    maxTimestampMs: joined.maxTimestampMs,
    baseSequence: first.baseSequence === -1 ? -1 : first.baseSequence + skipRecords,
  }
}

/** A batch of its own from its fields and its record section. */
function seal(
  baseOffset: number,
  fields: HeaderFields,
  section: Uint8Array,
  compression: Compression,
): Uint8Array {
  const batch = new Uint8Array(BATCH_HEADER_BYTES + section.length)
  batch.set(section, BATCH_HEADER_BYTES)
  const attributes = fields.attributes | compressionBits(compression)
  writeHeader(batch, 0, baseOffset, { ...fields, sizeBytes: batch.length, attributes })
  return batch
}

import type { BatchHeader } from './batch.ts'
import { BATCH_HEADER_BYTES, MAX_SEQUENCE, MIN_RECORD_BYTES, validateBatch } from './batch.ts'
import type { RecordHeader, RecordInput } from './batch-builder.ts'
import { ByteReader, utf8Text } from './bytes.ts'
import type { Codec } from './env.ts'
import { TributaryError } from './errors.ts'

/** Decodes the records of a batch: for whoever looks into them, which is consumers and nobody between. */

/** One record as read. Keys, values and header values are views into the batch (or what it decompressed to): copy before keeping. */
export interface DecodedRecord extends RecordInput {
  offset: number
  /** -1 without a producer. */
  sequence: number
}

/**
 * The records of the batch at `at`, whose CRC is verified. `maxBytes` bounds what a compressed one may grow to.
 * Rejects with `corrupt_batch`, and with `unsupported_version` for snappy and lz4, which are moved and never decoded here.
 */
export async function decodeRecords(
  bytes: Uint8Array,
  at: number,
  codec: Codec,
  maxBytes: number,
): Promise<DecodedRecord[]> {
  const header = validForDecoding(bytes, at)
  return decodeSection(header, await plainRecords(bytes, at, header, codec, maxBytes))
}

/** `decodeRecords` at once, for an uncompressed batch; `unsupported_version` for any other. */
export function decodePlain(bytes: Uint8Array, at: number): DecodedRecord[] {
  const header = validForDecoding(bytes, at)
  if (header.compression !== 'none') refuseCompression(header)
  return decodeSection(header, recordSection(bytes, at, header))
}

function validForDecoding(bytes: Uint8Array, at: number): BatchHeader {
  return validateBatch(bytes, at, { maxBatchBytes: MAX_SEQUENCE, allowCompacted: true })
}

/** What follows the header, compressed or not; a view. */
export function recordSection(bytes: Uint8Array, at: number, header: BatchHeader): Uint8Array {
  // Made from the buffer, so that a Node Buffer gives plain Uint8Arrays: their slices are cheaper and compare alike.
  return new Uint8Array(
    bytes.buffer,
    bytes.byteOffset + at + BATCH_HEADER_BYTES,
    header.sizeBytes - BATCH_HEADER_BYTES,
  )
}

/** The record section decompressed (itself where it is plain), at most `maxBytes` of it. Rejects as `decodeRecords` does. */
export async function plainRecords(
  bytes: Uint8Array,
  at: number,
  header: BatchHeader,
  codec: Codec,
  maxBytes: number,
): Promise<Uint8Array> {
  const section = recordSection(bytes, at, header)
  const { compression } = header
  if (compression === 'none') return section
  if (compression !== 'gzip' && compression !== 'zstd') return refuseCompression(header)
  const plain = await codec.decompress(compression, section, maxBytes)
  if (header.recordCount * MIN_RECORD_BYTES > plain.length) {
    throw new TributaryError(
      'corrupt_batch',
      `${header.recordCount} records do not fit ${plain.length} bytes`,
    )
  }
  return new Uint8Array(plain.buffer, plain.byteOffset, plain.length)
}

function refuseCompression(header: BatchHeader): never {
  throw new TributaryError(
    'unsupported_version',
    `records compressed with ${header.compression} cannot be decoded here: produce with none, gzip or zstd`,
    { details: { compression: header.compression } },
  )
}

function decodeSection(header: BatchHeader, section: Uint8Array): DecodedRecord[] {
  const { recordCount } = header
  const reader = new ByteReader(section, 0, section.length)
  const records: DecodedRecord[] = []
  let previousDelta = -1
  for (let index = 0; index < recordCount; index++) {
    reader.end = section.length
    reader.end = recordEnd(reader)
    reader.skip(1)
    const timestampDelta = reader.varlong()
    const offsetDelta = reader.varint()
    if (offsetDelta <= previousDelta || offsetDelta > header.lastOffsetDelta) {
      reader.fail(`offset delta ${offsetDelta} after ${previousDelta}`)
    }
    previousDelta = offsetDelta
    const key = nullableField(reader)
    const value = nullableField(reader)
    const headers = decodeHeaders(reader)
    if (reader.remaining() > 0) reader.fail('bytes are left over in a record')
    records.push({
      key,
      value,
      headers,
      timestampMs: header.logAppendTime ? header.maxTimestampMs : header.baseTimestampMs + timestampDelta,
      offset: header.baseOffset + offsetDelta,
      sequence: sequenceOf(header, offsetDelta),
    })
  }
  if (reader.at < section.length) reader.fail('bytes are left over after the last record')
  return records
}

/** Reads a record's length; returns where it ends. */
function recordEnd(reader: ByteReader): number {
  const length = reader.varint()
  if (length < 0 || length > reader.remaining()) reader.fail(`a record length of ${length} does not fit`)
  return reader.at + length
}

function nullableField(reader: ByteReader): Uint8Array | null {
  const length = reader.varint()
  if (length === -1) return null
  return reader.slice(length)
}

function decodeHeaders(reader: ByteReader): RecordHeader[] {
  const count = reader.varint()
  if (count < 0 || count * 2 > reader.remaining()) reader.fail(`a header count of ${count} does not fit`)
  const headers: RecordHeader[] = []
  for (let index = 0; index < count; index++) {
    const key = utf8Text(reader.slice(reader.varint()))
    headers.push({ key, value: nullableField(reader) })
  }
  return headers
}

/** Kafka's sequences wrap from 2^31 - 1 to 0 (DefaultRecordBatch.incrementSequence). */
function sequenceOf(header: BatchHeader, offsetDelta: number): number {
  if (header.producerId === -1 || header.baseSequence === -1) return -1
  const sequence = header.baseSequence + offsetDelta
  return sequence > MAX_SEQUENCE ? sequence - MAX_SEQUENCE - 1 : sequence
}

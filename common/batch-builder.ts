import { assert } from './assert.ts'
import { ATTRIBUTE_CONTROL, BATCH_HEADER_BYTES, MAX_SEQUENCE, writeHeader } from './batch.ts'
import { BufferPool, varintBytes, writeVarint } from './bytes.ts'

/** Writes RecordBatch v2. A record is: length · attributes i8 · timestampDelta · offsetDelta · key · value · headers, lengths and deltas as zigzag varints, -1 for null. */

/** A record header; Kafka's header keys are never null. */
export interface RecordHeader {
  key: string
  value: Uint8Array | null
}

/** One record as written. Times are event time, milliseconds since the epoch. */
export interface RecordInput {
  key: Uint8Array | null
  value: Uint8Array | null
  headers: readonly RecordHeader[]
  timestampMs: number
}

/** Who writes the batch; without `producerId` (or -1) nobody in particular does and nothing is numbered. */
export interface BatchProducer {
  producerId?: number
  /** Default 0 with a producer id. */
  producerEpoch?: number
  /** Sequence of the first record; default 0 with a producer id, -1 in control batches. */
  baseSequence?: number
}

export interface BatchBuilderOptions extends BatchProducer {
  isControl?: boolean
  /** The largest batch built, header included. */
  maxBytes: number
}

/** Idle buffers kept for builders and joins of this process. */
const MAX_IDLE_BATCH_BUFFER_BYTES = 16 * 1024 * 1024

/** Buffers in which batches are built and joined. */
export const batchBuffers = new BufferPool(MAX_IDLE_BATCH_BUFFER_BYTES)

const NO_HEADERS = new Uint8Array(0)

/** Headers in wire form without their count, to be encoded once and given to `appendRaw` many times. */
export function encodeHeaders(headers: readonly RecordHeader[]): Uint8Array {
  const encoded = new Uint8Array(headersBytes(headers))
  writeHeaders(Buffer.from(encoded.buffer), 0, headers)
  return encoded
}

function headersBytes(headers: readonly RecordHeader[]): number {
  let total = 0
  for (const { key, value } of headers) {
    const keyBytes = Buffer.byteLength(key)
    total += varintBytes(keyBytes) + keyBytes + fieldBytes(value)
  }
  return total
}

function writeHeaders(target: Buffer, at: number, headers: readonly RecordHeader[]): number {
  let end = at
  for (const { key, value } of headers) {
    end = writeVarint(target, end, Buffer.byteLength(key))
    end += target.write(key, end)
    end = writeField(target, end, value)
  }
  return end
}

function fieldBytes(value: Uint8Array | null): number {
  return value === null ? 1 : varintBytes(value.length) + value.length
}

function writeField(target: Uint8Array, at: number, value: Uint8Array | null): number {
  if (value === null) return writeVarint(target, at, -1)
  const start = writeVarint(target, at, value.length)
  target.set(value, start)
  return start + value.length
}

/**
 * Builds one batch after another, uncompressed. Records are written straight into a pooled buffer; `appendRaw`
 * allocates nothing per record, `append` an array where there are headers. An empty builder holds no buffer, so thousands of them cost little.
 */
export class BatchBuilder {
  readonly #maxBytes: number
  readonly #isControl: boolean
  #producerId = -1
  #producerEpoch = -1
  #baseSequence = -1
  #buffer: Buffer | undefined
  #sizeBytes = BATCH_HEADER_BYTES
  #recordCount = 0
  #baseTimestampMs = 0
  #maxTimestampMs = 0

  constructor(options: BatchBuilderOptions) {
    this.#maxBytes = options.maxBytes
    this.#isControl = options.isControl ?? false
    this.reset(options)
  }

  /** Records in the open batch. */
  get recordCount(): number {
    return this.#recordCount
  }

  /** What `finish` would return, in bytes; the bare header while empty. */
  get sizeBytes(): number {
    return this.#sizeBytes
  }

  /** Throws away the open batch, if any, and starts another as `producer`. */
  reset(producer: BatchProducer): void {
    this.#producerId = producer.producerId ?? -1
    const numbered = this.#producerId !== -1
    this.#producerEpoch = producer.producerEpoch ?? (numbered ? 0 : -1)
    this.#baseSequence = producer.baseSequence ?? (numbered && !this.#isControl ? 0 : -1)
    this.#empty()
  }

  /**
   * Adds a record. False where the batch would grow over `maxBytes`: it is unchanged, finish it and append again; if it
   * was empty the record is too large for any batch. A run of sequences must end before 2^31 - 1.
   */
  append(
    timestampMs: number,
    key: Uint8Array | null,
    value: Uint8Array | null,
    headers: readonly RecordHeader[],
  ): boolean {
    if (headers.length === 0) return this.appendRaw(timestampMs, key, value, NO_HEADERS, 0)
    return this.appendRaw(timestampMs, key, value, encodeHeaders(headers), headers.length)
  }

  /**
   * `append` with headers from `encodeHeaders`, `headerCount` of them. `moreHeaders` are written after them
   * and counted in `headerCount` too: for what changes more often than the rest. Bytes given may be reused afterwards.
   */
  appendRaw(
    timestampMs: number,
    key: Uint8Array | null,
    value: Uint8Array | null,
    encodedHeaders: Uint8Array,
    headerCount: number,
    moreHeaders: Uint8Array = NO_HEADERS,
  ): boolean {
    const count = this.#recordCount
    if (count === 0) this.#baseTimestampMs = timestampMs
    const timestampDelta = timestampMs - this.#baseTimestampMs
    const isTime = Number.isSafeInteger(timestampMs) && Number.isSafeInteger(timestampDelta)
    assert(isTime, 'a record time must be in whole milliseconds')
    const headersSize = encodedHeaders.length + moreHeaders.length
    const bodyBytes =
      1 +
      varintBytes(timestampDelta) +
      varintBytes(count) +
      fieldBytes(key) +
      fieldBytes(value) +
      varintBytes(headerCount) +
      headersSize
    const sizeBytes = this.#sizeBytes + varintBytes(bodyBytes) + bodyBytes
    if (sizeBytes > this.#maxBytes) return false
    assert(this.#baseSequence + count < MAX_SEQUENCE, 'a run must end before sequence 2^31 - 1')

    const target = this.#room(sizeBytes)
    let at = writeVarint(target, this.#sizeBytes, bodyBytes)
    target[at++] = 0
    at = writeVarint(target, at, timestampDelta)
    at = writeVarint(target, at, count)
    at = writeField(target, at, key)
    at = writeField(target, at, value)
    at = writeVarint(target, at, headerCount)
    if (encodedHeaders.length > 0) target.set(encodedHeaders, at)
    if (moreHeaders.length > 0) target.set(moreHeaders, at + encodedHeaders.length)
    this.#sizeBytes = sizeBytes
    this.#recordCount = count + 1
    if (count === 0 || timestampMs > this.#maxTimestampMs) this.#maxTimestampMs = timestampMs
    return true
  }

  /** Seals the batch and returns it in a buffer of its own. The builder is empty then and goes on at the next sequence. */
  finish(baseOffset: number): Uint8Array {
    const buffer = this.#buffer
    assert(buffer !== undefined, 'a batch needs at least one record')
    writeHeader(buffer, 0, baseOffset, {
      sizeBytes: this.#sizeBytes,
      leaderEpoch: 0,
      attributes: this.#isControl ? ATTRIBUTE_CONTROL : 0,
      lastOffsetDelta: this.#recordCount - 1,
      baseTimestampMs: this.#baseTimestampMs,
      maxTimestampMs: this.#maxTimestampMs,
      producerId: this.#producerId,
      producerEpoch: this.#producerEpoch,
      baseSequence: this.#baseSequence,
      recordCount: this.#recordCount,
    })
    const batch = new Uint8Array(this.#sizeBytes)
    batch.set(buffer.subarray(0, this.#sizeBytes))
    if (this.#baseSequence !== -1) this.#baseSequence += this.#recordCount
    this.#empty()
    return batch
  }

  #empty(): void {
    if (this.#buffer !== undefined) batchBuffers.give(this.#buffer)
    this.#buffer = undefined
    this.#sizeBytes = BATCH_HEADER_BYTES
    this.#recordCount = 0
  }

  #room(sizeBytes: number): Buffer {
    const buffer = this.#buffer
    if (buffer !== undefined && buffer.length >= sizeBytes) return buffer
    const larger = batchBuffers.take(sizeBytes)
    if (buffer !== undefined) {
      larger.set(buffer.subarray(0, this.#sizeBytes))
      batchBuffers.give(buffer)
    }
    this.#buffer = larger
    return larger
  }
}

/** What `buildBatch` may be told beyond the records. */
export interface BuildBatchOptions extends BatchProducer {
  isControl?: boolean
  /** Default 0. */
  baseOffset?: number
}

/** All records in one uncompressed batch, however large: for clients, tests and rare records; hot paths keep a `BatchBuilder`. */
export function buildBatch(records: readonly RecordInput[], options: BuildBatchOptions = {}): Uint8Array {
  const builder = new BatchBuilder({ ...options, maxBytes: MAX_SEQUENCE })
  for (const { timestampMs, key, value, headers } of records) {
    assert(builder.append(timestampMs, key, value, headers), 'the records exceed what a batch can hold')
  }
  return builder.finish(options.baseOffset ?? 0)
}

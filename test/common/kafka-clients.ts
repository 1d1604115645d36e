import { createRequire } from 'node:module'
import { createRecordsBatch, NumericMap, Reader, readRecordsBatch } from '@platformatic/kafka'
import type { Compression } from '../../common/batch.ts'
import type { RecordHeader, RecordInput } from '../../common/batch-builder.ts'

/** RecordBatch v2 as other people's Kafka clients write and read it: kafkajs's and @platformatic/kafka's own codecs. */

/** What a batch is written with, beyond its records. */
export interface ClientBatch {
  records: readonly RecordInput[]
  compression: Compression
  producerId: number
  producerEpoch: number
  baseSequence: number
}

/** A batch as a client read it. */
export interface ClientRead {
  baseOffset: number
  producerId: number
  producerEpoch: number
  baseSequence: number
  records: RecordInput[]
}

// kafkajs has no types for its inside; these are the parts used here.
interface KafkajsEncoder {
  buffer: Buffer
}
interface KafkajsRecord {
  key: Buffer | null
  value: Buffer | null
  headers: Record<string, Buffer | Buffer[]>
  timestamp: string
}
interface KafkajsBatch {
  firstOffset: string
  producerId: string
  producerEpoch: number
  firstSequence: number
  records: KafkajsRecord[]
}
const require = createRequire(import.meta.url)
const encodeKafkajsRecord: (
  record: object,
) => KafkajsEncoder = require('kafkajs/src/protocol/recordBatch/record/v0')
const kafkajsBatch: {
  RecordBatch: (batch: object) => Promise<KafkajsEncoder>
} = require('kafkajs/src/protocol/recordBatch/v0')
const decodeKafkajsBatch: (
  decoder: object,
) => Promise<KafkajsBatch> = require('kafkajs/src/protocol/recordBatch/v0/decoder')
const KafkajsDecoder: new (bytes: Buffer) => object = require('kafkajs/src/protocol/decoder')

const KAFKAJS_COMPRESSIONS: Partial<Record<Compression, number>> = { none: 0, gzip: 1 }

/** By kafkajs, which writes none and gzip, and no null header values. */
export async function kafkajsWrite(batch: ClientBatch): Promise<Uint8Array> {
  const { records } = batch
  const firstTimestamp = records[0]?.timestampMs ?? 0
  const encoded = records.map(({ key, value, headers, timestampMs }, offsetDelta) =>
    encodeKafkajsRecord({
      offsetDelta,
      timestampDelta: timestampMs - firstTimestamp,
      key: asBuffer(key),
      value: asBuffer(value),
      headers: Object.fromEntries(headers.map(header => [header.key, asBuffer(header.value)])),
    }),
  )
  const { buffer } = await kafkajsBatch.RecordBatch({
    compression: KAFKAJS_COMPRESSIONS[batch.compression],
    firstTimestamp,
    maxTimestamp: Math.max(...records.map(record => record.timestampMs)),
    lastOffsetDelta: records.length - 1,
    producerId: batch.producerId,
    producerEpoch: batch.producerEpoch,
    firstSequence: batch.baseSequence,
    records: encoded,
  })
  return plain(buffer)
}

/** By kafkajs; headers of one key come out as they stood. */
export async function kafkajsRead(bytes: Uint8Array): Promise<ClientRead> {
  const batch = await decodeKafkajsBatch(new KafkajsDecoder(Buffer.from(bytes)))
  return {
    baseOffset: Number(batch.firstOffset),
    producerId: Number(batch.producerId),
    producerEpoch: batch.producerEpoch,
    baseSequence: batch.firstSequence,
    records: batch.records.map(({ key, value, headers, timestamp }) => ({
      key: plainOrNull(key),
      value: plainOrNull(value),
      headers: Object.entries(headers).flatMap(([name, values]) =>
        [values].flat().map((each): RecordHeader => ({ key: name, value: plainOrNull(each) })),
      ),
      timestampMs: Number(timestamp),
    })),
  }
}

/**
 * By @platformatic/kafka 2.12, with every compression; it writes no null values, and wrong timestamps where one is 2^31 ms
 * or more from the first (its 64-bit zigzag shifts by 31).
 */
export function platformaticWrite(batch: ClientBatch): Uint8Array {
  const messages = batch.records.map(({ key, value, headers, timestampMs }) => ({
    topic: 't',
    partition: 0,
    value: Buffer.from(value ?? ''),
    ...(key === null ? {} : { key: Buffer.from(key) }),
    headers: new Map(headers.map(header => [Buffer.from(header.key), Buffer.from(header.value ?? '')])),
    timestamp: BigInt(timestampMs),
  }))
  const writer = createRecordsBatch(messages, {
    compression: batch.compression,
    producerId: BigInt(batch.producerId),
    producerEpoch: batch.producerEpoch,
    sequences: new NumericMap([['t:0', batch.baseSequence]]),
  })
  return plain(writer.buffer)
}

/** By @platformatic/kafka. */
export function platformaticRead(bytes: Uint8Array): ClientRead {
  const batch = readRecordsBatch(Reader.from(Buffer.from(bytes)))
  return {
    baseOffset: Number(batch.firstOffset),
    producerId: Number(batch.producerId),
    producerEpoch: batch.producerEpoch,
    baseSequence: batch.firstSequence,
    records: batch.records.map(({ key, value, headers, timestampDelta }) => ({
      key: plainOrNull(key),
      value: plainOrNull(value),
      headers: headers.map(([name, each]) => ({ key: String(name), value: plainOrNull(each) })),
      timestampMs: Number(batch.firstTimestamp + timestampDelta),
    })),
  }
}

function asBuffer(bytes: Uint8Array | null): Buffer | null {
  return bytes === null ? null : Buffer.from(bytes)
}

function plain(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes)
}

function plainOrNull(bytes: Uint8Array | null | undefined): Uint8Array | null {
  return bytes === null || bytes === undefined ? null : plain(bytes)
}

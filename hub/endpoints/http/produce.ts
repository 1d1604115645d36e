import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BATCH_HEADER_BYTES } from '../../../common/batch.ts'
import { BatchBuilder } from '../../../common/batch-builder.ts'
import { concat, varintBytes } from '../../../common/bytes.ts'
import { ERROR_CODES, isTributaryError, TributaryError } from '../../../common/errors.ts'
import { KIB, MIB } from '../../../common/limits.ts'
import { partitionForKey } from '../../../common/murmur2.ts'
import type { RecordRequest } from '../../../common/record-json.ts'
import { recordFromJson } from '../../../common/record-json.ts'
import type { Topic } from '../../ports.ts'
import type { HttpContext } from './context.ts'
import type { LentProducer } from './producers.ts'
import { appendSurely, createProducerPool } from './producers.ts'
import type { Query } from './query.ts'
import { nameParam, partitionAsked, partitionParam, readQuery, refusePartition } from './query.ts'

/**
 * Producing over REST.
 *
 *   POST /v1/topics/:name/records[?partition=N]
 *   application/json: {"records":[{key?,value,headers?,timestamp?,partition?}]}, see common/record-json.ts
 *   text/plain: one record a line, the line is the value
 *   -> {"topic","records":3,"ranges":[{"first":0,"count":3,"partition":4,"offset":17}]} when all are committed:
 *      record `first + i` of the request stands at `offset + i`.
 *
 * A record goes to its own partition, else `partition=`, else its key's (murmur2, as Kafka clients do), else all such records
 * of the request go to one partition, another one each time. A topic that is not there is made if autoCreateTopics is on. Everything is checked before anything is appended. Where a
 * partition fails after that, the error's `details.written` has the ranges that are in the log. While a partition changes its leader the
 * request waits, and is written once. A request that is sent again is appended again: exactly-once needs a producer id, which the SDK has.
 */

/** Records of one request that stand one after another in one partition. */
export interface ProducedRange {
  first: number
  count: number
  partition: number
  offset: number
}

/** Many small requests of a record each cost more than these; a larger one is split by its sender. */
export const MAX_RECORDS_PER_REQUEST = 100_000
/** Batches are built up to this size, unless the topic's largest record is smaller still. */
const TARGET_BATCH_BYTES = 256 * KIB
/** Batches appended in one call: no more than the hub remembers of a producer, so that all of them can be told when they come again. */
const MAX_BATCHES_A_CALL = 5
/** The same in bytes. */
const APPEND_BYTES = 4 * MIB

export function registerProduce(app: FastifyInstance, context: HttpContext): void {
  const { logs } = context.ports
  const pool = createProducerPool(logs)
  let rotation = 0

  app.post(
    '/v1/topics/:name/records',
    {
      bodyLimit: context.limits.maxBodyBytes,
      onRequest: async (request, reply) => {
        const bytes = bodyBytes(request, context.limits.maxBodyBytes)
        context.budget.take(bytes)
        reply.raw.once('close', () => context.budget.give(bytes))
      },
    },
    async request => {
      const query = readQuery(request, ['partition'])
      const records = recordsOf(request.body, context.clock.nowMs())
      // Last: a request that makes no sense makes no topic either.
      const topic = await topicFor(context, nameParam(request), highestAsked(query, records))
      const partition = partitionParam(query, topic)
      const sticky = partition ?? rotation++ % topic.partitions
      const producer = await pool.take()
      const lanes = buildLanes(topic, records, producer, record =>
        choosePartition(record, topic, partition, sticky),
      )
      const { written, failure } = await appendLanes(context, topic, lanes, records.length)
      if (failure !== null) throw partlyWritten(failure, written)
      for (const lane of lanes) producer.numbered(topic.topicId, lane.partition, lane.indices.length)
      pool.giveBack(producer)
      return { topic: topic.name, records: records.length, ranges: written }
    },
  )
}

/** What this node knows of the topic, or where that has no such partition what is committed. */
async function topicFor({ ports }: HttpContext, name: string, partition: number): Promise<Topic> {
  const topic = await ports.topics.forProducer(name)
  return partition < topic.partitions ? topic : ports.topics.find(name, partition)
}

function highestAsked(query: Query, records: readonly RecordRequest[]): number {
  return records.reduce((most, { partition }) => Math.max(most, partition ?? 0), partitionAsked(query) ?? 0)
}

function bodyBytes(request: FastifyRequest, maxBodyBytes: number): number {
  const length = Number(request.headers['content-length'] ?? maxBodyBytes)
  return Number.isSafeInteger(length) ? Math.min(length, maxBodyBytes) : maxBodyBytes
}

/** The records of a body as the content-type parsers gave it: bytes for text, else JSON. */
function recordsOf(body: unknown, nowMs: number): RecordRequest[] {
  const records = body instanceof Uint8Array ? linesOf(body, nowMs) : jsonRecords(body, nowMs)
  if (records.length > 0 && records.length <= MAX_RECORDS_PER_REQUEST) return records
  throw new TributaryError(
    'invalid_argument',
    `the request has ${records.length} records; it must have 1 to ${MAX_RECORDS_PER_REQUEST}`,
  )
}

function jsonRecords(body: unknown, nowMs: number): RecordRequest[] {
  const records = typeof body === 'object' && body !== null && 'records' in body ? body.records : undefined
  if (!Array.isArray(records)) {
    throw new TributaryError(
      'invalid_argument',
      'the body must be {"records":[{"key"?,"value","headers"?,"timestamp"?,"partition"?}]}, or text/plain lines',
      { details: { field: 'records' } },
    )
  }
  return records.map((raw, index) => recordFromJson(raw, `records[${index}]`, nowMs))
}

const LINE_FEED = 10
const CARRIAGE_RETURN = 13

/** Lines end in LF or CRLF, the last one may end in neither. An empty line is an empty value. */
function linesOf(body: Uint8Array, nowMs: number): RecordRequest[] {
  const records: RecordRequest[] = []
  for (let start = 0; start < body.length; ) {
    const found = body.indexOf(LINE_FEED, start)
    const lineEnd = found === -1 ? body.length : found
    const end = found > start && body[found - 1] === CARRIAGE_RETURN ? found - 1 : lineEnd
    const value = body.subarray(start, end)
    records.push({ key: null, value, headers: [], timestampMs: nowMs, partition: null })
    start = lineEnd + 1
  }
  return records
}

function choosePartition(record: RecordRequest, topic: Topic, wanted: number | null, sticky: number): number {
  if (record.partition !== null) {
    if (record.partition >= topic.partitions) refusePartition(record.partition, topic)
    return record.partition
  }
  if (wanted !== null || record.key === null) return sticky
  return partitionForKey(record.key, topic.partitions)
}

/** What goes to one partition, in chunks of whole batches. */
interface Lane {
  partition: number
  /** Indices of the records in the request. */
  indices: number[]
  chunks: { batches: Uint8Array[]; sizeBytes: number; count: number }[]
}

function buildLanes(
  topic: Topic,
  records: readonly RecordRequest[],
  producer: LentProducer,
  partitionOf: (record: RecordRequest) => number,
): Lane[] {
  const byPartition = new Map<number, Lane>()
  records.forEach((record, index) => {
    const partition = partitionOf(record)
    const lane = byPartition.get(partition) ?? { partition, indices: [], chunks: [] }
    byPartition.set(partition, lane)
    lane.indices.push(index)
  })
  // One after another, so that only one builder holds a buffer.
  for (const lane of byPartition.values()) buildChunks(lane, topic, records, producer)
  return [...byPartition.values()]
}

function buildChunks(
  lane: Lane,
  topic: Topic,
  records: readonly RecordRequest[],
  { producerId, next }: LentProducer,
): void {
  const maxBatchBytes = largestRecordBatch(topic)
  let baseSequence = next(topic.topicId, lane.partition)
  const large = new BatchBuilder({ maxBytes: maxBatchBytes })
  const small = new BatchBuilder({
    maxBytes: Math.min(maxBatchBytes, TARGET_BATCH_BYTES),
    producerId,
    baseSequence,
  })
  const finish = (builder: BatchBuilder): void => {
    baseSequence += builder.recordCount
    addBatch(lane, builder)
    small.reset({ producerId, baseSequence })
    large.reset({ producerId, baseSequence })
  }
  large.reset({ producerId, baseSequence })
  for (const index of lane.indices) {
    const record = records[index]
    if (record === undefined) continue
    const { timestampMs, key, value, headers } = record
    if (small.append(timestampMs, key, value, headers)) continue
    if (small.recordCount > 0) finish(small)
    if (small.append(timestampMs, key, value, headers)) continue
    if (!large.append(timestampMs, key, value, headers)) refuseLarge(topic, index)
    finish(large)
  }
  if (small.recordCount > 0) finish(small)
}

/** A batch of one record of `maxRecordBytes`, which does not count the record's own length field. */
function largestRecordBatch(topic: Topic): number {
  const { maxRecordBytes } = topic.config
  return BATCH_HEADER_BYTES + varintBytes(maxRecordBytes) + maxRecordBytes
}

function refuseLarge(topic: Topic, index: number): never {
  const { maxRecordBytes } = topic.config
  throw new TributaryError(
    'record_too_large',
    `records[${index}] is over the ${maxRecordBytes} bytes that topic "${topic.name}" takes: ` +
      'make it smaller or raise maxRecordBytes of the topic; nothing of this request was written',
    { details: { index, maxRecordBytes } },
  )
}

function addBatch(lane: Lane, builder: BatchBuilder): void {
  const count = builder.recordCount
  const batch = builder.finish(0)
  const last = lane.chunks.at(-1)
  const isRoomy = last !== undefined && last.batches.length < MAX_BATCHES_A_CALL
  if (isRoomy && last.sizeBytes + batch.length <= APPEND_BYTES) {
    last.batches.push(batch)
    last.sizeBytes += batch.length
    last.count += count
  } else {
    lane.chunks.push({ batches: [batch], sizeBytes: batch.length, count })
  }
}

/** One call after another in each partition: the first of a producer unknown there sets where its numbers begin. */
async function appendLanes(
  { ports: { logs }, clock }: HttpContext,
  topic: Topic,
  lanes: readonly Lane[],
  recordCount: number,
): Promise<{ written: ProducedRange[]; failure: unknown }> {
  const offsets = new Float64Array(recordCount).fill(-1)
  const partitions = new Int32Array(recordCount)
  const appendLane = async ({ partition, indices, chunks }: Lane): Promise<void> => {
    let from = 0
    for (const { batches, count } of chunks) {
      const { baseOffset } = await appendSurely(logs, clock, topic.topicId, partition, concat(batches))
      for (let i = 0; i < count; i++) {
        const index = indices[from + i] ?? 0
        offsets[index] = baseOffset + i
        partitions[index] = partition
      }
      from += count
    }
  }
  const outcomes = await Promise.allSettled(lanes.map(appendLane))
  const failed = outcomes.find(outcome => outcome.status === 'rejected')
  return { written: rangesOf(offsets, partitions), failure: failed?.reason ?? null }
}

function rangesOf(offsets: Float64Array, partitions: Int32Array): ProducedRange[] {
  const ranges: ProducedRange[] = []
  let open: ProducedRange | undefined
  for (let index = 0; index < offsets.length; index++) {
    const offset = offsets[index] ?? -1
    const partition = partitions[index] ?? 0
    if (offset < 0) {
      open = undefined
    } else if (open?.partition === partition && open.offset + open.count === offset) {
      open.count++
    } else {
      open = { first: index, count: 1, partition, offset }
      ranges.push(open)
    }
  }
  return ranges
}

function partlyWritten(failure: unknown, written: readonly ProducedRange[]): unknown {
  if (!isTributaryError(failure) || written.length === 0) return failure
  const { retriable } = ERROR_CODES[failure.code]
  const advice = retriable ? 'send the others again' : 'the others were not written'
  return new TributaryError(
    failure.code,
    `${failure.message} (details.written has what is in the log: ${advice})`,
    {
      cause: failure,
      details: { ...failure.details, written },
    },
  )
}

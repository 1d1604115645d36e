import type { FastifyInstance } from 'fastify'
import { TributaryError } from '../../../common/errors.ts'
import { KIB, MIB } from '../../../common/limits.ts'
import { recordJson } from '../../../common/record-json.ts'
import type { Topic } from '../../ports.ts'
import type { HttpContext } from './context.ts'
import type { Query } from './query.ts'
import { nameParam, numberParam, partitionAsked, partitionParam, readQuery, timeParam } from './query.ts'
import { eachRecords } from './records.ts'

/**
 * Reading a range over REST.
 *
 *   GET /v1/topics/:name/records?partition=0&offset=100&limit=100&maxBytes=1048576
 *   -> {"records":[...],"nextOffset":200,"highWatermark":4711}, see common/record-json.ts
 *
 * `partition` may be left out where there is but one. `time=` instead of `offset=` starts at the first record of that event time
 * or later; without either it is the log's start. At least one record comes however large, where there is one; control records
 * are passed over, so offsets may skip. Ask again from `nextOffset` until it is `highWatermark`.
 */

export const DEFAULT_READ_LIMIT = 100
export const MAX_READ_LIMIT = 10_000
/** Of the answer's JSON. */
const DEFAULT_READ_BYTES = MIB
export const MAX_READ_BYTES = 16 * MIB
/** Batches read from the log at once. */
const PORTION_BYTES = 256 * KIB

export function registerRead(app: FastifyInstance, context: HttpContext): void {
  app.get('/v1/topics/:name/records', async (request, reply) => {
    const query = readQuery(request, ['partition', 'offset', 'time', 'limit', 'maxBytes'])
    const topic = await context.ports.topics.find(nameParam(request), partitionAsked(query))
    const partition = partitionParam(query, topic) ?? onlyPartition(topic)
    const limit = numberParam(query, 'limit', { min: 1, max: MAX_READ_LIMIT }, DEFAULT_READ_LIMIT)
    const maxBytes = numberParam(query, 'maxBytes', { min: 1, max: MAX_READ_BYTES }, DEFAULT_READ_BYTES)
    const offset = await startOffset(context, topic, partition, query)
    context.budget.take(maxBytes)
    reply.raw.once('close', () => context.budget.give(maxBytes))
    const text = await readRange(context, topic, { partition, offset, limit, maxBytes })
    return reply.type('application/json; charset=utf-8').send(text)
  })
}

function onlyPartition(topic: Topic): number {
  if (topic.partitions === 1) return 0
  throw new TributaryError(
    'invalid_argument',
    `topic "${topic.name}" has ${topic.partitions} partitions: say which with partition=0 to ${topic.partitions - 1}`,
    { details: { parameter: 'partition', partitions: topic.partitions } },
  )
}

async function startOffset(
  context: HttpContext,
  topic: Topic,
  partition: number,
  query: Query,
): Promise<number> {
  const offset = numberParam(query, 'offset', { min: 0, max: Number.MAX_SAFE_INTEGER }, null)
  const timeMs = timeParam(query, 'time')
  if (offset !== null && timeMs !== null) {
    throw new TributaryError('invalid_argument', 'offset and time are both given: give one of them', {
      details: { parameter: 'time' },
    })
  }
  const { logs } = context.ports
  if (timeMs !== null) return logs.offsetForTime(topic.topicId, partition, timeMs)
  return offset ?? (await logs.bounds(topic.topicId, partition)).startOffset
}

interface RangeRequest {
  partition: number
  offset: number
  limit: number
  maxBytes: number
}

async function readRange(context: HttpContext, topic: Topic, range: RangeRequest): Promise<string> {
  const { logs } = context.ports
  const { partition, limit, maxBytes } = range
  const { highWatermark: target } = await logs.bounds(topic.topicId, partition)
  let next = range.offset
  let count = 0
  let text = ''
  let full = false
  let highWatermark = target
  do {
    const result = await logs.read(topic.topicId, partition, next, Math.min(maxBytes, PORTION_BYTES))
    await eachRecords(context, result.batches, next, records => {
      for (const record of records) {
        const json = recordJson(topic.name, partition, record)
        full = count === limit || (count > 0 && text.length + json.length > maxBytes)
        if (full) return false
        text += count === 0 ? json : `,${json}`
        count++
        next = record.offset + 1
      }
      return true
    })
    if (result.isSettled) highWatermark = result.bounds.highWatermark
    if (!full) next = result.nextOffset
    full ||= count === limit || result.batches.length === 0
  } while (!full && next < target)
  return `{"records":[${text}],"nextOffset":${next},"highWatermark":${highWatermark}}`
}

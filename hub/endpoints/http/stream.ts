import type { FastifyInstance, FastifyRequest } from 'fastify'
import { TributaryError } from '../../../common/errors.ts'
import type { Position } from '../../../common/position.ts'
import type { PartitionBounds, Topic } from '../../ports.ts'
import type { HttpContext } from './context.ts'
import { countLimit } from './context.ts'
import type { RecordStream } from './event-stream.ts'
import { openRecordStream } from './event-stream.ts'
import { nameParam, partitionAsked, partitionParam, positionParam, readQuery } from './query.ts'
import { parseStreamId } from './stream-id.ts'

/**
 * Server-sent events: every record of a topic as it is committed.
 *
 *   GET /v1/topics/:name/stream[?from=earliest|latest|OFFSET|ISO-TIME][&partition=N]      (default: from=latest, all partitions)
 *   id: 3f2a9c01;0:17,4:3
 *   data: {"topic",...}            see common/record-json.ts
 *
 * `Last-Event-ID` goes before `from` and resumes without loss or repetition. An OFFSET counts in each partition. Comments
 * come as heartbeats. `event: reset` tells that a partition goes on elsewhere than where it was: {"partition","from","to",
 * "reason"}, reason `retention` (records were deleted before they were read) or `truncated` (the hub's log ends earlier).
 * `event: error` has the body of an error and is the last one. A reader that is slow is waited for, and holds
 * up nobody else.
 */

/** Ids name every partition, and come back in a request header. */
export const MAX_STREAM_PARTITIONS = 500

const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  // nginx would hold events back.
  'x-accel-buffering': 'no',
}

const LATEST: Position = { kind: 'latest' }

export interface Streams {
  count(): number
  /** Ends every stream after the event it is at. */
  close(): void
}

export function registerStream(app: FastifyInstance, context: HttpContext): Streams {
  const open = new Set<RecordStream>()
  let starting = 0

  app.get('/v1/topics/:name/stream', { exposeHeadRoute: false }, async (request, reply) => {
    const asked = partitionAsked(readQuery(request, ['from', 'partition']))
    const topic = await context.ports.topics.find(nameParam(request), asked)
    if (open.size + starting >= context.limits.maxStreams) refuseStream(context)
    starting++
    const { offsets, wholeTopic } = await startOf(context, topic, request).finally(() => starting--)
    reply.hijack()
    const response = reply.raw
    // A client that left meanwhile has had its close event.
    if (response.destroyed) return
    response.writeHead(200, STREAM_HEADERS)
    const stream = openRecordStream({ context, topic, offsets, wholeTopic, response, log: request.log })
    open.add(stream)
    response.once('close', () => {
      open.delete(stream)
      stream.close()
    })
  })

  return {
    count: () => open.size,
    close: () => {
      for (const stream of open) stream.close()
    },
  }
}

function refuseStream(context: HttpContext): never {
  countLimit(context, 'maxStreams')
  throw new TributaryError(
    'limit_exceeded',
    `${context.limits.maxStreams} streams are open (maxStreams): close some, or use the SDK's subscriptions`,
  )
}

/** Where each partition starts. */
async function startOf(
  context: HttpContext,
  topic: Topic,
  request: FastifyRequest,
): Promise<{ offsets: Map<number, number>; wholeTopic: boolean }> {
  const query = readQuery(request, ['from', 'partition'])
  const only = partitionParam(query, topic)
  if (only === null && topic.partitions > MAX_STREAM_PARTITIONS) {
    throw new TributaryError(
      'limit_exceeded',
      `topic "${topic.name}" has ${topic.partitions} partitions, one stream takes ${MAX_STREAM_PARTITIONS}: say partition=`,
    )
  }
  const position = positionParam(query, 'from', LATEST)
  const lastId = request.headers['last-event-id']
  const resumed = typeof lastId === 'string' && lastId !== '' ? parseStreamId(lastId, topic) : null
  const offsets = new Map<number, number>()
  const partitions = only === null ? Array.from({ length: topic.partitions }, (_, index) => index) : [only]
  for (const partition of partitions) {
    const offset = resumed
      ? (resumed.get(partition) ?? 0)
      : await offsetAt(context, topic, partition, position, only !== null)
    offsets.set(partition, offset)
  }
  return { offsets, wholeTopic: only === null }
}

async function offsetAt(
  context: HttpContext,
  topic: Topic,
  partition: number,
  position: Position,
  exact: boolean,
): Promise<number> {
  const { logs } = context.ports
  const bounds = await logs.bounds(topic.topicId, partition)
  switch (position.kind) {
    case 'earliest':
      return bounds.startOffset
    case 'latest':
      return bounds.highWatermark
    case 'time':
      return logs.offsetForTime(topic.topicId, partition, position.timeMs)
    case 'offset':
      return exact ? checkedOffset(position.offset, bounds) : clamp(position.offset, bounds)
  }
}

function checkedOffset(offset: number, bounds: PartitionBounds): number {
  if (clamp(offset, bounds) === offset) return offset
  const { startOffset, highWatermark } = bounds
  throw new TributaryError(
    'offset_out_of_range',
    `from is ${offset}; the partition has offsets ${startOffset} to ${highWatermark}: use one of them, earliest or latest`,
    { details: { startOffset, highWatermark } },
  )
}

function clamp(offset: number, { startOffset, highWatermark }: PartitionBounds): number {
  return Math.min(Math.max(offset, startOffset), highWatermark)
}

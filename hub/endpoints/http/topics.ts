import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { isTributaryError } from '../../../common/errors.ts'
import { KIB, SECOND_MS } from '../../../common/limits.ts'
import type { CreateTopic, PartitionBounds, Placement, Ports, Topic, TopicConfig } from '../../ports.ts'
import type { HttpContext } from './context.ts'
import { parseWith } from './errors.ts'
import { nameParam } from './query.ts'

/**
 * Topics over REST.
 *
 *   GET /v1/topics             {"topics":[{"name","topicId","partitions":12,"replication","internal","createdMs","config"}]}
 *   POST /v1/topics            {"name","partitions"?,"replication"?,"config"?} -> 201 and the topic as GET shows it
 *   GET /v1/topics/:name       as above, with "partitions":[{"partition","leader","replicas","isr","startOffset","endOffset",
 *                              "highWatermark",...}]; offsets are -1 where the partition has no leader now
 *   PATCH /v1/topics/:name     {"partitions"?,"config"?} -> the topic; partitions may only grow
 *   DELETE /v1/topics/:name    204
 */

/** A topic with where its partitions are, and where they stand. */
export interface TopicDescription extends Omit<Topic, 'partitions'> {
  partitions: (Placement & PartitionBounds)[]
}

type Described = Pick<Ports, 'logs' | 'cluster'>

/** How long a description waits for leaders. */
const DESCRIBE_WAIT_MS = SECOND_MS
/** Of a partition without one. */
const UNKNOWN: PartitionBounds = {
  startOffset: -1,
  endOffset: -1,
  highWatermark: -1,
  leaderEpoch: -1,
  sizeBytes: -1,
}
/** Bodies of these routes are small. */
const MAX_TOPIC_BODY_BYTES = 64 * KIB

/** Ranges and names are the controller's to judge; here is only what JSON can get wrong. */
const wholeNumber = z.int('it must be a whole number')
const nullable = z.int('it must be a whole number, or null for no bound').nullable()
const configFields = {
  retentionMs: nullable.optional(),
  retentionBytes: nullable.optional(),
  segmentBytes: wholeNumber.optional(),
  maxRecordBytes: wholeNumber.optional(),
  minInsyncReplicas: z.int('it must be a whole number, or null for the default').nullable().optional(),
  uncleanLeaderElection: z.boolean('it must be true or false').optional(),
}
const configSchema = z.strictObject(configFields, unknownKeys(Object.keys(configFields)))

const createSchema = z.strictObject(
  {
    name: z.string('it must be text'),
    partitions: wholeNumber.optional(),
    replication: wholeNumber.optional(),
    config: configSchema.optional(),
  },
  unknownKeys(['name', 'partitions', 'replication', 'config']),
)
const alterSchema = z.strictObject(
  { partitions: wholeNumber.optional(), config: configSchema.optional() },
  unknownKeys(['partitions', 'config']),
)

function unknownKeys(known: readonly string[]) {
  const error = (issue: { code?: string | undefined }): string =>
    issue.code === 'unrecognized_keys'
      ? `it has a field that is not known; known are ${known.join(', ')}`
      : `it must be an object with ${known.join(', ')}`
  return { error }
}

export function registerTopics(app: FastifyInstance, context: HttpContext): void {
  const { topics } = context.ports
  const options = { bodyLimit: MAX_TOPIC_BODY_BYTES }

  app.get('/v1/topics', async () => ({ topics: topics.list() }))

  app.post('/v1/topics', options, async (request, reply) => {
    const { name, partitions, replication, config } = parseWith(createSchema, request.body, 'body')
    const wanted: CreateTopic = { name }
    if (partitions !== undefined) wanted.partitions = partitions
    if (replication !== undefined) wanted.replication = replication
    if (config !== undefined) wanted.config = configOf(config)
    const topic = await topics.create(wanted)
    return reply
      .code(201)
      .header('location', `/v1/topics/${topic.name}`)
      .send(await describeTopic(topic, context.ports))
  })

  app.get('/v1/topics/:name', async request =>
    describeTopic(await topics.find(nameParam(request)), context.ports),
  )

  app.patch('/v1/topics/:name', options, async request => {
    const { partitions, config } = parseWith(alterSchema, request.body, 'body')
    const change: { partitions?: number; config?: Partial<TopicConfig> } = {}
    if (partitions !== undefined) change.partitions = partitions
    if (config !== undefined) change.config = configOf(config)
    return describeTopic(await topics.alter(nameParam(request), change), context.ports)
  })

  app.delete('/v1/topics/:name', async (request, reply) => {
    await topics.delete(nameParam(request))
    return reply.code(204).send()
  })
}

/** Without the keys that were not given: the ports tell absent from undefined. */
function configOf(parsed: z.infer<typeof configSchema>): Partial<TopicConfig> {
  const config: Partial<TopicConfig> = {}
  if (parsed.retentionMs !== undefined) config.retentionMs = parsed.retentionMs
  if (parsed.retentionBytes !== undefined) config.retentionBytes = parsed.retentionBytes
  if (parsed.segmentBytes !== undefined) config.segmentBytes = parsed.segmentBytes
  if (parsed.maxRecordBytes !== undefined) config.maxRecordBytes = parsed.maxRecordBytes
  if (parsed.minInsyncReplicas !== undefined) config.minInsyncReplicas = parsed.minInsyncReplicas
  if (parsed.uncleanLeaderElection !== undefined) config.uncleanLeaderElection = parsed.uncleanLeaderElection
  return config
}

async function describeTopic(topic: Topic, { logs, cluster }: Described): Promise<TopicDescription> {
  const { topicId, partitions } = topic
  const bounds = await Promise.all(
    Array.from({ length: partitions }, (_, partition) => boundsNow(logs, topicId, partition)),
  )
  // The places as they are when the leaders have answered; the epoch is the one that the offsets are of.
  const places = cluster.placements(topicId)
  return {
    ...topic,
    partitions: bounds.map((stands, partition) => ({ ...placeOf(places, partition), ...stands })),
  }
}

function placeOf(places: readonly Placement[], partition: number): Placement {
  const none = { leader: null, leaderEpoch: 0, replicas: [], isr: [], adding: [], removing: [] }
  return places[partition] ?? { partition, ...none }
}

/** One partition without a leader must not hide all others. */
async function boundsNow(logs: Ports['logs'], topicId: string, partition: number): Promise<PartitionBounds> {
  try {
    return await logs.bounds(topicId, partition, DESCRIBE_WAIT_MS)
  } catch (error) {
    if (isTributaryError(error) && error.retriable) return UNKNOWN
    throw error
  }
}

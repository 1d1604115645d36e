import { TributaryError } from '../../common/errors.ts'
import { MAX_LANES } from '../../common/limits.ts'
import type { CreateTopic, EdgeAlarm, Topic, TopicConfig } from '../ports.ts'
import { settle, viewOf } from './election.ts'
import type { Image, ImageRecord } from './image.ts'
import { checkEdgeId, checkTopicName, DEAD_TOPIC, GAPS_TOPIC } from './names.ts'
import { placeLane } from './placement.ts'
import { placePartitions } from './places.ts'
import type { Grant, Verdict } from './sessions.ts'
import { confirmSession, grantSession, NO_SESSION } from './sessions.ts'
import { checkTopicConfig } from './topic-config.ts'

/**
 * The controller's rules: each request, judged against the image, gives the records that would make it so and the
 * response to send once they are committed. Nothing here changes the image; a refusal is a TributaryError and no record.
 */

export interface ControllerSettings {
  autoCreateTopics: boolean
  defaultPartitions: number
  maxTopics: number
  maxPartitions: number
  maxEdges: number
  /** Replicas of topics that don't say how many, as far as there are nodes. */
  defaultReplication: number
  topicDefaults: TopicConfig
  /** The largest `maxRecordBytes` a topic may have: a record must fit a frame. */
  maxRecordBytesCeiling: number
}

/** What a pure rule may not find out by itself. */
export interface Context {
  nowMs: number
  /** 32 random hexadecimal digits, for a topic that may be made. */
  freshTopicId: string
}

export interface Plan<Response> {
  records: ImageRecord[]
  response: Response
}

/** Ids reserved by one record, so that most allocations need no commit. */
const PRODUCER_ID_BLOCK = 1_000
/** Ids from here on are edges' runs. */
const CLIENT_PRODUCER_IDS_END = 2 ** 52
/** Lanes an edge may be bound to, over all topics. */
const MAX_LANES_PER_EDGE = 16_384

/** Makes a topic. Throws `topic_exists`, `invalid_argument`, `limit_exceeded`. */
export function createTopic(
  image: Image,
  settings: ControllerSettings,
  request: CreateTopic,
  context: Context,
): Plan<Topic> {
  checkTopicName(request.name)
  if (image.topicByName(request.name) !== undefined) {
    throw new TributaryError('topic_exists', `topic "${request.name}" exists already`)
  }
  const { partitions = settings.defaultPartitions, replication = null } = request
  const config = { ...settings.topicDefaults, ...request.config }
  checkPartitions(image, settings, partitions, 0)
  checkTopicConfig(config, settings.maxRecordBytesCeiling)
  if (image.topicCount() >= settings.maxTopics) {
    refuseLimit('maxTopics', settings.maxTopics, 'delete topics or raise maxTopics')
  }
  return planTopic(image, settings, { name: request.name, partitions, replication, config }, context)
}

/**
 * The topic a producer writes to, made where it is not there. Throws `unknown_topic` where topics are not made so,
 * `topic_deleted` for a name that was deleted: a producer that was left running must not undo that, and edges that
 * wrote there would be bound to what it made. Throws `invalid_argument`, `limit_exceeded`.
 */
export function topicForProducer(
  image: Image,
  settings: ControllerSettings,
  name: string,
  context: Context,
): Plan<Topic> {
  const topic = image.topicByName(name)
  if (topic !== undefined) return { records: [], response: topic }
  if (image.deletedNamed(name).length > 0) {
    throw new TributaryError('topic_deleted', `topic "${name}" was deleted; an operator may create it again`)
  }
  return makeUnknown(image, settings, name, context)
}

function makeUnknown(
  image: Image,
  settings: ControllerSettings,
  name: string,
  context: Context,
): Plan<Topic> {
  if (settings.autoCreateTopics && !isInternal(name)) return createTopic(image, settings, { name }, context)
  throw new TributaryError(
    'unknown_topic',
    `there is no topic "${name}" and autoCreateTopics is off: create it`,
  )
}

function planTopic(
  image: Image,
  settings: ControllerSettings,
  wanted: Pick<Topic, 'name' | 'partitions' | 'replication' | 'config'>,
  { nowMs, freshTopicId: topicId }: Context,
): Plan<Topic> {
  const topic = { ...wanted, topicId, internal: isInternal(wanted.name), createdMs: nowMs }
  const { createdMs: atMs, ...fields } = topic
  const places = placePartitions(image, topic, 0, settings.defaultReplication)
  return { records: [{ type: 'topic_created', ...fields, atMs }, ...places], response: topic }
}

function isInternal(name: string): boolean {
  return name === GAPS_TOPIC || name === DEAD_TOPIC
}

function refuseLimit(name: string, limit: number, advice: string): never {
  throw new TributaryError('limit_exceeded', `${name} (${limit}) is reached: ${advice}`, {
    details: { limit: name, value: limit },
  })
}

function checkPartitions(image: Image, settings: ControllerSettings, wanted: number, present: number): void {
  if (!Number.isSafeInteger(wanted) || wanted < 1) {
    throw new TributaryError('invalid_argument', `partitions must be a whole number from 1, not ${wanted}`)
  }
  if (image.partitionCount() + wanted - present > settings.maxPartitions) {
    refuseLimit(
      'maxPartitions',
      settings.maxPartitions,
      'ask for fewer partitions, delete topics or raise it',
    )
  }
}

function namedTopic(image: Image, name: string): Topic {
  const topic = image.topicByName(name)
  if (topic !== undefined) return topic
  throw new TributaryError('unknown_topic', `there is no topic "${name}"; see "tributary topics list"`)
}

/** Changes settings; partitions may only grow. Throws `unknown_topic`, `invalid_argument`, `limit_exceeded`. */
export function alterTopic(
  image: Image,
  settings: ControllerSettings,
  name: string,
  change: { partitions?: number; config?: Partial<TopicConfig> },
): Plan<Topic> {
  const topic = namedTopic(image, name)
  const partitions = change.partitions ?? topic.partitions
  const config = { ...topic.config, ...change.config }
  checkPartitions(image, settings, partitions, topic.partitions)
  if (partitions < topic.partitions) {
    throw new TributaryError(
      'invalid_argument',
      `topic "${name}" has ${topic.partitions} partitions, which may only grow; make another topic for fewer`,
    )
  }
  if (name === GAPS_TOPIC && partitions !== topic.partitions) {
    throw new TributaryError(
      'invalid_argument',
      `"${name}" keeps its one partition, so that gaps stay in order`,
    )
  }
  checkTopicConfig(config, settings.maxRecordBytesCeiling)
  const { topicId, replication } = topic
  const altered = { ...topic, partitions, config }
  return {
    records: [
      { type: 'topic_altered', topicId, partitions, replication, config },
      ...placesOfMore(image, settings, topic, altered),
      ...leadersOf(image, altered),
    ],
    response: altered,
  }
}

function placesOfMore(
  image: Image,
  settings: ControllerSettings,
  before: Topic,
  after: Topic,
): ImageRecord[] {
  if (after.partitions === before.partitions) return []
  return placePartitions(image, after, before.partitions, settings.defaultReplication)
}

/** Leaders for partitions that have none, where the topic's settings allow any. */
function leadersOf(image: Image, { topicId, config }: Topic): ImageRecord[] {
  if (!config.uncleanLeaderElection) return []
  const nodes = viewOf(image)
  return image.partitionsOf(topicId).flatMap(state => {
    return state?.leader === null ? (settle(state, nodes, true) ?? []) : []
  })
}

/** Deletes a topic; its id and name stay known. Throws `unknown_topic`; `invalid_argument` for an internal topic. */
export function deleteTopic(image: Image, name: string, nowMs: number): Plan<Topic> {
  const topic = namedTopic(image, name)
  if (topic.internal) {
    throw new TributaryError(
      'invalid_argument',
      `"${name}" is the hub's own and can't be deleted; set its retention`,
    )
  }
  return {
    records: [{ type: 'topic_deleted', topicId: topic.topicId, name, atMs: nowMs }],
    response: topic,
  }
}

/** The hub's own topics, where one is missing. `freshTopicIds` has one for each. */
export function ensureInternalTopics(
  image: Image,
  settings: ControllerSettings,
  freshTopicIds: readonly [string, string],
  nowMs: number,
): Plan<null> {
  const records: ImageRecord[] = []
  const wanted = [
    // One partition: alerts want the gaps of all edges in one order, and they are few.
    { name: GAPS_TOPIC, partitions: 1, freshTopicId: freshTopicIds[0] },
    { name: DEAD_TOPIC, partitions: settings.defaultPartitions, freshTopicId: freshTopicIds[1] },
  ]
  for (const { name, partitions, freshTopicId } of wanted) {
    if (image.topicByName(name) !== undefined) continue
    // What was lost is told for as long as someone may ask: until the operator sets another retention.
    const config = { ...settings.topicDefaults, retentionMs: null }
    const topic = { name, partitions, replication: null, config }
    records.push(...planTopic(image, settings, topic, { nowMs, freshTopicId }).records)
  }
  return { records, response: null }
}

export interface ConnectRequest {
  edgeId: string
  /** The number presented. */
  session: number
  address: string
  software: string
}

export interface ConnectResponse {
  session: number
  verdict: Verdict
  alarm: EdgeAlarm | null
}

/** Registers the edge where it is new, judges the session it presents and grants the next; see sessions.ts. */
export function connectEdge(
  image: Image,
  settings: ControllerSettings,
  request: ConnectRequest,
  nowMs: number,
): Plan<ConnectResponse> {
  const { edgeId, session: presented, address, software } = request
  checkEdgeId(edgeId)
  const known = image.edge(edgeId)
  const records: ImageRecord[] = []
  if (known === undefined) {
    if (image.edgeCount() >= settings.maxEdges) {
      refuseLimit('maxEdges', settings.maxEdges, 'remove edges that are gone ("tributary edges remove")')
    }
    records.push({ type: 'edge_registered', edgeId, atMs: nowMs })
  }
  const grant = grantSession(known?.session ?? NO_SESSION, known?.fork ?? null, presented, nowMs)
  const alarm = alarmOf(edgeId, presented, known?.session.confirmed ?? 0, grant, nowMs)
  const { state: session } = grant
  const common = { address: address.slice(0, MAX_SHOWN), software: software.slice(0, MAX_SHOWN), atMs: nowMs }
  const granted = { type: 'session_granted' as const, edgeId, session, fork: known?.fork ?? null, ...common }
  const { session: number, verdict, fork } = grant
  if (verdict === 'fork' && fork !== null && alarm !== null) {
    // This hello may be of a connection that the edge has given up: whether it forks shows when it says that it holds the number.
    records.push({ ...granted, alarm: null, claim: { session: number, fork, alarm } })
    return { records, response: { session: number, verdict, alarm: null } }
  }
  records.push({ ...granted, alarm, claim: null })
  return { records, response: { session: number, verdict, alarm } }
}

/** Characters of what an edge says of itself that are kept. */
const MAX_SHOWN = 200

function alarmOf(
  edgeId: string,
  presented: number,
  held: number,
  grant: Grant,
  nowMs: number,
): EdgeAlarm | null {
  if (grant.alarm === null) return null
  const came = `edge ${edgeId} came with session ${presented} after session ${held}`
  const messages = {
    fork:
      presented === 0
        ? `edge ${edgeId} came as new after session ${held}: its directory was wiped or replaced, or the id is used twice`
        : `${came}: its directory was copied or rolled back; it opens new runs, records may be there twice`,
    clone: `two agents take turns as edge ${edgeId}: stop one of them, or give it an id and a data directory of its own`,
    'hub-rollback': `edge ${edgeId} came with session ${presented}, this hub knows of ${held}: the hub's directory is older than the edge's, or the edge comes from another hub`,
  }
  return { kind: grant.alarm, atMs: nowMs, message: messages[grant.alarm] }
}

/** The edge holds the session durably: gives what is to be alarmed of now. Throws `fenced` where it isn't the newest, `not_found` for an unknown edge. */
export function confirmEdge(image: Image, edgeId: string, session: number): Plan<EdgeAlarm | null> {
  const edge = image.edge(edgeId)
  if (edge === undefined) throw unknownEdge(edgeId)
  const state = confirmSession(edge.session, session)
  if (state === null) {
    throw new TributaryError(
      'fenced',
      `session ${session} of edge ${edgeId} is not its newest (${edge.session.newest}): another connection of this edge came later`,
    )
  }
  if (state.confirmed === edge.session.confirmed) return { records: [], response: null }
  const response = edge.claim?.session === session ? edge.claim.alarm : null
  return { records: [{ type: 'session_confirmed', edgeId, session: state }], response }
}

function unknownEdge(edgeId: string): TributaryError {
  return new TributaryError('not_found', `there is no edge "${edgeId}"; see "tributary edges list"`)
}

/** Forgets an edge. Throws `not_found`. */
export function removeEdge(image: Image, edgeId: string): Plan<null> {
  if (image.edge(edgeId) === undefined) throw unknownEdge(edgeId)
  return { records: [{ type: 'edge_removed', edgeId }], response: null }
}

export interface BindRequest {
  edgeId: string
  topic: string
  /** The id the edge last wrote to, null where it never heard of one. */
  topicId: string | null
  lane: number
  lanes: number
  partitionBy: 'edge' | 'key'
}

/**
 * Finds or makes the topic and binds the lane. Throws `topic_deleted` where the id presented is gone, or the name was
 * deleted and this edge wrote to it: only an operator makes it again. Throws `unknown_topic`, `not_found` (edge),
 * `invalid_argument`, `limit_exceeded`.
 */
export function bindLane(
  image: Image,
  settings: ControllerSettings,
  request: BindRequest,
  context: Context,
): Plan<{ topic: Topic; partition: number }> {
  const { edgeId, lane } = request
  const edge = image.edge(edgeId)
  if (edge === undefined) throw unknownEdge(edgeId)
  checkLane(request)
  const { records, response: topic } = topicForLane(image, settings, request, context)
  const bound = edge.lanes.get(topic.topicId)?.get(lane)
  if (bound !== undefined) return { records, response: { topic, partition: bound } }
  let lanes = 0
  for (const ofTopic of edge.lanes.values()) lanes += ofTopic.size
  if (lanes >= MAX_LANES_PER_EDGE) {
    refuseLimit('MAX_LANES_PER_EDGE', MAX_LANES_PER_EDGE, `edge ${edgeId} writes to too many topics`)
  }
  const partition = placeLane(request, topic.partitions)
  return {
    records: [...records, { type: 'lane_bound', edgeId, topicId: topic.topicId, lane, partition }],
    response: { topic, partition },
  }
}

function checkLane({ lane, lanes }: BindRequest): void {
  if (Number.isSafeInteger(lane) && lane >= 0 && lane < lanes && lanes <= MAX_LANES) return
  throw new TributaryError(
    'invalid_argument',
    `lane ${lane} of ${lanes} is not one of at most ${MAX_LANES} lanes`,
  )
}

function topicForLane(
  image: Image,
  settings: ControllerSettings,
  request: BindRequest,
  context: Context,
): Plan<Topic> {
  const { edgeId, topic: name, topicId } = request
  if (name === GAPS_TOPIC) {
    throw new TributaryError('invalid_argument', `"${name}" is written by the hub alone`)
  }
  const topic = image.topicByName(name)
  const gone = topicId !== null && image.deletedTopic(topicId) !== undefined
  // An id this hub never knew is of another cluster or of a future this directory lost: the edge sees by the id in the
  // answer that it has moved.
  if (topic !== undefined && !gone) return { records: [], response: topic }
  if (gone || wroteToDeleted(image, edgeId, name)) {
    throw new TributaryError(
      'topic_deleted',
      `topic "${name}" was deleted${topic === undefined ? '; an operator may create it again' : ' and made again'}`,
      { details: { topicId: topic?.topicId ?? null } },
    )
  }
  return makeUnknown(image, settings, name, context)
}

/** An edge that asks again without an id, after it was told of the deletion, must not undo it either. */
function wroteToDeleted(image: Image, edgeId: string, name: string): boolean {
  const lanes = image.edge(edgeId)?.lanes
  return image.deletedNamed(name).some(({ topicId }) => lanes?.has(topicId) ?? false)
}

/** Reserves the next block of client producer ids. */
export function reserveProducerIds(image: Image): Plan<{ from: number; to: number }> {
  const from = image.nextProducerId()
  const to = from + PRODUCER_ID_BLOCK
  if (to > CLIENT_PRODUCER_IDS_END) {
    refuseLimit('CLIENT_PRODUCER_IDS_END', CLIENT_PRODUCER_IDS_END, 'no producer ids are left')
  }
  return { records: [{ type: 'producer_ids', next: to }], response: { from, to } }
}

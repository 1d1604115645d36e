import type { EdgeAlarm, Topic } from '../ports.ts'
import type { MetadataRecord, MetadataRecordOf } from './records.ts'
import { METADATA_FORMAT } from './records.ts'
import type { Fork, SessionState } from './sessions.ts'
import { NO_SESSION } from './sessions.ts'

/** Newest alarms kept per edge. */
export const MAX_ALARMS_PER_EDGE = 20
/** Deleted topics remembered; the oldest is forgotten, and an edge that comes back to it then finds it unknown. */
export const MAX_DELETED_TOPICS = 10_000

/** An edge as the metadata knows it; what changes by the second (connections, reports) is the engine's. */
export interface EdgeState {
  readonly id: string
  readonly session: SessionState
  readonly fork: Fork | null
  readonly alarms: readonly EdgeAlarm[]
  readonly address: string
  readonly software: string
  readonly firstSeenMs: number
  readonly lastSeenMs: number
  /** Topic id -> lane -> partition; bindings to deleted topics stay, so that their names are not made again. */
  readonly lanes: ReadonlyMap<string, ReadonlyMap<number, number>>
}

interface MutableEdge extends EdgeState {
  session: SessionState
  fork: Fork | null
  alarms: readonly EdgeAlarm[]
  address: string
  software: string
  lastSeenMs: number
  lanes: Map<string, Map<number, number>>
}

export interface DeletedTopic {
  readonly topicId: string
  readonly name: string
  readonly atMs: number
}

/** Records that change an image; a snapshot's mark replaces it instead. */
export type ImageRecord = Exclude<MetadataRecord, { type: 'snapshot' }>

/** The cluster's metadata, for reading. Changed by `replay` alone. */
export interface Image {
  clusterId(): string | null
  topics(): Topic[]
  topicByName(name: string): Topic | undefined
  topicById(topicId: string): Topic | undefined
  deletedTopic(topicId: string): DeletedTopic | undefined
  /** Deleted topics that had this name, oldest first. */
  deletedNamed(name: string): readonly DeletedTopic[]
  deletedTopics(): number
  edge(edgeId: string): EdgeState | undefined
  edges(): EdgeState[]
  edgeCount(): number
  topicCount(): number
  /** Of all topics together. */
  partitionCount(): number
  nextProducerId(): number
  replay(record: ImageRecord): void
  /** Records that make this image from an empty one: a snapshot. */
  records(): ImageRecord[]
}

/**
 * An image without anything in it. Records about edges and topics it does not know are passed over: where the log was
 * damaged they may come without what they build on, and the hub starts with what is left.
 */
export function emptyImage(): Image {
  let cluster: MetadataRecordOf<'cluster'> | null = null
  let nextProducerId = 0
  let partitionCount = 0
  const byName = new Map<string, Topic>()
  const byId = new Map<string, Topic>()
  const deletedById = new Map<string, DeletedTopic>()
  const deletedByName = new Map<string, DeletedTopic[]>()
  const edges = new Map<string, MutableEdge>()

  function putTopic(topic: Topic): void {
    partitionCount += topic.partitions - (byId.get(topic.topicId)?.partitions ?? 0)
    byName.set(topic.name, topic)
    byId.set(topic.topicId, topic)
  }

  function replayTopic(record: MetadataRecordOf<'topic_created' | 'topic_altered' | 'topic_deleted'>): void {
    if (record.type === 'topic_created') {
      const { topicId, name, partitions, internal, config, atMs } = record
      putTopic({ name, topicId, partitions, internal, createdMs: atMs, config })
      return
    }
    const topic = byId.get(record.topicId)
    if (record.type === 'topic_altered') {
      const { partitions, config } = record
      if (topic !== undefined) putTopic({ ...topic, partitions, config })
      return
    }
    if (topic !== undefined) {
      partitionCount -= topic.partitions
      byName.delete(topic.name)
      byId.delete(topic.topicId)
    }
    const { topicId, name, atMs } = record
    const deleted = { topicId, name, atMs }
    deletedById.set(topicId, deleted)
    deletedByName.set(name, [...(deletedByName.get(name) ?? []), deleted])
    if (deletedById.size > MAX_DELETED_TOPICS) forgetOldestDeleted()
  }

  function forgetOldestDeleted(): void {
    for (const { topicId, name } of deletedById.values()) {
      deletedById.delete(topicId)
      const others = (deletedByName.get(name) ?? []).filter(deleted => deleted.topicId !== topicId)
      if (others.length === 0) deletedByName.delete(name)
      else deletedByName.set(name, others)
      return
    }
  }

  function registerEdge(edgeId: string, atMs: number): void {
    edges.set(edgeId, {
      id: edgeId,
      session: NO_SESSION,
      fork: null,
      alarms: [],
      address: '',
      software: '',
      firstSeenMs: atMs,
      lastSeenMs: atMs,
      lanes: new Map(),
    })
  }

  function grant(record: MetadataRecordOf<'session_granted'>): void {
    const edge = edges.get(record.edgeId)
    if (edge === undefined) return
    edge.session = record.session
    edge.fork = record.fork
    edge.address = record.address
    edge.software = record.software
    edge.lastSeenMs = record.atMs
    if (record.alarm !== null) edge.alarms = [...edge.alarms, record.alarm].slice(-MAX_ALARMS_PER_EDGE)
  }

  function bind({ edgeId, topicId, lane, partition }: MetadataRecordOf<'lane_bound'>): void {
    const edge = edges.get(edgeId)
    if (edge === undefined) return
    const bound = edge.lanes.get(topicId) ?? new Map<number, number>()
    bound.set(lane, partition)
    edge.lanes.set(topicId, bound)
  }

  function replay(record: ImageRecord): void {
    switch (record.type) {
      case 'cluster':
        cluster = record
        return
      case 'topic_created':
      case 'topic_altered':
      case 'topic_deleted':
        replayTopic(record)
        return
      case 'edge_registered':
        registerEdge(record.edgeId, record.atMs)
        return
      case 'session_granted':
        grant(record)
        return
      case 'session_confirmed': {
        const edge = edges.get(record.edgeId)
        if (edge !== undefined) edge.session = record.session
        return
      }
      case 'edge_removed':
        edges.delete(record.edgeId)
        return
      case 'lane_bound':
        bind(record)
        return
      case 'producer_ids':
        nextProducerId = record.next
    }
  }

  function edgeRecords(edge: EdgeState): ImageRecord[] {
    const made: ImageRecord[] = [{ type: 'edge_registered', edgeId: edge.id, atMs: edge.firstSeenMs }]
    const { session, fork, address, software, lastSeenMs } = edge
    // One grant per alarm brings the list of alarms back; the last one carries the state.
    for (const alarm of edge.alarms.length === 0 ? [null] : edge.alarms) {
      const common = { session, fork, alarm, address, software, atMs: lastSeenMs }
      made.push({ type: 'session_granted', edgeId: edge.id, ...common })
    }
    for (const [topicId, lanes] of edge.lanes) {
      for (const [lane, partition] of lanes) {
        made.push({ type: 'lane_bound', edgeId: edge.id, topicId, lane, partition })
      }
    }
    return made
  }

  function records(): ImageRecord[] {
    const made: ImageRecord[] = cluster === null ? [] : [cluster]
    for (const { topicId, name, partitions, internal, config, createdMs } of byId.values()) {
      made.push({ type: 'topic_created', topicId, name, partitions, internal, config, atMs: createdMs })
    }
    for (const deleted of deletedById.values()) made.push({ type: 'topic_deleted', ...deleted })
    for (const edge of edges.values()) made.push(...edgeRecords(edge))
    made.push({ type: 'producer_ids', next: nextProducerId })
    return made
  }

  return {
    clusterId: () => cluster?.clusterId ?? null,
    topics: () => [...byId.values()],
    topicByName: name => byName.get(name),
    topicById: topicId => byId.get(topicId),
    deletedTopic: topicId => deletedById.get(topicId),
    deletedNamed: name => deletedByName.get(name) ?? [],
    deletedTopics: () => deletedById.size,
    edge: edgeId => edges.get(edgeId),
    edges: () => [...edges.values()],
    edgeCount: () => edges.size,
    topicCount: () => byId.size,
    partitionCount: () => partitionCount,
    nextProducerId: () => nextProducerId,
    replay,
    records,
  }
}

/** The record that founds a cluster. */
export function foundingRecord(clusterId: string, nowMs: number): ImageRecord {
  return { type: 'cluster', clusterId, format: METADATA_FORMAT, atMs: nowMs }
}

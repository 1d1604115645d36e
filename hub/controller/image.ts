import type { Topic } from '../ports.ts'
import type { EdgeState, EdgeTable } from './image-edges.ts'
import { createEdgeTable } from './image-edges.ts'
import type { SeatTable } from './image-seats.ts'
import { createSeatTable } from './image-seats.ts'
import type { MetadataRecord, MetadataRecordOf } from './records.ts'
import { METADATA_FORMAT } from './records.ts'
import type { Todo, TodoIndex } from './todo.ts'
import { createTodo } from './todo.ts'
import type { NodeState, PartitionState } from './types.ts'

/** Deleted topics remembered; the oldest is forgotten, and an edge that comes back to it then finds it unknown. */
export const MAX_DELETED_TOPICS = 10_000

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
  /** In the order in which they first came. */
  nodes(): NodeState[]
  node(nodeId: number): NodeState | undefined
  /** The highest incarnation ever given, 0 before any. */
  lastIncarnation(): number
  /** Undefined where the partition is not there, and where it has no place yet (topics of before there were nodes). */
  partition(topicId: string, partition: number): PartitionState | undefined
  /** By partition number; those without a place are undefined or beyond the end. */
  partitionsOf(topicId: string): readonly (PartitionState | undefined)[]
  partitionStates(): Iterable<PartitionState>
  /** Those that have the node among their replicas; don't replay while iterating. */
  partitionsOn(nodeId: number): ReadonlySet<PartitionState>
  /** Made when first asked for, and kept from then on. */
  todo(): Todo
  replay(record: ImageRecord): void
  /** Records that make this image from an empty one: a snapshot. */
  records(): ImageRecord[]
  /** Another image of the same contents, which goes its own way: for requests judged upon what is not committed yet. */
  copy(): Image
}

interface Contents {
  cluster: MetadataRecordOf<'cluster'> | null
  nextProducerId: number
  partitionCount: number
  byName: Map<string, Topic>
  byId: Map<string, Topic>
  deletedById: Map<string, DeletedTopic>
  deletedByName: Map<string, readonly DeletedTopic[]>
  edges: EdgeTable
  seats: SeatTable
}

/**
 * An image without anything in it. Records about edges and topics it does not know are passed over: where the log was
 * damaged they may come without what they build on, and the hub starts with what is left.
 */
export function emptyImage(): Image {
  return imageOf({
    cluster: null,
    nextProducerId: 0,
    partitionCount: 0,
    byName: new Map(),
    byId: new Map(),
    deletedById: new Map(),
    deletedByName: new Map(),
    edges: createEdgeTable(),
    seats: createSeatTable(),
  })
}

function copyOf(contents: Contents): Contents {
  return {
    ...contents,
    byName: new Map(contents.byName),
    byId: new Map(contents.byId),
    deletedById: new Map(contents.deletedById),
    deletedByName: new Map(contents.deletedByName),
    edges: contents.edges.copy(),
    seats: contents.seats.copy(),
  }
}

function imageOf(contents: Contents): Image {
  const { byName, byId, deletedById, deletedByName, edges, seats } = contents
  let todo: TodoIndex | null = null

  function putTopic(topic: Topic): void {
    const before = byId.get(topic.topicId)
    contents.partitionCount += topic.partitions - (before?.partitions ?? 0)
    byName.set(topic.name, topic)
    byId.set(topic.topicId, topic)
    if (before !== undefined && before.replication !== topic.replication) {
      for (const state of placed(topic.topicId)) {
        todo?.partitionChanged({ topic: before, state }, { topic, state })
      }
    }
    todo?.topicChanged(topic.topicId, topic)
  }

  function placed(topicId: string): PartitionState[] {
    return seats.partitionsOf(topicId).filter(state => state !== undefined)
  }

  function changePartition(record: MetadataRecordOf<'partition_changed'>): void {
    const { topicId, partition } = record
    const topic = byId.get(topicId)
    if (topic === undefined || partition >= topic.partitions) return
    const before = seats.partition(topicId, partition)
    seats.replay(record)
    const after = seats.partition(topicId, partition)
    todo?.partitionChanged(before && { topic, state: before }, after && { topic, state: after })
  }

  function makeTodo(): Todo {
    const made = createTodo()
    for (const topic of byId.values()) {
      made.topicChanged(topic.topicId, topic)
      for (const state of placed(topic.topicId)) made.partitionChanged(undefined, { topic, state })
    }
    todo = made
    return made
  }

  function replayTopic(record: MetadataRecordOf<'topic_created' | 'topic_altered' | 'topic_deleted'>): void {
    if (record.type === 'topic_created') {
      const { type: _type, atMs: createdMs, ...given } = record
      putTopic({ ...given, createdMs })
      return
    }
    const topic = byId.get(record.topicId)
    if (record.type === 'topic_altered') {
      const { partitions, replication, config } = record
      if (topic !== undefined) putTopic({ ...topic, partitions, replication, config })
      return
    }
    if (topic !== undefined) {
      contents.partitionCount -= topic.partitions
      for (const state of placed(topic.topicId)) todo?.partitionChanged({ topic, state }, undefined)
      todo?.topicChanged(topic.topicId, undefined)
      seats.forgetTopic(topic.topicId)
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

  function replay(record: ImageRecord): void {
    switch (record.type) {
      case 'cluster':
        contents.cluster = record
        return
      case 'producer_ids':
        contents.nextProducerId = record.next
        return
      case 'topic_created':
      case 'topic_altered':
      case 'topic_deleted':
        replayTopic(record)
        return
      case 'edge_registered':
      case 'session_granted':
      case 'session_confirmed':
      case 'edge_removed':
      case 'lane_bound':
        edges.replay(record)
        return
      case 'partition_changed':
        changePartition(record)
        return
      default:
        seats.replay(record)
    }
  }

  function records(): ImageRecord[] {
    const made: ImageRecord[] = contents.cluster === null ? [] : [contents.cluster]
    for (const { createdMs: atMs, ...topic } of byId.values()) {
      made.push({ type: 'topic_created', ...topic, atMs })
    }
    for (const deleted of deletedById.values()) made.push({ type: 'topic_deleted', ...deleted })
    for (const record of edges.records()) made.push(record)
    for (const record of seats.records()) made.push(record)
    made.push({ type: 'producer_ids', next: contents.nextProducerId })
    return made
  }

  return {
    clusterId: () => contents.cluster?.clusterId ?? null,
    topics: () => [...byId.values()],
    topicByName: name => byName.get(name),
    topicById: topicId => byId.get(topicId),
    deletedTopic: topicId => deletedById.get(topicId),
    deletedNamed: name => deletedByName.get(name) ?? [],
    deletedTopics: () => deletedById.size,
    edge: edges.get,
    edges: edges.all,
    edgeCount: edges.count,
    topicCount: () => byId.size,
    partitionCount: () => contents.partitionCount,
    nextProducerId: () => contents.nextProducerId,
    nodes: seats.nodes,
    node: seats.node,
    lastIncarnation: seats.lastIncarnation,
    partition: seats.partition,
    partitionsOf: seats.partitionsOf,
    partitionStates: seats.partitionStates,
    partitionsOn: seats.partitionsOn,
    todo: () => todo ?? makeTodo(),
    replay,
    records,
    copy: () => imageOf(copyOf(contents)),
  }
}

/** The record that founds a cluster. */
export function foundingRecord(clusterId: string, nowMs: number): ImageRecord {
  return { type: 'cluster', clusterId, format: METADATA_FORMAT, atMs: nowMs }
}

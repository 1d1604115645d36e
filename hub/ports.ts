/**
 * What endpoints may ask of the engine behind them. Endpoints know these interfaces and nothing else of the
 * hub; `hub/engines/cluster` implements them. All failures are TributaryErrors.
 */

import type { ReadResult } from '../common/log/types.ts'
import type { GapFrame, LaneReport, LaneTip, RunFrame } from '../common/wire.ts'

/** Settings of a topic that may be altered. */
export interface TopicConfig {
  /** Segments older than this in hub time are deleted; null for never. */
  retentionMs: number | null
  /** Per partition; null for no bound. */
  retentionBytes: number | null
  segmentBytes: number
  /**
   * The largest record, before compression: key, value and headers as they stand in a batch. Each record of a plain batch and the
   * only one of a compressed batch are held to it here, all records by our own producers (SDK, REST, edges) before they
   * compress. Several records that come compressed are not unpacked to be looked at: as with Kafka's max.message.bytes,
   * they are held to what their batch may have as it was sent, which is `limits.maxFrameBytes` of the hub.
   */
  maxRecordBytes: number
  /** In-sync replicas that an acks=all append needs; null: two of three replicas and more, one of fewer. Never more than there are. */
  minInsyncReplicas: number | null
  /** Whether a replica outside the in-sync set may lead when no member of it can: available again, without what only the others held. */
  uncleanLeaderElection: boolean
}

export interface Topic {
  name: string
  /** Random, 32 hexadecimal digits; a topic made again under the same name has another. */
  topicId: string
  partitions: number
  /** Replicas of each partition as asked for; null: the cluster's `defaultReplication` as far as there are nodes, growing with them. */
  replication: number | null
  internal: boolean
  createdMs: number
  config: TopicConfig
}

export interface CreateTopic {
  name: string
  /** Default: `defaultPartitions` (12). */
  partitions?: number
  /** Default: see `Topic.replication`. */
  replication?: number
  config?: Partial<TopicConfig>
}

export interface Topics {
  list(): Topic[]
  /** Throws `unknown_topic`, where this node has not heard of one. */
  byName(name: string): Topic
  /** The same, but that there is none, or not such a `partition` of it, is said only when this node has heard of all that is committed. */
  find(name: string, partition?: number): Promise<Topic>
  /** Throws `unknown_topic`; `topic_deleted` where the id was deleted. */
  byId(topicId: string): Topic
  /**
   * The topic a producer is about to write to, made where it is not there and autoCreateTopics is on (Kafka's
   * auto.create.topics.enable). Rejects with `unknown_topic`; `topic_deleted` where the name was deleted, which only an
   * operator undoes; `invalid_argument` for a name that can be none; `limit_exceeded`.
   */
  forProducer(name: string): Promise<Topic>
  /** Rejects with `topic_exists`, `invalid_argument`, `limit_exceeded`. */
  create(request: CreateTopic): Promise<Topic>
  /** Changes settings; `partitions` may only grow. */
  alter(name: string, change: { partitions?: number; config?: Partial<TopicConfig> }): Promise<Topic>
  delete(name: string): Promise<void>
}

/** Where a partition stands. */
export interface PartitionBounds {
  startOffset: number
  endOffset: number
  highWatermark: number
  leaderEpoch: number
  sizeBytes: number
}

export type Acks = 0 | 1 | 'all'

/** Start of a run on a lane, see RunFrame. */
export type RunStart = Pick<RunFrame, 'run' | 'prev' | 'reason'>

/** Declared loss on a lane, see GapFrame. */
export type Gap = Omit<GapFrame, 't' | 'log'>

/** Where a lane stands at its leader. */
export interface OpenLane {
  tip: LaneTip | null
  leaderEpoch: number
}

/** A lane of an edge's log, bound to its partition. */
export interface LaneKey {
  edgeId: string
  topicId: string
  partition: number
  lane: number
}

/** What was read, and where the partition stood then. */
export interface PartitionRead extends ReadResult {
  bounds: PartitionBounds
  /**
   * False where the watermark may be below what was told before: a new leader has yet to learn of all that was committed, or the
   * leader said so a while ago.
   */
  isSettled: boolean
  /** Leader epoch of the record before `nextOffset`, -1 where there is none: what the next read says that its reader has. */
  lastEpoch: number
}

/**
 * Logs of the cluster, whichever node leads their partitions. Where a partition has no leader for a while, calls wait for one, in
 * order and not for ever: then they fail with `not_available`, as appends do that were under way when a leader went: done or not done.
 * `details.elsewhere` is true where there is a leader and this node does not reach it: another one may.
 */
export interface Logs {
  /** Rejects with `unknown_topic` for a partition that is not there; `waitMs` is how long to wait for its leader at most. */
  bounds(topicId: string, partition: number, waitMs?: number): Promise<PartitionBounds>
  /**
   * Appends batches of clients (validated here: CRC, counts, sizes, sequences of idempotent producers). Resolves by `acks`.
   * A duplicate resolves with its original's offset once that is committed.
   */
  append(topicId: string, partition: number, batches: Uint8Array, acks: Acks): Promise<{ baseOffset: number }>
  /** Appends batches of a lane's run. Calls on one lane take effect in call order and may be pipelined; takes the buffer over. Resolves with the lane's tip when committed; rejects with `out_of_order_sequence` (`details.next`), `unknown_run`, `corrupt_batch`, `record_too_large` (`details.sequence`), `topic_deleted`, `disk_full`. */
  appendLane(lane: LaneKey, batches: Uint8Array): Promise<LaneTip>
  /** Admits a run; resolves when its declaration is committed. Nothing is written where the run is the tip's already. */
  startRun(lane: LaneKey, start: RunStart): Promise<LaneTip>
  /** Declares a gap; resolves with the tip when committed. */
  declareGap(lane: LaneKey, gap: Gap): Promise<LaneTip>
  /** How far a lane is, once all of it is committed, whoever sent it; null where nothing of it is held. */
  openLane(lane: LaneKey): Promise<OpenLane>
  /** The same as far as this node knows by itself: null too where another one leads. */
  tip(lane: LaneKey): LaneTip | null
  /**
   * Batches below the high watermark, possibly none. `lastEpoch`: leader epoch of what the reader has before `offset`, -1 where it has
   * nothing or does not know. Rejects with `offset_out_of_range` (`details.startOffset`, `.highWatermark`; where what the reader has was cut
   * off since, `.truncatedTo`: what it has from there on is in the log no more).
   */
  read(
    topicId: string,
    partition: number,
    offset: number,
    maxBytes: number,
    lastEpoch?: number,
  ): Promise<PartitionRead>
  /** First offset whose record has event time >= timeMs, else the high watermark. */
  offsetForTime(topicId: string, partition: number, timeMs: number): Promise<number>
  /** Calls `listener` once when the high watermark is past `offset` or the partition goes away; cancel by calling the result. */
  whenPast(topicId: string, partition: number, offset: number, listener: () => void): () => void
  /** A producer id below 2^52 nobody else has. */
  allocateProducerId(): Promise<number>
}

/** One edge as the registry knows it. */
export interface EdgeInfo {
  id: string
  connected: boolean
  /** The node it is connected to. */
  nodeId: number | null
  address: string
  software: string
  session: number
  firstSeenMs: number
  lastSeenMs: number
  /** Edge's wall clock minus the hub's at the last hello or report. */
  clockOffsetMs: number
  alarms: EdgeAlarm[]
  report: { atMs: number; diskBytes: number; diskBudgetBytes: number; lanes: LaneReport[] } | null
}

/** `fork`: an older session number came; `clone`: two agents alternate; `hub-rollback`: the edge knows more than the hub. */
export interface EdgeAlarm {
  kind: 'fork' | 'clone' | 'hub-rollback'
  atMs: number
  message: string
}

export interface EdgeConnect {
  id: string
  session: number
  address: string
  software: string
  nowMs: number
  /** False once the connection is gone: a number granted to it then would keep the next one from starting. */
  isWanted(): boolean
  /** Called when a newer connection of this edge fences this one. */
  fence(): void
}

export interface Fleet {
  /** Grants a session number, durable before it resolves. */
  connect(request: EdgeConnect): Promise<{ session: number; verdict: 'ok' | 'fork' | 'hub-rollback' }>
  /** The edge holds the number durably: fences its older connections. Rejects with `fenced` where it is not the newest. */
  start(edgeId: string, session: number): Promise<void>
  disconnect(edgeId: string, session: number): void
  report(
    edgeId: string,
    session: number,
    report: NonNullable<EdgeInfo['report']>,
    clockOffsetMs: number,
  ): void
  /**
   * Finds (or, with autoCreateTopics, makes) the topic and binds (edge, topic id, lane) to a partition, committed before it resolves.
   * Rejects with `unknown_topic`, `topic_deleted` (the id presented was deleted, or the name was and this edge wrote to it: an operator makes it
   * again). The topic's id may differ from the one presented where the hub never knew that one: the edge has moved.
   */
  bindLane(request: {
    edgeId: string
    topic: string
    topicId: string | null
    lane: number
    lanes: number
    partitionBy: 'edge' | 'key'
  }): Promise<{ topic: Topic; partition: number }>
  /** All edges, with what the nodes know that they are connected to. */
  list(): Promise<EdgeInfo[]>
  /** All edges, with what this node alone knows of them: connected are those connected to it. */
  local(): EdgeInfo[]
  /** Forgets an edge, its bindings and tips; refused while it is connected. Rejects with `not_found`. */
  remove(edgeId: string): Promise<void>
}

/** A node of the cluster. */
export interface NodeInfo {
  nodeId: number
  /** `fenced`: the controller does not hear from it; `draining`: gives its replicas away. */
  state: 'active' | 'fenced' | 'draining'
  isController: boolean
  /** Votes on metadata; the others follow it. */
  isVoter: boolean
  /** HOST:PORT for other nodes, null for a node alone. */
  peerAddress: string | null
  /** HOST:PORT for clients and edges. */
  httpAddress: string
  rack: string | null
  software: string
  registeredMs: number
  /** Partitions it leads, replicas it holds, and how many of those are not in sync. */
  leaders: number
  replicas: number
  outOfSync: number
}

/** How the cluster is. */
export interface ClusterStatus {
  clusterId: string
  /** The node that is the active controller, null while there is none. */
  controllerId: number | null
  /** Of its election. */
  term: number
  nodes: number
  activeNodes: number
  partitions: number
  /** Nothing can be appended or read there. */
  leaderless: number
  /** Fewer replicas in sync than there are. */
  underReplicated: number
  /** Appends with acks=all are refused. */
  belowMinInSync: number
  /** Replicas move. */
  reassigning: number
  /** The partitions that the first three counts are of, worst first; of many the first hundred. */
  unwell: UnwellPartition[]
}

/** A partition that misses a leader or replicas in sync. */
export interface UnwellPartition {
  topic: string
  partition: number
  leader: number | null
  replicas: number[]
  isr: number[]
  /** As many in sync as acks=all needs. */
  minInSync: number
}

/** Where a partition's replicas are; node ids. */
export interface Placement {
  partition: number
  leader: number | null
  leaderEpoch: number
  replicas: number[]
  isr: number[]
  adding: number[]
  removing: number[]
}

export interface Cluster {
  status(): ClusterStatus
  nodes(): NodeInfo[]
  /** By partition number. Throws `unknown_topic`. */
  placements(topicId: string): Placement[]
  /** Gives a node's replicas to the others, or stops that. Rejects with `not_found`, `invalid_argument` where nobody could take them. */
  drain(nodeId: number, draining: boolean): Promise<void>
  /** Forgets a node. Rejects with `not_found`, `invalid_argument` while it holds replicas or is alive. */
  remove(nodeId: number): Promise<void>
  /** Gives preferred replicas their leadership back. */
  balance(): Promise<{ moved: number }>
  /** Spreads a topic's replicas anew, so many each (null: as many as now). */
  reassign(name: string, replication: number | null): Promise<{ partitions: number }>
  /** Lets a replica lead that may lack committed records: what only others held is lost. */
  electUnclean(name: string, partition: number): Promise<{ leader: number }>
}

/** Everything an endpoint gets. */
export interface Ports {
  clusterId: string
  nodeId: number
  /** Where edges and clients find the nodes of the cluster that are alive, HOST:PORT; empty where there is but this one. */
  addresses(): string[]
  topics: Topics
  logs: Logs
  fleet: Fleet
  cluster: Cluster
  /** Why the node can't serve now, or null when it is ready. */
  notReadyReason(): string | null
}

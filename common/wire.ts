/**
 * The frames that edges, clients and hubs exchange: this file is their specification.
 *
 * Transport: WebSocket, binary messages only, one frame a message, no permessage-deflate. A frame is one CBOR
 * map (RFC 8949) whose key `t` names its type. Record batches travel as CBOR byte strings holding whole
 * RecordBatch v2 bytes end to end. Unknown keys are ignored, unknown frame types are a `protocol_error`.
 * Numbers are integers up to 2^53-1. Times are milliseconds since the epoch.
 *
 * Paths: edges dial `/v1/uplink`, clients dial `/v1/subscribe`, both on the hub's one HTTP port. A token, where the hub asks
 * for one, comes as `Authorization: Bearer` (refused with HTTP 401 before the upgrade).
 *
 * Versions: the dialler's `hello` names the lowest and highest protocol it speaks; `welcome` names the one in
 * force, or `error` `unsupported_version` says which the hub speaks. Nothing else is sent before `welcome` came. Either
 * side sends `ping` when it has sent nothing for `heartbeatMs`, answers a ping with `pong`, and gives the connection up
 * when it has received nothing for `deadMs` (less the time it did not read).
 */

import type { ErrorCode } from './errors.ts'

/** Protocol versions this build speaks. */
export const PROTOCOL_MIN = 1
export const PROTOCOL_MAX = 1

export const UPLINK_PATH = '/v1/uplink'
export const SUBSCRIBE_PATH = '/v1/subscribe'

/** Close codes of our WebSockets (4000-4999 are free for applications, RFC 6455 section 7.4.2). */
export const CLOSE = {
  normal: 1000,
  goingAway: 1001,
  protocolError: 4000,
  unauthorized: 4001,
  fenced: 4002,
  limit: 4003,
  failed: 4004,
} as const

/**
 * Bounds of what a frame may hold; a frame over one is a `protocol_error`. Beyond these, `welcome.maxFrameBytes` bounds
 * a message, maps and arrays nest at most 8 deep (cbor.ts).
 */
export const WIRE_LIMITS = {
  /** No frame is larger, whatever `maxFrameBytes` a hub is set to. */
  maxFrameBytes: 67_108_864,
  /** Of `hello`, which comes from peers not yet known. */
  maxHelloBytes: 16_384,
  /** Topic names, as in Kafka. */
  maxTopicBytes: 249,
  maxEdgeIdBytes: 255,
  /** HOST:PORT: a host's name has at most 253 (RFC 1035). */
  maxAddressBytes: 260,
  /** Nodes named in a `welcome`. */
  maxNodes: 100,
  /** Error messages; longer ones are cut by the sender. */
  maxMessageBytes: 4_096,
  maxLanes: 1_024,
  maxReportLanes: 4_096,
  /** Two directories that carry one edge's id take turns, each with a few starts: one finds its own among so many. */
  maxPastRuns: 64,
  /** So many of the newest runs are all there. */
  exactPastRuns: 12,
  /** As many as a hub may have. */
  maxPartitions: 100_000,
  /** CBOR values in a frame that comes to a hub or an edge. */
  maxValues: 65_536,
  /** CBOR values in a frame that comes to a client: room for the largest topic. */
  maxClientValues: 1_048_576,
} as const

// ---------------------------------------------------------------------------------------------- handshake

/** First frame of a dialler. */
export interface HelloFrame {
  t: 'hello'
  min: number
  max: number
  /** Name and version of the software, for the registry and logs. */
  software: string
  /** Set by edges, absent with clients. */
  edge?: EdgeHello
}

export interface EdgeHello {
  id: string
  /** The session number the edge holds durably; 0 before its first. */
  session: number
  /** The cluster it last spoke to, null at first. */
  clusterId: string | null
  /** The edge's wall clock, for the registry's clock offset. */
  nowMs: number
}

/**
 * Answer to `hello`.
 * `verdict` (edges): `ok`; `fork`: the number presented is older than the hub's, so this directory is a clone
 * or was rolled back: open new runs from the first record without an ack; `hub-rollback`: the hub holds an
 * older number than the edge, so the hub's directory went back.
 */
export interface WelcomeFrame {
  t: 'welcome'
  protocol: number
  clusterId: string
  nodeId: number
  nowMs: number
  maxFrameBytes: number
  heartbeatMs: number
  deadMs: number
  /** Where all nodes that are alive are found, HOST:PORT each, so that who loses this one knows another; absent where there is but one. */
  nodes?: string[]
  edge?: { session: number; verdict: 'ok' | 'fork' | 'hub-rollback' }
}

/** Edge: the granted session number is durable here; appends may follow. Older connections of this edge are fenced at `hello`. */
export interface StartFrame {
  t: 'start'
  session: number
}

/** Either side, before it closes (`fatal`) or about one frame (`ref`: the `id`, `sub` or `log` it concerns). */
export interface ErrorFrame {
  t: 'error'
  code: ErrorCode
  message: string
  fatal: boolean
  ref?: number
}

export interface PingFrame {
  t: 'ping'
  nowMs: number
}

export interface PongFrame {
  t: 'pong'
  /** The ping's `nowMs`. */
  echoMs: number
  nowMs: number
}

// ------------------------------------------------------------------------------------------------ uplink

/**
 * Edge: announces a lane of a local log under the handle `log` (its own choice, unique in the connection).
 * `topicId` is null where the edge never heard of it; else the id it last wrote to, and a topic of that name with
 * another id is answered `refused` `topic_deleted`.
 */
export interface OpenFrame {
  t: 'open'
  log: number
  topic: string
  topicId: string | null
  lane: number
  lanes: number
  partitionBy: 'edge' | 'key'
}

/** How far a lane is at the hub: `next` is the next sequence of `run`; below `committed` it may be freed at the edge. */
export interface LaneTip {
  run: number
  next: number
  committed: number
  /**
   * In answers to `open`: runs before it that have records, newest first; of very many, some, WIRE_LIMITS.maxPastRuns at most. Absent: there
   * are none.
   */
  past?: readonly PastRun[]
}

/** How far a run of a lane is at the hub that is not its tip any more: all of it is committed. */
export interface PastRun {
  run: number
  next: number
}

/**
 * Hub: where the lane goes and how far it is; `tip` null where the hub holds nothing of (edge, topic id, lane). All of the tip is
 * committed, also where its run has no records yet: what that run follows is settled then. An edge that does not know the tip's run
 * (another directory with its id wrote it) goes on from the newest of the runs before that it knows.
 */
export interface OpenedFrame {
  t: 'opened'
  log: number
  topicId: string
  partition: number
  leaderEpoch: number
  maxRecordBytes: number
  maxBatchBytes: number
  tip: LaneTip | null
}

/**
 * Edge: the appends that follow on `log` belong to `run` (a random producer id in [2^52, 2^53)). Sent before a
 * run's first append or gap on a connection unless it is the tip's run. `prev` is the predecessor and its end; the hub
 * admits the run only when it holds the predecessor's records to that end or a gap for them.
 * `reason` says why there is none: `first` (nothing before, hub has no tip), `wiped`, `fork`, `moved`; a hub with a tip then
 * declares a gap of unknown count (`wiped`) or the fork (`fork`).
 */
export interface RunFrame {
  t: 'run'
  log: number
  run: number
  prev: { run: number; end: number } | null
  reason: 'next' | 'first' | 'wiped' | 'fork' | 'moved'
}

/** Why records are missing; the key of `_gaps` consumers' alerts. */
export const GAP_REASONS = [
  'disk-full',
  'retention',
  'refused',
  'hub-rollback',
  'damage',
  'wiped',
  'fork',
  'moved',
  'conflated',
  'thinned',
] as const
export type GapReason = (typeof GAP_REASONS)[number]

/** The reasons of summaries: readings that a policy of the edge dropped before they had sequences. */
export type SummaryReason = Extract<GapReason, 'conflated' | 'thinned'>

/** Whether a gap of this reason is a summary, see GapFrame. */
export function isSummary(reason: GapReason): reason is SummaryReason {
  return reason === 'conflated' || reason === 'thinned'
}

/**
 * Edge: records [from, to) of `run` will never come. Idempotent by (run, from, to); the hub clips what it already
 * holds. Advances the run's next sequence to `to`. `run` need not be the connection's current run: it is the tip's or one announced.
 *
 * A *summary* (`conflated`, `thinned`) declares readings that a policy of the edge dropped before they had sequences. It takes one
 * sequence of its own, which keeps it in its place and lets it count once, and says how many readings it stands for.
 */
export interface GapFrame {
  t: 'gap'
  log: number
  run: number
  from: number
  to: number
  reason: GapReason
  /** Edge times of the loss: when its first record was taken where known, and when it was dropped. */
  firstMs: number | null
  lastMs: number | null
  /** The same range in the edge's local offsets. */
  localFrom: number
  localTo: number
  /** Readings that a summary stands for, and of how many keys. There in summaries, and nowhere else. */
  count?: number
  keys?: number
}

/**
 * Edge: whole batches of one run, contiguous in sequence, in order, pipelined: appends need not wait for acks, on this log or
 * others. Frames of one log take effect in the order sent. A hub that has taken as much as it wants stops reading.
 */
export interface AppendFrame {
  t: 'append'
  log: number
  batches: Uint8Array
}

/**
 * Hub: cumulative; sent when `next` or `committed` moved, not per append, and for a duplicate once its original is committed.
 * `next` is one past the last record of `run` in the log, `committed` one past the last durable one.
 */
export interface AckFrame extends Omit<LaneTip, 'past'> {
  t: 'ack'
  log: number
}

/**
 * Hub: an `open`, `run`, `gap` or `append` on `log` failed and nothing after it on this log was applied.
 * `not_available` without a `throttle`: the partition's leader changed. What was under way is in its log or not; an `open` is answered
 * when the next one leads, and says where to go on.
 * `next` with `out_of_order_sequence`: rewind to it (a batch that straddles it must be cut again). Codes that are not
 * retriable concern the record at `sequence` (`record_too_large`) or the whole lane (`topic_deleted`, `unknown_topic`).
 *
 * From here the log is *blocked*: what was pipelined behind the failure is dropped without a word, so one failure is one
 * `refused`. With `run` and `next` (both or none), the log is unblocked by an `append` of `run` whose first sequence is
 * `next`, by a `gap` of `run` with from <= next <= to, or by a `run` whose `prev` is exactly { run, end: next }. A second
 * failure then is a second `refused`, and so is an earlier frame whose commit fails late, where it takes `next` further
 * back. Without them (the hub holds nothing of the lane, or it could not be opened) only an `open` helps. An `open` always
 * unblocks and starts the log anew under its handle. An edge that sends anything else on a blocked log hears nothing.
 */
export interface RefusedFrame {
  t: 'refused'
  log: number
  code: ErrorCode
  message: string
  run?: number
  next?: number
  sequence?: number
}

/**
 * Hub: send no appends for so long, on any log. May come with a `refused` whose code is retriable (`not_available`, `disk_full`):
 * send the same again from its `next` afterwards; nothing is lost.
 */
export interface ThrottleFrame {
  t: 'throttle'
  delayMs: number
}

/** Edge: what `edges list` shows, at most every few seconds. */
export interface ReportFrame {
  t: 'report'
  nowMs: number
  version: string
  diskBytes: number
  diskBudgetBytes: number
  lanes: LaneReport[]
}

export interface LaneReport {
  topic: string
  lane: number
  /** Records and bytes in the edge's log that the hub has not committed. */
  lagRecords: number
  lagBytes: number
  /** Edge time of the oldest of them, null without lag. */
  oldestMs: number | null
  droppedRecords: number
}

// ---------------------------------------------------------------------------------------------- clients

/**
 * Client: one question, answered by one `response` with the same `id`, in any order. `topic` with `produce` is asked by who is
 * about to write: a topic that is not there is made if the hub's autoCreateTopics is on.
 */
export type RequestFrame = { t: 'request'; id: number } & (
  | { op: 'topic'; topic: string; produce?: boolean }
  | { op: 'offset'; topicId: string; partition: number; at: 'earliest' | 'latest' | { timeMs: number } }
  | { op: 'producer' }
  | { op: 'produce'; topicId: string; partition: number; acks: 0 | 1 | 'all'; batches: Uint8Array }
)

export interface ResponseFrame {
  t: 'response'
  id: number
  /** Present unless the request failed. */
  result?: TopicInfo | OffsetInfo | ProducerInfo | ProducedInfo
  error?: { code: ErrorCode; message: string; details?: Record<string, unknown> }
}

/** Answer to `topic`. */
export interface TopicInfo {
  topic: string
  topicId: string
  partitions: {
    partition: number
    startOffset: number
    endOffset: number
    highWatermark: number
    /** -1: its leader is not reached now, and the offsets say nothing. */
    leaderEpoch: number
  }[]
  maxRecordBytes: number
}

/** Answer to `offset`: for a time, the first offset whose record's event time is at or after it (else the high watermark). */
export interface OffsetInfo {
  offset: number
  leaderEpoch: number
}

/** Answer to `producer`: an id below 2^52 for an idempotent producer, and its epoch. */
export interface ProducerInfo {
  producerId: number
  producerEpoch: number
}

/** Answer to `produce`. */
export interface ProducedInfo {
  baseOffset: number
}

/**
 * Client: stream one partition from `offset` (the epoch of the record before it, -1 unknown, lets the hub see a truncation)
 * under the handle `sub`. The hub sends no more record bytes than `creditBytes` plus what `credit` adds; one batch may overdraw.
 */
export interface SubscribeFrame {
  t: 'subscribe'
  sub: number
  topicId: string
  partition: number
  offset: number
  leaderEpoch: number
  creditBytes: number
}

/** Client: adds credit to `sub`. */
export interface CreditFrame {
  t: 'credit'
  sub: number
  bytes: number
}

export interface UnsubscribeFrame {
  t: 'unsubscribe'
  sub: number
}

/**
 * Hub: whole batches; the first may begin below the offset asked for (skip those records); go on at `nextOffset`. `leaderEpoch` is that of the
 * record before it: who subscribes again there hands it back, and is told if that record was lost since. `highWatermark` is absent for the
 * moment in which a new leader has yet to learn how far its predecessor had committed.
 */
export interface RecordsFrame {
  t: 'records'
  sub: number
  batches: Uint8Array
  nextOffset: number
  highWatermark?: number
  leaderEpoch: number
}

/**
 * Hub: `sub` ended. `offset_out_of_range` with `startOffset` and `highWatermark`, and with `truncatedTo` where what the client has from
 * there on is in the log no more; `topic_deleted`; `not_available` to come again.
 */
export interface EndedFrame {
  t: 'ended'
  sub: number
  code: ErrorCode
  message: string
  startOffset?: number
  highWatermark?: number
  truncatedTo?: number
}

/** What an edge may send on the uplink after `hello`. */
export type EdgeFrame =
  | StartFrame
  | OpenFrame
  | RunFrame
  | GapFrame
  | AppendFrame
  | ReportFrame
  | PingFrame
  | PongFrame
  | ErrorFrame
/** What a hub may send on the uplink. */
export type UplinkHubFrame =
  | WelcomeFrame
  | OpenedFrame
  | AckFrame
  | RefusedFrame
  | ThrottleFrame
  | PingFrame
  | PongFrame
  | ErrorFrame
/** What a client may send after `hello`. */
export type ClientFrame =
  | RequestFrame
  | SubscribeFrame
  | CreditFrame
  | UnsubscribeFrame
  | PingFrame
  | PongFrame
  | ErrorFrame
/** What a hub may send to a client. */
export type ClientHubFrame =
  | WelcomeFrame
  | ResponseFrame
  | RecordsFrame
  | EndedFrame
  | PingFrame
  | PongFrame
  | ErrorFrame

export type Frame = HelloFrame | EdgeFrame | UplinkHubFrame | ClientFrame | ClientHubFrame

import type { ErrorCode } from './errors.ts'
import type { ErrorFrame, GapFrame, LaneReport, LaneTip, PingFrame, PongFrame, RunFrame } from './wire.ts'
import { WIRE_LIMITS } from './wire.ts'

/**
 * What the nodes of a cluster say to each other: WebSocket messages, each one CBOR map whose `t` names the frame. Each node dials each
 * other one; what the dialler asks, the other answers on the same link, so that bulk (fetched batches) flows unmasked from
 * server to client. `batches` are whole RecordBatch v2 bytes end to end, moved and not decoded. Pings, pongs and fatal errors are
 * those of wire.ts.
 */

export const PEER_PATH = '/v1/peer'
export const PEER_PROTOCOL_MIN = 1
export const PEER_PROTOCOL_MAX = 1

/** Bounds of what a frame may hold; a frame over one is a `protocol_error`. */
export const PEER_LIMITS = {
  /** Fits what came in the largest frame of an edge, wrapped into a call. */
  maxFrameBytes: WIRE_LIMITS.maxFrameBytes + 65_536,
  /** CBOR values in a frame. */
  maxValues: 1_048_576,
  /** Partitions in one `fetch` or `fetched`; more go into further frames. */
  maxPartitions: 100_000,
  /** Messages in one `raft`. */
  maxMessages: 10_000,
  /** Edges in one answer to `presence`. */
  maxPresences: 1_000,
  /** Notices in one `tell-gaps`. */
  maxNotices: 1_000,
} as const

// ---------------------------------------------------------------------------------------------- handshake

/**
 * What a node knows of the one it shakes hands with. That one may have forgotten it, if its directory was put back from a copy, or is
 * a copy of one that is in use; then it must not go on as who it was.
 */
export interface PeerMemory {
  /** The newest registration under its node id, by whichever directory and start; incarnation 0 where none is known. */
  incarnation: number
  directoryId: string
  startId: string | null
  /** Whether anybody else has a vote in the quorum. */
  othersVote: boolean
  /** What it promised in the quorum, by the seat it had: it was in `term`, and held the entry at `index`, of `entryTerm`; -1 and 0: none. */
  promised: { seat: string; term: number; index: number; entryTerm: number } | null
}

/** First frame of a dialler. */
export interface PeerHello {
  t: 'peer-hello'
  min: number
  max: number
  /** Null before the node is part of a cluster; nodes of different clusters refuse each other. */
  clusterId: string | null
  nodeId: number
  directoryId: string
  software: string
  /** HOST:PORT where the dialler is found; null where it listens for none. */
  peerAddress: string | null
  /** Null where it knows nothing of the node it dials. */
  memory: PeerMemory | null
  /** Whom the dialler wants: another node at this address refuses. */
  to: number
}

/** The answer: who is there. */
export interface PeerWelcome {
  t: 'peer-welcome'
  protocol: number
  clusterId: string | null
  nodeId: number
  directoryId: string
  software: string
  memory: PeerMemory | null
  maxFrameBytes: number
  heartbeatMs: number
  deadMs: number
}

// ------------------------------------------------------------------------------------- metadata (quorum)

/** Messages of the consensus core, encoded by hub/engines/cluster/quorum; any may be lost. */
export interface RaftFrame {
  t: 'raft'
  messages: Uint8Array[]
}

/** A node tells the active controller that it lives. */
export interface NodeHeartbeat {
  t: 'node-heartbeat'
  nodeId: number
  incarnation: number
  /** Last metadata entry applied there. */
  appliedIndex: number
}

/** A piece of a metadata snapshot for a member that is behind the log's start. Pieces come in order; the last one says so. */
export interface SnapshotChunk {
  t: 'snapshot-chunk'
  /** The raft message that announces it, encoded; the same in each piece. */
  message: Uint8Array
  position: number
  sizeBytes: number
  bytes: Uint8Array
}

// ------------------------------------------------------------------------------------------- replication

/** A follower's position in one partition, or a change of it. */
export interface FetchPosition {
  topicId: string
  partition: number
  /** The epoch the follower follows (KIP-320): `fenced` where the leader has a newer one; where it has not heard of it yet the position waits there until it has. */
  leaderEpoch: number
  /** The next offset it wants; -1: as before (only `durableEnd` moved). */
  offset: number
  /** Leader epoch of the last batch it has, -1 without any: tells divergence (KIP-595's lastFetchedEpoch). */
  lastEpoch: number
  /** One past what is synced at the follower. */
  durableEnd: number
}

/**
 * Follower -> leader: adds to or changes the incremental fetch session of this link (KIP-227); partitions not named stay as they
 * were. It hands back the credit of the `fetched` frames it has taken.
 */
export interface FetchFrame {
  t: 'fetch'
  /** Of the follower's node: what it holds counts for this incarnation alone (KIP-903). */
  incarnation: number
  /** `seq` of the last `fetched` frame taken; 0 before any. */
  taken: number
  positions: FetchPosition[]
  /** Partitions it no longer follows. */
  forget: { topicId: string; partition: number }[]
}

/** What a leader tells of one partition. */
export interface FetchedPartition {
  topicId: string
  partition: number
  leaderEpoch: number
  /** The offset asked for that this answers, so that what is late is told from what is wanted; -1: only the numbers moved. */
  offset: number
  highWatermark: number
  /** The leader's log start: the follower deletes below it. */
  startOffset: number
  /** Hub time of the newest of `batches`, for the follower's retention. */
  hubTimeMs: number
  /** From the offset asked for; empty where only the numbers moved. The leader sends no more until asked from the next offset. */
  batches: Uint8Array
  /** The leader has lost what lies between `offset` and here, where the batches begin, and so has everyone else. */
  lostBefore?: number
  /** The logs part: the end offset, at the leader, of the largest epoch not above the follower's last (KIP-101, KIP-279). */
  diverging?: { epoch: number; endOffset: number }
  /** `offset_out_of_range`: below the leader's start, or beyond its end; `fenced`; `not_available`; `unknown_topic`. */
  error?: ErrorCode
}

/** Leader -> follower: what became ready for the partitions of the session. At most `FETCH_WINDOW` of them are not taken yet. */
export interface FetchedFrame {
  t: 'fetched'
  seq: number
  partitions: FetchedPartition[]
}

/** Frames of fetched data a leader sends ahead of the follower's `taken`. */
export const FETCH_WINDOW = 4

// ------------------------------------------------------------------------------------- calls and answers

/**
 * A partition under the leader that the asker knows. A node that does not lead it under this very epoch answers `not_available`, with
 * `leader` (a node id or null) in the details where it knows better, having done nothing; one that has not heard of the epoch yet waits for
 * it a while.
 */
export interface PartitionRef {
  topicId: string
  partition: number
  leaderEpoch: number
}

/** A lane of an edge, see LaneKey in hub/ports.ts. */
interface LaneRef extends PartitionRef {
  edgeId: string
  lane: number
}

/** What a node asks of another; leaders answer for partitions, the active controller for `controller`. */
export type PeerCall =
  /** A controller request, its name and CBOR; answered by `value` and the index it is committed at. */
  | { c: 'controller'; name: string; request: Uint8Array }
  | ({ c: 'append'; acks: -1 | 0 | 1; batches: Uint8Array } & PartitionRef)
  | ({ c: 'append-lane'; batches: Uint8Array } & LaneRef)
  | ({ c: 'start-run'; start: Pick<RunFrame, 'run' | 'prev' | 'reason'> } & LaneRef)
  | ({ c: 'declare-gap'; gap: Omit<GapFrame, 't' | 'log'> } & LaneRef)
  | ({ c: 'remove-lane' } & LaneRef)
  /** The tip once all of it is committed. */
  | ({ c: 'lane-tip' } & LaneRef)
  | ({ c: 'bounds' } & PartitionRef)
  /**
   * Waits for data past `offset` up to `maxWaitMs` where there is none. `lastEpoch`: leader epoch of what the reader has before `offset`,
   * -1 where it has nothing.
   */
  | ({ c: 'read'; offset: number; lastEpoch: number; maxBytes: number; maxWaitMs: number } & PartitionRef)
  | ({ c: 'offset-for-time'; timeMs: number } & PartitionRef)
  /** The producer snapshot at or above the leader's log start, for a replica that starts there. */
  | ({ c: 'producer-snapshot' } & PartitionRef)
  /** Batches that lie in [fromOffset, toOffset), from any replica that has them committed and whole, for one whose own are damaged. */
  | ({ c: 'stretch'; fromOffset: number; toOffset: number; maxBytes: number } & PartitionRef)
  /** Edges that the node asked has heard of, by id, those behind `after` (null: from the first). */
  | { c: 'presence'; after: string | null }
  /** Records for `_gaps`, as they stand there; its leader writes those it does not have. */
  | ({ c: 'tell-gaps'; notices: Uint8Array[] } & PartitionRef)
  /** How far `_gaps` tells of these partitions: for each the offset of the last gap told, -1 without any. */
  | ({ c: 'told-gaps'; sources: { topicId: string; partition: number }[] } & PartitionRef)

export type PeerCallName = PeerCall['c']

/** Bounds as in hub/ports.ts. */
export interface PeerBounds {
  startOffset: number
  endOffset: number
  highWatermark: number
  leaderEpoch: number
  sizeBytes: number
}

/** An edge's connection at one node. */
export interface PeerPresence {
  edgeId: string
  connected: boolean
  session: number
  lastSeenMs: number
  clockOffsetMs: number
  report: { atMs: number; diskBytes: number; diskBudgetBytes: number; lanes: LaneReport[] } | null
}

/** Answers, by call. */
export type PeerAnswer =
  | { c: 'controller'; value: Uint8Array; index: number }
  | { c: 'append'; baseOffset: number }
  | (({ c: 'append-lane' } | { c: 'start-run' } | { c: 'declare-gap' }) & { tip: LaneTip })
  | { c: 'remove-lane' }
  | { c: 'tell-gaps' }
  | { c: 'told-gaps'; offsets: number[] }
  | { c: 'lane-tip'; tip: LaneTip | null }
  | { c: 'bounds'; bounds: PeerBounds }
  /** `lastEpoch`: of the record before `nextOffset`, -1 where there is none. */
  /** As PartitionRead in hub/ports.ts. */
  | {
      c: 'read'
      batches: Uint8Array
      nextOffset: number
      lastEpoch: number
      bounds: PeerBounds
      isSettled: boolean
    }
  | { c: 'offset-for-time'; offset: number }
  | { c: 'producer-snapshot'; offset: number; bytes: Uint8Array }
  /** `nextOffset`: where to ask on. */
  | { c: 'stretch'; batches: Uint8Array; nextOffset: number }
  /** `more`: there are others behind the last of these. */
  | { c: 'presence'; edges: PeerPresence[]; more: boolean }

export interface CallFrame {
  t: 'call'
  id: number
  call: PeerCall
}

export interface AnswerFrame {
  t: 'answer'
  id: number
  answer?: PeerAnswer
  /** `details` of the error as in TributaryError: numbers, strings, booleans and null. */
  error?: { code: ErrorCode; message: string; details: Record<string, number | string | boolean | null> }
}

/** What a dialler sends after its hello. */
export type DiallerFrame =
  | RaftFrame
  | NodeHeartbeat
  | SnapshotChunk
  | FetchFrame
  | CallFrame
  | PingFrame
  | PongFrame
  | ErrorFrame
/** What comes back to it. */
export type ServerFrame = PeerWelcome | FetchedFrame | AnswerFrame | PingFrame | PongFrame | ErrorFrame

/** All that goes over a peer link. */
export type PeerFrame = PeerHello | DiallerFrame | ServerFrame

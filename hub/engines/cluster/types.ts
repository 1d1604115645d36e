import type { Link } from '../../../common/env.ts'
import type {
  FetchedFrame,
  FetchFrame,
  NodeHeartbeat,
  PeerAnswer,
  PeerCall,
  PeerCallName,
  RaftFrame,
  SnapshotChunk,
} from '../../../common/wire-peer.ts'
import type { Image, ImageRecord } from '../../controller/image.ts'
import type { CallName, CallRequest, CallResponse } from '../../controller/requests.ts'

/** The parts that a cluster's node is made of, as they see each other. */

/** The cluster's metadata as committed and applied on this node, and the way to change it. */
export interface Metadata {
  /** What is committed and applied here; it changes in place, between turns. */
  image(): Image
  /** Of the last entry applied here. */
  appliedIndex(): number
  /**
   * Asks the active controller, wherever it is; resolves when the records are committed *and applied here*. Rejects with the rule's
   * own error; `not_available` where no controller answers in time, which says nothing of whether it was done. It is not tried again
   * once `isWanted` is false: then it rejects with `closed`.
   */
  submit<Name extends CallName>(
    name: Name,
    request: CallRequest<Name>,
    isWanted?: () => boolean,
  ): Promise<CallResponse<Name>>
  /** Called in order after records were applied, once per turn; `null`: the image was replaced by a snapshot. */
  onApplied(listener: (records: readonly ImageRecord[] | null) => void): void
  /** The node that is the active controller, where known. */
  controllerId(): number | null
}

/** What the link dialled to a node tells: it is `up` or `down`; `refused`: nothing listens there, so its process is gone; `roomy`: what `send` gave false for may be tried again. */
export type LinkChange = 'up' | 'down' | 'refused' | 'roomy'

/** Who is at the other end of a link, as its handshake said. */
export interface PeerIdentity {
  nodeId: number
  directoryId: string
  /** Null before the node is part of a cluster. */
  clusterId: string | null
  software: string
}

/** What a node sends over the link that it dialled, beside calls. */
export type SentFrame = RaftFrame | NodeHeartbeat | SnapshotChunk | FetchFrame

/** Links to the other nodes: one dialled to each, and those that they dialled. */
export interface Peers {
  /**
   * Sets where a node is found, HOST:PORT; null: not dialled any more. A node that dials this one is dialled where it says that it is, until
   * it is located, and where it is not found then.
   */
  locate(nodeId: number, address: string | null): void
  /** Another node says that a node is there: dialled there if it is not dialled. */
  hear(nodeId: number, address: string): void
  /** Sends over the link dialled to the node; false, and not sent, where it is down or has too much to send. */
  send(nodeId: number, frame: SentFrame): boolean
  /**
   * Asks the node and resolves with its answer. Writes (appends and what lanes do) go out to a node in the order of the calls. Rejects with the
   * answer's error, `not_available` where the link is down or breaks (done or not done), `timeout`, `throttled` where too much waits.
   */
  call<C extends PeerCall>(nodeId: number, call: C, timeoutMs: number): Promise<AnswerTo<C['c']>>
  isUp(nodeId: number): boolean
  /** The nodes that are dialled. */
  nodes(): number[]
  /** Who answered at the link dialled to the node; null while it is down. */
  identity(nodeId: number): PeerIdentity | null
  onLink(listener: (nodeId: number, change: LinkChange) => void): void
  /** This node became part of a cluster: shakes hands anew on all links, so that others learn of it. */
  reintroduce(): void
  /** A link that another node dialled. */
  accept(link: Link): void
  stats(): PeerStats
  close(): Promise<void>
}

/** The answer to a call of that name. */
export type AnswerTo<C extends PeerCallName> = Extract<PeerAnswer, { c: C }>

/** Of all links of this node. */
export interface PeerStats {
  /** Dialled links that are up. */
  up: number
  /** Nodes that are dialled. */
  known: number
  /** Links that other nodes dialled. */
  served: number
  calls: number
  callsInFlight: number
  /** Waiting for room on their link. */
  callsQueued: number
  callBytesInFlight: number
  callsRefused: number
  callsServed: number
  linksLost: number
}

/** What is done with what comes from other nodes. */
export interface PeerService {
  frame(from: PeerIdentity, frame: Exclude<SentFrame, FetchFrame>): void
  /** Begun in the order in which the calls of a link came. A failure is told to the asker as toTributaryError makes it. */
  call(from: PeerIdentity, call: PeerCall): Promise<PeerAnswer>
  replication: Replication
}

/**
 * Replication with other nodes (replication.ts). As a follower this node fetches over the links that it dialled and hears of those by
 * `Peers.onLink`; as a leader it serves those who dialled it.
 */
export interface Replication {
  /**
   * The node dialled this one: what it fetches over that link. `reply` encodes and queues a frame there before it returns, for the buffers
   * of its batches are used again; at most FETCH_WINDOW frames are not taken.
   */
  serve(nodeId: number, reply: (frame: FetchedFrame) => void): FetchService
  /** A frame of the leader `nodeId`, come over the link dialled to it. */
  fetched(nodeId: number, frame: FetchedFrame): void
}

/** One link's fetches. */
export interface FetchService {
  fetch(frame: FetchFrame): void
  /** The link is gone. */
  close(): void
}

import type { Link } from '../../../common/env.ts'
import type { FetchedFrame, FetchFrame, PeerAnswer, PeerCall, PeerFrame } from '../../../common/wire-peer.ts'
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
   * own error; `not_available` where no controller answers in time, which says nothing of whether it was done.
   */
  submit<Name extends CallName>(name: Name, request: CallRequest<Name>): Promise<CallResponse<Name>>
  /** Called in order after records were applied, once per turn; `null`: the image was replaced by a snapshot. */
  onApplied(listener: (records: readonly ImageRecord[] | null) => void): void
  /** The node that is the active controller, where known. */
  controllerId(): number | null
}

/** What the peer link tells of a node; `refused`: nothing listens there, so its process is gone. */
export type LinkChange = 'up' | 'down' | 'refused'

/** Links to the other nodes: one dialled to each, and those that they dialled. */
export interface Peers {
  /** Sets where a node is found; null: not dialled any more. */
  locate(nodeId: number, address: string | null): void
  /** Sends over the link dialled to the node; false, and not sent, where it is down or has too much to send. */
  send(nodeId: number, frame: PeerFrame): boolean
  /** Asks the node and resolves with its answer; rejects with the answer's error, `not_available` where the link is down or breaks (done or not done), `timeout`. */
  call(nodeId: number, call: PeerCall, timeoutMs: number): Promise<PeerAnswer>
  isUp(nodeId: number): boolean
  onLink(listener: (nodeId: number, change: LinkChange) => void): void
  /** A link that another node dialled. */
  accept(link: Link): void
  close(): Promise<void>
}

/**
 * Replication with other nodes (replication.ts). As a follower this node fetches over the links that it dialled and hears of those by
 * `Peers.onLink`; as a leader it serves those who dialled it.
 */
export interface Replication {
  /** The node dialled this one: what it fetches over that link. `reply` queues a frame there; at most FETCH_WINDOW of them are not taken. */
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

import type { CreateTopic, EdgeAlarm, Topic, TopicConfig } from '../ports.ts'
import type { BindRequest, ConnectRequest, ConnectResponse } from './controller.ts'

/**
 * What may be asked of the controller. Any node may ask; the active controller judges (rules in this folder) and answers once
 * the records are committed. Requests and responses travel between nodes as CBOR, so they are plain data.
 */
export interface ControllerCalls {
  'create-topic': { request: CreateTopic; response: Topic }
  'topic-for-producer': { request: { name: string }; response: Topic }
  'alter-topic': {
    request: { name: string; change: { partitions?: number; config?: Partial<TopicConfig> } }
    response: Topic
  }
  'delete-topic': { request: { name: string }; response: Topic }
  'connect-edge': { request: ConnectRequest; response: ConnectResponse }
  'confirm-edge': { request: { edgeId: string; session: number }; response: EdgeAlarm | null }
  'remove-edge': { request: { edgeId: string }; response: null }
  'bind-lane': { request: BindRequest; response: { topic: Topic; partition: number } }
  'reserve-producer-ids': { request: Record<string, never>; response: { from: number; to: number } }
  'register-node': { request: RegisterNode; response: { incarnation: number } }
  /** An orderly stop: its leaders move first, then it is fenced. Resolves when others lead what they can. */
  leave: { request: { nodeId: number; incarnation: number }; response: null }
  'change-isr': { request: ChangeIsr; response: { results: IsrResult[] } }
  'drain-node': { request: { nodeId: number; draining: boolean }; response: null }
  /** Refused while the node holds replicas, unless all of them are elsewhere in sync. */
  'remove-node': { request: { nodeId: number }; response: null }
  /** New places for all partitions of a topic: `replication` replicas each, spread anew (null: as many as now). */
  'reassign-topic': {
    request: { name: string; replication: number | null }
    response: { partitions: number }
  }
  /** Leaders back to the preferred replicas where those are in sync. */
  balance: { request: Record<string, never>; response: { moved: number } }
  /** Changes nothing. Who is answered has applied all that was committed before it asked. */
  sync: { request: Record<string, never>; response: null }
  /** An operator chooses a leader outside the in-sync set: what only the others held is lost. */
  'elect-unclean': { request: { name: string; partition: number }; response: { leader: number } }
}

export type CallName = keyof ControllerCalls
export type CallRequest<Name extends CallName> = ControllerCalls[Name]['request']
export type CallResponse<Name extends CallName> = ControllerCalls[Name]['response']

export interface RegisterNode {
  nodeId: number
  directoryId: string
  peerAddress: string | null
  httpAddress: string
  rack: string | null
  software: string
  /** Of this start of a process, and kept in its directory before it is told: who does not know it there has another copy of the directory. */
  startId: string | null
  /**
   * The directory came back below what it had recorded as durable, or stopped uncleanly under `flush: async`: it may lack what was
   * committed with its help, so it leaves every in-sync set (but of partitions that have no other replica).
   */
  lostData: boolean
}

/** A leader's proposal of in-sync sets (KIP-497). */
export interface ChangeIsr {
  nodeId: number
  incarnation: number
  changes: {
    topicId: string
    partition: number
    leaderEpoch: number
    partitionEpoch: number
    /**
     * The proposed members, the leader among them, each with the incarnation that fetched what it is judged by: what a node held before
     * it lost its directory proves nothing of the node that came after (the broker epochs of KIP-903).
     */
    isr: { nodeId: number; incarnation: number }[]
  }[]
}

/**
 * `ok`: taken as proposed. `stale`: the leader's view is old, the image will tell it; `refused`: a proposed member is fenced, of another
 * incarnation or no replica.
 */
export interface IsrResult {
  topicId: string
  partition: number
  outcome: 'ok' | 'stale' | 'refused'
}

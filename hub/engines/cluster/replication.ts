import type { Logger } from 'pino'
import type { Clock } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { PeerAnswer, PeerCall } from '../../../common/wire-peer.ts'
import type { Image, ImageRecord } from '../../controller/image.ts'
import type { PartitionState } from '../../controller/types.ts'
import { requiredInSyncOf } from '../../controller/types.ts'
import type { Topic } from '../../ports.ts'
import type { Role } from '../../replica/role.ts'
import { notLeading } from '../../replica/role.ts'
import type { PartitionTable } from './partitions.ts'
import type { FollowerStats } from './replication-follower.ts'
import { createFollowerShell } from './replication-follower.ts'
import { createIsrKeeper } from './replication-isr.ts'
import { createLeaderShell } from './replication-leader.ts'
import { answerStretch, createRepairer } from './replication-repair.ts'
import type { Metadata, Peers, Replication } from './types.ts'

/**
 * Replication as a whole: what the metadata says of partitions becomes roles of this node's replicas, which lead and follow over the links
 * between nodes.
 */

export interface ReplicationContext {
  clock: Clock
  nodeId: number
  /** Under which this process is registered. */
  incarnation: number
  metadata: Pick<Metadata, 'image' | 'submit' | 'onApplied'>
  peers: Pick<Peers, 'send' | 'call' | 'isUp' | 'onLink'>
  partitions: PartitionTable
  replicaLagMaxMs: number
  reassignBytesPerSecond: number
  log: Logger
}

/** What one replica asks of another. */
export type ReplicaCall = Extract<PeerCall, { c: 'producer-snapshot' | 'stretch' }>

export interface NodeReplication extends Replication {
  answer(call: ReplicaCall): Promise<PeerAnswer>
  close(): void
  stats(): ReplicationStats
}

export interface ReplicationStats extends FollowerStats {
  /** Followers served, one per node that follows. */
  sessions: number
  framesSent: number
  bytesSent: number
  /** In-sync sets proposed, and how many of them by the controller refused, smaller, larger. */
  proposals: number
  refused: number
  shrinks: number
  expansions: number
  /** Damaged stretches replaced by another replica's, and given up. */
  repairedStretches: number
  lostStretches: number
}

/** Takes over the roles that the metadata has for this node, now and whenever they change. */
export function startReplication(context: ReplicationContext): NodeReplication {
  const { clock, nodeId, incarnation, metadata, peers, partitions, log } = context
  const image = () => metadata.image()
  const isr = createIsrKeeper({ ...context, incarnation: () => incarnation })
  const leaders = createLeaderShell({
    clock,
    partitions,
    log,
    incarnationOf: other => image().node(other)?.incarnation,
    candidate: isr.consider,
  })
  const repairer = createRepairer({
    ...context,
    state: (topicId, partition) => image().partition(topicId, partition),
  })
  const followers = createFollowerShell({ ...context, incarnation: () => incarnation })

  partitions.watch({
    acting: held => {
      leaders.acting(held)
      followers.acting(held)
      const inSync = held.replica.inSync()
      if (inSync !== null && !inSync.alone()) isr.watch(held)
    },
    durable: held => {
      const inSync = held.replica.inSync()
      if (inSync === null) followers.durable(held)
      else if (!inSync.alone()) {
        leaders.durable(held)
        isr.watch(held)
      }
    },
    watermark: held => leaders.watermark(held),
    damaged: held => repairer.found(held),
    gone: held => followers.gone(held),
  })
  peers.onLink((other, change) => {
    if (change === 'up') followers.connected(other)
    else if (change === 'roomy') followers.roomy(other)
    else followers.disconnected(other)
  })

  function assign(state: PartitionState): void {
    const { topicId, partition } = state
    const topic = image().topicById(topicId)
    if (topic === undefined) return
    const role = roleOf(state, topic, nodeId, incarnation)
    if (role !== null) {
      partitions.assign(topicId, partition, role)
      leaders.seated(partitions.logName(topicId, partition))
    } else if (partitions.isHere(topicId, partition)) void partitions.drop(topicId, partition)
  }

  function assignTopic(topicId: string): void {
    for (const state of image().partitionsOf(topicId)) if (state !== undefined) assign(state)
  }

  function applied(record: ImageRecord): void {
    switch (record.type) {
      case 'partition_changed': {
        // As it is now: several changes of one partition may come together.
        const state = image().partition(record.topicId, record.partition)
        if (state !== undefined) assign(state)
        return
      }
      case 'topic_altered': {
        const topic = image().topicById(record.topicId)
        if (topic === undefined) return
        partitions.configure(topic)
        assignTopic(record.topicId)
        return
      }
      case 'topic_deleted':
        void partitions.remove({ topicId: record.topicId, name: record.name })
        return
      case 'node_registered':
        leaders.registered(record.nodeId)
        isr.nodesChanged()
        return
      case 'node_unfenced':
        isr.nodesChanged()
        return
      default:
    }
  }

  /** All of an image that came as a whole. */
  function takeOver(): void {
    for (const state of [...image().partitionsOn(nodeId)]) assign(state)
    for (const { topicId, partition } of partitions.places()) {
      const deleted = image().deletedTopic(topicId)
      if (deleted !== undefined) void partitions.remove(deleted)
      const state = image().partition(topicId, partition)
      if (state !== undefined && !state.replicas.includes(nodeId)) assign(state)
    }
    for (const other of image().nodes()) leaders.registered(other.nodeId)
    isr.nodesChanged()
  }

  metadata.onApplied(records => {
    if (records === null) takeOver()
    else for (const record of records) applied(record)
  })
  takeOver()

  return {
    serve: leaders.serve,
    fetched: followers.fetched,
    answer: async call => {
      const { topicId, partition, leaderEpoch } = call
      const replica = partitions.peek(topicId, partition)
      if (replica === null)
        throw new TributaryError('not_available', `partition ${partition} has no place here`)
      if (call.c === 'stretch') return answerStretch(replica, call)
      const follows = replica.actingEpoch('follower') === leaderEpoch
      if (!follows && replica.actingEpoch('leader') !== leaderEpoch) {
        throw notLeading(partitions.logName(topicId, partition), replica.role())
      }
      // Of who follows it is its leader that asks.
      const given = follows ? replica.repairs.snapshotForLeader(leaderEpoch) : replica.snapshotForFollower()
      const { offset, bytes } = await given
      return { c: 'producer-snapshot', offset, bytes }
    },
    close: () => {
      isr.close()
      repairer.close()
      followers.close()
    },
    stats: () => ({ ...leaders.stats(), ...followers.stats(), ...isr.stats(), ...repairer.stats() }),
  }
}

/** What a node is to a partition as an image has it; null where it has no place there. */
export function roleIn(
  image: Image,
  topicId: string,
  partition: number,
  nodeId: number,
  incarnation: number,
): Role | null {
  const [topic, state] = [image.topicById(topicId), image.partition(topicId, partition)]
  if (topic === undefined || state === undefined) return null
  return roleOf(state, topic, nodeId, incarnation)
}

/**
 * What a node is to a partition, null where it is no replica. It leads only under an epoch granted to its present incarnation: an earlier
 * process of it may have held what this one lacks. While replicas are being added, acks=all asks for as many as without them.
 */
function roleOf(
  state: PartitionState,
  topic: Pick<Topic, 'config'>,
  nodeId: number,
  incarnation: number,
): Role | null {
  const { replicas, adding, leader, leaderEpoch, leaderIncarnation } = state
  if (!replicas.includes(nodeId)) return null
  if (leader === null) return { kind: 'idle', leader, leaderEpoch }
  if (leader !== nodeId) return { kind: 'follower', leader, leaderEpoch, adding: adding.includes(nodeId) }
  if (leaderIncarnation !== incarnation) return { kind: 'idle', leader: null, leaderEpoch }
  const required = requiredInSyncOf(topic.config.minInsyncReplicas, state)
  return { kind: 'leader', self: nodeId, seats: state, required }
}

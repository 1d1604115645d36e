import type { Image } from '../../controller/image.ts'
import type { PartitionState } from '../../controller/types.ts'
import { requiredInSyncOf } from '../../controller/types.ts'
import type { Cluster, ClusterStatus, NodeInfo, Placement, UnwellPartition } from '../../ports.ts'
import { nodeIdOf } from '../../raft/types.ts'
import type { QuorumMetadata } from './metadata.ts'
import { knownTopic } from './topics.ts'

/** What is asked of the metadata. */
type ClusterMetadata = Pick<QuorumMetadata, 'image' | 'controllerId' | 'status' | 'submit'>

/** The cluster as operators see it and change it: views of the metadata, and requests to the controller. */
export function createCluster(metadata: ClusterMetadata): Cluster {
  return {
    status: () => statusOf(metadata),
    nodes: () => nodeInfos(metadata),
    placements: topicId => {
      const { partitions } = knownTopic(metadata, topicId)
      const image = metadata.image()
      return Array.from({ length: partitions }, (_, partition) => {
        return placementOf(partition, image.partition(topicId, partition))
      })
    },
    drain: async (nodeId, draining) => {
      await metadata.submit('drain-node', { nodeId, draining })
    },
    remove: async nodeId => {
      await metadata.submit('remove-node', { nodeId })
    },
    balance: () => metadata.submit('balance', {}),
    reassign: (name, replication) => metadata.submit('reassign-topic', { name, replication }),
    electUnclean: (name, partition) => metadata.submit('elect-unclean', { name, partition }),
  }
}

function statusOf(metadata: ClusterMetadata): ClusterStatus {
  const image = metadata.image()
  const nodes = image.nodes()
  const counts = { partitions: 0, leaderless: 0, underReplicated: 0, belowMinInSync: 0, reassigning: 0 }
  const unwell: PartitionState[][] = [[], [], []]
  for (const state of image.partitionStates()) {
    counts.partitions++
    const isBelowMin = isBelowMinInSync(image, state)
    const isShort = state.isr.length < state.replicas.length
    if (state.leader === null) counts.leaderless++
    if (isShort) counts.underReplicated++
    if (isBelowMin) counts.belowMinInSync++
    if (state.adding.length + state.removing.length > 0) counts.reassigning++
    if (isShort || isBelowMin || state.leader === null)
      unwell[state.leader === null ? 0 : isBelowMin ? 1 : 2]?.push(state)
  }
  return {
    clusterId: image.clusterId() ?? '',
    controllerId: metadata.controllerId(),
    term: metadata.status().term,
    nodes: nodes.length,
    activeNodes: nodes.filter(node => !node.fenced).length,
    ...counts,
    unwell: unwell
      .flat()
      .slice(0, MAX_UNWELL)
      .map(state => unwellOf(image, state)),
  }
}

/** Partitions named one by one in a status. */
const MAX_UNWELL = 100

function unwellOf(image: Image, state: PartitionState): UnwellPartition {
  const { topicId, partition, leader, replicas, isr } = state
  const topic = image.topicById(topicId)?.name ?? topicId
  const minInSync = requiredOf(image, state)
  return { topic, partition, leader, replicas: [...replicas], isr: [...isr], minInSync }
}

/** Whether too few replicas are in sync for acks=all. */
export function isBelowMinInSync(image: Image, state: PartitionState): boolean {
  return state.isr.length < requiredOf(image, state)
}

function requiredOf(image: Image, state: PartitionState): number {
  return requiredInSyncOf(image.topicById(state.topicId)?.config.minInsyncReplicas ?? null, state)
}

function nodeInfos(metadata: ClusterMetadata): NodeInfo[] {
  const image = metadata.image()
  const held = new Map<number, { leaders: number; replicas: number; outOfSync: number }>()
  const countsOf = (nodeId: number) => {
    const known = held.get(nodeId)
    if (known !== undefined) return known
    const made = { leaders: 0, replicas: 0, outOfSync: 0 }
    held.set(nodeId, made)
    return made
  }
  for (const { replicas, isr, leader } of image.partitionStates()) {
    if (leader !== null) countsOf(leader).leaders++
    for (const nodeId of replicas) {
      countsOf(nodeId).replicas++
      if (!isr.includes(nodeId)) countsOf(nodeId).outOfSync++
    }
  }
  const voterIds = metadata.status().config.voters.map(nodeIdOf)
  return image.nodes().map(node => {
    const { nodeId, peerAddress, httpAddress, rack, software, registeredMs } = node
    return {
      nodeId,
      state: node.fenced ? 'fenced' : node.draining ? 'draining' : 'active',
      isController: metadata.controllerId() === nodeId,
      isVoter: voterIds.includes(nodeId),
      ...{ peerAddress, httpAddress, rack, software, registeredMs },
      ...countsOf(nodeId),
    }
  })
}

function placementOf(partition: number, state: PartitionState | undefined): Placement {
  if (state === undefined) {
    return { partition, leader: null, leaderEpoch: 0, replicas: [], isr: [], adding: [], removing: [] }
  }
  const { leader, leaderEpoch, replicas, isr, adding, removing } = state
  return {
    partition,
    leader,
    leaderEpoch,
    replicas: [...replicas],
    isr: [...isr],
    adding: [...adding],
    removing: [...removing],
  }
}

import { TributaryError } from '../../common/errors.ts'
import type { Topic } from '../ports.ts'
import { viewOf } from './election.ts'
import type { Image, ImageRecord } from './image.ts'
import type { PlacementNode } from './replica-placement.ts'
import { placeNew } from './replica-placement.ts'
import { MAX_REPLICATION } from './topic-config.ts'
import type { NodeState, PartitionState } from './types.ts'

/** Places for the partitions of topics on the nodes there are. */

/** The first epoch of a leader; batches of before there were nodes have 0. */
const FIRST_LEADER_EPOCH = 1

/** Takes new replicas: alive, and to stay. */
export function isOpen(node: NodeState): boolean {
  return !node.fenced && !node.draining
}

/** The nodes as placement sees them. Those that drain are left out: nothing stays there. */
export function placementNodes(image: Image): PlacementNode[] {
  const todo = image.todo()
  return image
    .nodes()
    .filter(node => !node.draining)
    .map(node => ({
      nodeId: node.nodeId,
      rack: node.rack,
      open: isOpen(node),
      replicas: image.partitionsOn(node.nodeId).size,
      preferred: todo.preferredOn(node.nodeId),
    }))
}

/** Where the topic's partitions are to lie: without those that go with a reassignment. */
export function targetsOf(image: Image, topicId: string): number[][] {
  return image.partitionsOf(topicId).flatMap(state => (state === undefined ? [] : [targetOf(state)]))
}

/** Replicas as they are when the reassignment under way is done. */
export function targetOf({ replicas, removing }: PartitionState): number[] {
  return replicas.filter(nodeId => !removing.includes(nodeId))
}

/**
 * How many replicas each partition gets, of as many as are asked for; null: of the cluster's default as far as there are nodes. Throws
 * `invalid_argument` where there are not so many nodes, `not_available` where not so many of them are alive.
 */
export function replicationFor(image: Image, asked: number | null, byDefault: number): number {
  if (asked !== null && !(Number.isSafeInteger(asked) && asked >= 1 && asked <= MAX_REPLICATION)) {
    throw new TributaryError(
      'invalid_argument',
      `replication is ${asked}; it must be a whole number from 1 to ${MAX_REPLICATION}`,
    )
  }
  const staying = image.nodes().filter(node => !node.draining)
  const open = staying.filter(isOpen).length
  if (asked !== null && asked > Math.max(1, staying.length)) {
    throw new TributaryError(
      'invalid_argument',
      `replication ${asked} needs as many nodes, there are ${Math.max(1, staying.length)}: add nodes or ask for less`,
    )
  }
  const wanted = asked ?? Math.min(byDefault, Math.max(1, open))
  if (wanted <= open || image.nodes().length === 0) return wanted
  throw new TributaryError(
    'not_available',
    `${wanted} ${wanted === 1 ? 'node is' : 'nodes are'} needed to place partitions, ${open} are alive; try again when they are`,
  )
}

/**
 * Records that place the topic's partitions from `from` on; none before there are nodes, for then the first one gets them all.
 * Throws as `replicationFor` does.
 */
export function placePartitions(
  image: Image,
  topic: Topic,
  from: number,
  defaultReplication: number,
): ImageRecord[] {
  const replication = replicationFor(image, topic.replication, defaultReplication)
  if (image.nodes().length === 0) return []
  const there = targetsOf(image, topic.topicId)
  const lists = placeNew(placementNodes(image), there, topic.partitions - from, replication)
  return lists.map((replicas, index) => firstPlace(image, topic.topicId, from + index, replicas))
}

/** A partition that begins on these nodes, empty or, on one node, with what is there: so all of them are in sync. */
export function firstPlace(
  image: Image,
  topicId: string,
  partition: number,
  replicas: readonly number[],
): ImageRecord {
  const nodes = viewOf(image)
  const leader = replicas.find(nodes.live) ?? null
  return {
    type: 'partition_changed',
    topicId,
    partition,
    replicas,
    isr: replicas,
    adding: [],
    removing: [],
    leader,
    leaderIncarnation: leader === null ? 0 : nodes.incarnation(leader),
    leaderEpoch: FIRST_LEADER_EPOCH,
    partitionEpoch: 0,
    unclean: false,
  }
}

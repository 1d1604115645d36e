import { TributaryError } from '../../common/errors.ts'
import type { Plan } from './controller.ts'
import { leadUnclean, viewOf } from './election.ts'
import type { Image, ImageRecord } from './image.ts'
import { isOpen, placementNodes, replicationFor, targetOf } from './places.ts'
import { beginReassignment, leadPreferred } from './reassignment.ts'
import { spreadAnew } from './replica-placement.ts'
import type { PartitionState } from './types.ts'

/** What operators ask for about partitions. */

/** Leaders moved by one request: each move interrupts its partition for a moment. */
const MAX_LEADERS_MOVED = 1_000

/**
 * New places for all partitions of a topic, spread anew with few moves; an asked-for replication is the topic's from then on. Answers
 * with the number of partitions that change. Throws `unknown_topic`, `invalid_argument`, `not_available`.
 */
export function reassignTopic(
  image: Image,
  request: { name: string; replication: number | null },
  defaultReplication: number,
): Plan<{ partitions: number }> {
  const topic = image.topicByName(request.name)
  if (topic === undefined) throw noTopic(request.name)
  const asked = request.replication ?? topic.replication
  const replication = replicationFor(image, asked, defaultReplication)
  const { topicId, partitions, config } = topic
  const records: ImageRecord[] = []
  if (asked !== topic.replication) {
    records.push({ type: 'topic_altered', topicId, partitions, replication: asked, config })
  }
  const states = image.partitionsOf(topicId).filter(state => state !== undefined)
  const nodes = viewOf(image)
  const lists = spreadAnew(placementNodes(image), states.map(inSyncFirst), replication)
  const changes = states.flatMap((state, index) => {
    const target = lists[index] ?? []
    return target.length === 0 ? [] : (beginReassignment(state, target, nodes) ?? [])
  })
  return { records: [...records, ...changes], response: { partitions: changes.length } }
}

/** What should rather stay comes first: the preferred leader and others that have the records. */
function inSyncFirst(state: PartitionState): number[] {
  const target = targetOf(state)
  const inSync = target.filter(nodeId => state.isr.includes(nodeId))
  return [...inSync, ...target.filter(nodeId => !state.isr.includes(nodeId))]
}

function noTopic(name: string): TributaryError {
  return new TributaryError('unknown_topic', `there is no topic "${name}"; see "tributary topics list"`)
}

/** Leaders back to the preferred replicas that are alive and in sync, at most `MAX_LEADERS_MOVED` by one request. */
export function balance(image: Image): Plan<{ moved: number }> {
  const records = preferredLeaders(
    image,
    image.nodes().map(node => node.nodeId),
    MAX_LEADERS_MOVED,
  )
  return { records, response: { moved: records.length } }
}

/** Records that make the nodes lead what they are the preferred leaders of and in sync, at most `limit`. */
export function preferredLeaders(image: Image, nodeIds: readonly number[], limit: number): ImageRecord[] {
  const records: ImageRecord[] = []
  const nodes = viewOf(image)
  for (const nodeId of nodeIds) {
    const node = image.node(nodeId)
    if (node === undefined || !isOpen(node)) continue
    for (const state of image.todo().astray(nodeId)) {
      if (records.length >= limit) return records
      const change = leadPreferred(state, nodes)
      if (change !== null) records.push(change)
    }
  }
  return records
}

/**
 * A live replica leads a partition that nobody in sync can. Throws `unknown_topic`, `not_found`; `invalid_argument` where somebody
 * leads it, `not_available` where no replica is alive.
 */
export function electUnclean(
  image: Image,
  request: { name: string; partition: number },
): Plan<{ leader: number }> {
  const { name, partition } = request
  const topic = image.topicByName(name)
  if (topic === undefined) throw noTopic(name)
  const state = image.partition(topic.topicId, partition)
  if (state === undefined) {
    throw new TributaryError('not_found', `topic "${name}" has no partition ${partition} with a place`)
  }
  if (state.leader !== null) {
    throw new TributaryError(
      'invalid_argument',
      `partition ${partition} of "${name}" is led by node ${state.leader}: nothing needs to be given up`,
    )
  }
  const elected = leadUnclean(state, viewOf(image))
  if (elected === null || elected.leader === null) {
    throw new TributaryError(
      'not_available',
      `none of the replicas of "${name}" partition ${partition} (nodes ${state.replicas.join(', ')}) is alive: start one`,
    )
  }
  return { records: [elected], response: { leader: elected.leader } }
}

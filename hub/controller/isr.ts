import { TributaryError } from '../../common/errors.ts'
import type { Plan } from './controller.ts'
import { changed } from './election.ts'
import type { Image } from './image.ts'
import { checkIncarnation } from './nodes.ts'
import type { PartitionChanged } from './partition-records.ts'
import type { ChangeIsr, IsrResult } from './requests.ts'
import type { PartitionState } from './types.ts'

type Change = ChangeIsr['changes'][number]

/**
 * A leader proposes in-sync sets for partitions it leads (KIP-497). Each proposal names the state it was made upon, so of two upon
 * the same state the second is stale. Throws `fenced` for another incarnation than the node's newest, `not_found`.
 */
export function changeIsr(image: Image, request: ChangeIsr): Plan<{ results: IsrResult[] }> {
  const node = image.node(request.nodeId)
  if (node === undefined) {
    throw new TributaryError('not_found', `node ${request.nodeId} was removed from the cluster`)
  }
  checkIncarnation(node, request.incarnation)
  const records: PartitionChanged[] = []
  const named = new Set<PartitionState>()
  const results = request.changes.map((change): IsrResult => {
    const { topicId, partition } = change
    const state = image.partition(topicId, partition)
    if (state === undefined || named.has(state) || isStale(state, request, change)) {
      return { topicId, partition, outcome: 'stale' }
    }
    if (!isEligible(image, state, change)) return { topicId, partition, outcome: 'refused' }
    named.add(state)
    const isr = state.replicas.filter(nodeId => change.isr.some(member => member.nodeId === nodeId))
    records.push(changed(state, { isr }))
    return { topicId, partition, outcome: 'ok' }
  })
  return { records, response: { results } }
}

function isStale(state: PartitionState, request: ChangeIsr, change: Change): boolean {
  return (
    state.leader !== request.nodeId ||
    state.leaderIncarnation !== request.incarnation ||
    state.leaderEpoch !== change.leaderEpoch ||
    state.partitionEpoch !== change.partitionEpoch
  )
}

/** Whether all proposed are replicas that are alive as the very process that the leader judged them by, the leader among them. */
function isEligible(image: Image, { replicas, leader }: PartitionState, { isr }: Change): boolean {
  const members = new Set(isr.map(member => member.nodeId))
  if (leader === null || !members.has(leader) || members.size !== isr.length) return false
  return isr.every(({ nodeId, incarnation }) => {
    const node = image.node(nodeId)
    return node?.fenced === false && node.incarnation === incarnation && replicas.includes(nodeId)
  })
}

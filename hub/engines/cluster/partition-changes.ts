import type { PartitionChanged } from '../../controller/partition-records.ts'
import type { PartitionState } from '../../controller/types.ts'
import type { Metadata } from './types.ts'

/** Counts what becomes of partitions as the metadata tells of it, each change on the node that leads the partition afterwards. */

export interface PartitionChanges {
  /** Times that this node was made leader, and of them those without the in-sync set. */
  elections: number
  uncleanElections: number
  /** In-sync sets that became smaller and larger, by whomever, where this node leads. */
  shrinks: number
  expands: number
}

/** What of a state is compared with the next one. */
type Known = Pick<PartitionState, 'leaderEpoch' | 'isr'>

/** Zeros, that go up. */
export function countPartitionChanges(
  { image, onApplied }: Pick<Metadata, 'image' | 'onApplied'>,
  nodeId: number,
): PartitionChanges {
  const changes = { elections: 0, uncleanElections: 0, shrinks: 0, expands: 0 }
  /** By topic id, so that deleted ones are forgotten. */
  const known = new Map<string, Map<number, Known>>()

  function knownOf(topicId: string): Map<number, Known> {
    const there = known.get(topicId)
    if (there !== undefined) return there
    const made = new Map<number, Known>()
    known.set(topicId, made)
    return made
  }

  function takeOver(): void {
    known.clear()
    for (const state of image().partitionStates()) knownOf(state.topicId).set(state.partition, state)
  }

  function changed(record: PartitionChanged): void {
    const states = knownOf(record.topicId)
    const before = states.get(record.partition)
    states.set(record.partition, record)
    if (record.leader !== nodeId) return
    if (before === undefined || record.leaderEpoch > before.leaderEpoch) {
      changes.elections++
      if (record.unclean) changes.uncleanElections++
    }
    if (before === undefined) return
    if (record.isr.length < before.isr.length) changes.shrinks++
    else if (record.isr.length > before.isr.length) changes.expands++
  }

  onApplied(records => {
    if (records === null) takeOver()
    for (const record of records ?? []) {
      if (record.type === 'partition_changed') changed(record)
      else if (record.type === 'topic_deleted') known.delete(record.topicId)
    }
  })
  takeOver()
  return changes
}

import { z } from 'zod'
import type { CborInput } from '../../common/cbor.ts'
import type { PartitionState } from './types.ts'

/**
 * How states of partitions are written: those of one topic together, each a list without names. A node that is fenced changes all
 * its partitions in one entry, and a snapshot has all there are, so every byte counts a hundred thousand times.
 */

/** All of a partition's state as it is from now on. `unclean`: the leader was chosen from outside the in-sync set. */
export type PartitionChanged = { type: 'partition_changed'; unclean: boolean } & PartitionState

const count = z.int().min(0)
const nodeId = z.int().min(1)
const nodeIds = z.array(nodeId)

const packedState = z.tuple([
  count, // partition
  nodeIds, // replicas
  nodeIds, // isr
  nodeIds, // adding
  nodeIds, // removing
  nodeId.nullable(), // leader
  count, // leaderIncarnation
  count, // leaderEpoch
  count, // partitionEpoch
  z.boolean(), // unclean
])

export const partitionsChanged = z.object({
  type: z.literal('partitions_changed'),
  topicId: z.string().min(1),
  states: z.array(packedState).min(1),
})

/** The list that stands for a state in `states`. */
export function packState(record: PartitionChanged): CborInput[] {
  const { partition, replicas, isr, adding, removing, leader } = record
  const { leaderIncarnation, leaderEpoch, partitionEpoch, unclean } = record
  const epochs = [leaderIncarnation, leaderEpoch, partitionEpoch]
  return [partition, replicas, isr, adding, removing, leader, ...epochs, unclean]
}

/** The records of what was written together. */
export function unpackStates({ topicId, states }: z.infer<typeof partitionsChanged>): PartitionChanged[] {
  return states.map(
    ([
      partition,
      replicas,
      isr,
      adding,
      removing,
      leader,
      leaderIncarnation,
      leaderEpoch,
      partitionEpoch,
      unclean,
    ]) => ({
      type: 'partition_changed',
      topicId,
      partition,
      replicas,
      isr,
      adding,
      removing,
      leader,
      leaderIncarnation,
      leaderEpoch,
      partitionEpoch,
      unclean,
    }),
  )
}

import { expect } from 'vitest'
import type { Image, ImageRecord } from '../../../hub/controller/image.ts'
import { emptyImage } from '../../../hub/controller/image.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'

/** What holds of every image and every entry, whatever was asked for. */

function isSubset(some: readonly number[], all: readonly number[]): boolean {
  return some.every(item => all.includes(item))
}

function nameOf({ topicId, partition }: PartitionState): string {
  return `${topicId}-${partition}`
}

/** What holds of a partition in an image. */
function checkPartition(image: Image, state: PartitionState): void {
  const { replicas, isr, adding, removing, leader } = state
  const name = nameOf(state)
  expect(new Set(replicas).size, `${name}: replicas are distinct`).toBe(replicas.length)
  expect(replicas.length, `${name}: has replicas`).toBeGreaterThan(0)
  expect(isr, `${name}: the in-sync set is of replicas, in their order`).toEqual(
    replicas.filter(nodeId => isr.includes(nodeId)),
  )
  expect(isSubset(adding, replicas) && isSubset(removing, replicas), `${name}: reassigns replicas`).toBe(true)
  expect(
    removing.some(nodeId => adding.includes(nodeId)),
    `${name}: adds what it removes`,
  ).toBe(false)
  expect(removing.length, `${name}: somebody stays`).toBeLessThan(replicas.length)
  expect(
    replicas.every(nodeId => image.node(nodeId) !== undefined),
    `${name}: replicas are registered`,
  ).toBe(true)
  const live = isr.filter(nodeId => image.node(nodeId)?.fenced === false)
  if (live.length > 0) {
    expect(live, `${name}: a node that is not alive has no seat beside one that is`).toEqual(isr)
    expect(leader, `${name}: is led where it can be`).not.toBeNull()
  }
  if (leader === null) return
  const node = image.node(leader)
  expect(isr, `${name}: its leader is in sync`).toContain(leader)
  expect(node?.fenced, `${name}: its leader is alive`).toBe(false)
  expect(node?.incarnation, `${name}: its leader is who was elected`).toBe(state.leaderIncarnation)
}

/** What holds of an image: partitions, indexes and that it comes back from its records. */
export function checkImage(image: Image): void {
  for (const state of image.partitionStates()) checkPartition(image, state)
  for (const { nodeId } of image.nodes()) {
    const expected = [...image.partitionStates()].filter(({ replicas }) => replicas.includes(nodeId))
    expect(new Set(image.partitionsOn(nodeId)), `partitions on node ${nodeId}`).toEqual(new Set(expected))
  }
}

/** That an image replayed from its records is the same, and that its index of work is what it would be if made now. */
export function checkSnapshot(image: Image): void {
  const replayed = emptyImage()
  for (const record of image.records()) replayed.replay(record)
  expect(replayed.records()).toEqual(image.records())
  expect(replayed.nodes()).toEqual(image.nodes())
  expect(replayed.lastIncarnation()).toBe(image.lastIncarnation())
  expect([...replayed.partitionStates()]).toEqual([...image.partitionStates()])
  expect(describeTodo(image)).toEqual(describeTodo(replayed))
}

function describeTodo(image: Image): unknown {
  const todo = image.todo()
  const names = (states: Iterable<PartitionState>): string[] => [...states].map(nameOf).sort()
  const resting = [...todo.resting()].map(({ replication, replicas, states }) => [
    `${replication}/${replicas}`,
    names(states),
  ])
  return {
    unplaced: [...todo.unplaced()].sort(),
    moving: todo.moving(),
    caughtUp: names(todo.caughtUp()),
    resting: Object.fromEntries(resting),
    nodes: image.nodes().map(({ nodeId }) => ({
      nodeId,
      adding: names(todo.addingOn(nodeId)),
      resting: names(todo.restingOn(nodeId)),
      astray: names(todo.astray(nodeId)),
      preferred: todo.preferredOn(nodeId),
    })),
  }
}

/** What holds of the step from an image to the next by one entry. */
export function checkEntry(image: Image, records: readonly ImageRecord[]): void {
  const seen = new Set<string>()
  for (const record of records) {
    if (record.type !== 'partition_changed') continue
    const name = nameOf(record)
    expect(seen, `${name}: changes once in an entry`).not.toContain(name)
    seen.add(name)
    const before = image.partition(record.topicId, record.partition)
    if (before === undefined) continue
    expect(record.partitionEpoch, `${name}: each change has a partition epoch`).toBe(
      before.partitionEpoch + 1,
    )
    const elected = record.leader !== null && record.leader !== before.leader
    const renewed = record.leader !== null && record.leaderIncarnation !== before.leaderIncarnation
    const shrunk = record.leader !== null && !isSubset(before.replicas, record.replicas)
    expect(
      record.leaderEpoch,
      `${name}: each election has a leader epoch, as has what lets a replica go`,
    ).toBe(elected || renewed || shrunk ? before.leaderEpoch + 1 : before.leaderEpoch)
    if (record.unclean || record.isr.length === 0) continue
    const proposed = record.leader !== null && record.leader === before.leader
    if (!proposed) expect(isSubset(record.isr, before.isr), `${name}: only leaders let others in`).toBe(true)
  }
  checkSeats(image, records)
}

/** A node with another directory loses its seats, but where it is alone. */
function checkSeats(image: Image, records: readonly ImageRecord[]): void {
  for (const record of records) {
    if (record.type !== 'node_registered') continue
    const before = image.node(record.nodeId)
    if (before === undefined || before.directoryId === record.directoryId) continue
    for (const state of image.partitionsOn(record.nodeId)) {
      if (state.replicas.length === 1 || !state.isr.includes(record.nodeId)) continue
      const next = records.find(
        other =>
          other.type === 'partition_changed' &&
          other.topicId === state.topicId &&
          other.partition === state.partition,
      )
      expect(next, `${nameOf(state)}: node ${record.nodeId} loses its seat`).toMatchObject({
        isr: state.isr.filter(
          nodeId =>
            nodeId !== record.nodeId && next?.type === 'partition_changed' && next.isr.includes(nodeId),
        ),
      })
    }
  }
}

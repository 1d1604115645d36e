import type { Topic } from '../ports.ts'
import type { PartitionState } from './types.ts'

/**
 * Which partitions may want something done, kept with each change of an image, so that looking for work costs nothing
 * where there is none. It knows partitions and topics alone; what nodes are fit for is judged by who asks.
 */
export interface Todo {
  /** Ids of topics with partitions that have no place. */
  unplaced(): ReadonlySet<string>
  /** Reassignments under way in partitions that have a leader. */
  moving(): number
  /** Reassignments whose additions are all in sync. */
  caughtUp(): ReadonlySet<PartitionState>
  /** Reassignments that bring a replica to the node. */
  addingOn(nodeId: number): ReadonlySet<PartitionState>
  /** Partitions at rest on the node: led by somebody, and no reassignment is under way. */
  restingOn(nodeId: number): ReadonlySet<PartitionState>
  /** Partitions at rest, by what their topic asks for (`Topic.replication`) and how many replicas they have. */
  resting(): Iterable<{ replication: number | null; replicas: number; states: ReadonlySet<PartitionState> }>
  /** Partitions at rest whose preferred leader is the node, in sync, and not their leader. */
  astray(nodeId: number): ReadonlySet<PartitionState>
  /** Partitions whose preferred leader is the node. */
  preferredOn(nodeId: number): number
}

interface Placed {
  readonly topic: Topic
  readonly state: PartitionState
}

/** What the image tells of its changes. */
export interface TodoIndex extends Todo {
  partitionChanged(before: Placed | undefined, after: Placed | undefined): void
  /** After the topic's partitions are told of; `after` undefined: it was deleted. */
  topicChanged(topicId: string, after: Topic | undefined): void
}

/** Sets by a key, those that are empty left out. */
function createGroups<Key>() {
  const groups = new Map<Key, Set<PartitionState>>()
  return {
    of: (key: Key): ReadonlySet<PartitionState> => groups.get(key) ?? NONE,
    all: () => groups,
    add: (key: Key, state: PartitionState): void => {
      const group = groups.get(key)
      if (group === undefined) groups.set(key, new Set([state]))
      else group.add(state)
    },
    remove: (key: Key, state: PartitionState): void => {
      const group = groups.get(key)
      group?.delete(state)
      if (group?.size === 0) groups.delete(key)
    },
  }
}

const NONE: ReadonlySet<PartitionState> = new Set()

/** Whether a reassignment is under way. */
export function isMoving({ adding, removing }: PartitionState): boolean {
  return adding.length > 0 || removing.length > 0
}

/** An index of nothing. */
export function createTodo(): TodoIndex {
  const unplaced = new Set<string>()
  const placed = new Map<string, number>()
  const caughtUp = new Set<PartitionState>()
  const addingOn = createGroups<number>()
  const restingOn = createGroups<number>()
  const resting = new Map<number | null, ReturnType<typeof createGroups<number>>>()
  const astray = createGroups<number>()
  const preferred = new Map<number, number>()
  let moving = 0

  function restingWith(replication: number | null): ReturnType<typeof createGroups<number>> {
    const known = resting.get(replication)
    if (known !== undefined) return known
    const made = createGroups<number>()
    resting.set(replication, made)
    return made
  }

  function enter({ topic, state }: Placed): void {
    count(state, 1)
    if (isMoving(state)) {
      for (const nodeId of state.adding) addingOn.add(nodeId, state)
      if (state.adding.every(nodeId => state.isr.includes(nodeId))) caughtUp.add(state)
      return
    }
    if (state.leader === null) return
    restingWith(topic.replication).add(state.replicas.length, state)
    for (const nodeId of state.replicas) restingOn.add(nodeId, state)
    const first = strayedFrom(state)
    if (first !== null) astray.add(first, state)
  }

  function leave({ topic, state }: Placed): void {
    count(state, -1)
    if (isMoving(state)) {
      for (const nodeId of state.adding) addingOn.remove(nodeId, state)
      caughtUp.delete(state)
      return
    }
    if (state.leader === null) return
    restingWith(topic.replication).remove(state.replicas.length, state)
    for (const nodeId of state.replicas) restingOn.remove(nodeId, state)
    const first = strayedFrom(state)
    if (first !== null) astray.remove(first, state)
  }

  function count(state: PartitionState, by: 1 | -1): void {
    const [first] = state.replicas
    if (first !== undefined) preferred.set(first, (preferred.get(first) ?? 0) + by)
    if (isMoving(state) && state.leader !== null) moving += by
  }

  return {
    unplaced: () => unplaced,
    moving: () => moving,
    caughtUp: () => caughtUp,
    addingOn: addingOn.of,
    restingOn: restingOn.of,
    resting: function* () {
      for (const [replication, groups] of resting) {
        for (const [replicas, states] of groups.all()) yield { replication, replicas, states }
      }
    },
    astray: astray.of,
    preferredOn: nodeId => preferred.get(nodeId) ?? 0,
    partitionChanged: (before, after) => {
      if (before !== undefined) leave(before)
      if (after !== undefined) enter(after)
      if (before !== undefined || after === undefined) return
      const { topicId, partitions } = after.topic
      const count = (placed.get(topicId) ?? 0) + 1
      placed.set(topicId, count)
      if (count >= partitions) unplaced.delete(topicId)
    },
    topicChanged: (topicId, after) => {
      if (after === undefined) {
        placed.delete(topicId)
        unplaced.delete(topicId)
      } else if ((placed.get(topicId) ?? 0) < after.partitions) unplaced.add(topicId)
    },
  }
}

function strayedFrom({ replicas, isr, leader }: PartitionState): number | null {
  const [first] = replicas
  return first !== undefined && first !== leader && isr.includes(first) ? first : null
}

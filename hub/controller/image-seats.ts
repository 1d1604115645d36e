import type { MetadataRecordOf } from './records.ts'
import type { NodeState, PartitionState } from './types.ts'

/**
 * The nodes of an image and the partitions that lie on them. States are replaced, never changed, so that copies of the
 * image may share them.
 */

export type SeatRecord = MetadataRecordOf<
  | 'node_registered'
  | 'node_fenced'
  | 'node_unfenced'
  | 'node_draining'
  | 'node_removed'
  | 'incarnations'
  | 'partition_changed'
>

export interface SeatTable {
  /** In the order in which they first came. */
  nodes(): NodeState[]
  node(nodeId: number): NodeState | undefined
  /** The highest incarnation ever given, 0 before any. */
  lastIncarnation(): number
  partition(topicId: string, partition: number): PartitionState | undefined
  /** By partition number; partitions without a place are undefined or beyond the end. */
  partitionsOf(topicId: string): readonly (PartitionState | undefined)[]
  partitionStates(): Iterable<PartitionState>
  /** Those that have the node among their replicas. The plan that changes them must be made before it is replayed. */
  partitionsOn(nodeId: number): ReadonlySet<PartitionState>
  /** Records about nodes it does not know are passed over. */
  replay(record: SeatRecord): void
  forgetTopic(topicId: string): void
  records(): SeatRecord[]
  copy(): SeatTable
}

interface Contents {
  lastIncarnation: number
  nodes: Map<number, NodeState>
  byTopic: Map<string, (PartitionState | undefined)[]>
  byNode: Map<number, Set<PartitionState>>
}

const NOTHING: ReadonlySet<PartitionState> = new Set()

export function createSeatTable(contents: Contents = noContents()): SeatTable {
  const { nodes, byTopic, byNode } = contents

  function take(state: PartitionState): void {
    for (const nodeId of state.replicas) byNode.get(nodeId)?.delete(state)
  }

  function put(state: PartitionState): void {
    for (const nodeId of state.replicas) {
      const seats = byNode.get(nodeId)
      if (seats === undefined) byNode.set(nodeId, new Set([state]))
      else seats.add(state)
    }
  }

  function changePartition(record: MetadataRecordOf<'partition_changed'>): void {
    const states = byTopic.get(record.topicId) ?? []
    const before = states[record.partition]
    if (before !== undefined) take(before)
    const { type: _type, unclean: _unclean, ...state } = record
    // Replayed out of order after damage, a later partition may come first: no holes, which are slow.
    while (states.length < record.partition) states.push(undefined)
    states[record.partition] = state
    byTopic.set(record.topicId, states)
    put(state)
  }

  function register(record: MetadataRecordOf<'node_registered'>): void {
    const { type: _type, atMs, ...given } = record
    const draining = nodes.get(record.nodeId)?.draining ?? false
    const times = { registeredMs: atMs, changedMs: atMs }
    nodes.set(record.nodeId, { ...given, ...times, fenced: true, left: false, draining })
    contents.lastIncarnation = Math.max(contents.lastIncarnation, record.incarnation)
  }

  function changeNode(nodeId: number, change: Partial<NodeState>): void {
    const node = nodes.get(nodeId)
    if (node !== undefined) nodes.set(nodeId, { ...node, ...change })
  }

  function replay(record: SeatRecord): void {
    switch (record.type) {
      case 'partition_changed':
        changePartition(record)
        return
      case 'node_registered':
        register(record)
        return
      case 'node_fenced':
        changeNode(record.nodeId, { fenced: true, left: record.left, changedMs: record.atMs })
        return
      case 'node_unfenced':
        changeNode(record.nodeId, { fenced: false, left: false, changedMs: record.atMs })
        return
      case 'node_draining':
        changeNode(record.nodeId, { draining: record.draining })
        return
      case 'node_removed':
        nodes.delete(record.nodeId)
        return
      case 'incarnations':
        contents.lastIncarnation = record.last
    }
  }

  function* partitionStates(): Iterable<PartitionState> {
    for (const states of byTopic.values()) {
      for (const state of states) if (state !== undefined) yield state
    }
  }

  function records(): SeatRecord[] {
    const made: SeatRecord[] = [{ type: 'incarnations', last: contents.lastIncarnation }]
    for (const node of nodes.values()) made.push(...nodeRecords(node))
    for (const state of partitionStates()) made.push({ type: 'partition_changed', unclean: false, ...state })
    return made
  }

  return {
    nodes: () => [...nodes.values()],
    node: nodeId => nodes.get(nodeId),
    lastIncarnation: () => contents.lastIncarnation,
    partition: (topicId, partition) => byTopic.get(topicId)?.[partition],
    partitionsOf: topicId => byTopic.get(topicId) ?? [],
    partitionStates,
    partitionsOn: nodeId => byNode.get(nodeId) ?? NOTHING,
    replay,
    forgetTopic: topicId => {
      for (const state of byTopic.get(topicId) ?? []) if (state !== undefined) take(state)
      byTopic.delete(topicId)
    },
    records,
    copy: () => createSeatTable(copyOf(contents)),
  }
}

function noContents(): Contents {
  return { lastIncarnation: 0, nodes: new Map(), byTopic: new Map(), byNode: new Map() }
}

function copyOf({ lastIncarnation, nodes, byTopic, byNode }: Contents): Contents {
  return {
    lastIncarnation,
    nodes: new Map(nodes),
    byTopic: new Map([...byTopic].map(([topicId, states]) => [topicId, [...states]])),
    byNode: new Map([...byNode].map(([nodeId, seats]) => [nodeId, new Set(seats)])),
  }
}

function nodeRecords(node: NodeState): SeatRecord[] {
  const { nodeId, registeredMs, fenced, left, changedMs, draining, ...given } = node
  const made: SeatRecord[] = [{ type: 'node_registered', nodeId, ...given, atMs: registeredMs }]
  if (!fenced) made.push({ type: 'node_unfenced', nodeId, atMs: changedMs })
  else if (left || changedMs !== registeredMs) {
    made.push({ type: 'node_fenced', nodeId, left, atMs: changedMs })
  }
  if (draining) made.push({ type: 'node_draining', nodeId, draining })
  return made
}

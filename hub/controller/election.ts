import type { Image } from './image.ts'
import type { PartitionChanged } from './partition-records.ts'
import type { NodeState, PartitionState } from './types.ts'

/**
 * Who is in sync and who leads, from who is alive. The rules are Kafka's (KIP-497, KIP-631): a node that is not alive leaves the
 * in-sync sets that have a live member and keeps its seat in those that have none, since it holds what they held; the leader is
 * the first replica that is in sync and alive; anyone else only where losing records was chosen.
 */

/** Nodes as they will be once a plan is replayed. */
export interface NodesView {
  /** Registered and not fenced. */
  live(nodeId: number): boolean
  /** 0 for a node that is not registered. */
  incarnation(nodeId: number): number
  draining(nodeId: number): boolean
}

/** The nodes of an image, some of them replaced; undefined: the node is gone. */
export function viewOf(
  image: Image,
  changed: ReadonlyMap<number, NodeState | undefined> = new Map(),
): NodesView {
  const nodeOf = (nodeId: number): NodeState | undefined =>
    changed.has(nodeId) ? changed.get(nodeId) : image.node(nodeId)
  return {
    live: nodeId => nodeOf(nodeId)?.fenced === false,
    incarnation: nodeId => nodeOf(nodeId)?.incarnation ?? 0,
    draining: nodeId => nodeOf(nodeId)?.draining ?? false,
  }
}

/** The record of a partition's next state. */
export function changed(state: PartitionState, change: Partial<PartitionState>): PartitionChanged {
  const partitionEpoch = state.partitionEpoch + 1
  return { type: 'partition_changed', unclean: false, ...state, ...change, partitionEpoch }
}

/** The state with another leader, under a new epoch. */
export function ledBy(state: PartitionState, leader: number, nodes: NodesView): PartitionChanged {
  const leaderEpoch = state.leaderEpoch + 1
  return changed(state, { leader, leaderEpoch, leaderIncarnation: nodes.incarnation(leader) })
}

/** Whether the leader still is who was chosen. */
function leads({ leader, leaderIncarnation, isr }: PartitionState, nodes: NodesView): boolean {
  return (
    leader !== null &&
    nodes.live(leader) &&
    nodes.incarnation(leader) === leaderIncarnation &&
    isr.includes(leader)
  )
}

/** The candidate whose turn it is: the first that stays, else the first of those that drain or go. */
function firstOf(candidates: readonly number[], state: PartitionState, nodes: NodesView): number | null {
  const stays = (nodeId: number): boolean => !nodes.draining(nodeId) && !state.removing.includes(nodeId)
  return candidates.find(stays) ?? candidates[0] ?? null
}

/**
 * The partition as it must be with nodes like these; null where it is so already. `from` is what it is now, `state` is that or with
 * other replicas or in-sync members. `unclean`: the topic lets a replica lead that is not in sync when none that is can.
 */
export function settle(
  from: PartitionState,
  nodes: NodesView,
  unclean: boolean,
  state: PartitionState = from,
): PartitionChanged | null {
  const alive = state.isr.filter(nodes.live)
  const isr = alive.length === 0 ? state.isr : alive
  const kept = { ...state, isr }
  if (leads(kept, nodes)) {
    return state === from && isr.length === from.isr.length ? null : changed(kept, {})
  }
  const clean = firstOf(
    state.replicas.filter(nodeId => alive.includes(nodeId)),
    state,
    nodes,
  )
  if (clean !== null) return ledBy(kept, clean, nodes)
  if (unclean) {
    const forced = leadUnclean(kept, nodes)
    if (forced !== null) return forced
  }
  if (state === from && state.leader === null) return null
  return changed(kept, { leader: null })
}

/** The partition led by a live replica, whatever it has; it alone is in sync then. Null where no replica is alive. */
export function leadUnclean(state: PartitionState, nodes: NodesView): PartitionChanged | null {
  const live = state.replicas.filter(nodes.live)
  const old = live.filter(nodeId => !state.adding.includes(nodeId))
  const leader = firstOf(old, state, nodes) ?? firstOf(live, state, nodes)
  if (leader === null) return null
  return { ...ledBy({ ...state, isr: [leader] }, leader, nodes), unclean: true }
}

/**
 * The in-sync set without a node that lost its data. `hasRest`: it came back with what is left of it, which nobody has more of where it is
 * the only replica, so there it stays. One with another directory leaves there too: the one that holds all may only be away.
 */
export function withoutSeat(state: PartitionState, nodeId: number, hasRest: boolean): PartitionState {
  if ((hasRest && state.replicas.length === 1) || !state.isr.includes(nodeId)) return state
  return { ...state, isr: state.isr.filter(member => member !== nodeId) }
}

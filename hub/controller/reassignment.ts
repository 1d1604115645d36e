import type { NodesView } from './election.ts'
import { changed, ledBy, settle } from './election.ts'
import type { PartitionChanged } from './partition-records.ts'
import { targetOf } from './places.ts'
import { isMoving } from './todo.ts'
import type { PartitionState } from './types.ts'
import { requiredInSyncOf } from './types.ts'

/** Moving a partition to other nodes (KIP-455): the new replicas come, catch up and join, then those that go are dropped. */

/**
 * The partition on its way to `target`, whose first is the preferred leader; null where it is there or on its way already. What an
 * earlier reassignment was adding and `target` lacks is dropped at once, unless it is in sync: then it goes with the others, since it
 * may be what the committed records are on.
 */
export function beginReassignment(
  state: PartitionState,
  target: readonly number[],
  nodes: NodesView,
): PartitionChanged | null {
  const holding = state.replicas.filter(
    nodeId => !state.adding.includes(nodeId) || state.isr.includes(nodeId),
  )
  const removing = holding.filter(nodeId => !target.includes(nodeId))
  const replicas = [...target, ...removing]
  const adding = target.filter(nodeId => !holding.includes(nodeId) || state.adding.includes(nodeId))
  if (sameList(replicas, state.replicas) && sameList(removing, state.removing)) return null
  const isr = replicas.filter(nodeId => state.isr.includes(nodeId))
  return letGo(state, settle(state, nodes, false, { ...state, replicas, isr, adding, removing }))
}

/**
 * The partition without the replicas that go, once enough that stay are in sync: all that came, and as many as a record was acked
 * upon before; null before that.
 */
export function completeReassignment(
  state: PartitionState,
  nodes: NodesView,
  minInsyncReplicas: number | null,
): PartitionChanged | null {
  const target = targetOf(state)
  const isr = state.isr.filter(nodeId => target.includes(nodeId))
  const before = requiredInSyncOf(minInsyncReplicas, state)
  if (!state.adding.every(nodeId => isr.includes(nodeId))) return null
  if (!isr.some(nodes.live) || isr.length < Math.min(before, target.length)) return null
  const next = { ...state, replicas: target, isr, adding: [], removing: [] }
  return letGo(state, settle(state, nodes, false, next))
}

/**
 * Where a replica goes, which deletes its log, the leader goes on under a new epoch (as Kafka's does): what the replica said before counts no
 * more, not even if it comes again right away, with nothing, and the leader has not heard yet that it was gone.
 */
function letGo<Next extends PartitionChanged | null>(before: PartitionState, next: Next): Next {
  if (next === null || next.leader === null || next.leaderEpoch > before.leaderEpoch) return next
  if (before.replicas.every(nodeId => next.replicas.includes(nodeId))) return next
  return { ...next, leaderEpoch: next.leaderEpoch + 1 }
}

/** The partition led by its preferred leader; null where that leads, is not in sync or not alive, or the partition is on its way. */
export function leadPreferred(state: PartitionState, nodes: NodesView): PartitionChanged | null {
  const [first] = state.replicas
  if (first === undefined || first === state.leader || state.leader === null) return null
  if (isMoving(state)) return null
  if (!state.isr.includes(first) || !nodes.live(first) || nodes.draining(first)) return null
  return ledBy(state, first, nodes)
}

/**
 * The partition without a node that is gone; the caller saw that others are in sync. What was to go stays instead where there would
 * be too few.
 */
export function withoutReplica(state: PartitionState, nodeId: number, nodes: NodesView): PartitionChanged {
  const others = (list: readonly number[]): number[] => list.filter(other => other !== nodeId)
  const rest = {
    ...state,
    replicas: others(state.replicas),
    isr: others(state.isr),
    adding: others(state.adding),
    removing: others(state.removing),
  }
  const target = targetInstead(state, nodeId, [])
  const next = beginReassignment(rest, target, nodes) ?? settle(state, nodes, false, rest)
  return letGo(state, next ?? changed(rest, {}))
}

/** The target of a reassignment without a node, with others instead: the `chosen`, then what was to go. */
export function targetInstead(state: PartitionState, nodeId: number, chosen: readonly number[]): number[] {
  const target = targetOf(state)
  const staying = target.filter(other => other !== nodeId)
  const instead = [...chosen, ...state.removing.filter(other => other !== nodeId)]
  return [...staying, ...instead.slice(0, target.length - staying.length)]
}

function sameList(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((item, index) => item === b[index])
}

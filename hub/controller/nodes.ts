import { TributaryError } from '../../common/errors.ts'
import type { Plan } from './controller.ts'
import { settle, viewOf, withoutSeat } from './election.ts'
import type { Image, ImageRecord } from './image.ts'
import type { PartitionChanged } from './partition-records.ts'
import { isOpen } from './places.ts'
import { withoutReplica } from './reassignment.ts'
import type { RegisterNode } from './requests.ts'
import type { NodeState, PartitionState } from './types.ts'

/** Nodes come, go silent, come back, stop in order, are drained and removed; what that means for the partitions on them. */

/** Registered nodes: each one is linked to each other one and follows the metadata. */
export const MAX_NODES = 100
const MAX_NODE_ID = 2_147_483_647

/**
 * A node is there anew, fenced until it is heard of: whatever it led it leads no more, and what another directory had under its name
 * it is not trusted with. `controllerId` is the active controller's node. Throws `invalid_argument`; `not_available` where the node id
 * is in use, and to all others before the first node, whose directory may hold all there is; `limit_exceeded`.
 */
export function registerNode(
  image: Image,
  request: RegisterNode,
  nowMs: number,
  controllerId: number,
): Plan<{ incarnation: number }> {
  const { nodeId, lostData, ...given } = request
  const known = image.node(nodeId)
  checkRegistration(image, request, controllerId)
  const incarnation = image.lastIncarnation() + 1
  const records: ImageRecord[] = [{ type: 'node_registered', nodeId, ...given, incarnation, atMs: nowMs }]
  const draining = known?.draining ?? false
  const times = { registeredMs: nowMs, changedMs: nowMs }
  const next = { ...given, ...times, nodeId, incarnation, fenced: true, left: false, draining }
  const nodes = viewOf(image, new Map([[nodeId, next]]))
  const lost = lostData || (known !== undefined && known.directoryId !== request.directoryId)
  const hasRest = known !== undefined && directoryOf(known.directoryId) === directoryOf(request.directoryId)
  for (const state of image.partitionsOn(nodeId)) {
    const seated = lost ? withoutSeat(state, nodeId, hasRest) : state
    const change = settle(state, nodes, mayLeadUnclean(image, state), seated)
    if (change !== null) records.push(change)
  }
  return { records, response: { incarnation } }
}

/** A directory that gave up its seat sits under its id and a suffix. */
function directoryOf(seatId: string): string {
  return seatId.split('-', 1)[0] ?? seatId
}

function checkRegistration(image: Image, request: RegisterNode, controllerId: number): void {
  const { nodeId, directoryId } = request
  if (!Number.isSafeInteger(nodeId) || nodeId < 1 || nodeId > MAX_NODE_ID) {
    throw new TributaryError('invalid_argument', `node id ${nodeId} is not one of 1 to ${MAX_NODE_ID}`)
  }
  const known = image.node(nodeId)
  if (known !== undefined && !known.fenced && known.directoryId !== directoryId) {
    throw new TributaryError(
      'not_available',
      `node ${nodeId} is alive with another directory (${known.directoryId}): stop it, or give this one a node id of its own`,
      { details: { directoryId: known.directoryId } },
    )
  }
  if (known !== undefined) return
  const count = image.nodes().length
  if (count === 0 && nodeId !== controllerId) {
    throw new TributaryError('not_available', `node ${controllerId} registers first; try again`)
  }
  if (count >= MAX_NODES) {
    throw new TributaryError(
      'limit_exceeded',
      `MAX_NODES (${MAX_NODES}) is reached: remove nodes that are gone ("tributary cluster remove")`,
      { details: { limit: 'MAX_NODES', value: MAX_NODES } },
    )
  }
}

function mayLeadUnclean(image: Image, { topicId }: PartitionState): boolean {
  return image.topicById(topicId)?.config.uncleanLeaderElection ?? false
}

/** Records that fence those of the nodes that are alive: others lead and are in sync where any can. */
export function fenceNodes(image: Image, nodeIds: readonly number[], nowMs: number): ImageRecord[] {
  return changeLiveness(image, nodeIds, { fenced: true, left: false }, nowMs)
}

/** Records that make those of the nodes live that are fenced and didn't stop by themselves; they lead what only they can. */
export function unfenceNodes(image: Image, nodeIds: readonly number[], nowMs: number): ImageRecord[] {
  const back = nodeIds.filter(nodeId => image.node(nodeId)?.left === false)
  return changeLiveness(image, back, { fenced: false, left: false }, nowMs)
}

/** Nodes that change together are judged together: of those in sync who all go, none is taken for the last one. */
function changeLiveness(
  image: Image,
  nodeIds: readonly number[],
  change: { fenced: boolean; left: boolean },
  changedMs: number,
): ImageRecord[] {
  const changed = new Map<number, NodeState>()
  const records: ImageRecord[] = []
  for (const nodeId of nodeIds) {
    const node = image.node(nodeId)
    if (node === undefined || node.fenced === change.fenced || changed.has(nodeId)) continue
    changed.set(nodeId, { ...node, ...change, changedMs })
    if (change.fenced) records.push({ type: 'node_fenced', nodeId, left: change.left, atMs: changedMs })
    else records.push({ type: 'node_unfenced', nodeId, atMs: changedMs })
  }
  const nodes = viewOf(image, changed)
  const seen = new Set<PartitionState>()
  for (const nodeId of changed.keys()) {
    for (const state of image.partitionsOn(nodeId)) {
      if (changed.size > 1 && seen.has(state)) continue
      if (changed.size > 1) seen.add(state)
      const next = settle(state, nodes, mayLeadUnclean(image, state))
      if (next !== null) records.push(next)
    }
  }
  return records
}

/** An orderly stop. Throws `not_found`; `fenced` for another incarnation than the node's newest. */
export function leave(
  image: Image,
  request: { nodeId: number; incarnation: number },
  nowMs: number,
): Plan<null> {
  const node = knownNode(image, request.nodeId)
  checkIncarnation(node, request.incarnation)
  if (node.left) return { records: [], response: null }
  if (!node.fenced) {
    return {
      records: changeLiveness(image, [node.nodeId], { fenced: true, left: true }, nowMs),
      response: null,
    }
  }
  return { records: [{ type: 'node_fenced', nodeId: node.nodeId, left: true, atMs: nowMs }], response: null }
}

function knownNode(image: Image, nodeId: number): NodeState {
  const node = image.node(nodeId)
  if (node !== undefined) return node
  throw new TributaryError('not_found', `there is no node ${nodeId}; see "tributary cluster nodes"`)
}

/** Throws `fenced` where another process registered as the node since. */
export function checkIncarnation(node: NodeState, incarnation: number): void {
  if (node.incarnation === incarnation) return
  throw new TributaryError(
    'fenced',
    `incarnation ${incarnation} of node ${node.nodeId} is not its newest (${node.incarnation}): another process registered as this node`,
    { details: { incarnation: node.incarnation } },
  )
}

/**
 * Whether a node gives away what it has; how far it is, `partitionsOn` tells. Throws `not_found`; `invalid_argument` where the
 * others are too few for it.
 */
export function drainNode(image: Image, request: { nodeId: number; draining: boolean }): Plan<null> {
  const { nodeId, draining } = request
  const node = knownNode(image, nodeId)
  if (node.draining === draining) return { records: [], response: null }
  if (draining) checkOthersSuffice(image, nodeId)
  return { records: [{ type: 'node_draining', nodeId, draining }], response: null }
}

function checkOthersSuffice(image: Image, nodeId: number): void {
  const others = image.nodes().filter(node => node.nodeId !== nodeId && !node.draining).length
  if (others === 0) {
    throw new TributaryError(
      'invalid_argument',
      `node ${nodeId} is the only one that holds on to what it has: add another one before it is drained`,
    )
  }
  const topic = image.topics().find(({ replication }) => (replication ?? 0) > others)
  if (topic === undefined) return
  throw new TributaryError(
    'invalid_argument',
    `topic "${topic.name}" has replication ${topic.replication}, without node ${nodeId} there are ${others}: add a node or lower it ("tributary cluster reassign")`,
    { details: { topic: topic.name } },
  )
}

/**
 * Forgets a node. What it still holds must be in sync elsewhere, so this is for nodes that are drained and for dead ones. Throws
 * `not_found`; `invalid_argument` where it is alive or holds what nobody else has.
 */
export function removeNode(image: Image, nodeId: number, nowMs: number): Plan<null> {
  const node = knownNode(image, nodeId)
  const held = image.partitionsOn(nodeId)
  if (isOpen(node) || (!node.fenced && held.size > 0)) {
    throw new TributaryError(
      'invalid_argument',
      `node ${nodeId} is alive${held.size > 0 ? ` and holds ${held.size} replicas` : ''}: ${node.draining ? 'wait until it is drained' : 'drain it first ("tributary cluster drain")'}`,
      { details: { replicas: held.size } },
    )
  }
  const nodes = viewOf(image, new Map([[nodeId, undefined]]))
  const changes: PartitionChanged[] = []
  let alone = 0
  for (const state of held) {
    // Where nobody is in sync the node has no seat to lose; what there is to choose from must not go with it.
    const { replicas, adding, isr } = state
    const holders = isr.length > 0 ? isr : replicas.filter(member => !adding.includes(member))
    if (!holders.some(member => member !== nodeId)) alone++
    else changes.push(withoutReplica(state, nodeId, nodes))
  }
  if (!image.nodes().some(other => other.nodeId !== nodeId && !other.draining)) {
    throw new TributaryError(
      'invalid_argument',
      `all nodes but ${nodeId} are being drained: add another one, or take a drain back, before it is removed`,
    )
  }
  if (image.todo().unplaced().size > 0) {
    throw new TributaryError('not_available', 'partitions are being given their first places; try again')
  }
  if (alone > 0) {
    throw new TributaryError(
      'invalid_argument',
      `node ${nodeId} holds ${alone} partitions that are in sync nowhere else: bring it back, or delete their topics`,
      { details: { replicas: held.size, alone } },
    )
  }
  return { records: [...changes, { type: 'node_removed', nodeId, atMs: nowMs }], response: null }
}

import type { Topic } from '../ports.ts'
import type { ControllerSettings } from './controller.ts'
import type { NodesView } from './election.ts'
import { viewOf } from './election.ts'
import type { Image, ImageRecord } from './image.ts'
import { preferredLeaders } from './operator.ts'
import { firstPlace, isOpen, placementNodes, targetOf, targetsOf } from './places.ts'
import { beginReassignment, completeReassignment, targetInstead } from './reassignment.ts'
import type { Placer } from './replica-placement.ts'
import { createPlacer } from './replica-placement.ts'
import type { NodeState, PartitionState } from './types.ts'

/**
 * What the controller does unasked: step by step it brings the cluster nearer to what it should be. Partitions get their first places,
 * reassignments are finished or sent elsewhere, draining nodes are emptied, replicas come where topics want more of them than they
 * have, leaders go back to where they belong.
 */

/** Partitions changed by one call. */
export const MAX_TIDY_CHANGES = 500
/** Reassignments under way at once that nobody asked for; more would only share the bytes a second that there are. */
export const MAX_MOVING = 500
/** A node that was to get a replica and is silent for so long gets none: another one does. */
export const REPLACE_AFTER_MS = 5 * 60_000
/** A node leads again what it is the preferred leader of when it has been alive for so long. */
export const LEAD_AFTER_MS = 60_000

interface Work {
  readonly image: Image
  readonly settings: ControllerSettings
  readonly nodes: readonly NodeState[]
  readonly open: number
  readonly view: NodesView
  readonly records: ImageRecord[]
  /** Partitions that have a record already: one change each. */
  readonly touched: Set<PartitionState>
  placerFor(topicId: string): Placer
}

/**
 * Records to commit together, at most `MAX_TIDY_CHANGES`; none where nothing is to do, which is found out at once. Where there were
 * some there may be more: it is called again when they are in the image, and about every second, since some things take time.
 */
export function tidy(image: Image, settings: ControllerSettings, nowMs: number): ImageRecord[] {
  const nodes = image.nodes()
  if (nodes.length === 0) return []
  const work: Work = {
    image,
    settings,
    nodes,
    open: nodes.filter(isOpen).length,
    view: viewOf(image),
    records: [],
    touched: new Set(),
    placerFor: placers(image),
  }
  placeFirst(work)
  finish(work)
  sendElsewhere(work, nowMs)
  drain(work)
  grow(work)
  const steady = nodes.filter(node => nowMs - node.changedMs >= LEAD_AFTER_MS).map(node => node.nodeId)
  const room = MAX_TIDY_CHANGES - work.records.length
  if (work.touched.size === 0) work.records.push(...preferredLeaders(image, steady, room))
  return work.records
}

/** A placer for each topic, made when first asked for. */
function placers(image: Image): (topicId: string) => Placer {
  const made = new Map<string, Placer>()
  return topicId => {
    const known = made.get(topicId)
    if (known !== undefined) return known
    const placer = createPlacer(placementNodes(image), targetsOf(image, topicId))
    made.set(topicId, placer)
    return placer
  }
}

function isFull(work: Work): boolean {
  return work.records.length >= MAX_TIDY_CHANGES
}

function mayMove({ image, touched }: Work): boolean {
  return image.todo().moving() + touched.size < MAX_MOVING
}

function add(work: Work, state: PartitionState, record: ImageRecord | null): void {
  if (record === null) return
  work.touched.add(state)
  work.records.push(record)
}

/** Partitions of before there were nodes lie in the directory of the first one: it alone may have their records. */
function placeFirst(work: Work): void {
  const { image, nodes, records } = work
  const home = nodes[0]?.nodeId
  if (home === undefined) return
  for (const topicId of image.todo().unplaced()) {
    const count = image.topicById(topicId)?.partitions ?? 0
    for (let partition = 0; partition < count; partition++) {
      if (isFull(work)) return
      if (image.partition(topicId, partition) !== undefined) continue
      records.push(firstPlace(image, topicId, partition, [home]))
    }
  }
}

function finish(work: Work): void {
  const { image, view } = work
  for (const state of image.todo().caughtUp()) {
    if (isFull(work)) return
    const min = topicOf(image, state)?.config.minInsyncReplicas ?? null
    add(work, state, completeReassignment(state, view, min))
  }
}

function topicOf(image: Image, { topicId }: PartitionState): Topic | undefined {
  return image.topicById(topicId)
}

/** Reassignments to nodes that drain now, or have been silent for long, go to other nodes, or back. */
function sendElsewhere(work: Work, nowMs: number): void {
  for (const node of work.nodes) {
    const silent = node.fenced && nowMs - node.changedMs >= REPLACE_AFTER_MS
    if (!node.draining && !silent) continue
    for (const state of work.image.todo().addingOn(node.nodeId)) {
      if (isFull(work)) return
      if (work.touched.has(state)) continue
      const placer = work.placerFor(state.topicId)
      const chosen = placer.choose(state.replicas, 1)
      const target = targetInstead(state, node.nodeId, chosen)
      reassign(work, state, target, placer)
    }
  }
}

/** Begins the reassignment and counts it, so that the next ones go elsewhere. */
function reassign(work: Work, state: PartitionState, target: readonly number[], placer: Placer): void {
  placer.count(targetOf(state), -1)
  const led = placer.lead(target)
  placer.count(led, 1)
  add(work, state, beginReassignment(state, led, work.view))
}

/**
 * Replicas leave draining nodes for others. Where there are fewer nodes that stay than a partition has replicas it will have fewer;
 * where there are enough but not all are alive, it waits for them.
 */
function drain(work: Work): void {
  const { image, nodes, touched } = work
  const staying = nodes.filter(node => !node.draining).map(node => node.nodeId)
  for (const node of nodes) {
    if (!node.draining || work.open === 0) continue
    for (const state of image.todo().restingOn(node.nodeId)) {
      if (isFull(work) || !mayMove(work)) return
      if (touched.has(state)) continue
      const kept = state.replicas.filter(nodeId => staying.includes(nodeId))
      const size = Math.min(state.replicas.length, staying.length)
      const placer = work.placerFor(state.topicId)
      const target = [...kept, ...placer.choose(kept, size - kept.length)]
      if (target.length === size) reassign(work, state, target, placer)
    }
  }
}

/** Partitions get the replicas that their topic asks for, or the cluster by default, as far as nodes are alive. */
function grow(work: Work): void {
  const { image, settings, touched } = work
  for (const { replication, replicas, states } of image.todo().resting()) {
    const wanted = Math.min(replication ?? settings.defaultReplication, work.open)
    if (replicas >= wanted) continue
    for (const state of states) {
      if (isFull(work) || !mayMove(work)) return
      if (touched.has(state)) continue
      const placer = work.placerFor(state.topicId)
      const target = [...state.replicas, ...placer.choose(state.replicas, wanted - replicas)]
      if (target.length > replicas) reassign(work, state, target, placer)
    }
  }
}

import type { Image } from './image.ts'

/**
 * Which nodes the active controller takes for alive, by what it hears. It is begun anew with each change of controller. Its time is the
 * time it was listening: a controller that was held up itself doesn't take the others for silent.
 */

export interface LivenessSettings {
  /** Nodes tell so often that they live; `judge` is called at least as often. */
  heartbeatMs: number
  /** Silence after which a node is fenced. */
  sessionTimeoutMs: number
}

/** A node where nothing listens is given up when its heartbeat is so late, in heartbeats: one may just have been sent. */
const OVERDUE = 1.5

/** A node's NodeHeartbeat. */
export interface Heartbeat {
  nodeId: number
  incarnation: number
  appliedIndex: number
}

export interface Liveness {
  /** `index` is the last entry applied here. */
  heard(beat: Heartbeat, index: number, nowMs: number): void
  /** Nothing listens where the node was: it is gone, unless it is heard of all the same. */
  refused(nodeId: number, nowMs: number): void
  /** Nodes to fence and nodes to make live, those that are so already left out. */
  judge(image: Image, nowMs: number): { fence: number[]; unfence: number[] }
}

interface Heard {
  readonly incarnation: number
  readonly atMs: number
  readonly appliedIndex: number
  /** What was applied here when the incarnation was first heard of: a node that is behind it doesn't know yet what it would lead. */
  readonly goalIndex: number
}

/**
 * Every node begins with a full session, those in `silentSince` with what is left of one: the controller before this one is silent
 * since it was last heard of. All times are of one monotonic clock.
 */
export function createLiveness(
  settings: LivenessSettings,
  nowMs: number,
  silentSince: ReadonlyMap<number, number>,
): Liveness {
  const { heartbeatMs, sessionTimeoutMs } = settings
  const heardOf = new Map<number, Heard>()
  const refusedMs = new Map<number, number>()
  const before = new Map<number, number>()
  for (const [nodeId, sinceMs] of silentSince) before.set(nodeId, Math.min(0, sinceMs - nowMs))
  let listenedMs = 0
  let lastMs = nowMs

  /** Time goes on by no more than a heartbeat from one call to the next. */
  function listened(atMs: number): number {
    listenedMs += Math.min(Math.max(0, atMs - lastMs), heartbeatMs)
    lastMs = Math.max(lastMs, atMs)
    return listenedMs
  }

  function lastHeard(nodeId: number, incarnation: number): number {
    const heard = heardOf.get(nodeId)
    return heard?.incarnation === incarnation ? heard.atMs : (before.get(nodeId) ?? 0)
  }

  function isSilent(nodeId: number, incarnation: number, atMs: number): boolean {
    const heardMs = lastHeard(nodeId, incarnation)
    const goneMs = refusedMs.get(nodeId)
    const isGone = goneMs !== undefined && goneMs >= heardMs && atMs - heardMs >= OVERDUE * heartbeatMs
    return isGone || atMs - heardMs >= sessionTimeoutMs
  }

  return {
    heard: ({ nodeId, incarnation, appliedIndex }, index, atNowMs) => {
      const known = heardOf.get(nodeId)
      if (known !== undefined && known.incarnation > incarnation) return
      const goalIndex = known?.incarnation === incarnation ? known.goalIndex : index
      heardOf.set(nodeId, { incarnation, atMs: listened(atNowMs), appliedIndex, goalIndex })
      refusedMs.delete(nodeId)
    },
    refused: (nodeId, atNowMs) => {
      if (!refusedMs.has(nodeId)) refusedMs.set(nodeId, listened(atNowMs))
    },
    judge: (image, atNowMs) => {
      const atMs = listened(atNowMs)
      const fence: number[] = []
      const unfence: number[] = []
      for (const { nodeId, incarnation, fenced, left } of image.nodes()) {
        const silent = isSilent(nodeId, incarnation, atMs)
        const heard = heardOf.get(nodeId)
        const present = heard?.incarnation === incarnation && heard.appliedIndex >= heard.goalIndex
        if (!fenced && silent) fence.push(nodeId)
        if (fenced && !left && !silent && present) unfence.push(nodeId)
      }
      for (const nodeId of heardOf.keys()) if (image.node(nodeId) === undefined) heardOf.delete(nodeId)
      return { fence, unfence }
    },
  }
}

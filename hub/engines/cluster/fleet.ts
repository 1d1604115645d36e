import type { Logger } from 'pino'
import type { Env } from '../../../common/env.ts'
import { isTributaryError, messageOf, TributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import { eachAtMost } from '../../../common/log/work.ts'
import type { PeerPresence } from '../../../common/wire-peer.ts'
import type { EdgeState } from '../../controller/image-edges.ts'
import type { EdgeInfo, Fleet, LaneKey } from '../../ports.ts'
import type { ClusterLogs } from './logs.ts'
import type { Metadata, Peers } from './types.ts'

/** Another node's edges are missing from a list rather than holding it up for longer. */
const PRESENCE_TIMEOUT_MS = SECOND_MS
/** Lanes of an edge forgotten at once. */
const MAX_REMOVALS_AT_ONCE = 16

export interface FleetContext {
  env: Pick<Env, 'clock'>
  nodeId: number
  metadata: Pick<Metadata, 'image' | 'onApplied' | 'submit'>
  logs: Pick<ClusterLogs, 'openLane' | 'removeLane'>
  peers: Pick<Peers, 'call' | 'isUp'>
  log: Logger
}

/** The fleet, and what this node tells others of it. */
export interface ClusterFleet extends Fleet {
  /** Edges that this node has heard of since it started. */
  presences(): PeerPresence[]
}

/** What is known of an edge since this hub started; all else is metadata. */
interface Presence {
  /** By session: the one in use, and any that were granted a number and may take over. */
  readonly connections: Map<number, () => void>
  lastSeenMs: number
  clockOffsetMs: number
  report: EdgeInfo['report']
}

/** 32 random hexadecimal digits. */
export function freshTopicId(env: Pick<Env, 'rng'>): string {
  return Buffer.from(env.rng.bytes(16)).toString('hex')
}

/** The edges: connections and reports in the memory of the node they came to, sessions and bindings by the controller. */
export function createFleet({ env, nodeId, metadata, logs, peers, log }: FleetContext): ClusterFleet {
  const { clock } = env
  const presences = new Map<string, Presence>()

  metadata.onApplied(records => {
    if (records === null) for (const edgeId of [...presences.keys()]) fenceOlder(edgeId)
    for (const record of records ?? []) {
      if (record.type === 'session_confirmed' || record.type === 'edge_removed') fenceOlder(record.edgeId)
    }
  })

  /** Whoever began a newer session, on whatever node, or removed the edge: its older connections here are over. */
  function fenceOlder(edgeId: string): void {
    const presence = presences.get(edgeId)
    if (presence === undefined) return
    const edge = metadata.image().edge(edgeId)
    if (edge === undefined) presences.delete(edgeId)
    const begun = edge?.session.confirmed ?? Number.POSITIVE_INFINITY
    for (const [session, fence] of [...presence.connections]) {
      if (session >= begun) continue
      presence.connections.delete(session)
      fence()
    }
  }

  function seen(edgeId: string): Presence {
    const nowMs = Math.round(clock.nowMs())
    const known = presences.get(edgeId)
    if (known !== undefined) {
      known.lastSeenMs = nowMs
      return known
    }
    const made: Presence = { connections: new Map(), lastSeenMs: nowMs, clockOffsetMs: 0, report: null }
    presences.set(edgeId, made)
    return made
  }

  function local(): PeerPresence[] {
    return Array.from(presences, ([edgeId, { connections, lastSeenMs, clockOffsetMs, report }]) => {
      const session = Math.max(0, ...connections.keys())
      return { edgeId, connected: connections.size > 0, session, lastSeenMs, clockOffsetMs, report }
    })
  }

  /** What another node has heard of; nothing where it does not answer. */
  async function presencesAt(other: number): Promise<PeerPresence[]> {
    const found: PeerPresence[] = []
    try {
      for (let after: string | null = null, more = true; more; ) {
        const answer: { edges: PeerPresence[]; more: boolean } = await peers.call(
          other,
          { c: 'presence', after },
          PRESENCE_TIMEOUT_MS,
        )
        found.push(...answer.edges)
        after = answer.edges.at(-1)?.edgeId ?? null
        more = answer.more && after !== null
      }
    } catch (error) {
      if (!isTributaryError(error)) throw error
      log.debug({ node: other, reason: messageOf(error) }, 'a node did not tell of its edges')
    }
    return found
  }

  async function list(): Promise<EdgeInfo[]> {
    const others = metadata
      .image()
      .nodes()
      .filter(node => node.nodeId !== nodeId && peers.isUp(node.nodeId))
    const told = await Promise.all(
      others.map(async other => ({ other, edges: await presencesAt(other.nodeId) })),
    )
    const best = new Map(local().map(presence => [presence.edgeId, { at: nodeId, presence }]))
    for (const { other, edges } of told) {
      for (const presence of edges) {
        const known = best.get(presence.edgeId)?.presence
        if (known === undefined || isFresher(presence, known))
          best.set(presence.edgeId, { at: other.nodeId, presence })
      }
    }
    return metadata
      .image()
      .edges()
      .map(edge => infoOf(edge, best.get(edge.id)))
  }

  /** Forgets the edge's tips, so that it starts anew; bindings go with the edge itself. */
  async function removeTips(edge: EdgeState): Promise<void> {
    const lanes: LaneKey[] = []
    for (const [topicId, bound] of edge.lanes) {
      if (metadata.image().topicById(topicId) === undefined) continue
      for (const [lane, partition] of bound) lanes.push({ edgeId: edge.id, topicId, partition, lane })
    }
    await eachAtMost(MAX_REMOVALS_AT_ONCE, lanes, async lane => {
      // One without a tip may be of a partition without a log, and needs none for this.
      const { tip } = await logs.openLane(lane)
      if (tip !== null) await logs.removeLane(lane)
    })
  }

  return {
    connect: async request => {
      const { id, session: presented, address, software, fence } = request
      const wanted = { edgeId: id, session: presented, address, software }
      const { session, verdict, alarm } = await metadata.submit('connect-edge', wanted, request.isWanted)
      if (alarm !== null) log.warn({ edge: id, alarm: alarm.kind, session }, alarm.message)
      const presence = seen(id)
      presence.clockOffsetMs = request.nowMs - Math.round(clock.nowMs())
      presence.connections.set(session, fence)
      fenceOlder(id)
      return { session, verdict }
    },
    start: async (edgeId, session) => {
      const alarm = await metadata.submit('confirm-edge', { edgeId, session })
      if (alarm !== null) log.warn({ edge: edgeId, alarm: alarm.kind, session }, alarm.message)
    },
    disconnect: (edgeId, session) => {
      if (presences.get(edgeId)?.connections.has(session) === true) seen(edgeId).connections.delete(session)
    },
    report: (edgeId, session, report, clockOffsetMs) => {
      if (presences.get(edgeId)?.connections.has(session) !== true) return
      const presence = seen(edgeId)
      presence.report = report
      presence.clockOffsetMs = clockOffsetMs
    },
    bindLane: request => metadata.submit('bind-lane', request),
    list,
    local: () => {
      const here = new Map(local().map(presence => [presence.edgeId, { at: nodeId, presence }]))
      return metadata
        .image()
        .edges()
        .map(edge => infoOf(edge, here.get(edge.id)))
    },
    presences: local,
    remove: async edgeId => {
      const edge = metadata.image().edge(edgeId)
      if (edge !== undefined) {
        const info = (await list()).find(({ id }) => id === edgeId)
        if (info?.connected === true) {
          throw new TributaryError(
            'invalid_argument',
            `edge "${edgeId}" is connected: stop it first, or it would come back at once`,
          )
        }
        await removeTips(edge)
      }
      await metadata.submit('remove-edge', { edgeId })
    },
  }
}

/** Connected before gone, then who saw it last. */
function isFresher(one: PeerPresence, other: PeerPresence): boolean {
  if (one.connected !== other.connected) return one.connected
  return one.connected ? one.session > other.session : one.lastSeenMs > other.lastSeenMs
}

function infoOf(edge: EdgeState, found: { at: number; presence: PeerPresence } | undefined): EdgeInfo {
  const presence = found?.presence
  const connected = presence?.connected ?? false
  return {
    id: edge.id,
    connected,
    nodeId: connected ? (found?.at ?? null) : null,
    address: edge.address,
    software: edge.software,
    session: edge.session.newest,
    firstSeenMs: edge.firstSeenMs,
    lastSeenMs: presence?.lastSeenMs ?? edge.lastSeenMs,
    clockOffsetMs: presence?.clockOffsetMs ?? 0,
    alarms: [...edge.alarms],
    report: presence?.report ?? null,
  }
}

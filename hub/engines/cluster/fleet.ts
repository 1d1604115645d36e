import type { Logger } from 'pino'
import type { Env } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { Image } from '../../controller/image.ts'
import type { EdgeState } from '../../controller/image-edges.ts'
import type { EdgeInfo, Fleet } from '../../ports.ts'
import type { PartitionTable } from './partitions.ts'
import type { Metadata } from './types.ts'

export interface FleetContext {
  env: Env
  metadata: Metadata
  partitions: PartitionTable
  log: Logger
}

/** What is known of an edge since this hub started; all else is metadata. */
interface Presence {
  connection: { session: number; fence(): void } | null
  lastSeenMs: number
  clockOffsetMs: number
  report: EdgeInfo['report']
}

/** 32 random hexadecimal digits. */
export function freshTopicId(env: Pick<Env, 'rng'>): string {
  return Buffer.from(env.rng.bytes(16)).toString('hex')
}

/** The edges: connections and reports in memory, sessions and bindings by the controller. */
export function createFleet({ env, metadata, partitions, log }: FleetContext): Fleet {
  const { clock } = env
  const presences = new Map<string, Presence>()

  function seen(edgeId: string): Presence {
    const nowMs = Math.round(clock.nowMs())
    const known = presences.get(edgeId)
    if (known !== undefined) {
      known.lastSeenMs = nowMs
      return known
    }
    const made: Presence = { connection: null, lastSeenMs: nowMs, clockOffsetMs: 0, report: null }
    presences.set(edgeId, made)
    return made
  }

  function infoOf(edge: EdgeState): EdgeInfo {
    const presence = presences.get(edge.id)
    return {
      id: edge.id,
      connected: presence !== undefined && presence.connection !== null,
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

  /** Forgets the edge's tips, so that it starts anew; bindings go with the edge itself. */
  async function removeTips(image: Image, edge: EdgeState): Promise<void> {
    for (const [topicId, lanes] of edge.lanes) {
      const topic = image.topicById(topicId)
      if (topic === undefined) continue
      for (const [lane, number] of lanes) {
        const open = partitions.peek(topicId, number)
        if (open !== null) await open.removeLane({ edge: edge.id, lane })
      }
    }
  }

  return {
    connect: async request => {
      const { id, session: presented, address, software, fence } = request
      const nowMs = Math.round(clock.nowMs())
      const wanted = { edgeId: id, session: presented, address, software }
      const granted = await metadata.submit('connect-edge', wanted)
      const { session, verdict, alarm } = granted
      if (alarm !== null) log.warn({ edge: id, alarm: alarm.kind, session }, alarm.message)
      const presence = seen(id)
      presence.clockOffsetMs = request.nowMs - nowMs
      const older = presence.connection
      presence.connection = { session, fence }
      older?.fence()
      return { session, verdict }
    },
    start: async (edgeId, session) => {
      await metadata.submit('confirm-edge', { edgeId, session })
    },
    disconnect: (edgeId, session) => {
      if (presences.get(edgeId)?.connection?.session !== session) return
      seen(edgeId).connection = null
    },
    report: (edgeId, session, report, clockOffsetMs) => {
      if (presences.get(edgeId)?.connection?.session !== session) return
      const presence = seen(edgeId)
      presence.report = report
      presence.clockOffsetMs = clockOffsetMs
    },
    bindLane: request => metadata.submit('bind-lane', request),
    list: async () => metadata.image().edges().map(infoOf),
    local: () => metadata.image().edges().map(infoOf),
    remove: async edgeId => {
      const image = metadata.image()
      const edge = image.edge(edgeId)
      if (edge !== undefined && presences.get(edgeId)?.connection) {
        throw new TributaryError(
          'invalid_argument',
          `edge "${edgeId}" is connected: stop it first, or it would come back at once`,
        )
      }
      if (edge !== undefined) await removeTips(image, edge)
      await metadata.submit('remove-edge', { edgeId })
      presences.delete(edgeId)
    },
  }
}

import type { Clock, Timer } from '../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { PartitionRef, PeerAnswer, PeerCall, PeerPresence } from '../../../common/wire-peer.ts'
import { PEER_LIMITS } from '../../../common/wire-peer.ts'
import type { LaneKey, PartitionRead } from '../../ports.ts'
import type { Partition } from '../../replica/partition.ts'
import type { GapLog } from './gap-log.ts'
import { acksOf, emptyBounds, idOf, readHere, settledTip } from './logs.ts'
import type { PartitionTable } from './partitions.ts'
import type { Routes } from './routes.ts'

/**
 * What other nodes ask of this one as the leader of partitions. Each call names the epoch its asker knows: it is done under that one or
 * not at all, so that who was told of a leader by old metadata learns of it instead of being misled.
 */

/** How long a call waits for this node to hear of the leadership that its asker knows of already. */
const HEAR_WAIT_MS = 3 * SECOND_MS
/** Reads wait no longer for data. */
const MAX_READ_WAIT_MS = 10 * SECOND_MS
/** Lanes in one answer about edges. */
const MAX_PRESENCE_LANES = 20_000

export interface CallsContext {
  clock: Clock
  partitions: Pick<PartitionTable, 'peek' | 'use' | 'whenPast'>
  routes: Routes
  /** Edges that this node has heard of, by id. */
  presences(): PeerPresence[]
  /** `_gaps` where this node leads it; null while it is starting. */
  gapLog(): GapLog | null
}

/** A call that the leader of a partition answers by its replica. */
type LeaderCall = Extract<PeerCall, PartitionRef>
/** Replication's own, see replication.ts. */
type ReplicaCall = Extract<PeerCall, { c: 'producer-snapshot' | 'stretch' }>

/** Begins calls in the order in which they come; `controller`, `producer-snapshot` and `stretch` are answered elsewhere. */
export function createCalls(
  context: CallsContext,
): (call: Exclude<PeerCall, ReplicaCall | { c: 'controller' }>) => Promise<PeerAnswer> {
  const { clock, partitions, routes } = context

  /** Runs `lead` where this node leads under the epoch asked for; there may be no replica yet, of an empty partition. */
  function leading<T>(ref: LeaderCall, lead: (replica: Partition | null) => Promise<T>): Promise<T> {
    const { topicId, partition, leaderEpoch } = ref
    return routes.enter(
      topicId,
      partition,
      HEAR_WAIT_MS,
      route => {
        if (route.at === 'here' && route.leaderEpoch === leaderEpoch) {
          return lead(partitions.peek(topicId, partition))
        }
        const leader = route.at === 'here' ? null : route.nodeId
        const message = `this node does not lead partition ${partition} under epoch ${leaderEpoch} any more`
        return Promise.reject(new TributaryError('not_available', message, { details: { leader } }))
      },
      leaderEpoch,
    )
  }

  function writing<T>(ref: LeaderCall, use: (replica: Partition) => Promise<T>): Promise<T> {
    const { topicId, partition } = ref
    return leading(ref, () => partitions.use(routes.topic(topicId, partition), partition, use))
  }

  /** Failures say where the lane stands, so that the edge goes on without asking. */
  async function ofLane<T>(
    ref: LeaderCall & Pick<LaneKey, 'edgeId' | 'lane'>,
    use: (replica: Partition) => Promise<T>,
  ): Promise<T> {
    try {
      return await writing(ref, use)
    } catch (error) {
      if (!isTributaryError(error) || 'next' in error.details || 'leader' in error.details) throw error
      const tip = tipOf(partitions.peek(ref.topicId, ref.partition), ref)
      if (tip === null) throw error
      const { code, message, details } = error
      throw new TributaryError(code, message, {
        cause: error,
        details: { ...details, run: tip.run, next: tip.next },
      })
    }
  }

  async function read(call: Extract<PeerCall, { c: 'read' }>): Promise<PartitionRead> {
    const now = (): Promise<PartitionRead> =>
      leading(call, replica => readHere(replica, call.leaderEpoch, call))
    const found = await now()
    const isEnd = found.batches.length === 0 && found.nextOffset >= found.bounds.highWatermark
    if (!isEnd || call.maxWaitMs === 0) return found
    await past(call)
    return now()
  }

  /** Resolves when there is more, when the time is over, or when this node leads no more. */
  function past({ topicId, partition, offset, maxWaitMs }: Extract<PeerCall, { c: 'read' }>): Promise<void> {
    return new Promise((resolve, reject) => {
      let timer: Timer | null = null
      let cancel = (): void => {}
      const end = (): void => {
        timer?.cancel()
        cancel()
        resolve()
      }
      timer = clock.setTimer(end, Math.min(maxWaitMs, MAX_READ_WAIT_MS))
      try {
        cancel = partitions.whenPast(routes.topic(topicId, partition), partition, offset, end)
      } catch (error) {
        timer.cancel()
        reject(error)
      }
    })
  }

  function gapLog(): GapLog {
    const found = context.gapLog()
    if (found !== null) return found
    throw new TributaryError('not_available', 'this node is starting')
  }

  return async call => {
    switch (call.c) {
      case 'append': {
        const { baseOffset } = await writing(call, replica => replica.append(call.batches, acksOf(call.acks)))
        return { c: call.c, baseOffset }
      }
      case 'append-lane':
        return {
          c: call.c,
          tip: await ofLane(call, replica => replica.appendLane(idOf(call), call.batches)),
        }
      case 'start-run':
        return { c: call.c, tip: await ofLane(call, replica => replica.startRun(idOf(call), call.start)) }
      case 'declare-gap':
        return { c: call.c, tip: await ofLane(call, replica => replica.declareGap(idOf(call), call.gap)) }
      case 'remove-lane':
        await writing(call, replica => replica.removeLane(idOf(call)))
        return { c: call.c }
      case 'lane-tip': {
        const tip = await leading(call, async replica =>
          replica === null ? null : settledTip(replica, idOf(call)),
        )
        return { c: call.c, tip }
      }
      case 'bounds': {
        const bounds = await leading(
          call,
          async replica => replica?.bounds() ?? emptyBounds(call.leaderEpoch),
        )
        return { c: call.c, bounds }
      }
      case 'read': {
        const { batches, nextOffset, lastEpoch, bounds, isSettled } = await read(call)
        return { c: call.c, batches, nextOffset, lastEpoch, bounds, isSettled }
      }
      case 'offset-for-time': {
        const offset = await leading(call, async replica => replica?.offsetForTime(call.timeMs) ?? 0)
        return { c: call.c, offset }
      }
      case 'tell-gaps':
        await gapLog().write(call, call.notices)
        return { c: call.c }
      case 'told-gaps':
        return { c: call.c, offsets: await gapLog().toldTo(call, call.sources) }
      case 'presence':
        return presencesAfter(context.presences(), call.after)
    }
  }
}

function tipOf(replica: Partition | null, lane: Pick<LaneKey, 'edgeId' | 'lane'>) {
  try {
    return replica?.tip(idOf(lane)) ?? null
  } catch (error) {
    if (isTributaryError(error)) return null
    throw error
  }
}

/** As many as fit one answer, in the order of their ids. */
function presencesAfter(all: readonly PeerPresence[], after: string | null): PeerAnswer {
  const behind = all
    .filter(({ edgeId }) => after === null || edgeId > after)
    .sort((left, right) => (left.edgeId < right.edgeId ? -1 : 1))
  let lanes = 0
  const edges: PeerPresence[] = []
  for (const edge of behind) {
    lanes += edge.report?.lanes.length ?? 0
    if (edges.length === PEER_LIMITS.maxPresences || (edges.length > 0 && lanes > MAX_PRESENCE_LANES)) break
    edges.push(edge)
  }
  return { c: 'presence', edges, more: edges.length < behind.length }
}

import type { Clock } from '../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import { pause } from '../../../common/pause.ts'
import type { PeerCall } from '../../../common/wire-peer.ts'
import { GAPS_TOPIC } from '../../controller/names.ts'
import type { Acks, LaneKey, Logs, PartitionBounds, PartitionRead, Topic } from '../../ports.ts'
import type { LaneId } from '../../replica/lanes.ts'
import { notSettled } from '../../replica/leader.ts'
import type { Partition } from '../../replica/partition.ts'
import type { PartitionTable } from './partitions.ts'
import type { Route, Routes } from './routes.ts'
import { LEADER_WAIT_MS } from './routes.ts'
import type { Tails } from './tails.ts'
import type { AnswerTo, Metadata, Peers } from './types.ts'

/** Logs of the cluster: of partitions that this node leads by their replica here, of others by calls to the nodes that do. */

/** What a leader is given to answer a write, which may wait for other replicas. */
const WRITE_TIMEOUT_MS = 30 * SECOND_MS
/** What it is given to answer anything else. */
const ASK_TIMEOUT_MS = 5 * SECOND_MS
/** Before a leader that did not know yet is asked again. */
const ASK_AGAIN_MS = 20
const NO_BYTES = new Uint8Array(0)
const WIRE_ACKS = { 0: 0, 1: 1, all: -1 } as const

export interface LogsContext {
  clock: Clock
  metadata: Pick<Metadata, 'image' | 'submit'>
  partitions: Pick<PartitionTable, 'peek' | 'use' | 'whenPast'>
  routes: Routes
  tails: Tails
  peers: Pick<Peers, 'call'>
}

/** What the engine itself asks of logs beside what endpoints do. */
export interface ClusterLogs extends Logs {
  /** Forgets a lane, durably, at its leader. */
  removeLane(lane: LaneKey): Promise<void>
}

export function createLogs(context: LogsContext): ClusterLogs {
  const { clock, metadata, partitions, routes, tails, peers } = context

  function writable(topicId: string, partition: number): Topic {
    const topic = routes.topic(topicId, partition)
    if (topic.name !== GAPS_TOPIC) return topic
    throw new TributaryError('invalid_argument', `"${GAPS_TOPIC}" is written by the hub alone`)
  }

  /**
   * A leader that was cut off and replaced may not know, and refuse what follows from records that it lacks: to be sure, the refusal
   * waits until all is known here that was committed before. What an edge writes needs none of that: it came to its node by such a
   * round, and writes through no other one meanwhile.
   */
  async function sure<T>(
    topicId: string,
    partition: number,
    { leaderEpoch }: Route,
    answer: Promise<T>,
  ): Promise<T> {
    try {
      return await answer
    } catch (error) {
      if (!isOfState(error) || metadata.image().nodes().length < 2) throw error
      await metadata.submit('sync', {})
      if ((metadata.image().partition(topicId, partition)?.leaderEpoch ?? 0) === leaderEpoch) throw error
      throw new TributaryError('not_available', 'the partition has another leader: try again', {
        cause: error,
      })
    }
  }

  /** That there is no such topic or partition is said only when all is known here that was committed before. */
  async function asItIs(topicId: string, partition: number, error: unknown): Promise<unknown> {
    if (!isTributaryError(error, 'unknown_topic') || metadata.image().nodes().length < 2) return error
    await metadata.submit('sync', {})
    try {
      routes.topic(topicId, partition)
    } catch (still) {
      return still
    }
    return new TributaryError('not_available', 'this node has only now heard of the partition: try again')
  }

  function routeNow(topicId: string, partition: number): Route | null {
    try {
      return routes.now(topicId, partition)
    } catch {
      return null
    }
  }

  /**
   * Hands a write over, once: in the order of the calls, to whoever leads when its turn comes. Where the leader goes meanwhile, whether it
   * was done is not known, and whoever wrote must say it again in a way that does no harm.
   */
  async function write<C extends PeerCall, T>(
    topicId: string,
    partition: number,
    here: (open: Partition) => Promise<T>,
    there: (leaderEpoch: number) => C,
    take: (answer: AnswerTo<C['c']>) => T,
    isOfEdge = true,
  ): Promise<T> {
    const topic = writable(topicId, partition)
    const writeAt = (route: Route): Promise<T> => {
      if (route.at === 'here') return partitions.use(topic, partition, here)
      const call = peers.call(route.nodeId, there(route.leaderEpoch), WRITE_TIMEOUT_MS)
      return routes.underWay(topicId, partition, route, call).then(take)
    }
    return routes.enter(topicId, partition, LEADER_WAIT_MS, route => {
      return isOfEdge ? writeAt(route) : sure(topicId, partition, route, writeAt(route))
    })
  }

  /**
   * Asks whoever leads, and again where that one does not know yet or is none any more, until `waitMs` are over: what changes nothing may
   * be asked twice.
   */
  async function ask<C extends PeerCall, T>(
    topicId: string,
    partition: number,
    waitMs: number,
    here: (replica: Partition | null, route: Route) => Promise<T>,
    there: (leaderEpoch: number) => C,
    take: (answer: AnswerTo<C['c']>) => T,
  ): Promise<T> {
    const deadlineMs = clock.monotonicMs() + waitMs
    const askAt = (route: Route, leftMs: number): Promise<T> => {
      if (route.at === 'here') return here(partitions.peek(topicId, partition), route)
      const call = peers.call(route.nodeId, there(route.leaderEpoch), Math.min(leftMs, ASK_TIMEOUT_MS))
      return routes.underWay(topicId, partition, route, call).then(take)
    }
    for (;;) {
      try {
        const leftMs = Math.max(1, deadlineMs - clock.monotonicMs())
        return await routes.enter(topicId, partition, leftMs, route => {
          return sure(topicId, partition, route, askAt(route, leftMs))
        })
      } catch (thrown) {
        const error = await asItIs(topicId, partition, thrown)
        const mayPass = isTributaryError(error, 'not_available') || isTributaryError(error, 'timeout')
        const isElsewhere = isTributaryError(error) && error.details.elsewhere === true
        if (!mayPass || isElsewhere || clock.monotonicMs() + ASK_AGAIN_MS >= deadlineMs) throw error
        await pause(clock, ASK_AGAIN_MS)
      }
    }
  }

  function bounds(topicId: string, partition: number, waitMs = LEADER_WAIT_MS): Promise<PartitionBounds> {
    return ask(
      topicId,
      partition,
      waitMs,
      async (replica, { leaderEpoch }) => replica?.bounds() ?? emptyBounds(leaderEpoch),
      leaderEpoch => ({ c: 'bounds', topicId, partition, leaderEpoch }),
      answer => answer.bounds,
    )
  }

  return {
    bounds,
    append: (topicId, partition, batches, acks) =>
      write(
        topicId,
        partition,
        open => open.append(batches, acks),
        leaderEpoch => ({ c: 'append', topicId, partition, leaderEpoch, acks: WIRE_ACKS[acks], batches }),
        ({ baseOffset }) => ({ baseOffset }),
        false,
      ).catch(async (error: unknown) => {
        throw await asItIs(topicId, partition, error)
      }),
    appendLane: (lane, batches) =>
      write(
        lane.topicId,
        lane.partition,
        open => open.appendLane(idOf(lane), batches),
        leaderEpoch => ({ c: 'append-lane', ...lane, leaderEpoch, batches }),
        ({ tip }) => tip,
      ),
    startRun: (lane, start) =>
      write(
        lane.topicId,
        lane.partition,
        open => open.startRun(idOf(lane), start),
        leaderEpoch => ({ c: 'start-run', ...lane, leaderEpoch, start }),
        ({ tip }) => tip,
      ),
    declareGap: (lane, gap) =>
      write(
        lane.topicId,
        lane.partition,
        open => open.declareGap(idOf(lane), gap),
        leaderEpoch => ({ c: 'declare-gap', ...lane, leaderEpoch, gap }),
        ({ tip }) => tip,
      ),
    removeLane: lane =>
      write(
        lane.topicId,
        lane.partition,
        open => open.removeLane(idOf(lane)),
        leaderEpoch => ({ c: 'remove-lane', ...lane, leaderEpoch }),
        () => undefined,
      ),
    openLane: lane => {
      let epoch = 0
      return ask(
        lane.topicId,
        lane.partition,
        LEADER_WAIT_MS,
        async (replica, route) => {
          epoch = route.leaderEpoch
          return replica === null ? null : settledTip(replica, idOf(lane))
        },
        leaderEpoch => {
          epoch = leaderEpoch
          return { c: 'lane-tip', ...lane, leaderEpoch }
        },
        ({ tip }) => tip,
      ).then(tip => ({ tip, leaderEpoch: epoch }))
    },
    tip: lane => partitions.peek(lane.topicId, lane.partition)?.tip(idOf(lane)) ?? null,
    read: async (topicId, partition, offset, maxBytes, lastEpoch = -1) => {
      const route = routeNow(topicId, partition)
      // Who read on from what an earlier leader wrote has to be told where that was lost, which only the leader can.
      if (route?.at === 'there' && (lastEpoch < 0 || lastEpoch === route.leaderEpoch)) {
        const kept = tails.take(topicId, partition, offset, route.leaderEpoch)
        if (kept !== null) return kept
      }
      return ask(
        topicId,
        partition,
        LEADER_WAIT_MS,
        (replica, { leaderEpoch }) => readHere(replica, leaderEpoch, { offset, maxBytes, lastEpoch }),
        leaderEpoch => {
          const place = { topicId, partition, leaderEpoch }
          return { c: 'read', ...place, offset, lastEpoch, maxBytes, maxWaitMs: 0 }
        },
        ({ c: _, ...found }) => found,
      )
    },
    offsetForTime: (topicId, partition, timeMs) =>
      ask(
        topicId,
        partition,
        LEADER_WAIT_MS,
        async replica => replica?.offsetForTime(timeMs) ?? 0,
        leaderEpoch => ({ c: 'offset-for-time', topicId, partition, leaderEpoch, timeMs }),
        ({ offset }) => offset,
      ),
    whenPast: (topicId, partition, offset, listener) => {
      const route = routes.now(topicId, partition)
      if (route?.at === 'here') {
        return partitions.whenPast(routes.topic(topicId, partition), partition, offset, listener)
      }
      return tails.wait(topicId, partition, offset, listener)
    },
    allocateProducerId: producerIds(metadata),
  }
}

/** Lanes are told apart by these within a partition. */
export function idOf({ edgeId, lane }: Pick<LaneKey, 'edgeId' | 'lane'>): LaneId {
  return { edge: edgeId, lane }
}

/** A partition that was never appended to. */
export function emptyBounds(leaderEpoch: number): PartitionBounds {
  return { startOffset: 0, endOffset: 0, highWatermark: 0, leaderEpoch, sizeBytes: 0 }
}

/**
 * The tip once all of it is committed: an earlier connection may have left appends under way, of which the next would never be
 * told. Whichever run is the tip then counts: one that waits for its turn may take the place of this one.
 */
export async function settledTip(replica: Partition, id: LaneId) {
  return replica.tip(id) === null ? null : replica.openLane(id)
}

export interface ReadRequest {
  offset: number
  maxBytes: number
  lastEpoch: number
}

/** Reads at the leader; null: it has no log yet. See Logs.read for what it rejects with. */
export async function readHere(
  replica: Partition | null,
  leaderEpoch: number,
  { offset, maxBytes, lastEpoch }: ReadRequest,
): Promise<PartitionRead> {
  if (lastEpoch > leaderEpoch) {
    // It is this leader that is behind: what the reader has says nothing about what was lost.
    throw new TributaryError(
      'not_available',
      `the reader has records of leader epoch ${lastEpoch}, this node leads under ${leaderEpoch} and has yet to hear of it; try again`,
    )
  }
  if (replica === null) {
    const bounds = emptyBounds(leaderEpoch)
    if (offset === 0) return { batches: NO_BYTES, nextOffset: 0, lastEpoch: -1, bounds, isSettled: true }
    const details = { startOffset: 0, highWatermark: 0 }
    throw new TributaryError('offset_out_of_range', `the partition is empty, ${offset} is past it`, {
      details,
    })
  }
  const parted = lastEpoch < 0 ? null : replica.parting(lastEpoch, offset)
  if (parted !== null) {
    const { startOffset, highWatermark, isSettled } = replica.told()
    if (!isSettled) throw notSettled(`partition under leader epoch ${leaderEpoch}`)
    const truncatedTo = Math.min(parted.endOffset, offset)
    throw new TributaryError(
      'offset_out_of_range',
      `the log parts at ${truncatedTo} from what was read to ${offset} of leader epoch ${lastEpoch}: an earlier leader's records were lost`,
      { details: { startOffset, highWatermark, truncatedTo } },
    )
  }
  const read = await replica.read(offset, maxBytes)
  if (replica.actingEpoch('leader') !== leaderEpoch) {
    // Nothing is wrong with what was read, but how far the partition is committed is not known here any more.
    read.release?.()
    throw new TributaryError('not_available', 'the partition got another leader while it was read; try again')
  }
  const { startOffset, highWatermark, durableEnd: endOffset, isSettled } = replica.told()
  const bounds = { startOffset, highWatermark, endOffset, leaderEpoch, sizeBytes: 0 }
  return { ...read, lastEpoch: replica.epochBefore(read.nextOffset), bounds, isSettled }
}

/** Says something of what the leader has. */
function isOfState(error: unknown): boolean {
  return isTributaryError(error, 'out_of_order_sequence') || isTributaryError(error, 'offset_out_of_range')
}

export function acksOf(acks: -1 | 0 | 1): Acks {
  return acks === -1 ? 'all' : acks
}

/** Hands out ids of a block that is durable before the first of them leaves. */
function producerIds(metadata: Pick<Metadata, 'submit'>): () => Promise<number> {
  let next = 0
  let end = 0
  let reserving: Promise<void> | null = null

  async function reserve(): Promise<void> {
    const { from, to } = await metadata.submit('reserve-producer-ids', {})
    next = from
    end = to
  }

  return async () => {
    while (next >= end) {
      reserving ??= reserve().finally(() => {
        reserving = null
      })
      await reserving
    }
    return next++
  }
}

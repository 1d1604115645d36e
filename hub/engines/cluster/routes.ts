import type { Clock, Timer } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { Image } from '../../controller/image.ts'
import type { Topic } from '../../ports.ts'
import type { PartitionTable } from './partitions.ts'
import { knownTopic } from './topics.ts'
import type { Metadata, Peers } from './types.ts'

/**
 * Which node leads a partition, as the metadata says here. Whoever finds no leader, or none that can be reached, waits for one in a line of
 * its partition; what is under way to a leader that is one no more is told so at once.
 */

/** How long calls wait for a leader unless told otherwise. */
export const LEADER_WAIT_MS = 10 * SECOND_MS
/** Calls in the line of one partition; beyond it they are refused as `throttled`. */
const MAX_WAITING = 10_000
/**
 * A leader that is not reached for so long, and is the leader all the same, is reached by others: were it dead, another would lead by now.
 * Whoever waits for it here does better elsewhere.
 */
const UNREACHED_MS = 4 * SECOND_MS
/** How late a wait may be given up. */
const SWEEP_MS = 100

export interface PartitionPlace {
  readonly topicId: string
  readonly partition: number
}

/** Here, or at another node that is linked. */
export type Route =
  | { readonly at: 'here'; readonly leaderEpoch: number }
  | { readonly at: 'there'; readonly nodeId: number; readonly leaderEpoch: number }

export interface Routes {
  /** The topic, if it has such a partition. Throws `unknown_topic`, `topic_deleted`. */
  topic(topicId: string, partition: number): Topic
  /** Null where nobody is known to lead, or nobody that can be reached. Throws as `topic` does. */
  now(topicId: string, partition: number): Route | null
  /**
   * Hands over to where the partition is led: in this turn where that is known and nobody waits, else in the order of the calls, or
   * rejects with `not_available` after `waitMs`. `minEpoch`: as long as the metadata here knows only older leaders, they count for none.
   */
  enter<T>(
    topicId: string,
    partition: number,
    waitMs: number,
    hand: (route: Route) => Promise<T>,
    minEpoch?: number,
  ): Promise<T>
  /** What is under way to the leader of `route`; rejects with `not_available` as soon as it is one no more: done or not done. */
  underWay<T>(topicId: string, partition: number, route: Route, call: Promise<T>): Promise<T>
  /** Told in the turn after the states of partitions changed; null: of any. */
  onMoved(listener: (moved: readonly PartitionPlace[] | null) => void): void
  stats(): { waiting: number; underWay: number; moved: number }
  /** Whoever waits is told `closed`. */
  close(): void
}

export interface RoutesContext {
  clock: Clock
  nodeId: number
  metadata: Pick<Metadata, 'image' | 'onApplied'>
  peers: Pick<Peers, 'isUp' | 'onLink'>
  partitions: Pick<PartitionTable, 'peek'>
}

interface Waiting {
  readonly minEpoch: number
  readonly deadlineMs: number
  go(route: Route): void
  fail(error: unknown): void
}

/** A line of calls, and what is under way to the leader. */
interface Line extends PartitionPlace {
  waiting: Waiting[]
  /** Since when somebody waits for a leader that is not reached, and under which epoch it leads. */
  unreached: { readonly leaderEpoch: number; readonly sinceMs: number } | null
  readonly flights: Set<{ leaderEpoch: number; fail(error: unknown): void }>
}

export function createRoutes(context: RoutesContext): Routes {
  const { clock, nodeId, metadata, peers, partitions } = context
  const lines = new Map<string, Line>()
  const listeners: ((moved: readonly PartitionPlace[] | null) => void)[] = []
  /** Partitions whose states changed in this turn; null: any may have. */
  let changed: Map<string, PartitionPlace> | null = new Map()
  let checking = false
  let sweeper: Timer | null = null
  let moved = 0
  let closed = false

  metadata.onApplied(records => {
    if (records === null) changed = null
    for (const record of records ?? []) {
      // How many partitions it had is not known any more.
      if (record.type === 'topic_deleted') changed = null
      else if (record.type === 'partition_changed') noteChanged(record.topicId, record.partition)
      else if (record.type === 'topic_created') {
        for (let partition = 0; partition < record.partitions; partition++)
          noteChanged(record.topicId, partition)
      }
    }
    checkSoon()
  })
  peers.onLink((_, change) => {
    if (change === 'up') checkSoon()
  })

  function noteChanged(topicId: string, partition: number): void {
    changed?.set(keyOf(topicId, partition), { topicId, partition })
  }

  /** After all others have heard of the change too. */
  function checkSoon(): void {
    if (checking) return
    checking = true
    clock.soon(() => {
      checking = false
      const news = changed
      changed = new Map()
      for (const line of [...lines.values()]) {
        failMoved(line)
        serveLine(line)
      }
      const places = news === null ? null : [...news.values()]
      for (const listener of listeners) listener(places)
    })
  }

  function topic(topicId: string, partition: number): Topic {
    const known = knownTopic(metadata, topicId)
    if (Number.isSafeInteger(partition) && partition >= 0 && partition < known.partitions) return known
    throw new TributaryError(
      'unknown_topic',
      `topic "${known.name}" has partitions 0 to ${known.partitions - 1}, not ${partition}`,
    )
  }

  function now(topicId: string, partition: number): Route | null {
    topic(topicId, partition)
    const state = metadata.image().partition(topicId, partition)
    const leader = state === undefined ? homeOf(metadata.image()) : state.leader
    const leaderEpoch = state?.leaderEpoch ?? 0
    if (leader === null) return null
    if (leader !== nodeId) return peers.isUp(leader) ? { at: 'there', nodeId: leader, leaderEpoch } : null
    const role = partitions.peek(topicId, partition)?.role()
    return role === undefined || role.kind === 'leader' ? { at: 'here', leaderEpoch } : null
  }

  /** Without a place yet, as in directories of before there were nodes, it is where its log is: with the first node, see placeFirst in tidy.ts. */
  function homeOf(image: Image): number | null {
    const [first] = image.nodes()
    return first === undefined || first.nodeId === nodeId ? nodeId : null
  }

  /** As `now`, for who has heard of a leader of `minEpoch`: what that one led may be news here. */
  function look(topicId: string, partition: number, minEpoch: number): Route | null {
    const image = metadata.image()
    if (minEpoch >= 0 && image.deletedTopic(topicId) === undefined) {
      const epoch = image.partition(topicId, partition)?.leaderEpoch ?? (minEpoch === 0 ? 0 : -1)
      if (image.topicById(topicId) === undefined || epoch < minEpoch) return null
    }
    return now(topicId, partition)
  }

  function lineOf(topicId: string, partition: number): Line {
    const key = keyOf(topicId, partition)
    const known = lines.get(key)
    if (known !== undefined) return known
    const line: Line = { topicId, partition, waiting: [], unreached: null, flights: new Set() }
    lines.set(key, line)
    return line
  }

  function forgetIfEmpty(line: Line): void {
    if (line.waiting.length > 0 || line.flights.size > 0) return
    const key = keyOf(line.topicId, line.partition)
    // A call that was given up lands late, when its line was forgotten and others may wait in a new one.
    if (lines.get(key) === line) lines.delete(key)
  }

  function enter<T>(
    topicId: string,
    partition: number,
    waitMs: number,
    hand: (route: Route) => Promise<T>,
    minEpoch = -1,
  ): Promise<T> {
    try {
      const queued = lines.get(keyOf(topicId, partition))?.waiting.length ?? 0
      if (closed) throw stopped()
      if (queued === 0) {
        const route = look(topicId, partition, minEpoch)
        if (route !== null) return hand(route)
      } else if (queued >= MAX_WAITING) {
        throw new TributaryError(
          'throttled',
          `${MAX_WAITING} calls wait for the leader of a partition; try again`,
        )
      }
    } catch (error) {
      return Promise.reject(error)
    }
    return new Promise((resolve, reject) => {
      const go = (route: Route): void => void hand(route).then(resolve, reject)
      const deadlineMs = clock.monotonicMs() + waitMs
      lineOf(topicId, partition).waiting.push({ minEpoch, deadlineMs, go, fail: reject })
      sweeper ??= clock.setTimer(sweep, Math.min(SWEEP_MS, Math.max(1, waitMs)))
    })
  }

  function serveLine(line: Line): void {
    for (let first = line.waiting[0]; first !== undefined; first = line.waiting[0]) {
      try {
        const route = look(line.topicId, line.partition, first.minEpoch)
        if (route === null) break
        line.waiting.shift()
        first.go(route)
      } catch (error) {
        line.waiting.shift()
        first.fail(error)
      }
    }
    forgetIfEmpty(line)
  }

  function sweep(): void {
    sweeper = null
    const nowMs = clock.monotonicMs()
    for (const line of [...lines.values()]) {
      // Roles are taken up behind the metadata, and links come up: what nobody tells is looked for.
      serveLine(line)
      const untilMs = isReachedElsewhere(line, nowMs) ? Number.POSITIVE_INFINITY : nowMs
      const late = line.waiting.filter(({ deadlineMs }) => deadlineMs <= untilMs)
      if (late.length === 0) continue
      line.waiting = line.waiting.filter(({ deadlineMs }) => deadlineMs > untilMs)
      for (const { fail } of late) fail(withoutLeader(line))
      forgetIfEmpty(line)
    }
    for (const { waiting } of lines.values()) {
      if (waiting.length === 0) continue
      sweeper = clock.setTimer(sweep, SWEEP_MS)
      return
    }
  }

  function isReachedElsewhere(line: Line, nowMs: number): boolean {
    const state = metadata.image().partition(line.topicId, line.partition)
    const { leader = null, leaderEpoch = 0 } = state ?? {}
    if (leader === null || leader === nodeId || line.waiting.length === 0 || peers.isUp(leader)) {
      line.unreached = null
      return false
    }
    if (line.unreached?.leaderEpoch !== leaderEpoch) line.unreached = { leaderEpoch, sinceMs: nowMs }
    return nowMs - line.unreached.sinceMs >= UNREACHED_MS
  }

  function withoutLeader({ topicId, partition }: Line): TributaryError {
    const image = metadata.image()
    const leader = image.partition(topicId, partition)?.leader ?? null
    const name = `partition ${partition} of "${image.topicById(topicId)?.name ?? topicId}"`
    const why = leader === null ? 'has no leader' : `is led by node ${leader}, which is not reached`
    // Another node may reach it.
    const elsewhere = leader !== null && leader !== nodeId ? { elsewhere: true } : {}
    return new TributaryError('not_available', `${name} ${why}; try again`, {
      details: { leader, ...elsewhere },
    })
  }

  function failMoved(line: Line): void {
    if (line.flights.size === 0) return
    const state = metadata.image().partition(line.topicId, line.partition)
    for (const flight of [...line.flights]) {
      if (state !== undefined && state.leaderEpoch <= flight.leaderEpoch) continue
      line.flights.delete(flight)
      moved++
      flight.fail(goneError(line, state?.leader ?? null))
    }
  }

  function goneError({ topicId, partition }: Line, leader: number | null): unknown {
    try {
      topic(topicId, partition)
    } catch (deleted) {
      return deleted
    }
    const message = `the leader of partition ${partition} changed: done or not done; try again`
    return new TributaryError('not_available', message, { details: { leader } })
  }

  function underWay<T>(topicId: string, partition: number, route: Route, call: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const line = lineOf(topicId, partition)
      const flight = { leaderEpoch: route.leaderEpoch, fail: reject }
      line.flights.add(flight)
      const landed = (): void => {
        line.flights.delete(flight)
        forgetIfEmpty(line)
      }
      call.then(
        value => {
          landed()
          resolve(value)
        },
        error => {
          landed()
          reject(error)
        },
      )
    })
  }

  return {
    topic,
    now,
    enter,
    underWay,
    onMoved: listener => {
      listeners.push(listener)
    },
    stats: () => {
      const totals = { waiting: 0, underWay: 0, moved }
      for (const { waiting, flights } of lines.values()) {
        totals.waiting += waiting.length
        totals.underWay += flights.size
      }
      return totals
    },
    close: () => {
      closed = true
      sweeper?.cancel()
      for (const line of lines.values()) for (const { fail } of line.waiting.splice(0)) fail(stopped())
    },
  }
}

function keyOf(topicId: string, partition: number): string {
  return `${topicId}/${partition}`
}

function stopped(): TributaryError {
  return new TributaryError('closed', 'this node stops: try another')
}

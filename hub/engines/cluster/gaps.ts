import type { Logger } from 'pino'
import { eachBatch } from '../../../common/batch.ts'
import { utf8 } from '../../../common/bytes.ts'
import type { Clock } from '../../../common/env.ts'
import { isTributaryError, messageOf, TributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { Damage, StateLog } from '../../../common/log/types.ts'
import { pause } from '../../../common/pause.ts'
import type { PartitionRef } from '../../../common/wire-peer.ts'
import { GAPS_TOPIC } from '../../controller/names.ts'
import type { Topic } from '../../ports.ts'
import type { GapControl } from '../../replica/control.ts'
import { readEdgeControl } from '../../replica/control.ts'
import type { Partition } from '../../replica/partition.ts'
import type { GapLog, GapNotice } from './gap-log.ts'
import { createGapLog, damageKey, encodeNotice, sourceKey } from './gap-log.ts'
import type { PartitionTable } from './partitions.ts'
import type { PartitionPlace, Routes } from './routes.ts'
import { LEADER_WAIT_MS } from './routes.ts'
import type { Metadata, Peers } from './types.ts'

/**
 * Tells of gaps in `_gaps`, wherever that is led. The control batches in the partitions are what there is to tell: their leader tells of
 * those that are committed, in order, until the leader of `_gaps` has said that it has them; whoever leads next asks how far that went.
 */

/** Partitions looked at in one round, and notices told in one call. */
const MAX_PLACES_A_ROUND = 500
const MAX_NOTICES_A_ROUND = 500
/** Stretches of damage waiting to be told; beyond it they are told at the next start. */
const MAX_DAMAGES = 10_000
/** Between rounds that fail: from the first to the last, doubled each time. */
const RETRY_MIN_MS = 100
const RETRY_MAX_MS = 2 * SECOND_MS
const CALL_TIMEOUT_MS = 10 * SECOND_MS

/** What partitions tell of. */
export interface GapWriter {
  /** A gap's control batch was appended in this turn. */
  declared(topic: Topic, partition: number, offset: number, gap: GapControl): void
  /** Once per stretch, for ever: recovery finds the same again at each start. */
  damaged(topic: Topic, partition: number, damage: Damage): void
}

export interface Gaps extends GapWriter {
  /** What is there to tell is told from now on. */
  begin(parts: GapParts): void
  /** `_gaps` where this node leads it; null before `begin`. */
  log(): GapLog | null
  /** Rounds of telling that failed, to be made again; the control batches in their partitions stand. */
  failures(): number
  close(): void
}

export interface GapParts {
  nodeId: number
  metadata: Pick<Metadata, 'image'>
  routes: Routes
  peers: Pick<Peers, 'call'>
  partitions: Pick<PartitionTable, 'peek' | 'use' | 'whenPast'>
}

/** A teller that remembers damage told of in `state`. */
export function createGaps(state: StateLog, clock: Clock, log: Logger): Gaps {
  let parts: GapParts | null = null
  let gapLog: GapLog | null = null
  /** Partitions that may have something to tell. */
  const dirty = new Map<string, PartitionPlace>()
  /** Partitions of the round that is under way. */
  const underWay = new Set<string>()
  /** How far `_gaps` tells of partitions, as its leader said since this node leads them. */
  const told = new Map<string, { leaderEpoch: number; offset: number }>()
  const damages = new Map<string, GapNotice>()
  /** Partitions whose gaps wait to be committed. */
  const awaited = new Map<string, () => void>()
  let running = false
  let closed = false
  let failures = 0
  let failuresInARow = 0

  function mark(place: PartitionPlace): void {
    const { topicId, partition } = place
    dirty.set(sourceKey(place), { topicId, partition })
    const given = parts
    if (running || closed || given === null) return
    running = true
    clock.soon(() => void run(given))
  }

  async function run(given: GapParts): Promise<void> {
    while (!closed && (dirty.size > 0 || damages.size > 0)) {
      let isDone = false
      try {
        isDone = await round(given)
        failuresInARow = 0
      } catch (error) {
        if (!isTributaryError(error)) throw error
        failures++
        if (failuresInARow++ === 0) log.info({ reason: error.message }, 'gaps are told of later')
      }
      if (!isDone)
        await pause(clock, Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(failuresInARow, 10)))
    }
    running = false
  }

  /** Tells some of what there is; false where nothing could be done now. */
  async function round(given: GapParts): Promise<boolean> {
    const topic = given.metadata.image().topicByName(GAPS_TOPIC)
    if (topic === undefined) return false
    const sources = ledWithGaps(given)
    // What is declared from here on is of the next round.
    for (const { key } of sources.ready) {
      dirty.delete(key)
      underWay.add(key)
    }
    try {
      return (await tellOf(given, topic, sources.ready)) || !sources.unsure
    } catch (error) {
      for (const { key, place } of sources.ready) dirty.set(key, place)
      throw error
    } finally {
      underWay.clear()
    }
  }

  /** Tells of damage and of these partitions; whether there was anything. Those that have more are marked again. */
  async function tellOf(given: GapParts, topic: Topic, sources: readonly Source[]): Promise<boolean> {
    await askTold(given, topic, sources)
    const notices = [...damages.values()].slice(0, MAX_NOTICES_A_ROUND)
    const settled = notices.map(notice => () => toldOfDamage(notice))
    for (const source of sources) {
      const found = await committedGaps(given, topic, source, MAX_NOTICES_A_ROUND - notices.length)
      notices.push(...found.notices)
      settled.push(() => toldOf(source, found.to, found.isAll))
    }
    if (notices.length > 0) await tell(given, topic, notices.map(encodeNotice))
    for (const settle of settled) settle()
    return notices.length > 0
  }

  /** Of the partitions marked, those that this node leads and that have gaps; `unsure`: there are some it does not know of yet. */
  function ledWithGaps({ partitions }: GapParts): { ready: Source[]; unsure: boolean } {
    const ready: Source[] = []
    let unsure = false
    for (const [key, place] of [...dirty].slice(0, MAX_PLACES_A_ROUND)) {
      const replica = partitions.peek(place.topicId, place.partition)
      if (replica === null || replica.role().kind !== 'leader') {
        dirty.delete(key)
        told.delete(key)
        continue
      }
      const leaderEpoch = replica.actingEpoch('leader')
      if (leaderEpoch !== null && replica.gapsAbove(-1).length === 0) dirty.delete(key)
      else if (leaderEpoch !== null && isSettled(replica)) ready.push({ key, place, replica, leaderEpoch })
      else unsure = true
    }
    return { ready, unsure }
  }

  /** Asks how far `_gaps` tells of those that this node did not tell of since it leads them. */
  async function askTold(given: GapParts, topic: Topic, found: readonly Source[]): Promise<void> {
    const unknown = found.filter(({ key, leaderEpoch }) => told.get(key)?.leaderEpoch !== leaderEpoch)
    if (unknown.length === 0) return
    const sources = unknown.map(({ place }) => place)
    const offsets = await ask(
      given,
      topic,
      (here, ref) => here.toldTo(ref, sources),
      (nodeId, ref) =>
        given.peers
          .call(nodeId, { c: 'told-gaps', ...ref, sources }, CALL_TIMEOUT_MS)
          .then(answer => answer.offsets),
    )
    unknown.forEach(({ key, leaderEpoch }, index) => {
      told.set(key, { leaderEpoch, offset: offsets[index] ?? -1 })
    })
  }

  function tell(given: GapParts, topic: Topic, notices: Uint8Array[]): Promise<unknown> {
    return ask<unknown>(
      given,
      topic,
      (here, ref) => here.write(ref, notices),
      (nodeId, ref) => given.peers.call(nodeId, { c: 'tell-gaps', ...ref, notices }, CALL_TIMEOUT_MS),
    )
  }

  function ask<T>(
    { routes }: GapParts,
    { topicId }: Topic,
    here: (log: GapLog, ref: PartitionRef) => Promise<T>,
    there: (nodeId: number, ref: PartitionRef) => Promise<T>,
  ): Promise<T> {
    return routes.enter(topicId, 0, LEADER_WAIT_MS, route => {
      const ref = { topicId, partition: 0, leaderEpoch: route.leaderEpoch }
      if (route.at === 'there') return routes.underWay(topicId, 0, route, there(route.nodeId, ref))
      if (gapLog !== null) return here(gapLog, ref)
      return Promise.reject(new TributaryError('not_available', 'this node is starting'))
    })
  }

  /** The partition's gaps that are committed and not told, as far as there is room for. */
  async function committedGaps(
    given: GapParts,
    gapsTopic: Topic,
    source: Source,
    room: number,
  ): Promise<{ notices: GapNotice[]; to: number; isAll: boolean }> {
    const { key, place, replica, leaderEpoch } = source
    const from = told.get(key)?.offset ?? -1
    const { highWatermark } = replica.bounds()
    const offsets = replica.gapsAbove(from)
    const notices: GapNotice[] = []
    const committed = offsets.filter(offset => offset < highWatermark)
    let to = from
    for (const offset of committed.slice(0, room)) {
      const notice = await noticeAt(given, replica, place, offset)
      if (notice !== null && !(from === -1 && isForgotten(notice, gapsTopic))) notices.push(notice)
      to = offset
    }
    if (offsets.length > committed.length) awaitCommit(given, source, highWatermark)
    // Whoever led meanwhile tells by what it has.
    if (replica.actingEpoch('leader') !== leaderEpoch) return { notices: [], to: from, isAll: false }
    return { notices, to, isAll: committed.length <= room }
  }

  /** Told when `_gaps` still had it; nothing tells of it there any more. */
  function isForgotten({ lastMs }: GapNotice, { config }: Topic): boolean {
    return lastMs !== null && config.retentionMs !== null && lastMs < clock.nowMs() - config.retentionMs
  }

  async function noticeAt(
    { metadata }: GapParts,
    replica: Partition,
    { topicId, partition }: PartitionPlace,
    offset: number,
  ): Promise<GapNotice | null> {
    const topic = metadata.image().topicById(topicId)
    if (topic === undefined) return null
    const { batches, release } = await replica.read(offset, 1)
    try {
      for (const { at, header } of eachBatch(batches)) {
        if (header.baseOffset !== offset || !header.isControl) continue
        const control = readEdgeControl(batches, at)
        if (control?.type === 'gap') return noticeOf(topic, partition, offset, control.gap)
      }
    } finally {
      release?.()
    }
    return null
  }

  function awaitCommit({ metadata, partitions }: GapParts, { key, place }: Source, offset: number): void {
    const topic = metadata.image().topicById(place.topicId)
    if (topic === undefined || awaited.has(key)) return
    awaited.set(key, () => {})
    const cancel = partitions.whenPast(topic, place.partition, offset, () => {
      awaited.delete(key)
      mark(place)
    })
    if (awaited.has(key)) awaited.set(key, cancel)
  }

  function toldOf({ key, place, leaderEpoch }: Source, offset: number, isAll: boolean): void {
    told.set(key, { leaderEpoch, offset })
    if (!isAll) dirty.set(key, place)
  }

  function toldOfDamage(notice: GapNotice): void {
    const key = damageKey(notice)
    damages.delete(key)
    state.put([{ key, value: utf8(String(notice.declaredMs)) }]).catch(error => {
      log.error({ reason: messageOf(error) }, 'damage was told of and will be again at the next start')
    })
  }

  function noticeOf(topic: Topic, partition: number, offset: number, gap: GapControl): GapNotice {
    const { edge, lane, run, from, to, count, keys, reason, firstMs, lastMs } = gap
    const where = { topic: topic.name, topicId: topic.topicId, partition, offset }
    const declaredMs = Math.round(clock.nowMs())
    return { ...where, edge, lane, run, from, to, count, keys, reason, firstMs, lastMs, declaredMs }
  }

  /**
   * Where both logs have one replica, this node's, nothing of either can be lost alone: one commit for both. True where nothing else is
   * left to tell of the partition.
   */
  function tellNow({ metadata, partitions }: GapParts, notice: GapNotice): boolean {
    const image = metadata.image()
    const gapsTopic = image.topicByName(GAPS_TOPIC)
    if (gapsTopic === undefined || gapLog === null) return false
    const isAlone = (topicId: string, partition: number): boolean =>
      (image.partition(topicId, partition)?.replicas.length ?? 1) === 1
    if (!isAlone(gapsTopic.topicId, 0) || !isAlone(notice.topicId, notice.partition)) return false
    const written = gapLog.writeNow(gapsTopic.topicId, notice)
    if (written === null) return false
    const key = sourceKey(notice)
    const leaderEpoch = partitions.peek(notice.topicId, notice.partition)?.actingEpoch('leader')
    const known = told.get(key)
    const isPending = dirty.has(key) || underWay.has(key)
    const isKnown = known !== undefined && known.leaderEpoch === leaderEpoch && !isPending
    if (isKnown) told.set(key, { leaderEpoch: known.leaderEpoch, offset: notice.offset })
    written.catch(error => {
      log.info({ reason: messageOf(error) }, 'a gap is told of later')
      told.delete(key)
      mark(notice)
    })
    return isKnown
  }

  return {
    declared: (topic, partition, offset, gap) => {
      const notice = noticeOf(topic, partition, offset, gap)
      if (parts === null || !tellNow(parts, notice)) mark({ topicId: topic.topicId, partition })
      const { edge, lane, run, from, to, count, keys, reason } = gap
      const where = { topic: topic.name, topicId: topic.topicId, partition, offset }
      // What an edge drops by its policy is as its operator wants it.
      if (keys === null)
        log.warn({ ...where, edge, lane, run, from, to, count, reason }, 'an edge declared a gap')
    },
    damaged: (topic, partition, damage) => {
      const { fromOffset: from, toOffset: to, segment, bytePosition, reason } = damage
      const where = { topic: topic.name, topicId: topic.topicId, partition, offset: from }
      const unknown = { edge: null, lane: null, run: null, keys: null, firstMs: null, lastMs: null }
      const declaredMs = Math.round(clock.nowMs())
      const notice = { ...where, ...unknown, from, to, count: to - from, reason: 'damage', declaredMs }
      const key = damageKey(notice)
      if (state.get(key) !== undefined || damages.has(key) || damages.size >= MAX_DAMAGES) return
      log.error({ ...where, from, to, segment, bytePosition, why: reason }, 'records of the hub are damaged')
      damages.set(key, notice)
      mark({ topicId: topic.topicId, partition })
    },
    begin: given => {
      parts = given
      gapLog = createGapLog(given)
      const { nodeId, metadata, routes } = given
      const isLed = ({ topicId, partition }: PartitionPlace): boolean =>
        metadata.image().partition(topicId, partition)?.leader === nodeId
      const look = (places: Iterable<PartitionPlace>): void => {
        for (const place of places) if (isLed(place) && !isTold(place)) mark(place)
      }
      routes.onMoved(moved => look(moved ?? metadata.image().partitionsOn(nodeId)))
      look(metadata.image().partitionsOn(nodeId))
      for (const { topicId, partition } of damages.values()) mark({ topicId, partition })

      /** Led by this node since it was asked how far `_gaps` tells of it: whatever came after was marked when it came. */
      function isTold(place: PartitionPlace): boolean {
        const epoch = metadata.image().partition(place.topicId, place.partition)?.leaderEpoch
        return told.get(sourceKey(place))?.leaderEpoch === epoch
      }
    },
    log: () => gapLog,
    failures: () => failures,
    close: () => {
      closed = true
      for (const cancel of awaited.values()) cancel()
    },
  }
}

/** Whether its watermark tells of all that was committed before it began to lead. */
function isSettled(replica: Partition): boolean {
  try {
    replica.bounds()
    return true
  } catch (error) {
    if (isTributaryError(error)) return false
    throw error
  }
}

/** A partition that this node leads and that has gaps. */
interface Source {
  readonly key: string
  readonly place: PartitionPlace
  readonly replica: Partition
  readonly leaderEpoch: number
}

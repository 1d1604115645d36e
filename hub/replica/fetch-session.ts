import { KIB, MIB } from '../../common/limits.ts'
import type { FetchFrame, FetchPosition } from '../../common/wire-peer.ts'
import { FETCH_WINDOW } from '../../common/wire-peer.ts'

/**
 * The leader's side of one follower's fetches over one link (KIP-227): where the follower stands in each partition, which of them have
 * something for it, and whose turn it is. What is read and sent is the shell's.
 */

/** Batches of a frame, about: a partition sends at least one batch, however large. */
export const FRAME_BYTES = MIB
/** A partition that is far behind gets at least so much in its turn, or turns would be worth nothing. */
const MIN_TURN_BYTES = 64 * KIB
/** Part of a frame kept for partitions that are not in sync, so that busy ones that are don't keep them out for ever. */
const CATCH_UP_SHARE = 0.25
/** Partitions told of only to tell numbers, in one frame. */
const MAX_TOLD_PER_FRAME = 10_000

/** A partition of a session. */
export interface FetchEntry {
  readonly key: string
  readonly topicId: string
  readonly partition: number
  /** As the follower said last. */
  leaderEpoch: number
  offset: number
  lastEpoch: number
  durableEnd: number
  incarnation: number
  /** It waits for what lies at `offset`; not while it was sent something and has not asked on. */
  asks: boolean
  /** All that it has was found to be the leader's, so its durable end counts. */
  agrees: boolean
  /** What it was told last. */
  toldWatermark: number
  toldStart: number
  /** Rises whenever the follower says something: what was read for it before is of no use. */
  version: number
  queued: boolean
}

/** Whose turn it is, and for how much. */
export interface Turn {
  entry: FetchEntry
  maxBytes: number
}

export interface FetchSession {
  /** Takes what the follower says, and tells what of it is new: entries to be judged, and those that it follows no more. */
  take(frame: FetchFrame): { changed: FetchEntry[]; forgotten: FetchEntry[] }
  /** There is something at the offset that an entry asks for. */
  ready(entry: FetchEntry, inSync: boolean): void
  /** An entry whose turn it was found no room: it is the first in the next frame. */
  again(entry: FetchEntry): void
  /** An entry is to be told other numbers, when there is time. */
  tell(entry: FetchEntry): void
  hasReady(): boolean
  hasNumbers(): boolean
  /** Whether another frame may be sent before one is taken. */
  hasRoom(): boolean
  /** The next turn in a frame with `usedBytes` so far; null where it is full, or nobody waits. */
  next(usedBytes: number): Turn | null
  /** Takes out those that wait to be told numbers. */
  numbers(): FetchEntry[]
  /** The number of the next frame. */
  send(): number
  entries(): Iterable<FetchEntry>
}

/** A session without partitions; `keyOf` names one. */
export function createFetchSession(keyOf: (topicId: string, partition: number) => string): FetchSession {
  const entries = new Map<string, FetchEntry>()
  /** Those in sync, whom acks wait for, and the others. */
  const urgent: FetchEntry[] = []
  const behind: FetchEntry[] = []
  let telling = new Set<FetchEntry>()
  let sent = 0
  let taken = 0

  function place(position: FetchPosition, incarnation: number): FetchEntry {
    const { topicId, partition, leaderEpoch, offset, lastEpoch, durableEnd } = position
    const key = keyOf(topicId, partition)
    const known = entries.get(key)
    if (known !== undefined && known.leaderEpoch === leaderEpoch) {
      known.durableEnd = durableEnd
      known.version++
      if (offset < 0) return known
      known.offset = offset
      known.lastEpoch = lastEpoch
      known.asks = true
      known.agrees = false
      return known
    }
    const made: FetchEntry = {
      key,
      topicId,
      partition,
      leaderEpoch,
      offset,
      lastEpoch,
      durableEnd,
      incarnation,
      asks: offset >= 0,
      agrees: false,
      toldWatermark: -1,
      toldStart: -1,
      version: 0,
      queued: false,
    }
    if (known !== undefined) forget(known)
    entries.set(key, made)
    return made
  }

  function forget(entry: FetchEntry): void {
    entry.asks = false
    entry.version++
    telling.delete(entry)
    entries.delete(entry.key)
  }

  /** Takes the first that still asks. */
  function takeFrom(queue: FetchEntry[]): FetchEntry | null {
    for (;;) {
      const entry = queue.shift()
      if (entry === undefined) return null
      entry.queued = false
      if (entry.asks) return entry
    }
  }

  return {
    take: frame => {
      taken = Math.max(taken, Math.min(frame.taken, sent))
      const forgotten: FetchEntry[] = []
      for (const { topicId, partition } of frame.forget) {
        const entry = entries.get(keyOf(topicId, partition))
        if (entry === undefined) continue
        forget(entry)
        forgotten.push(entry)
      }
      return { changed: frame.positions.map(position => place(position, frame.incarnation)), forgotten }
    },
    ready: (entry, inSync) => {
      if (entry.queued || !entry.asks) return
      entry.queued = true
      if (inSync) urgent.push(entry)
      else behind.push(entry)
    },
    again: entry => {
      entry.queued = true
      urgent.unshift(entry)
    },
    tell: entry => void telling.add(entry),
    hasReady: () => urgent.length + behind.length > 0,
    hasNumbers: () => telling.size > 0,
    hasRoom: () => sent - taken < FETCH_WINDOW,
    next: usedBytes => {
      const kept = behind.length > 0 ? FRAME_BYTES * CATCH_UP_SHARE : 0
      const forUrgent = FRAME_BYTES - kept - usedBytes
      if (forUrgent > 0) {
        const entry = takeFrom(urgent)
        if (entry !== null) return { entry, maxBytes: forUrgent }
      }
      const left = FRAME_BYTES - usedBytes
      if (left <= 0) return null
      const waiting = behind.length
      const entry = takeFrom(behind)
      if (entry === null) return null
      return { entry, maxBytes: Math.min(left, Math.max(MIN_TURN_BYTES, Math.floor(FRAME_BYTES / waiting))) }
    },
    numbers: () => {
      const told = [...telling].slice(0, MAX_TOLD_PER_FRAME)
      if (told.length === telling.size) telling = new Set()
      else for (const entry of told) telling.delete(entry)
      return told
    },
    send: () => ++sent,
    entries: () => entries.values(),
  }
}

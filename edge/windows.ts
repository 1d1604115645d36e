import { assert, must } from '../common/assert.ts'
import type { Timer } from '../common/env.ts'
import { MIB, MINUTE_MS, SECOND_MS } from '../common/limits.ts'
import type { StateLog } from '../common/log/types.ts'
import { partitionForKey } from '../common/murmur2.ts'
import type { SummaryReason } from '../common/wire.ts'
import { decodeHeld } from './held.ts'
import type { Lane } from './lane.ts'
import type { RoutedRecord } from './ports.ts'
import type { Store } from './store.ts'
import type { Summary } from './summary.ts'
import { decodeSummary } from './summary.ts'
import type { Holdings } from './window.ts'
import { HELD_PREFIX, TALLY_PREFIX, Window } from './window.ts'

/**
 * The policies `conflate` and `thin` of a store: what of a lane's readings becomes records, and when. They act before records have
 * offsets; what they drop is summarised, window by window, see deploy/decisions/007-conflate-and-thin.md.
 */

/** Keys of one window; with more it ends early. */
export const MAX_CONFLATED_KEYS = 10_000
/** Bytes that one window holds; with more it ends early. */
const MAX_WINDOW_BYTES = 4 * MIB
/** Bytes that all windows hold; with more the fullest one ends early. */
export const MAX_HELD_BYTES = 32 * MIB
/** Keys of which it is known when the next reading may pass; readings of more keys all pass. */
export const MAX_THINNED_KEYS = 100_000
/** What thinning drops is said at least so often. */
const MAX_SUMMARY_MS = MINUTE_MS
/** What could not be appended is tried again after so long. */
const RETRY_MS = SECOND_MS
/** Room in the state log for what is held and for what is being removed. */
export const MAX_WINDOW_STATE_BYTES = 2 * MAX_HELD_BYTES
/** What a record takes in a batch at most, beside its key, value and headers. */
const RECORD_OVERHEAD_BYTES = 160

/** Since the start; readings held and dropped as far as that is durable. */
export interface WindowCounts {
  heldReadings: number
  conflatedReadings: number
  thinnedReadings: number
}

export interface WindowStats {
  heldBytes: number
  thinnedKeys: number
  /** Windows that ended early, for want of room. */
  endedEarly: number
  /** Readings let through because MAX_THINNED_KEYS others were remembered. */
  unthinned: number
}

/** `wait`: there is no room for it yet. */
export type Verdict = 'held' | 'wait' | 'too-large'

/** What is dropped, held or passed goes with the group that gathers now: add its callback next, in the same turn. */
export interface Windows {
  /** Whether a lane that thins drops a reading of this key; if so it is counted. */
  drops(lane: Lane, everyMs: number, key: Uint8Array | null, nowMs: number): boolean
  /** A reading of a lane that thins became a record. */
  passed(lane: Lane, everyMs: number, key: Uint8Array | null): void
  /** Holds a reading back until its window ends; an earlier one of its key is dropped and counted. */
  hold(lane: Lane, windowMs: number, record: RoutedRecord, takenMs: number): Verdict
  /** What an earlier start held back goes first: until then nothing may be appended to the topic. */
  isRecovering(topic: string): boolean
  counts(lane: Lane): WindowCounts
  stats(): WindowStats
  heldBytes(): number
  /** Appends what an earlier start held back. Resolves when that is done, or could not be done now. */
  recover(): Promise<void>
  /** Ends all windows; what can't be appended now is appended by the next start. */
  close(): Promise<void>
}

interface Mark {
  untilMs: number
  /** The last window in which a reading of the key was dropped. */
  window: string
}

interface LaneWindows {
  lane: Lane
  open: Window | null
  /** Ended, oldest first, on their way into the lane. While the edge runs there is one at most. */
  ended: Window[]
  isFlushing: boolean
  nextNumber: number
  /** In order of time. */
  marks: Map<string, Mark>
  dropped: Record<SummaryReason, number>
}

export function createWindows(store: Store, state: StateLog | null, flushBytes: number): Windows {
  const { clock } = store.env
  const { groups } = store
  const lanes = new Map<Lane, LaneWindows>()
  /** Those with an open window, and those with windows that ended. */
  const opened = new Set<LaneWindows>()
  const ending = new Set<LaneWindows>()
  /** Held by an earlier start under another layout of lanes. */
  const moved = new Set<Window>()
  const recovering = new Set<string>()
  const holdings: Holdings = { bytes: 0 }
  const counters = { endedEarly: 0, unthinned: 0 }
  let thinnedKeys = 0
  let nextEnd: { atMs: number; timer: Timer } | null = null
  let retry: Timer | null = null
  let isFlushDue = false
  let isClosed = false
  let whenIdle: () => void = () => {}

  function windowsOf(lane: Lane): LaneWindows {
    const known = lanes.get(lane)
    if (known !== undefined) return known
    const dropped = { conflated: 0, thinned: 0 }
    const own: LaneWindows = {
      lane,
      open: null,
      ended: [],
      isFlushing: false,
      nextNumber: 0,
      marks: new Map(),
      dropped,
    }
    lanes.set(lane, own)
    return own
  }

  // ------------------------------------------------------------------------------------------- taking

  function drops(lane: Lane, everyMs: number, key: Uint8Array | null, nowMs: number): boolean {
    const own = windowsOf(lane)
    const mark = own.marks.get(nameOf(key))
    if (mark === undefined || mark.untilMs <= clock.monotonicMs()) return false
    const window = openWindow(own, 'thinned', Math.min(everyMs, MAX_SUMMARY_MS))
    window.drop(nowMs, mark.window !== window.name)
    mark.window = window.name
    groups.addPart(window)
    return true
  }

  function passed(lane: Lane, everyMs: number, key: Uint8Array | null): void {
    const own = windowsOf(lane)
    const { marks } = own
    const name = nameOf(key)
    const nowMs = clock.monotonicMs()
    for (const [oldest, { untilMs }] of marks) {
      if (untilMs > nowMs) break
      unmark(own, oldest)
    }
    if (thinnedKeys >= MAX_THINNED_KEYS) {
      counters.unthinned++
      return
    }
    thinnedKeys++
    marks.set(name, { untilMs: nowMs + everyMs, window: '' })
    const window = openWindow(own, 'thinned', Math.min(everyMs, MAX_SUMMARY_MS))
    window.pass(name)
    groups.addPart(window)
  }

  function unmark({ marks }: LaneWindows, name: string): void {
    if (marks.delete(name)) thinnedKeys--
  }

  function hold(lane: Lane, windowMs: number, record: RoutedRecord, takenMs: number): Verdict {
    const own = windowsOf(lane)
    const bytes = record.value.length + (record.key?.length ?? 0) + record.headers.length
    if (bytes + RECORD_OVERHEAD_BYTES > store.maxBatchBytes) return 'too-large'
    const { open } = own
    const isFull = open !== null && (open.keys >= MAX_CONFLATED_KEYS || open.bytes + bytes > MAX_WINDOW_BYTES)
    if (isFull && !endEarly(own)) return 'wait'
    if (holdings.bytes + bytes > MAX_HELD_BYTES) {
      const fullest = [...opened].reduce((left, right) => (sizeOf(right) > sizeOf(left) ? right : left), own)
      endEarly(fullest)
      return 'wait'
    }
    const window = openWindow(own, 'conflated', windowMs)
    groups.addPart(window, window.hold(nameOf(record.key), record, takenMs))
    return 'held'
  }

  function openWindow(own: LaneWindows, reason: SummaryReason, lengthMs: number): Window {
    if (own.open !== null) return own.open
    const { lane } = own
    const name = `${lane.key}/${lane.generation()}/${own.nextNumber++}`
    const dueMs = clock.monotonicMs() + lengthMs
    own.open = makeWindow(own, name, reason, dueMs)
    opened.add(own)
    wakeAt(dueMs)
    return own.open
  }

  function makeWindow(own: LaneWindows, name: string, reason: SummaryReason, dueMs: number): Window {
    const settled = (window: Window, undone: readonly string[]): void => {
      for (const key of undone) unmark(own, key)
      if (own.ended.includes(window)) flushSoon()
    }
    return new Window({ name, reason, dueMs, holdings, settled })
  }

  // ------------------------------------------------------------------------------------------- ending

  function wakeAt(atMs: number): void {
    if (isClosed || (nextEnd !== null && nextEnd.atMs <= atMs)) return
    nextEnd?.timer.cancel()
    nextEnd = { atMs, timer: clock.setTimer(endDue, Math.max(0, atMs - clock.monotonicMs())) }
  }

  function endDue(): void {
    nextEnd = null
    const nowMs = clock.monotonicMs()
    let nextMs = Number.POSITIVE_INFINITY
    for (const own of opened) {
      const dueMs = own.open?.dueMs ?? nowMs
      // One that can't end yet ends when the one before it is done.
      if (dueMs <= nowMs) end(own)
      else nextMs = Math.min(nextMs, dueMs)
    }
    if (nextMs < Number.POSITIVE_INFINITY) wakeAt(nextMs)
  }

  /** Ends the open window. False where the one before it is not in the lane yet, which comes first. */
  function end(own: LaneWindows): boolean {
    if (own.open === null) return true
    if (own.ended.length > 0 && !isClosed) return false
    own.ended.push(own.open)
    own.open = null
    opened.delete(own)
    ending.add(own)
    flushSoon()
    return true
  }

  function endEarly(own: LaneWindows): boolean {
    if (own.open === null || !end(own)) return false
    counters.endedEarly++
    return true
  }

  // ----------------------------------------------------------------------------------------- flushing

  function flushSoon(): void {
    if (isFlushDue) return
    isFlushDue = true
    // In a turn of its own, for it is to be one commit.
    clock.soon(() => {
      isFlushDue = false
      flush()
    })
  }

  /** Appends what ended windows hold, a commit's worth at a time. */
  function flush(): void {
    let bytes = 0
    for (const own of ending) {
      const [window] = own.ended
      if (window === undefined || own.isFlushing || !window.isSettled) continue
      if (bytes > 0 && bytes + Math.min(window.bytes, flushBytes) > flushBytes) {
        flushSoon()
        return
      }
      bytes += flushSome(own, window)
    }
    tellIdle()
  }

  /** Appends the oldest readings of a window and, with the last of them, its summary, and removes them from the state log: one commit. */
  function flushSome(own: LaneWindows, window: Window): number {
    const readings = window.oldest(flushBytes)
    const isLast = readings.length === window.held
    const summary = isLast ? window.summary() : null
    const names = readings.map(([name]) => name)
    const entries = [...window.removal(names), ...(isLast ? window.end() : [])]
    if (entries.length === 0) {
      done(own, null)
      return 0
    }
    own.isFlushing = true
    groups.seal()
    let bytes = 0
    for (const [, encoded] of readings) {
      appendReading(own, window, encoded)
      bytes += encoded.length
    }
    if (summary !== null) store.summarise(laneNow(own, window), summary)
    const settle = (isDurable: boolean): void => {
      own.isFlushing = false
      if (!isDurable) {
        tryAgain()
        return
      }
      window.forget(names)
      if (isLast) done(own, summary)
      else flushSoon()
    }
    groups.addPart({ seal: () => entries, settle }, bytes)
    groups.seal()
    return bytes
  }

  function appendReading(own: LaneWindows, window: Window, encoded: Uint8Array): void {
    const { key, value, headers, headerCount, timestampMs, takenMs } = decodeHeld(encoded)
    const lane = laneNow(own, window, key)
    const fits = store.appendTo(lane, timestampMs, key, value, headers, headerCount, takenMs)
    assert(fits, 'what does not fit a batch is not held')
    groups.addLane(lane)
  }

  /** Where a reading of a window goes, or (without `key`) its summary: lanes may have been laid out anew since. */
  function laneNow({ lane }: LaneWindows, window: Window, key: Uint8Array | null = null): Lane {
    if (!moved.has(window)) return lane
    const { policy, lanes: all } = must(store.topics.get(lane.ledger.topic), 'a lane has a topic')
    const index = policy.partitionBy === 'key' && key !== null ? partitionForKey(key, policy.lanes) : 0
    return must(all[index], 'a topic has the lanes of its policy')
  }

  /** All of the oldest ended window is in the lane. */
  function done(own: LaneWindows, summary: Summary | null): void {
    const window = must(own.ended.shift(), 'what is done had ended')
    moved.delete(window)
    if (summary !== null) own.dropped[summary.reason] += summary.count
    if (own.ended.length > 0) flushSoon()
    else {
      ending.delete(own)
      if (![...ending].some(({ lane }) => lane.ledger.topic === own.lane.ledger.topic)) {
        recovering.delete(own.lane.ledger.topic)
      }
    }
    if (own.open !== null && own.open.dueMs <= clock.monotonicMs()) end(own)
    tellIdle()
  }

  function tryAgain(): void {
    whenIdle()
    if (isClosed) return
    retry ??= clock.setTimer(() => {
      retry = null
      flushSoon()
    }, RETRY_MS)
  }

  function tellIdle(): void {
    if (ending.size === 0) whenIdle()
  }

  /** Resolves when no window that ended is left, or nothing can be appended now. */
  function idle(): Promise<void> {
    if (ending.size === 0) return Promise.resolve()
    return new Promise(resolve => {
      whenIdle = resolve
      flushSoon()
    })
  }

  // --------------------------------------------------------------------------------------- recovering

  async function recover(): Promise<void> {
    const found = new Map<string, { held: [string, Uint8Array][]; summary: Summary | null }>()
    const at = (name: string) => {
      const known = found.get(name) ?? { held: [], summary: null }
      found.set(name, known)
      return known
    }
    for (const [key, value] of state?.entries(HELD_PREFIX) ?? []) {
      const name = key
        .split('/', WINDOW_NAME_PARTS + 1)
        .slice(1)
        .join('/')
      at(name).held.push([key.slice(HELD_PREFIX.length + name.length + 1), value])
    }
    for (const [key, value] of state?.entries(TALLY_PREFIX) ?? []) {
      at(key.slice(TALLY_PREFIX.length)).summary = decodeSummary(value)
    }
    const numbered = [...found].map(([name, parts]) => ({ ...parseName(name), name, ...parts }))
    for (const one of numbered.sort((left, right) => left.number - right.number)) {
      const { lane } = one
      const topic = await store.openTopic(one.topic)
      const own = windowsOf(must(topic.lanes[lane], `lane ${lane} of ${one.topic} held a window`))
      const window = makeWindow(own, one.name, one.summary?.reason ?? 'conflated', 0)
      window.restore(one.held, one.summary)
      if (one.generation !== topic.generation()) moved.add(window)
      own.nextNumber = one.number + 1
      own.ended.push(window)
      ending.add(own)
      recovering.add(one.topic)
    }
    await idle()
  }

  function counts(lane: Lane): WindowCounts {
    const own = lanes.get(lane)
    const counted = { heldReadings: 0, conflatedReadings: 0, thinnedReadings: 0 }
    if (own === undefined) return counted
    counted.conflatedReadings = own.dropped.conflated
    counted.thinnedReadings = own.dropped.thinned
    for (const window of own.open === null ? own.ended : [...own.ended, own.open]) {
      counted.heldReadings += window.held
      const summary = window.summary()
      if (summary !== null) counted[`${summary.reason}Readings` as const] += summary.count
    }
    return counted
  }

  return {
    drops,
    passed,
    hold,
    isRecovering: topic => recovering.has(topic),
    counts,
    stats: () => ({ ...counters, heldBytes: holdings.bytes, thinnedKeys }),
    heldBytes: () => holdings.bytes,
    recover,
    close: async () => {
      isClosed = true
      nextEnd?.timer.cancel()
      retry?.cancel()
      for (const own of opened) end(own)
      await idle()
    },
  }
}

/** topic, lane, generation, number. */
const WINDOW_NAME_PARTS = 4

function parseName(name: string): { topic: string; lane: number; generation: number; number: number } {
  const [topic = '', lane, generation, number] = name.split('/')
  return { topic, lane: Number(lane), generation: Number(generation), number: Number(number) }
}

/** A key as a map takes it; records without one count as one key. */
function nameOf(key: Uint8Array | null): string {
  return key === null ? '' : Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1')
}

function sizeOf({ open }: LaneWindows): number {
  return open?.bytes ?? 0
}

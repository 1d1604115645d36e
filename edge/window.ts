import { must } from '../common/assert.ts'
import type { StateEntry } from '../common/log/types.ts'
import type { SummaryReason } from '../common/wire.ts'
import { decodeHeld, encodeHeld } from './held.ts'
import type { RoutedRecord } from './ports.ts'
import type { Summary, Tally } from './summary.ts'
import { addDrop, addTally, encodeSummary } from './summary.ts'

/**
 * One window of a lane with a policy: the newest reading of each key, where they are held back, and a tally of what was dropped. All
 * of it is in the state log in the commit before the acks, so a crash takes nothing that was acked, neither reading nor count.
 *
 * What is taken gathers until its commit is handed on, and is under way until that ended. Commits end in order; one that
 * fails takes back what it brought, and nothing else.
 */

/** What an entry of a window costs beside key and value: in the map here, and in the state log's. */
const ENTRY_OVERHEAD_BYTES = 200

export const HELD_PREFIX = 'held/'
export const TALLY_PREFIX = 'tally/'

interface Held {
  bytes: Uint8Array
  takenMs: number
  /** A reading of its key was dropped in this window. */
  isCounted: boolean
}

/** What one commit brings. */
interface Layer {
  held: Map<string, Held>
  /** Drops, each with the reading that took the dropped one's place. */
  tally: Tally | null
  /** Keys whose readings were let through. */
  passed: string[]
}

const newLayer = (): Layer => ({ held: new Map(), tally: null, passed: [] })

/** What all windows of an edge hold. */
export interface Holdings {
  bytes: number
}

export interface WindowOptions {
  /** Unique among the windows in the state log. */
  name: string
  reason: SummaryReason
  /** Monotonic time at which it ends. */
  dueMs: number
  holdings: Holdings
  /** A commit ended; `undone`: keys of readings let through that are not in the log. */
  settled(window: Window, undone: readonly string[]): void
}

export class Window {
  readonly name: string
  readonly reason: SummaryReason
  readonly dueMs: number
  readonly #settled: WindowOptions['settled']
  readonly #holdings: Holdings
  /** What is durable. */
  readonly #base = newLayer()
  /** Handed on, oldest first. */
  readonly #underWay: Layer[] = []
  #gathering = newLayer()
  #nextOrder = 0
  /** The state log has, or may have, a tally of it. */
  #isTold = false
  /** Keys of which a reading is held, and the bytes of the newest of each. */
  keys = 0
  bytes = 0

  constructor({ name, reason, dueMs, holdings, settled }: WindowOptions) {
    this.name = name
    this.reason = reason
    this.dueMs = dueMs
    this.#holdings = holdings
    this.#settled = settled
  }

  /** Takes back what the state log holds of a window; for a new one. */
  restore(held: readonly [string, Uint8Array][], tally: Tally | null): void {
    const decoded = held.map(([key, bytes]) => ({ key, bytes, reading: decodeHeld(bytes) }))
    decoded.sort((left, right) => left.reading.order - right.reading.order)
    for (const { key, bytes, reading } of decoded) {
      this.#newestChanged(key, undefined, bytes)
      this.#base.held.set(key, { bytes, takenMs: reading.takenMs, isCounted: false })
    }
    this.#base.tally = tally
    this.#isTold = tally !== null
  }

  /** Holds a reading back; the one of its key that was held is dropped. Returns the bytes that it adds to the next commit. */
  hold(key: string, record: RoutedRecord, takenMs: number): number {
    const { held } = this.#gathering
    const before = this.#newest(key)
    if (before !== undefined) {
      this.#gathering.tally = addDrop(this.#gathering.tally, before.takenMs, takenMs, !before.isCounted)
    }
    const bytes = encodeHeld(record, this.#nextOrder++, takenMs)
    this.#newestChanged(key, before?.bytes, bytes)
    const replacedBytes = held.get(key)?.bytes.length ?? -ENTRY_OVERHEAD_BYTES
    // Deleted first, so that the map is in order of arrival.
    if (replacedBytes >= 0) held.delete(key)
    held.set(key, { bytes, takenMs, isCounted: before !== undefined })
    return bytes.length - replacedBytes
  }

  /** Drops a reading. */
  drop(nowMs: number, isFirstOfKey: boolean): void {
    this.#gathering.tally = addDrop(this.#gathering.tally, nowMs, nowMs, isFirstOfKey)
  }

  /** Notes that a reading was let through, to be told if its commit fails. */
  pass(key: string): void {
    this.#gathering.passed.push(key)
  }

  #newest(key: string): Held | undefined {
    return (
      this.#gathering.held.get(key) ??
      this.#underWay.findLast(layer => layer.held.has(key))?.held.get(key) ??
      this.#base.held.get(key)
    )
  }

  #newestChanged(key: string, before: Uint8Array | undefined, after: Uint8Array | undefined): void {
    const cost = (bytes: Uint8Array | undefined): number =>
      bytes === undefined ? 0 : ENTRY_OVERHEAD_BYTES + 2 * key.length + bytes.length
    const grows = cost(after) - cost(before)
    this.keys += Number(after !== undefined) - Number(before !== undefined)
    this.bytes += grows
    this.#holdings.bytes += grows
  }

  // --------------------------------------------------------------------------------------- its commits

  /** What gathered, to be stored in the commit that is handed on now. */
  seal(): StateEntry[] {
    const layer = this.#gathering
    this.#gathering = newLayer()
    this.#underWay.push(layer)
    const entries: StateEntry[] = []
    for (const [key, { bytes }] of layer.held) entries.push({ key: this.#heldKey(key), value: bytes })
    if (layer.tally !== null) {
      const all = this.#underWay.reduce((sum, { tally }) => addTally(sum, tally), this.#base.tally)
      const summary = { reason: this.reason, ...must(all, 'it was just added to') }
      entries.push({ key: this.#tallyKey(), value: encodeSummary(summary) })
      this.#isTold = true
    }
    return entries
  }

  /** The oldest commit under way ended. */
  settle(isDurable: boolean): void {
    const layer = must(this.#underWay.shift(), 'what ends was handed on')
    if (isDurable) this.#merge(layer)
    else this.#undo(layer)
    this.#settled(this, isDurable ? [] : layer.passed)
  }

  #merge({ held, tally }: Layer): void {
    for (const [key, reading] of held) {
      this.#base.held.delete(key)
      this.#base.held.set(key, reading)
    }
    this.#base.tally = addTally(this.#base.tally, tally)
  }

  #undo({ held }: Layer): void {
    for (const [key, { bytes }] of held) {
      const before = this.#base.held.get(key)
      const next = [...this.#underWay, this.#gathering].find(layer => layer.held.has(key))
      if (next === undefined) this.#newestChanged(key, bytes, before?.bytes)
      // What took its place takes that of the one before instead, or of none.
      else if (before === undefined && next.tally !== null) {
        next.tally = next.tally.count === 1 ? null : { ...next.tally, count: next.tally.count - 1 }
      }
    }
  }

  // ---------------------------------------------------------------------------------------------- its end

  /** Whether all that was taken is durable, or has failed. */
  get isSettled(): boolean {
    const { held, tally, passed } = this.#gathering
    return this.#underWay.length === 0 && held.size === 0 && tally === null && passed.length === 0
  }

  /** Durable readings in order of arrival, as many as `maxBytes` hold and at least one, where there are any. */
  oldest(maxBytes: number): [string, Uint8Array][] {
    const oldest: [string, Uint8Array][] = []
    let bytes = 0
    for (const [key, held] of this.#base.held) {
      bytes += ENTRY_OVERHEAD_BYTES + held.bytes.length
      if (bytes > maxBytes && oldest.length > 0) break
      oldest.push([key, held.bytes])
    }
    return oldest
  }

  /** Durable readings. */
  get held(): number {
    return this.#base.held.size
  }

  /** Readings dropped, durably; null for none. */
  summary(): Summary | null {
    const { tally } = this.#base
    if (tally === null) return null
    // Counted as commits came and failed, keys are right to within what failed.
    const keys = Math.max(1, Math.min(tally.keys, tally.count))
    return { reason: this.reason, ...tally, keys }
  }

  /** Entries that remove these readings from the state log. */
  removal(keys: readonly string[]): StateEntry[] {
    return keys.map(key => ({ key: this.#heldKey(key), value: null }))
  }

  /** Entries that remove what is left of it once no reading is. */
  end(): StateEntry[] {
    return this.#isTold ? [{ key: this.#tallyKey(), value: null }] : []
  }

  /** They are records now. */
  forget(keys: readonly string[]): void {
    for (const key of keys) {
      const held = this.#base.held.get(key)
      if (held === undefined) continue
      this.#newestChanged(key, held.bytes, undefined)
      this.#base.held.delete(key)
    }
  }

  #heldKey(key: string): string {
    return `${HELD_PREFIX}${this.name}/${key}`
  }

  #tallyKey(): string {
    return `${TALLY_PREFIX}${this.name}`
  }
}

import { assert, must } from '../../common/assert.ts'
import type { Entry, Payload, Position } from './types.ts'

/** What an entry costs beside its bytes, in messages and limits. */
const ENTRY_OVERHEAD_BYTES = 32

/** Bytes an entry counts for. */
export function entryBytes({ payload }: { readonly payload: Payload }): number {
  if (payload.t === 'data') return ENTRY_OVERHEAD_BYTES + payload.bytes.length
  if (payload.t === 'noop') return ENTRY_OVERHEAD_BYTES
  const { voters, learners } = payload.config
  return [...voters, ...learners].reduce((total, member) => total + member.length, ENTRY_OVERHEAD_BYTES)
}

/**
 * The entries a member holds in memory: all behind `base`, the last one that a snapshot covers or that was forgotten, of
 * which only place and term are known (paper section 7). Durability is tracked elsewhere (durability.ts).
 */
export class RaftLog {
  #base: Position
  #entries: Entry[]

  /** `entries` follow `base` without a hole. */
  constructor(base: Position, entries: readonly Entry[]) {
    this.#base = { index: base.index, term: base.term }
    this.#entries = []
    this.append(entries)
  }

  firstIndex(): number {
    return this.#base.index + 1
  }

  lastIndex(): number {
    return this.#base.index + this.#entries.length
  }

  last(): Position {
    const { index, term } = this.#entries.at(-1) ?? this.#base
    return { index, term }
  }

  /** The term of the entry at `index`; null where it is forgotten or not there yet. */
  termAt(index: number): number | null {
    if (index === this.#base.index) return this.#base.term
    return this.#entries[index - this.#base.index - 1]?.term ?? null
  }

  /** Whether the log holds this very entry: AppendEntries rule 2 (paper Figure 2). */
  holds({ index, term }: Position): boolean {
    return this.termAt(index) === term
  }

  /** Entries [from, to], all of them held. */
  range(from: number, to: number): Entry[] {
    assert(from > this.#base.index && to <= this.lastIndex(), `entries ${from} to ${to} are not held`)
    return this.#entries.slice(from - this.#base.index - 1, to - this.#base.index)
  }

  /** Entries from `from` on that fit a message, at least one where there is one. */
  take(from: number, maxEntries: number, maxBytes: number): Entry[] {
    const start = from - this.#base.index - 1
    assert(start >= 0, `entry ${from} is forgotten`)
    let end = start
    let bytes = 0
    for (; end < this.#entries.length && end - start < maxEntries; end++) {
      bytes += entryBytes(must(this.#entries[end], 'an entry is missing'))
      if (bytes > maxBytes && end > start) break
    }
    return this.#entries.slice(start, end)
  }

  append(entries: readonly Entry[]): void {
    let { index, term } = this.last()
    for (const entry of entries) {
      const follows = entry.index === index + 1 && entry.term >= term
      if (!follows)
        assert(false, `entry ${entry.index} of term ${entry.term} does not follow ${index} of ${term}`)
      this.#entries.push(entry)
      index = entry.index
      term = entry.term
    }
  }

  /** Forgets the entries from `index` on: AppendEntries rule 3 (paper Figure 2). */
  truncateFrom(index: number): void {
    assert(index > this.#base.index, `entry ${index} is in a snapshot and can't be taken back`)
    this.#entries.length = index - this.#base.index - 1
  }

  /** Whether a log that ends at `other` is at least as up to date as this one (paper section 5.4.1). */
  isUpToDate(other: Position): boolean {
    const { index, term } = this.last()
    return other.term > term || (other.term === term && other.index >= index)
  }

  /**
   * The last place at or below `index` where this log may agree with one that has `term` there: terms only grow along a
   * log, so every place of a larger term is passed over at once (end of paper section 5.3). Where that leads below what
   * is held, the place before it.
   */
  agreementBelow({ index, term }: Position): Position {
    let at = Math.min(index, this.lastIndex())
    for (; at >= this.#base.index; at--) {
      const here = must(this.termAt(at), 'an entry is missing')
      if (here <= term) return { index: at, term: here }
    }
    return { index: at, term: 0 }
  }

  /** Forgets the entries below `index`. */
  forgetBefore(index: number): void {
    if (index <= this.firstIndex()) return
    const term = must(this.termAt(index - 1), `entry ${index - 1} is not held`)
    this.#entries = this.#entries.slice(index - this.firstIndex())
    this.#base = { index: index - 1, term }
  }
}

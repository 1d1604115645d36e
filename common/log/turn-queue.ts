import type { Clock } from '../env.ts'
import { TributaryError } from '../errors.ts'
import type { CommitCounters } from './commit-counters.ts'
import type { DataItem, FactItem, Turn } from './commit-plan.ts'
import { entryCost } from './commit-plan.ts'
import { ENTRY_BYTES, JOURNAL_BLOCK_BYTES } from './journal-format.ts'
import { MAX_LOG_NAME_BYTES } from './paths.ts'

/** One commit gathers up to this much, so that a long queue is acked in steps; one turn may be larger. */
const MAX_COMMIT_BYTES = 8 * 1024 * 1024
/** A commit of so much waits no longer for company: more of it would save no writes to the disk worth the wait. */
const WORTH_COMMITTING_BYTES = 64 * 1024
/** Journal bytes of a fact at most: an entry with the longest name. */
const ENTRY_AT_MOST = ENTRY_BYTES + MAX_LOG_NAME_BYTES

/** What waits for a commit: turns in order of arrival, and collectors that add to them right before it. */
export class TurnQueue {
  readonly #clock: Clock
  readonly #counters: CommitCounters
  /** What a turn may take in the journal. */
  readonly #maxTurnBytes: number
  readonly #maxCommitBytes: number
  #turns: Turn[] = []
  #dataBytes = 0
  #open: Turn | undefined
  #collectors: (() => void)[] = []
  #collectorsSinceMs = 0

  constructor(clock: Clock, counters: CommitCounters, journalBytes: number) {
    this.#clock = clock
    this.#counters = counters
    this.#maxTurnBytes = journalBytes - 2 * JOURNAL_BLOCK_BYTES
    this.#maxCommitBytes = Math.min(MAX_COMMIT_BYTES, Math.floor(journalBytes / 2))
  }

  isEmpty(): boolean {
    return this.#turns.length === 0 && this.#collectors.length === 0
  }

  /** A turn has begun and may grow. */
  isOpen(): boolean {
    return this.#open !== undefined
  }

  /** Enough for a commit that waits for no company. */
  isWorthwhile(): boolean {
    return this.#dataBytes >= Math.min(WORTH_COMMITTING_BYTES, this.#maxCommitBytes)
  }

  /** Monotonic time since when anything waits. */
  sinceMs(): number {
    return this.#turns[0]?.arrivedMs ?? this.#collectorsSinceMs
  }

  /** Adds to the current synchronous turn, or to one of its own that shares its commit with nobody; throws where it is too much. */
  add(item: DataItem | FactItem, alone: boolean): void {
    const dataBytes = item.kind === 'data' ? item.bytes.length : 0
    const costBytes = dataBytes + (item.kind === 'data' ? entryCost(item.log) : ENTRY_AT_MOST)
    const turn = this.#turn(alone)
    const limit = this.#maxTurnBytes
    if (turn.costBytes + costBytes > limit) {
      // Alone it fits a later commit; what fits none never will.
      throw new TributaryError(
        costBytes > limit ? 'limit_exceeded' : 'throttled',
        `appends of one turn take ${turn.costBytes + costBytes} bytes, a commit holds ${limit}: append less at once or raise journalBytes`,
      )
    }
    turn.items.push(item)
    turn.costBytes += costBytes
    turn.dataBytes += dataBytes
    if (item.kind !== 'data') return
    this.#dataBytes += dataBytes
    this.#counters.pendingAppends++
    this.#counters.pendingBytes += dataBytes
  }

  #turn(alone: boolean): Turn {
    if (this.#open !== undefined && !alone) return this.#open
    const arrivedMs = this.#clock.monotonicMs()
    const turn: Turn = { items: [], costBytes: 0, dataBytes: 0, alone, arrivedMs }
    this.#turns.push(turn)
    if (alone) {
      this.#open = undefined
      return turn
    }
    this.#open = turn
    queueMicrotask(() => {
      if (this.#open === turn) this.#open = undefined
    })
    return turn
  }

  /** See DataDir.collectAtNextCommit. */
  collectLater(collect: () => void): void {
    if (this.#collectors.length === 0) this.#collectorsSinceMs = this.#clock.monotonicMs()
    this.#collectors.push(collect)
  }

  /** Runs the collectors; each one's appends are a turn of their own. */
  collect(failed: (error: unknown) => void): void {
    if (this.#collectors.length > 0) {
      const collectors = this.#collectors
      this.#collectors = []
      for (const collect of collectors) {
        this.#open = undefined
        try {
          collect()
        } catch (error) {
          failed(error)
        }
      }
    }
    this.#open = undefined
  }

  /** Takes the turns of the next commit. */
  gather(): Turn[] {
    const turns: Turn[] = []
    let costBytes = 0
    for (const turn of this.#turns) {
      if (turns.length > 0 && (turn.alone || costBytes + turn.costBytes > this.#maxCommitBytes)) break
      turns.push(turn)
      costBytes += turn.costBytes
      this.#dataBytes -= turn.dataBytes
      if (turn.alone) break
    }
    if (turns.length === this.#turns.length) this.#turns = []
    else this.#turns.splice(0, turns.length)
    return turns
  }

  /** Takes the turns for which `out` holds; returns them and those that stay. */
  takeOut(out: (turn: Turn) => boolean): { taken: Turn[]; left: readonly Turn[] } {
    const taken = this.#turns.filter(out)
    this.#turns = this.#turns.filter(turn => !out(turn))
    this.#open = undefined
    this.#dataBytes = 0
    for (const { dataBytes } of this.#turns) this.#dataBytes += dataBytes
    return { taken, left: this.#turns }
  }

  /** Takes everything: nothing is committed any more. */
  clear(): Turn[] {
    this.#collectors = []
    return this.takeOut(() => true).taken
  }

  /** These are committed or refused. */
  settled(turns: readonly Turn[]): void {
    for (const turn of turns) {
      this.#counters.pendingBytes -= turn.dataBytes
      for (const item of turn.items) if (item.kind === 'data') this.#counters.pendingAppends--
    }
  }
}

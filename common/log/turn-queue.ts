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
/** What goes first is joined by so much of the rest: more would hold it up. */
const MAX_JOINING_BYTES = 256 * 1024
/** Journal bytes of a fact at most: an entry with the longest name. */
const ENTRY_AT_MOST = ENTRY_BYTES + MAX_LOG_NAME_BYTES

/** Turns that keep their order among each other. */
interface Lane {
  turns: Turn[]
  /** The one of the current synchronous turn. */
  open: Turn | undefined
}

/**
 * What waits for a commit: turns in order of arrival, those of logs that go first in a lane of their own, and collectors that add to them
 * right before it.
 */
export class TurnQueue {
  readonly #clock: Clock
  readonly #counters: CommitCounters
  /** What a turn may take in the journal. */
  readonly #maxTurnBytes: number
  readonly #maxCommitBytes: number
  readonly #first: Lane = { turns: [], open: undefined }
  readonly #rest: Lane = { turns: [], open: undefined }
  /** The last commit had no place for the rest. */
  #isRestDue = false
  #dataBytes = 0
  #collectors: (() => void)[] = []
  #collectorsSinceMs = 0

  constructor(clock: Clock, counters: CommitCounters, journalBytes: number) {
    this.#clock = clock
    this.#counters = counters
    this.#maxTurnBytes = journalBytes - 2 * JOURNAL_BLOCK_BYTES
    this.#maxCommitBytes = Math.min(MAX_COMMIT_BYTES, Math.floor(journalBytes / 2))
  }

  isEmpty(): boolean {
    return this.#first.turns.length + this.#rest.turns.length + this.#collectors.length === 0
  }

  /** A turn has begun and may grow. */
  isOpen(goesFirst: boolean): boolean {
    return this.#lane(goesFirst).open !== undefined
  }

  /** Enough for a commit that waits for no company. */
  isWorthwhile(): boolean {
    return this.#dataBytes >= Math.min(WORTH_COMMITTING_BYTES, this.#maxCommitBytes)
  }

  /** Monotonic time since when anything waits. */
  sinceMs(): number {
    const [first, rest] = [this.#first.turns[0]?.arrivedMs, this.#rest.turns[0]?.arrivedMs]
    if (first === undefined || rest === undefined) return first ?? rest ?? this.#collectorsSinceMs
    return Math.min(first, rest)
  }

  /** Adds to the current synchronous turn, or to one of its own that shares its commit with nobody; throws where it is too much. */
  add(item: DataItem | FactItem, alone: boolean): void {
    const dataBytes = item.kind === 'data' ? item.bytes.length : 0
    const costBytes = dataBytes + (item.kind === 'data' ? entryCost(item.log) : ENTRY_AT_MOST)
    const turn = this.#turn(this.#lane(item.log?.goesFirst ?? false), alone)
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

  #lane(goesFirst: boolean): Lane {
    return goesFirst ? this.#first : this.#rest
  }

  #turn(lane: Lane, alone: boolean): Turn {
    if (lane.open !== undefined && !alone) return lane.open
    const arrivedMs = this.#clock.monotonicMs()
    const turn: Turn = { items: [], costBytes: 0, dataBytes: 0, alone, arrivedMs }
    lane.turns.push(turn)
    if (alone) {
      lane.open = undefined
      return turn
    }
    lane.open = turn
    queueMicrotask(() => {
      if (lane.open === turn) lane.open = undefined
    })
    return turn
  }

  #closeTurns(): void {
    this.#first.open = undefined
    this.#rest.open = undefined
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
        this.#closeTurns()
        try {
          collect()
        } catch (error) {
          failed(error)
        }
      }
    }
    this.#closeTurns()
  }

  /** Takes the turns of the next commit: what goes first, and of the rest what does not hold that up, unless it was left out before. */
  gather(): Turn[] {
    if (this.#isRestDue) {
      this.#isRestDue = false
      const limit = Math.min(this.#maxCommitBytes + MAX_JOINING_BYTES, this.#maxTurnBytes)
      return this.#take(this.#first, this.#take(this.#rest, [], this.#maxCommitBytes), limit)
    }
    const turns = this.#take(this.#first, [], this.#maxCommitBytes)
    const limit =
      turns.length === 0 ? this.#maxCommitBytes : Math.min(MAX_JOINING_BYTES, this.#maxCommitBytes)
    const all = this.#take(this.#rest, turns, limit)
    this.#isRestDue = all.length === turns.length && this.#rest.turns.length > 0
    return all
  }

  /** `before`, and as many turns of the lane as fit a commit with it; one at least if there are none before. */
  #take(lane: Lane, before: readonly Turn[], maxBytes: number): Turn[] {
    const turns = [...before]
    if (turns[0]?.alone === true) return turns
    let costBytes = 0
    for (const turn of turns) costBytes += turn.costBytes
    for (const turn of lane.turns) {
      if (turns.length > 0 && (turn.alone || costBytes + turn.costBytes > maxBytes)) break
      turns.push(turn)
      costBytes += turn.costBytes
      this.#dataBytes -= turn.dataBytes
      if (turn.alone) break
    }
    const taken = turns.length - before.length
    if (taken === lane.turns.length) lane.turns = []
    else lane.turns.splice(0, taken)
    return turns
  }

  /** Takes the turns for which `out` holds; returns them and those that stay, each log's in order. */
  takeOut(out: (turn: Turn) => boolean): { taken: Turn[]; left: readonly Turn[] } {
    const all = [...this.#first.turns, ...this.#rest.turns]
    const taken = all.filter(out)
    const left = all.filter(turn => !out(turn))
    for (const lane of [this.#first, this.#rest]) lane.turns = lane.turns.filter(turn => !out(turn))
    this.#closeTurns()
    this.#dataBytes = 0
    for (const { dataBytes } of left) this.#dataBytes += dataBytes
    return { taken, left }
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

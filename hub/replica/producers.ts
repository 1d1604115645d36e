import { assert } from '../../common/assert.ts'
import type { BatchHeader } from '../../common/batch.ts'
import { MAX_SEQUENCE } from '../../common/batch.ts'
import { TributaryError } from '../../common/errors.ts'
import type { ClientProducer } from './client-producers.ts'
import { afterBatch, judgeClientBatch } from './client-producers.ts'
import type { GapRange, LaneId, LaneState, RunAnnouncement } from './lanes.ts'
import { gapLeft, judgeRun, judgeRunBatch, laneKey, pastOf, unknownRun } from './lanes.ts'

/**
 * Who has written to a partition, and how far: Kafka's idempotent producers (ids below 2^52) by their last batches, edges
 * by the tip of each of their lanes. Held as a function of the log: what an append changes, replaying its batches
 * changes in the same way. States are never changed in place, so that undoing an append is putting the old one back.
 */

/** Producer ids from here on are runs of edges. */
const FIRST_RUN = 2 ** 52
/** Client producers remembered per partition; the one longest silent goes first and then counts as new. */
export const MAX_CLIENT_PRODUCERS = 10_000

/** What a client's batch may do; `duplicate`: held already, from `baseOffset` on. */
export type Judgement = { kind: 'append' } | { kind: 'duplicate'; baseOffset: number }

/** Puts back what one change replaced; called in reverse order of the changes. */
export type Undo = () => void

const APPEND: Judgement = { kind: 'append' }

export class Producers {
  #clients = new Map<number, ClientProducer>()
  #lanes = new Map<string, LaneState>()
  /** Tips by run, for replay and for batches, which name the run alone. */
  #runs = new Map<number, LaneState>()
  #evicted = 0

  lane(id: LaneId): LaneState | undefined {
    return this.#lanes.get(laneKey(id))
  }

  /** Every lane, in no order. */
  lanes(): IterableIterator<LaneState> {
    return this.#lanes.values()
  }

  /** Client producers, longest silent first. */
  clients(): IterableIterator<[number, ClientProducer]> {
    return this.#clients.entries()
  }

  stats(): { clients: number; lanes: number; evicted: number } {
    return { clients: this.#clients.size, lanes: this.#lanes.size, evicted: this.#evicted }
  }

  /** Judges a client's batch, see client-producers.ts. Throws `out_of_order_sequence`, `fenced`, `invalid_argument`. */
  judgeClient(header: BatchHeader): Judgement {
    if (header.producerId === -1) return APPEND
    if (header.producerId >= FIRST_RUN) {
      throw new TributaryError(
        'invalid_argument',
        `producer id ${header.producerId} is one of edges' runs; ask the hub for an id`,
      )
    }
    const stored = judgeClientBatch(this.#clients.get(header.producerId), header)
    return stored === null ? APPEND : { kind: 'duplicate', baseOffset: stored.baseOffset }
  }

  /** Judges an edge's batch. Throws `unknown_run`, `out_of_order_sequence` (`details.next`), `invalid_argument`. */
  judgeLane(id: LaneId, header: BatchHeader): Judgement['kind'] {
    const tip = this.lane(id)
    if (tip === undefined || tip.run !== header.producerId) throw unknownRun(id, header.producerId, tip)
    return judgeRunBatch(tip, header)
  }

  /** Takes a data batch in, judged or read from the log. */
  applyBatch(header: BatchHeader, baseOffset: number, nowMs: number): Undo {
    const { producerId } = header
    if (producerId === -1) return nothing
    if (producerId < FIRST_RUN) return this.#applyClient(header, baseOffset, nowMs)
    const tip = this.#runs.get(producerId)
    // Without its start in the log (cut off by damage) the run can't be told to a lane; the edge will declare it anew.
    if (tip === undefined) return nothing
    const next = header.baseSequence + header.recordCount
    assert(next <= MAX_SEQUENCE, 'a run goes beyond 2^31 - 1')
    return this.#putLane({ ...tip, next }, tip)
  }

  #applyClient(header: BatchHeader, baseOffset: number, nowMs: number): Undo {
    const { producerId } = header
    const before = this.#clients.get(producerId)
    if (before === undefined && this.#clients.size >= MAX_CLIENT_PRODUCERS) this.#evictOldest()
    this.#clients.delete(producerId)
    this.#clients.set(producerId, afterBatch(before, header, baseOffset, nowMs))
    return () => {
      if (before === undefined) this.#clients.delete(producerId)
      else this.#clients.set(producerId, before)
    }
  }

  #evictOldest(): void {
    for (const producerId of this.#clients.keys()) {
      this.#clients.delete(producerId)
      this.#evicted++
      return
    }
  }

  /** What an announced run needs: nothing where it is the tip already, or a declaration. Throws `unknown_run`, `out_of_order_sequence`, `invalid_argument`. */
  judgeRun(id: LaneId, start: RunAnnouncement): ReturnType<typeof judgeRun> {
    if (start.run < FIRST_RUN || !Number.isSafeInteger(start.run)) {
      throw new TributaryError('invalid_argument', `run ${start.run} must be a random number in [2^52, 2^53)`)
    }
    const holder = this.#runs.get(start.run)
    if (holder !== undefined && laneKey(holder) !== laneKey(id)) {
      throw new TributaryError('invalid_argument', `run ${start.run} is another lane's; draw a new one`)
    }
    return judgeRun(this.lane(id), start)
  }

  /** The run is the lane's tip from now on. */
  applyRun(id: LaneId, start: RunAnnouncement): Undo {
    const tip = this.lane(id)
    const { run, prev } = start
    return this.#putLane({ edge: id.edge, lane: id.lane, run, next: 0, prev, past: pastOf(tip) }, tip)
  }

  /** What of a gap is not held yet, null where nothing is. Throws `unknown_run`, `out_of_order_sequence`, `invalid_argument`. */
  judgeGap(id: LaneId, gap: GapRange): GapRange | null {
    return gapLeft(id, this.lane(id), gap)
  }

  /** Takes a gap in: the run goes on at its end. */
  applyGap(run: number, to: number): Undo {
    const tip = this.#runs.get(run)
    if (tip === undefined || to <= tip.next) return nothing
    return this.#putLane({ ...tip, next: to }, tip)
  }

  /** Forgets a lane of an edge that was removed. */
  removeLane(id: LaneId): Undo {
    const tip = this.lane(id)
    if (tip === undefined) return nothing
    this.#lanes.delete(laneKey(id))
    this.#runs.delete(tip.run)
    return () => void this.#putLane(tip, undefined)
  }

  /** Forgets clients silent since before `beforeMs`; returns how many. */
  expire(beforeMs: number): number {
    let expired = 0
    for (const [producerId, producer] of this.#clients) {
      if (producer.lastMs >= beforeMs) continue
      this.#clients.delete(producerId)
      expired++
    }
    return expired
  }

  /** Puts in what a snapshot held; only into an empty one. */
  restore(clients: Iterable<[number, ClientProducer]>, lanes: Iterable<LaneState>): void {
    assert(this.#clients.size === 0 && this.#lanes.size === 0, 'a snapshot is restored into nothing else')
    for (const [producerId, producer] of clients) this.#clients.set(producerId, producer)
    for (const lane of lanes) this.#putLane(lane, undefined)
  }

  /** Others take the place of all that is here; they are used up. Undoing what was done before is no more possible. */
  replaceBy(others: Producers): void {
    this.#clients = others.#clients
    this.#lanes = others.#lanes
    this.#runs = others.#runs
  }

  #putLane(state: LaneState, before: LaneState | undefined): Undo {
    const key = laneKey(state)
    if (before !== undefined && before.run !== state.run) this.#runs.delete(before.run)
    this.#lanes.set(key, state)
    this.#runs.set(state.run, state)
    return () => {
      if (before?.run !== state.run) this.#runs.delete(state.run)
      if (before === undefined) {
        this.#lanes.delete(key)
        return
      }
      this.#lanes.set(key, before)
      this.#runs.set(before.run, before)
    }
  }
}

const nothing: Undo = () => {}

import { assert } from '../../common/assert.ts'
import type { HardState } from './types.ts'
import { BEFORE_FIRST } from './types.ts'

interface PendingWrite {
  readonly ticket: number
  readonly hardState: HardState
  /** The log as it is now is in this write, or in one before it, up to here. */
  lastIndex: number
}

/**
 * What of a member's state is durable. Nothing may be promised on what is not: a vote, an entry acked, an entry of its
 * own that a leader counts (thesis 3.8, 10.2.1).
 */
export class Durability {
  #lastTicket = 0
  #pending: PendingWrite[] = []
  #durable: { hardState: HardState; index: number }

  constructor(hardState: HardState, lastIndex: number) {
    this.#durable = { hardState, index: lastIndex }
  }

  /** Term and vote as they would be found after a crash. */
  hardState(): HardState {
    return this.#durable.hardState
  }

  /** The log as it is in memory is durable up to here. */
  index(): number {
    return this.#durable.index
  }

  /** Opens a write after which all this is durable; gives its ticket. */
  begin(hardState: HardState, lastIndex: number): number {
    const ticket = ++this.#lastTicket
    this.#pending.push({ ticket, hardState, lastIndex })
    return ticket
  }

  /** The write on which everything said now rests; 0 where all is durable. */
  latest(): number {
    return this.#pending.at(-1)?.ticket ?? 0
  }

  /** The write of `ticket` and all before it are durable. */
  completed(ticket: number): void {
    assert(ticket <= this.#lastTicket, `no write has ticket ${ticket}`)
    for (
      let first = this.#pending[0];
      first !== undefined && first.ticket <= ticket;
      first = this.#pending[0]
    ) {
      this.#pending.shift()
      const { hardState, lastIndex } = first
      this.#durable = { hardState, index: Math.max(this.#durable.index, lastIndex) }
    }
  }

  /** The log was replaced from `index` on: no write until now says anything of what stands there. */
  replacedFrom(index: number): void {
    for (const write of this.#pending) write.lastIndex = Math.min(write.lastIndex, index - 1)
    this.#durable.index = Math.min(this.#durable.index, index - 1)
  }

  /** The whole log was replaced by a snapshot. */
  replacedAll(): void {
    for (const write of this.#pending) write.lastIndex = BEFORE_FIRST
    this.#durable.index = BEFORE_FIRST
  }
}

import { crc32c } from '../../../common/crc32c.ts'
import type { Entry, Message } from '../../../hub/raft/types.ts'
import type { World } from '../world.ts'

/**
 * Committed metadata is never lost: one leader a term, one entry at an index and term, and what a leader once called committed
 * stands at its index for ever.
 */
export class MetadataChecker {
  readonly #world: World
  /** Who led each term. */
  readonly #leaders = new Map<number, string>()
  /** Checksums of entries, by index and term. */
  readonly #entries = new Map<string, number>()
  /** Terms of the committed entries, by index, and the term in which each was told to be committed. */
  readonly #committed = new Map<number, { term: number; inTerm: number }>()
  /** Terms of the entries that a term's leader has, as far as it sent them. */
  readonly #logs = new Map<number, Map<number, number>>()
  /** Told committed by a leader; entries below it were looked at. */
  readonly #told = new Map<number, number>()

  constructor(world: World) {
    this.#world = world
  }

  /** Takes a message of the quorum; throws what is wrong. */
  message(message: Message): void {
    if (message.t === 'snapshot') this.#world.count('metadata snapshots sent')
    if (message.t === 'vote') this.#world.count('votes asked for')
    if (message.t !== 'append' && message.t !== 'heartbeat' && message.t !== 'snapshot') return
    const { term, from } = message
    const leader = this.#leaders.get(term)
    if (leader === undefined) {
      this.#leaders.set(term, from)
      this.#world.count('controllers elected')
      this.#world.say(() => `${from} leads term ${term}`)
    } else if (leader !== from) throw new Error(`${leader} and ${from} both lead term ${term}`)
    if (message.t === 'snapshot') return
    const log = this.#logs.get(term) ?? new Map<number, number>()
    this.#logs.set(term, log)
    if (message.t === 'append') {
      log.set(message.prev.index, message.prev.term)
      for (const entry of message.entries) this.#entry(log, entry, term)
    }
    // A heartbeat tells no more than its receiver is known to hold, and so less than the leader may have told before.
    this.#commit(term, log, message.commit)
  }

  #entry(log: Map<number, number>, { index, term, payload }: Entry, leaderTerm: number): void {
    log.set(index, term)
    const key = `${index} ${term}`
    const crc = payload.t === 'data' ? crc32c(payload.bytes) : payload.t === 'noop' ? 0 : 1
    const known = this.#entries.get(key)
    if (known === undefined) this.#entries.set(key, crc)
    else if (known !== crc) throw new Error(`two entries at index ${index} of term ${term}`)
    // Who was elected since has all that was committed before (paper 5.4.3).
    const committed = this.#committed.get(index)
    if (committed !== undefined && committed.inTerm <= leaderTerm) {
      this.#compare(index, committed.term, term, leaderTerm)
    }
  }

  #commit(leaderTerm: number, log: ReadonlyMap<number, number>, commit: number): void {
    const from = this.#told.get(leaderTerm) ?? 0
    let next = from
    for (let index = from; index <= commit; index++) {
      const term = log.get(index)
      // Its followers had it already: nothing was sent.
      if (term === undefined) continue
      const committed = this.#committed.get(index)
      if (committed === undefined) this.#committed.set(index, { term, inTerm: leaderTerm })
      else this.#compare(index, committed.term, term, leaderTerm)
      next = index
    }
    this.#told.set(leaderTerm, next)
  }

  #compare(index: number, committedTerm: number, term: number, leaderTerm: number): void {
    if (committedTerm === term) return
    const other = `the leader of term ${leaderTerm} has one of term ${term}`
    throw new Error(`the entry of term ${committedTerm} at index ${index} was committed, and ${other}`)
  }
}

import { crc32c } from '../../../common/crc32c.ts'
import type { Entry, Message } from '../../../hub/raft/types.ts'
import type { World } from '../world.ts'

/** Told of what is in the metadata log; entries without data are left out. */
export interface EntryListener {
  proposed(index: number, bytes: Uint8Array): void
  /** From now on so many vote. */
  voters(count: number): void
  /** In the order of the log. */
  committed(index: number, bytes: Uint8Array): void
  /** Entries were committed that were never seen. */
  missed(): void
}

const NO_BYTES = new Uint8Array(0)

/**
 * Committed metadata is never lost: one vote a term and voter, one leader a term, one entry at an index and term, and what a leader
 * once called committed stands at its index for ever.
 */
export class MetadataChecker {
  readonly #world: World
  readonly #listener: EntryListener
  /** Who led each term. */
  readonly #leaders = new Map<number, string>()
  /** Whom each voter voted for, by voter and term. */
  readonly #votes = new Map<string, string>()
  /** Entries and their checksums, by index and term. */
  readonly #entries = new Map<string, { crc: number; bytes: Uint8Array }>()
  /** Terms of the committed entries, by index, and the term in which each was told to be committed. */
  readonly #committed = new Map<number, { term: number; inTerm: number }>()
  /** Terms of the entries that a term's leader has, as far as it sent them. */
  readonly #logs = new Map<number, Map<number, number>>()
  /** Told committed by a leader; entries below it were looked at. */
  readonly #told = new Map<number, number>()
  /** The listener was told of what is committed below it. */
  #heard = 0
  /** Members that a snapshot was announced to, and its last index. */
  readonly #installing = new Map<string, number>()

  constructor(world: World, listener: EntryListener) {
    this.#world = world
    this.#listener = listener
  }

  /** Takes a message of the quorum; throws what is wrong. */
  message(message: Message): void {
    if (message.t === 'vote-reply' && message.granted) this.#vote(message)
    if (message.t === 'snapshot') this.#installing.set(message.to, message.snapshot.index)
    if (
      message.t === 'append-ok' &&
      message.match >= (this.#installing.get(message.from) ?? Number.POSITIVE_INFINITY)
    ) {
      this.#installing.delete(message.from)
      this.#world.count('metadata snapshot installed')
    }
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

  #vote({ from, to, term }: Message): void {
    const key = `${from} ${term}`
    const other = this.#votes.get(key) ?? to
    if (other !== to) throw new Error(`${from} votes for ${other} and ${to}, both in term ${term}`)
    this.#votes.set(key, to)
  }

  #entry(log: Map<number, number>, { index, term, payload }: Entry, leaderTerm: number): void {
    log.set(index, term)
    const key = `${index} ${term}`
    const crc = payload.t === 'data' ? crc32c(payload.bytes) : payload.t === 'noop' ? 0 : 1
    const known = this.#entries.get(key)
    if (known === undefined) {
      // Small, and what it is part of is the link's own.
      const bytes = payload.t === 'data' ? payload.bytes : NO_BYTES
      this.#entries.set(key, { crc, bytes })
      if (bytes.length > 0) this.#listener.proposed(index, bytes)
      if (payload.t === 'config') this.#listener.voters(payload.config.voters.length)
    } else if (known.crc !== crc) throw new Error(`two entries at index ${index} of term ${term}`)
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
    this.#hear(commit)
  }

  #hear(commit: number): void {
    for (; this.#heard <= commit; this.#heard++) {
      const term = this.#committed.get(this.#heard)?.term
      const entry = this.#entries.get(`${this.#heard} ${term}`)
      if (entry === undefined) this.#listener.missed()
      else if (entry.bytes.length > 0) this.#listener.committed(this.#heard, entry.bytes)
    }
  }

  #compare(index: number, committedTerm: number, term: number, leaderTerm: number): void {
    if (committedTerm === term) return
    const other = `the leader of term ${leaderTerm} has one of term ${term}`
    throw new Error(`the entry of term ${committedTerm} at index ${index} was committed, and ${other}`)
  }

  /**
   * In the end, what the disk of a node that is there holds: terms by index below `end`, where no snapshot holds it. Gives whether it
   * holds all that was ever committed.
   */
  stored(nodeId: number, terms: ReadonlyMap<number, number>, end: number): boolean {
    let last = -1
    for (const [index, { term }] of this.#committed) {
      last = Math.max(last, index)
      const found = terms.get(index) ?? term
      if (found !== term) {
        throw new Error(
          `the entry of term ${term} at index ${index} was committed, node ${nodeId} holds one of ${found}`,
        )
      }
    }
    return end > last
  }
}

import { BufferPool } from '../bytes.ts'
import type { Clock, DiskFile } from '../env.ts'
import type { JournalEntry } from './journal-format.ts'
import { blocksFor, JOURNAL_BLOCK_BYTES, tableSize, writeTable } from './journal-format.ts'

/** Payloads up to this are copied behind the table, so that a commit of many small appends is one buffer. */
const COPY_BELOW_BYTES = 128 * 1024
const MAX_IDLE_BUFFER_BYTES = 4 * 1024 * 1024
const SYNC_TIMES_KEPT = 1024

const padding = new Uint8Array(JOURNAL_BLOCK_BYTES)

/**
 * Writes commit records into the two halves of the journal, overwriting in place. Which half may be overwritten
 * is the committer's business.
 */
export class Journal {
  readonly #halves: readonly DiskFile[]
  readonly #halfBytes: number
  readonly #journalId: Uint8Array
  readonly #session: number
  readonly #clock: Clock
  readonly #buffers = new BufferPool(MAX_IDLE_BUFFER_BYTES)
  readonly #syncTimesMs: number[] = []
  #syncs = 0
  #active = 0
  #position = 0
  #nextNumber: number

  constructor(options: {
    halves: readonly [DiskFile, DiskFile]
    halfBytes: number
    journalId: Uint8Array
    session: number
    firstNumber: number
    clock: Clock
  }) {
    this.#halves = options.halves
    this.#halfBytes = options.halfBytes
    this.#journalId = options.journalId
    this.#session = options.session
    this.#nextNumber = options.firstNumber
    this.#clock = options.clock
  }

  /** Number of the next commit. */
  nextNumber(): number {
    return this.#nextNumber
  }

  /** Whether a record of these entries and payload fits what is left of the active half. */
  fits(entries: readonly JournalEntry[], payloadBytes: number): boolean {
    return this.#position + blocksFor(tableSize(entries) + payloadBytes) <= this.#halfBytes
  }

  /** Goes on at the start of the other half, whose commits must no longer be needed. */
  switchHalf(): void {
    this.#active = 1 - this.#active
    this.#position = 0
  }

  /** Writes one commit and makes it durable. */
  async commit(
    entries: readonly JournalEntry[],
    payload: readonly Uint8Array[],
    payloadBytes: number,
  ): Promise<void> {
    const file = this.#halves[this.#active]
    if (file === undefined) return
    const tableBytes = tableSize(entries)
    const recordBytes = blocksFor(tableBytes + payloadBytes)
    const copy = payloadBytes <= COPY_BELOW_BYTES
    const buffer = this.#buffers.take(copy ? recordBytes : tableBytes)
    const startedMs = this.#clock.monotonicMs()
    try {
      const head = { journalId: this.#journalId, session: this.#session, number: this.#nextNumber }
      writeTable(buffer, head, entries, tableBytes, payloadBytes)
      if (copy) {
        let at = tableBytes
        for (const part of payload) {
          buffer.set(part, at)
          at += part.length
        }
        buffer.fill(0, at, recordBytes)
        await file.writev([buffer.subarray(0, recordBytes)], this.#position)
      } else {
        const pad = padding.subarray(0, recordBytes - tableBytes - payloadBytes)
        await file.writev([buffer.subarray(0, tableBytes), ...payload, pad], this.#position)
      }
      this.#syncTimesMs[this.#syncs++ % SYNC_TIMES_KEPT] = this.#clock.monotonicMs() - startedMs
    } finally {
      this.#buffers.give(buffer)
    }
    this.#position += recordBytes
    this.#nextNumber++
  }

  /** The given quantile of the latest fdatasync times; 0 before the first. */
  syncTimeMs(quantile: number): number {
    const sorted = this.#syncTimesMs.toSorted((left, right) => left - right)
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * quantile))] ?? 0
  }

  async close(): Promise<void> {
    for (const half of this.#halves) await half.close()
  }
}

import { BufferPool } from '../bytes.ts'
import type { Clock, DiskFile, Timer } from '../env.ts'
import type { JournalEntry } from './journal-format.ts'
import { blocksFor, JOURNAL_BLOCK_BYTES, plainEntry, tableSize, writeTable } from './journal-format.ts'
import type { FlushMode } from './types.ts'

/** Under `flush: async` what was acked is durable so much later, besides the time a sync takes. */
export const ASYNC_FLUSH_MS = 1_000

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
  readonly #flush: FlushMode
  /** The first commit that may not be durable. */
  #firstUnsynced: number
  /** Written since they were last synced. */
  readonly #unsynced = new Set<DiskFile>()
  #syncing: Promise<void> | undefined
  #timer: Timer | undefined
  #onSyncError: (error: unknown) => void = () => {}

  constructor(options: {
    /** Opened `durable`, or with `flush: async` to `write`. */
    halves: readonly [DiskFile, DiskFile]
    flush: FlushMode
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
    this.#firstUnsynced = options.firstNumber
    this.#flush = options.flush
    this.#clock = options.clock
  }

  /** Told when a sync that nobody waits for failed: final for the directory. */
  onSyncError(listener: (error: unknown) => void): void {
    this.#onSyncError = listener
  }

  /** Number of the next commit. */
  nextNumber(): number {
    return this.#nextNumber
  }

  /** What the table of the next commit says beside what it holds, if anything. */
  ownEntry(): JournalEntry | undefined {
    return this.#flush === 'commit' ? undefined : plainEntry('synced', 0, '', this.#firstUnsynced)
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

  /** Writes one commit: durable when it resolves, under `flush: async` at the next sync. */
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
    } finally {
      this.#buffers.give(buffer)
    }
    this.#position += recordBytes
    this.#nextNumber++
    if (this.#flush === 'commit') {
      this.#firstUnsynced = this.#nextNumber
      this.#noteSync(startedMs)
      return
    }
    this.#unsynced.add(file)
    this.#timer ??= this.#clock.setTimer(() => {
      this.#timer = undefined
      this.sync().catch((error: unknown) => this.#onSyncError(error))
    }, ASYNC_FLUSH_MS)
  }

  /** Makes every commit durable that is written. */
  async sync(): Promise<void> {
    const next = this.#nextNumber
    while (this.#firstUnsynced < next) {
      this.#syncing ??= this.#syncWritten().finally(() => {
        this.#syncing = undefined
      })
      await this.#syncing
    }
  }

  async #syncWritten(): Promise<void> {
    const next = this.#nextNumber
    const startedMs = this.#clock.monotonicMs()
    for (const file of [...this.#unsynced]) {
      this.#unsynced.delete(file)
      await file.datasync()
    }
    this.#firstUnsynced = next
    this.#noteSync(startedMs)
  }

  #noteSync(startedMs: number): void {
    this.#syncTimesMs[this.#syncs++ % SYNC_TIMES_KEPT] = this.#clock.monotonicMs() - startedMs
  }

  /** The given quantile of the latest times a sync took, with the write where that is synced; 0 before the first. */
  syncTimeMs(quantile: number): number {
    const sorted = this.#syncTimesMs.toSorted((left, right) => left - right)
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * quantile))] ?? 0
  }

  async close(): Promise<void> {
    this.#timer?.cancel()
    for (const half of this.#halves) await half.close()
  }
}

import { strict as assert } from 'node:assert'
import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { utf8, utf8Text } from '../../../common/bytes.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, FlushMode, Log, StateLog } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS } from './model.ts'

/** Beside model.ts for `flush: async`, where what is acked need not be there after a crash. */

/** Names of the logs. */
export const LOGS = ['alpha', 'beta/0', 'beta/1'] as const

/** One append. */
export interface Entry {
  turn: number
  log: number
  text: string
  /** -1 before it is acked. */
  offset: number
}

/** What is found in one log: texts by offset. */
export type Found = Map<number, string>

/** A directory that is appended to, stopped in all ways and opened again, with what is known of it. */
export class Machine {
  disk: FakeDisk
  readonly clock = new FakeClock()
  readonly #seed: number
  #opens = 0
  #dir: DataDir | undefined
  #state: StateLog | undefined
  logs: Log[] = []
  /** In the order of the calls. */
  entries: Entry[] = []
  #turn = 0
  /** All turns up to it are durable: a sync that began after them has completed. */
  syncedTurn = -1
  #starts = LOGS.map(() => 0)
  #flush: FlushMode = 'commit'
  /** An unclean stop that every start must tell. */
  #mustTell = false
  #everAsync = false
  failed = false
  #under: Promise<unknown>[] = []

  constructor(seed: number, tearing: 'none' | 'sector' | 'byte') {
    this.#seed = seed
    this.disk = new FakeDisk({ rng: seededRng(seed), tearing })
  }

  get dir(): DataDir {
    assert.ok(this.#dir !== undefined)
    return this.#dir
  }

  async open(flush: FlushMode): Promise<void> {
    this.#opens++
    this.#everAsync ||= flush === 'async'
    this.#flush = flush
    const env = { clock: this.clock, rng: seededRng(this.#seed + this.#opens), disk: this.disk }
    const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, flush }, env)
    this.#dir = dir
    this.failed = false
    // Timers of a process that is gone find its disk gone, and that is not this one's.
    dir.onFailed(() => {
      if (this.#dir === dir) this.failed = true
    })
    this.logs = []
    for (const name of LOGS) this.logs.push(await dir.openLog(name, LOG_OPTIONS))
    this.#state = await dir.openState('state', 1 << 20)
    assert.ok(dir.recovery.uncleanAsync || !this.#mustTell, 'an unclean stop is not told')
    assert.ok(!dir.recovery.uncleanAsync || this.#everAsync, 'an unclean stop is told that there was not')
    if (dir.recovery.uncleanAsync && this.#opens % 3 === 0) {
      // From here on it may be forgotten: a crash meanwhile leaves open whether it is.
      this.#mustTell = false
      await dir.recoveryHandled()
    }
  }

  append(which: readonly number[], size: number, how: 'plain' | 'durable' | 'state'): void {
    const turn = this.#turn++
    const appends: Promise<unknown>[] = []
    for (const at of which) {
      const log = this.logs[at]
      if (log === undefined) continue
      const text = `${turn}/${at}`
      const entry: Entry = { turn, log: at, text, offset: -1 }
      this.entries.push(entry)
      const value = utf8(text.padEnd(1 + (size % 3_000), ' '))
      const bytes = buildBatch([{ key: null, value, headers: [], timestampMs: 1 }])
      const appended = log.append(bytes, { durable: how === 'durable' }).then(({ baseOffset }) => {
        entry.offset = baseOffset
      })
      appends.push(appended)
    }
    if (how === 'state')
      appends.push(this.#state?.put([{ key: `${turn % 7}`, value: utf8('x') }]) ?? Promise.resolve())
    const done = Promise.all(appends).then(
      () => {
        if (how !== 'plain' || this.#flush === 'commit') this.synced(turn)
      },
      error => this.#expected(error),
    )
    this.#under.push(done)
  }

  synced(turn: number): void {
    this.syncedTurn = Math.max(this.syncedTurn, turn)
  }

  #expected(error: unknown): void {
    if (!isTributaryError(error)) throw error
  }

  flush(): void {
    const turn = this.#turn - 1
    this.#under.push(
      this.dir.flush().then(
        () => this.synced(turn),
        error => this.#expected(error),
      ),
    )
  }

  async truncateBefore(at: number, fraction: number): Promise<void> {
    await this.settle()
    const log = this.logs[at]
    if (log === undefined || this.failed) return
    const offset = log.startOffset() + Math.floor((log.endOffset() - log.startOffset()) * fraction)
    if (offset === log.startOffset()) return
    const turn = this.#turn - 1
    await log.truncateBefore(offset).catch((error: unknown) => this.#expected(error))
    if (this.failed) return
    this.#starts[at] = Math.max(this.#starts[at] ?? 0, offset)
    this.synced(turn)
  }

  async truncateAfter(at: number, fraction: number): Promise<void> {
    await this.settle()
    const log = this.logs[at]
    if (log === undefined || this.failed) return
    const offset = log.startOffset() + Math.ceil((log.endOffset() - log.startOffset()) * fraction)
    if (offset === log.endOffset()) return
    const turn = this.#turn - 1
    await log.truncateAfter(offset).catch((error: unknown) => this.#expected(error))
    if (this.failed) return
    this.entries = this.entries.filter(entry => entry.log !== at || entry.offset < offset)
    this.synced(turn)
  }

  async settle(): Promise<void> {
    while (this.#under.length > 0) await Promise.all(this.#under.splice(0))
  }

  async close(): Promise<void> {
    await this.settle()
    await this.dir.close()
    if (this.failed) this.#mustTell ||= this.#flush === 'async'
    else this.synced(this.#turn - 1)
  }

  /** Where the process alone ends, all that was acked stays. */
  async stop(how: 'crash' | 'kill'): Promise<void> {
    const acked = this.entries.filter(entry => entry.offset >= 0)
    const next = this.disk[how]()
    await this.settle()
    if (how === 'kill' && !this.failed) for (const { turn } of acked) this.synced(turn)
    this.#mustTell ||= this.#flush === 'async'
    this.disk = next
  }

  async pass(turns: number): Promise<void> {
    for (let at = 0; at < turns; at++) await new Promise(resolve => setImmediate(resolve))
  }

  async read(at: number): Promise<Found> {
    const log = this.logs[at]
    assert.ok(log !== undefined)
    const found: Found = new Map()
    for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
      const { batches, nextOffset } = await log.read(offset, 4_000)
      assert.ok(nextOffset > offset)
      addRecords(found, batches)
      offset = nextOffset
    }
    return found
  }

  /** Everything that was acked and is still there, while the machine runs. */
  async check(): Promise<void> {
    await this.settle()
    if (!this.failed) await this.#compare(this.#turn)
  }

  /** What came back: a prefix, that has all that was synced. Then takes it as the truth. */
  async compare(): Promise<void> {
    assert.deepEqual(this.dir.recovery.damage, [])
    assert.equal(this.dir.recovery.belowDurableEnd, false)
    await this.#compare(this.syncedTurn)
    this.synced(this.#turn - 1)
  }

  async #compare(atLeast: number): Promise<void> {
    const found = await Promise.all(LOGS.map((_, at) => this.read(at)))
    const isThere = ({ log, text }: Entry): boolean => [...(found[log]?.values() ?? [])].includes(text)
    const below = ({ log, offset }: Entry): boolean =>
      offset >= 0 && offset < (this.logs[log]?.startOffset() ?? 0)
    const kept = this.entries.filter(isThere)
    const last = kept.at(-1)?.turn ?? -1
    for (const entry of this.entries) {
      if (below(entry) || isThere(entry)) continue
      assert.ok(entry.turn > atLeast, `turn ${entry.turn} is gone, ${atLeast} was synced`)
      assert.ok(entry.turn > last, `turn ${entry.turn} is gone, ${last} is there`)
    }
    for (let log = 0; log < LOGS.length; log++) {
      const texts = [...(found[log]?.values() ?? [])]
      const expected = kept.filter(entry => entry.log === log).map(entry => entry.text)
      assert.deepEqual(texts, expected, `${LOGS[log]} holds something else, or in another order`)
      assert.ok((this.logs[log]?.startOffset() ?? 0) >= (this.#starts[log] ?? 0))
      for (const entry of kept) {
        if (entry.log !== log) continue
        const offset = [...(found[log] ?? [])].find(([, text]) => text === entry.text)?.[0] ?? -1
        assert.ok(entry.offset < 0 || entry.offset === offset)
        entry.offset = offset
      }
    }
    this.entries = kept
  }
}

/** Adds the texts of batches. */
export function addRecords(found: Found, batches: Uint8Array): void {
  for (const { at } of eachBatch(batches)) {
    for (const { offset, value } of decodePlain(batches, at))
      found.set(offset, utf8Text(value ?? new Uint8Array(0)).trimEnd())
  }
}

import { strict as assert } from 'node:assert'
import { eachBatch, stampBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { buildControlBatch } from '../../../common/batch-control.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { concat, readI64, utf8, utf8Text, writeI64 } from '../../../common/bytes.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, DataDirOptions, Log, LogOptions, StateLog } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'

/** A model of a data directory beside the real one, for tests that append, crash and compare. */

export const DIRECTORY = 'data/dir'
const LOG_NAMES = ['alpha', 'beta/0', 'beta/1'] as const
const STATE_NAME = 'session/state'

export const DIR_OPTIONS: DataDirOptions = {
  commitMs: 0,
  journalBytes: 64 * 1024,
  reserveBytes: 16 * 1024,
  tailCacheBytes: 8 * 1024,
}
export const LOG_OPTIONS: LogOptions = {
  segmentBytes: 6 * 1024,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: 64 * 1024,
}

type Status = 'pending' | 'acked' | 'refused' | 'unknown'

/** One append as the model remembers it. */
export interface Entry {
  id: number
  turn: number
  /** Its batch as it must be read back, offset and epoch left out. */
  tail: string
  records: number
  /** -1 while not known. */
  baseOffset: number
  leaderEpoch: number
  status: Status
}

export interface ModelLog {
  name: string
  /** In append order; what is known to be gone is taken out. */
  entries: Entry[]
  /** Start offsets that may be found: the last acked one, and those asked for since. */
  starts: number[]
  /** Ends that a cut under way may leave. */
  cuts: number[]
  /** Where a restart under way may leave it, empty. */
  restart: number | undefined
  /** A cut or restart is under way: nothing may be appended. */
  cutting: boolean
  log: Log | undefined
}

export interface ModelPut {
  turn: number
  key: string
  value: string | null
  status: Status
}

/** What a batch is, past base offset and leader epoch. */
export function tailOf(batch: Uint8Array): string {
  return Buffer.from(batch.subarray(16)).toString('latin1')
}

export class Model {
  disk: FakeDisk
  readonly clock = new FakeClock()
  readonly seed: number
  readonly logs: ModelLog[] = LOG_NAMES.map(name => ({
    name,
    entries: [],
    starts: [0],
    cuts: [],
    restart: undefined,
    cutting: false,
    log: undefined,
  }))
  puts: ModelPut[] = []
  dir: DataDir | undefined
  state: StateLog | undefined
  #turn = 0
  #nextId = 1
  /** Promises of everything under way. */
  #under: Promise<unknown>[] = []
  failed = false
  opens = 0

  constructor(seed: number, tearing: 'none' | 'sector' | 'byte') {
    this.seed = seed
    this.disk = new FakeDisk({ rng: seededRng(seed), tearing })
  }

  /** Opens the directory and compares; damage must be none unless `damaged` expects it. */
  async open(check = true): Promise<void> {
    this.opens++
    const env = { clock: this.clock, rng: seededRng(this.seed + this.opens), disk: this.disk }
    const dir = await openDataDir(DIRECTORY, DIR_OPTIONS, env)
    this.dir = dir
    this.failed = false
    // Timers of a process that is gone find its disk gone, and that is not this one's.
    dir.onFailed(() => {
      if (this.dir === dir) this.failed = true
    })
    for (const model of this.logs) model.log = await dir.openLog(model.name, LOG_OPTIONS)
    this.state = await dir.openState(STATE_NAME, 1 << 20)
    if (!check) return
    assert.deepEqual(dir.recovery.damage, [], 'no damage without bit flips')
    assert.equal(dir.recovery.belowDurableEnd, false)
    await this.compare()
  }

  /** Appends to the logs, and puts, all in one turn. */
  appendTurn(which: readonly number[], size: number, keys: readonly number[], useReserve = false): void {
    const turn = this.#turn++
    for (const at of which) {
      const model = this.logs[at % this.logs.length]
      if (model?.log !== undefined && !model.cutting) this.#append(model, model.log, turn, size, useReserve)
    }
    const entries = keys.map((key, at) => ({
      key: `k${key}`,
      value: (key + at) % 5 === 0 ? null : `v${this.#nextId++}`,
    }))
    if (entries.length > 0) this.#put(turn, entries)
  }

  #append(model: ModelLog, log: Log, turn: number, size: number, useReserve: boolean): void {
    const { batch, entry } = this.#newBatch(model, turn, size, log.endOffset())
    entry.leaderEpoch = entry.id % 5
    model.entries.push(entry)
    const appended = log.append(batch, { useReserve, leaderEpoch: entry.leaderEpoch }).then(
      result => {
        entry.status = 'acked'
        entry.baseOffset = result.baseOffset
      },
      error => this.#refused(entry, error),
    )
    this.#under.push(appended)
  }

  #newBatch(
    model: ModelLog,
    turn: number,
    size: number,
    endOffset: number,
  ): { batch: Uint8Array; entry: Entry } {
    const id = this.#nextId++
    const records = 1 + (id % 4)
    const control = id % 17 === 0
    let batch: Uint8Array
    if (control) {
      batch = buildControlBatch({
        type: 1001,
        value: utf8(`${model.name}:${id}`),
        producerId: 7,
        timestampMs: id,
      })
      // A gap that jumps offsets.
      if (id % 2 === 0) writeI64(batch, 0, endOffset + 10)
    } else {
      batch = buildBatch(
        Array.from({ length: records }, (_, at) => ({
          key: utf8(`${model.name}:${id}`),
          value: utf8(`${at}`.padEnd(1 + (size % 3000), 'x')),
          headers: [],
          timestampMs: 1000 + id,
        })),
      )
    }
    const entry: Entry = {
      id,
      turn,
      tail: tailOf(batch),
      records: control ? 1 : records,
      baseOffset: -1,
      leaderEpoch: 0,
      status: 'pending',
    }
    return { batch, entry }
  }

  /** One append of several batches as a leader of some epochs stamped them. */
  appendReplica(which: number, count: number, size: number): void {
    const model = this.logs[which % this.logs.length]
    if (model?.log === undefined || model.cutting) return
    const turn = this.#turn++
    let endOffset = model.log.endOffset()
    const batches: Uint8Array[] = []
    const entries: Entry[] = []
    for (let at = 0; at < count; at++) {
      const { batch, entry } = this.#newBatch(model, turn, size, endOffset)
      entry.baseOffset = Math.max(readI64(batch, 0), endOffset)
      entry.leaderEpoch = 100 + Math.floor(entry.id / 3)
      stampBatch(batch, 0, entry.baseOffset, entry.leaderEpoch)
      endOffset = entry.baseOffset + entry.records
      batches.push(batch)
      entries.push(entry)
    }
    model.entries.push(...entries)
    const appended = model.log.appendReplica(concat(batches), { appendTimeMs: turn }).then(
      () => {
        for (const entry of entries) entry.status = 'acked'
      },
      error => {
        for (const entry of entries) this.#refused(entry, error)
      },
    )
    this.#under.push(appended)
  }

  #refused(entry: { status: Status }, error: unknown): void {
    const definite = ['disk_full', 'throttled', 'closed', 'limit_exceeded']
    entry.status = definite.some(code => isTributaryError(error) && error.code === code)
      ? 'refused'
      : 'unknown'
    if (!isTributaryError(error)) throw error
  }

  #put(turn: number, entries: { key: string; value: string | null }[]): void {
    const puts = entries.map(({ key, value }): ModelPut => ({ turn, key, value, status: 'pending' }))
    this.puts.push(...puts)
    const done = this.state?.put(
      entries.map(({ key, value }) => ({ key, value: value === null ? null : utf8(value) })),
    )
    const settled = done?.then(
      () => {
        for (const put of puts) put.status = 'acked'
      },
      error => {
        for (const put of puts) this.#refused(put, error)
      },
    )
    this.#under.push(Promise.resolve(settled))
  }

  truncateBefore(which: number, fraction: number): void {
    const model = this.logs[which % this.logs.length]
    if (model?.log === undefined || model.cutting) return
    const { log } = model
    const start = log.startOffset()
    const offset = start + Math.floor((log.durableEndOffset() - start) * fraction)
    model.starts.push(offset)
    const done = log.truncateBefore(offset).then(
      () => {
        model.starts = model.starts.filter(known => known >= offset)
      },
      () => {},
    )
    this.#under.push(done)
  }

  async truncateAfter(which: number, fraction: number): Promise<void> {
    await this.settle()
    const model = this.logs[which % this.logs.length]
    if (model?.log === undefined || this.failed) return
    const { log } = model
    const start = log.startOffset()
    const offset = start + Math.floor((log.durableEndOffset() - start) * fraction)
    model.cuts.push(offset)
    model.cutting = true
    const done = log.truncateAfter(offset).then(
      () => {
        model.cutting = false
        model.cuts = []
        model.entries = model.entries.filter(entry => entry.baseOffset + entry.records <= offset)
        assert.ok(log.endOffset() <= offset && log.endOffset() >= log.startOffset())
      },
      () => {
        model.cutting = false
      },
    )
    this.#under.push(done)
  }

  /** Starts over where a batch begins, or somewhere up to twice the end, with what is under way still under way. */
  restartAt(which: number, fraction: number, atBatch: boolean): void {
    const model = this.logs[which % this.logs.length]
    if (model?.log === undefined || model.cutting) return
    const { log } = model
    const batch = model.entries[Math.floor(model.entries.length * fraction)]
    const offset =
      atBatch && batch !== undefined && batch.baseOffset >= 0
        ? batch.baseOffset
        : Math.floor(2 * log.endOffset() * fraction)
    model.restart = offset
    model.cutting = true
    const done = log.restartAt(offset).then(
      () => {
        model.cutting = false
        model.restart = undefined
        model.entries = []
        model.starts = [offset]
        assert.deepEqual(
          [log.startOffset(), log.endOffset(), log.durableEndOffset()],
          [offset, offset, offset],
        )
      },
      error => {
        model.cutting = false
        if (isTributaryError(error, 'disk_full')) model.restart = undefined
      },
    )
    this.#under.push(done)
  }

  /** Waits for all that is under way. */
  async settle(): Promise<void> {
    for (;;) {
      const under = this.#under
      this.#under = []
      if (under.length === 0) break
      await Promise.all(under)
    }
    for (const model of this.logs) model.entries = model.entries.filter(entry => entry.status !== 'refused')
    this.puts = this.puts.filter(put => put.status !== 'refused')
  }

  /** Lets the machine go on for a few turns of the event loop. */
  async pass(turns: number): Promise<void> {
    for (let at = 0; at < turns; at++) await new Promise(resolve => setImmediate(resolve))
  }

  async close(): Promise<void> {
    const closing = this.dir?.close()
    await this.settle()
    await closing
    this.dir = undefined
  }

  /** Power fails, or the process alone is killed. What was under way is settled one way or the other first. */
  async crash(kind: 'crash' | 'kill'): Promise<void> {
    const next = kind === 'crash' ? this.disk.crash() : this.disk.kill()
    await this.settle()
    this.disk = next
    this.disk.setCapacity(Number.POSITIVE_INFINITY)
    this.dir = undefined
  }

  /** Reads every log and compares with what was acked; then takes what was found as the truth. */
  async compare(): Promise<void> {
    const found = new Set<string>()
    for (const model of this.logs) await this.#compareLog(model, found)
    this.#compareState(found)
  }

  async #compareLog(model: ModelLog, found: Set<string>): Promise<void> {
    const { log } = model
    assert.ok(log !== undefined)
    const start = log.startOffset()
    if (model.restart === start && log.endOffset() === start) {
      model.entries = []
      model.starts = [start]
    }
    model.restart = undefined
    assert.ok(model.starts.includes(start), `${model.name} starts at ${start}, not at one of ${model.starts}`)
    const batches = await readAll(log)
    const cutTo = Math.min(...model.cuts, Number.POSITIVE_INFINITY)
    const wasCut = log.endOffset() <= cutTo
    const kept: Entry[] = []
    let next = 0
    let expected = -1
    for (const batch of batches) {
      // Everything found was appended, in this order; nothing acked is passed over.
      let entry = model.entries[next++]
      while (entry !== undefined && entry.tail !== batch.tail) {
        const truncated = entry.baseOffset >= 0 && entry.baseOffset + entry.records <= start
        assert.ok(
          entry.status !== 'acked' || truncated,
          `${model.name} lost acked batch ${entry.id} at ${entry.baseOffset}`,
        )
        entry = model.entries[next++]
      }
      assert.ok(
        entry !== undefined,
        `${model.name} holds at ${batch.baseOffset} what was never appended there`,
      )
      assert.ok(entry.baseOffset < 0 || batch.baseOffset === entry.baseOffset)
      assert.equal(batch.leaderEpoch, entry.leaderEpoch)
      if (expected >= 0)
        assert.ok(batch.isControl ? batch.baseOffset >= expected : batch.baseOffset === expected)
      expected = batch.baseOffset + entry.records
      entry.baseOffset = batch.baseOffset
      found.add(`${entry.turn}`)
      kept.push(entry)
    }
    for (const entry of model.entries.slice(next)) {
      const gone =
        entry.baseOffset >= 0 &&
        (entry.baseOffset + entry.records <= start || (wasCut && entry.baseOffset + entry.records > cutTo))
      assert.ok(entry.status !== 'acked' || gone, `${model.name} lost acked batch ${entry.id} at its end`)
      if (entry.status !== 'acked')
        assert.ok(!found.has(`${entry.turn}`) || model.cuts.length > 0, 'half of a turn')
    }
    for (const entry of kept) entry.status = 'acked'
    model.entries = kept
    model.starts = [start]
    model.cuts = []
    assert.equal(log.endOffset(), log.durableEndOffset())
  }

  #compareState(found: Set<string>): void {
    const { state } = this
    assert.ok(state !== undefined)
    const actual = new Map(state.entries('').map(([key, value]) => [key, utf8Text(value)]))
    const live = new Map<string, string>()
    const matches = (): boolean =>
      live.size === actual.size && [...live].every(([key, value]) => actual.get(key) === value)
    let at = 0
    const step = (): void => {
      const turn = this.puts[at]?.turn
      for (; at < this.puts.length && this.puts[at]?.turn === turn; at++) {
        const put = this.puts[at]
        if (put === undefined) continue
        if (put.value === null) live.delete(put.key)
        else live.set(put.key, put.value)
      }
    }
    const lastAcked = this.puts.findLastIndex(put => put.status === 'acked')
    while (at <= lastAcked) step()
    // Then what was under way: any number of turns of it, in order, each with the appends of its turn.
    while (!matches()) {
      assert.ok(at < this.puts.length, `the state is none that was put: ${JSON.stringify([...actual])}`)
      step()
    }
    const lastFound = this.puts.findLastIndex(put => found.has(`${put.turn}`))
    while (at <= lastFound) step()
    assert.ok(matches(), 'appends of a turn are there, its puts are not')
    this.puts = [...live].map(([key, value]) => ({ turn: -1, key, value, status: 'acked' }))
  }
}

export interface FoundBatch {
  baseOffset: number
  leaderEpoch: number
  tail: string
  isControl: boolean
}

/** All batches of a log that start at or reach past its start. */
export async function readAll(log: Log, maxBytes = 5000): Promise<FoundBatch[]> {
  const found: FoundBatch[] = []
  let offset = log.startOffset()
  while (offset < log.durableEndOffset()) {
    const { batches, nextOffset } = await log.read(offset, maxBytes)
    assert.ok(nextOffset > offset, `a read at ${offset} made no progress`)
    for (const { at, header } of eachBatch(batches)) {
      decodePlain(batches, at)
      found.push({
        baseOffset: header.baseOffset,
        leaderEpoch: header.leaderEpoch,
        tail: tailOf(batches.subarray(at, at + header.sizeBytes)),
        isControl: header.isControl,
      })
    }
    offset = nextOffset
  }
  return found
}

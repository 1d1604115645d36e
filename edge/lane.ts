import { assert, must } from '../common/assert.ts'
import { BatchBuilder, encodeHeaders } from '../common/batch-builder.ts'
import { decodeRecords } from '../common/batch-records.ts'
import { utf8, utf8Text } from '../common/bytes.ts'
import type { Codec, Rng } from '../common/env.ts'
import { MIB } from '../common/limits.ts'
import type { Log, ReadResult, StateEntry, StateLog } from '../common/log/types.ts'
import type { LocalGap } from './gaps.ts'
import type { Ledger } from './ledger.ts'
import { endRun, laneKey, newLedger, startRun } from './ledger.ts'
import type { BreakReason, Run } from './runs.ts'
import { FIRST_RUN_ID, MAX_RUN_RECORDS } from './runs.ts'
import type { Summary } from './summary.ts'
import { summaryBatch } from './summary.ts'

/**
 * One lane on disk: its local logs, one a generation, its open batch, and what of it is kept in the state log. A lane's offsets go on
 * from one generation's log to the next: lane offset = the part's base + the log's own offset.
 */

/** Header of every record: when the edge took it, milliseconds since the epoch in decimal. */
const EDGE_TIME_HEADER = 'edge.time'

/** The largest batch, and so record, of a local log: above the largest record a hub takes unless told otherwise. */
export const MAX_LOCAL_BATCH_BYTES = 2 * MIB

/** Marks of when the hub committed what, kept so that `keepAckedMs` can be told; older ones are thinned out. */
const MAX_ACKED_MARKS = 24

/** A generation's log of a lane. */
interface Part {
  generation: number
  /** Lane offset of the log's offset 0. */
  base: number
  log: Log
}

/** Up to `offset` was committed at `atMs` of the retention clock. */
interface AckedMark {
  offset: number
  atMs: number
}

interface StoredLane {
  runs: Run[]
  breakReason: BreakReason | null
  topicId: string | null
  parts: { generation: number; base: number }[]
  edgeTimeMs: number
  /** Absent: false. */
  isSummarised?: boolean
}

interface StoredAcked {
  committed: number
  marks: AckedMark[]
}

/** What a lane needs of its store. */
export interface LaneContext {
  state: StateLog
  rng: Rng
  /** Opens the local log `name` of the topic. */
  openLog(name: string): Promise<Log>
  /** The largest batch, and so record. */
  maxBatchBytes: number
  /** More of the lane became durable. */
  durable(lane: Lane): void
}

/** How a topic's lanes were laid out when a generation of its logs was made. */
export interface Generation {
  generation: number
  lanes: number
  partitionBy: 'edge' | 'key'
}

const textOf = (value: unknown): Uint8Array => utf8(JSON.stringify(value))

let cachedTimeMs = -1
let cachedTimeHeader: Uint8Array = new Uint8Array(0)

/** The encoded `edge.time` header; many records share a millisecond. */
function edgeTimeHeader(timeMs: number): Uint8Array {
  if (timeMs === cachedTimeMs) return cachedTimeHeader
  cachedTimeMs = timeMs
  cachedTimeHeader = encodeHeaders([{ key: EDGE_TIME_HEADER, value: utf8(String(timeMs)) }])
  return cachedTimeHeader
}

export class Lane {
  readonly key: string
  readonly ledger: Ledger
  readonly #context: LaneContext
  readonly #builder: BatchBuilder
  #parts: Part[] = []
  #edgeTimeMs = 0
  #marks: AckedMark[] = []
  droppedRecords = 0
  deadRecords = 0
  /** Handed to the log in this turn. */
  readonly #handedOn: Promise<unknown>[] = []
  /** It has, or had, summaries. */
  isSummarised = false

  constructor(context: LaneContext, topic: string, lane: number, layout: Generation, priority: number) {
    this.#context = context
    this.#builder = new BatchBuilder({ maxBytes: context.maxBatchBytes })
    const { partitionBy } = layout
    const lanes = Math.max(layout.lanes, lane + 1)
    this.ledger = newLedger({ topic, lane, lanes, partitionBy, priority })
    this.key = laneKey(topic, lane)
  }

  // ------------------------------------------------------------------------------------------- opening

  /** Opens what is stored of the lane, and a log for `generation` where the lane is part of it and has none. */
  async open(generation: Generation | null, codec: Codec): Promise<void> {
    const { state } = this.#context
    const stored = parsed<StoredLane>(state.get(`lane/${this.key}`))
    const { ledger } = this
    for (const { generation, base } of stored?.parts ?? []) await this.#openPart(generation, base)
    ledger.runs = stored?.runs ?? []
    ledger.breakReason = stored?.breakReason ?? null
    ledger.topicId = stored?.topicId ?? null
    this.#edgeTimeMs = stored?.edgeTimeMs ?? 0
    this.isSummarised = stored?.isSummarised ?? false
    ledger.gaps = parsed<LocalGap[]>(state.get(`gaps/${this.key}`)) ?? []
    const acked = parsed<StoredAcked>(state.get(`acked/${this.key}`))
    ledger.committed = acked?.committed ?? 0
    this.#marks = acked?.marks ?? []
    if (generation !== null && this.#parts.at(-1)?.generation !== generation.generation) {
      await this.#openPart(generation.generation, this.#end())
    }
    this.#settle()
    // Edge times never fall below the newest in the log, which a crash leaves to be found there.
    const newestMs = await this.edgeTimeAt(ledger.endOffset - 1, codec)
    this.#edgeTimeMs = Math.max(this.#edgeTimeMs, newestMs ?? 0)
  }

  async #openPart(generation: number, base: number): Promise<void> {
    const { topic, lane } = this.ledger
    const log = await this.#context.openLog(`topics/${topic}/${generation}/${lane}`)
    this.#parts.push({ generation, base, log })
  }

  /** From now on the store is told of what becomes durable: once, when all of the topic is there. */
  listen(): void {
    for (const part of this.#parts) {
      part.log.onDurable(() => {
        if (part !== this.#parts.at(-1)) return
        this.refresh()
        this.#context.durable(this)
      })
    }
  }

  /** Brings the ledger to what recovery found: runs end where the log does. */
  #settle(): void {
    const { ledger } = this
    this.refresh()
    const end = ledger.endOffset
    // A log that came back shorter than runs were recorded: the offsets are given out again, under other runs.
    while ((ledger.runs.at(-1)?.start ?? -1) >= end) ledger.runs.pop()
    const last = ledger.runs.at(-1)
    if (last?.end !== null && last !== undefined) last.end = Math.min(last.end, end)
    endRun(ledger, end)
    ledger.committed = Math.min(ledger.committed, end)
  }

  /** When the edge took the record at `offset`; null where it is not there or does not say. */
  async edgeTimeAt(offset: number, codec: Codec): Promise<number | null> {
    if (offset < this.ledger.startOffset || offset >= this.ledger.durableEnd) return null
    try {
      const { batches, base } = await this.read(offset, 1)
      if (batches.length === 0) return null
      const records = await decodeRecords(batches, 0, codec, MAX_LOCAL_BATCH_BYTES)
      const record = records.find(found => base + found.offset === offset)
      const header = record?.headers.findLast(({ key }) => key === EDGE_TIME_HEADER)
      const timeMs = Number(utf8Text(header?.value ?? new Uint8Array(0)))
      return Number.isSafeInteger(timeMs) && timeMs > 0 ? timeMs : null
    } catch {
      // Damaged or gone meanwhile: whoever reads it for good finds out and says so.
      return null
    }
  }

  // ----------------------------------------------------------------------------------------- appending

  /** Bytes in the open batch. */
  get openBytes(): number {
    return this.#builder.recordCount === 0 ? 0 : this.#builder.sizeBytes
  }

  /** True where a record needs a run that is not open yet; the caller stores the lane in the same commit. */
  needsRun(): boolean {
    const run = this.ledger.runs.at(-1)
    return run === undefined || run.end !== null || this.ledger.endOffset - run.start >= MAX_RUN_RECORDS - 1
  }

  /** Ends the open run, if any, and opens the next at the lane's end. The open batch must be empty. */
  openRun(): void {
    assert(this.#builder.recordCount === 0, 'a batch has one run')
    const { ledger } = this
    endRun(ledger, ledger.endOffset)
    startRun(ledger, newRunId(this.#context.rng), ledger.endOffset)
  }

  /** Adds a record to the open batch; false where it does not fit. `nowMs` null: the headers have an edge time already. */
  append(
    timestampMs: number,
    key: Uint8Array | null,
    value: Uint8Array | null,
    headers: Uint8Array,
    headerCount: number,
    nowMs: number | null,
  ): boolean {
    const { ledger } = this
    const builder = this.#builder
    if (builder.recordCount === 0) {
      const run = must(ledger.runs.at(-1), 'a run is open')
      builder.reset({ producerId: run.run, producerEpoch: 0, baseSequence: ledger.endOffset - run.start })
    }
    let fits: boolean
    if (nowMs === null) fits = builder.appendRaw(timestampMs, key, value, headers, headerCount)
    else {
      if (nowMs > this.#edgeTimeMs) this.#edgeTimeMs = nowMs
      const more = edgeTimeHeader(this.#edgeTimeMs)
      fits = builder.appendRaw(timestampMs, key, value, headers, headerCount + 1, more)
    }
    if (fits) ledger.endOffset++
    return fits
  }

  /** Adds a summary, in a batch of its own; it must be sealed in this turn. True where it is the first: the lane is to be stored with it. */
  summarise(summary: Summary): boolean {
    const { ledger } = this
    if (this.#builder.recordCount > 0) this.#handOn(this.#builder.finish(0))
    const run = must(ledger.runs.at(-1), 'a run is open')
    const edgeTime = { key: EDGE_TIME_HEADER, value: utf8(String(this.#edgeTimeMs)) }
    const place = { run: run.run, sequence: ledger.endOffset - run.start, headers: [edgeTime] }
    this.#handOn(summaryBatch(summary, place))
    const isFirst = !this.isSummarised
    this.isSummarised = true
    return isFirst
  }

  /** Hands the open batch to the log; resolves when all that was handed on in this turn is durable. */
  seal(): Promise<unknown> {
    if (this.#builder.recordCount > 0) this.#handOn(this.#builder.finish(0))
    return Promise.all(this.#handedOn.splice(0))
  }

  #handOn(batch: Uint8Array): void {
    const part = must(this.#parts.at(-1), 'a lane that is written has a log')
    this.#handedOn.push(part.log.append(batch))
    this.refresh()
  }

  /** Brings the ledger's offsets to the log's. */
  refresh(): void {
    const { ledger } = this
    const first = this.#parts[0]
    const last = this.#parts.at(-1)
    if (first === undefined || last === undefined) return
    ledger.startOffset = first.base + first.log.startOffset()
    ledger.endOffset = this.#end() + this.#builder.recordCount
    ledger.durableEnd = last.base + last.log.durableEndOffset()
  }

  #end(): number {
    const last = this.#parts.at(-1)
    return last === undefined ? 0 : last.base + last.log.endOffset()
  }

  // ------------------------------------------------------------------------------------------- reading

  #partAt(offset: number): Part {
    return must(
      this.#parts.findLast(({ base }) => base <= offset),
      'offsets of a lane lie in its parts',
    )
  }

  /** Lane offset of offset 0 of the log that holds `offset`. */
  partBase(offset: number): number {
    return this.#partAt(offset).base
  }

  /** Raw batches from the one holding `offset`, and what to add to their offsets. */
  async read(offset: number, maxBytes: number): Promise<ReadResult & { base: number }> {
    const { base, log } = this.#partAt(offset)
    const read = await log.read(offset - base, maxBytes)
    return { ...read, base }
  }

  /** Damaged stretches in lane offsets. */
  damage(): { from: number; to: number }[] {
    return this.#parts.flatMap(({ base, log }) =>
      log.damage().map(({ fromOffset, toOffset }) => ({ from: base + fromOffset, to: base + toOffset })),
    )
  }

  /** Lets reads pass over damage in [from, to): the loss is declared. */
  isolate(from: number, to: number): void {
    for (const { base, log } of this.#parts) {
      for (const damage of log.damage()) {
        if (base + damage.fromOffset < to && base + damage.toOffset > from) log.isolate(damage)
      }
    }
  }

  // ------------------------------------------------------------------------------------------ freeing

  sizeBytes(): number {
    return this.#parts.reduce((total, { log }) => total + log.sizeBytes(), 0)
  }

  /** Bytes that `free(offset)` would give back. */
  bytesBefore(offset: number): number {
    return this.#parts.reduce((total, { base, log }) => {
      const end = Math.min(offset - base, log.durableEndOffset())
      return end <= 0 ? total : total + log.bytesBefore(end)
    }, 0)
  }

  /** The least offset at or below `limit` whose deletion gives something back; null where none does. */
  nextFree(limit: number): number | null {
    if (this.bytesBefore(limit) === 0) return null
    let low = this.ledger.startOffset
    let high = limit
    while (low + 1 < high) {
      const middle = Math.floor((low + high) / 2)
      if (this.bytesBefore(middle) > 0) high = middle
      else low = middle
    }
    return high
  }

  /** Deletes whole segments below `offset`, and logs of older generations that end there. */
  async free(offset: number): Promise<void> {
    for (const part of [...this.#parts]) {
      const end = Math.min(offset - part.base, part.log.durableEndOffset())
      if (end > part.log.startOffset()) await part.log.truncateBefore(end)
    }
    this.refresh()
    this.ledger.startOffset = Math.max(this.ledger.startOffset, Math.min(offset, this.ledger.durableEnd))
  }

  /** Logs of older generations without anything left; to be deleted once the lane is stored without them. */
  dropEmptyParts(): string[] {
    const names: string[] = []
    while (this.#parts.length > 1) {
      const first = must(this.#parts[0], 'there are two')
      if (first.log.startOffset() < first.log.endOffset()) break
      names.push(first.log.name)
      this.#parts.shift()
    }
    if (names.length > 0) this.refresh()
    return names
  }

  /** Lane offset at which the first generation after `generation` begins; Infinity where none does. */
  endOfGeneration(generation: number): number {
    const next = this.#parts.find(part => part.generation > generation)
    return next?.base ?? Number.POSITIVE_INFINITY
  }

  /** The generation that is written. */
  generation(): number {
    return must(this.#parts.at(-1), 'a lane that is written has a log').generation
  }

  oldestGeneration(): number {
    return this.#parts[0]?.generation ?? Number.POSITIVE_INFINITY
  }

  // -------------------------------------------------------------------------------------------- state

  /** The hub committed everything below `offset`. */
  noteCommitted(offset: number, nowMs: number, spacingMs: number): void {
    this.ledger.committed = offset
    const marks = this.#marks.filter(mark => mark.offset <= offset)
    const before = marks.at(-2)
    // The newest mark moves along until it is far enough from the one before: later than true, so that nothing goes early.
    if (before !== undefined && nowMs - before.atMs < spacingMs) marks.pop()
    marks.push({ offset, atMs: nowMs })
    if (marks.length > MAX_ACKED_MARKS) marks.shift()
    this.#marks = marks
  }

  /** Everything below it was committed for at least `keepMs`. */
  agedEnd(nowMs: number, keepMs: number): number {
    if (keepMs === 0) return this.ledger.committed
    return this.#marks.findLast(mark => nowMs - mark.atMs >= keepMs)?.offset ?? 0
  }

  laneEntry(): StateEntry {
    const { runs, breakReason, topicId } = this.ledger
    const parts = this.#parts.map(({ generation, base }) => ({ generation, base }))
    const edgeTimeMs = this.#edgeTimeMs
    const { isSummarised } = this
    const stored: StoredLane = { runs, breakReason, topicId, parts, edgeTimeMs, isSummarised }
    return { key: `lane/${this.key}`, value: textOf(stored) }
  }

  gapsEntry(): StateEntry {
    const { gaps } = this.ledger
    return { key: `gaps/${this.key}`, value: gaps.length === 0 ? null : textOf(gaps) }
  }

  ackedEntry(): StateEntry {
    const stored: StoredAcked = { committed: this.ledger.committed, marks: this.#marks }
    return { key: `acked/${this.key}`, value: textOf(stored) }
  }
}

/** A random producer id in [2^52, 2^53). */
export function newRunId(rng: Rng): number {
  return FIRST_RUN_ID + rng.below(2 ** 52)
}

/** What a state entry of ours holds; its batch's CRC vouches for the shape. */
export function parsed<T>(value: Uint8Array | undefined): T | undefined {
  if (value === undefined) return undefined
  const content: T = JSON.parse(utf8Text(value))
  return content
}

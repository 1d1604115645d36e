import type { BatchHeader } from '../../common/batch.ts'
import { eachBatch } from '../../common/batch.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { utf8Text } from '../../common/bytes.ts'
import type { Codec } from '../../common/env.ts'
import { MIB } from '../../common/limits.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'
import type { EdgeInfo, Topic } from '../../hub/ports.ts'
import type { GapControl, RunControl } from '../../hub/replica/control.ts'
import { readEdgeControl } from '../../hub/replica/control.ts'
import type { Book, KnownRun, Offered } from './book.ts'
import type { Stage } from './stage.ts'

/** Judges what a hub holds at the end by what was offered, acked and declared. */

export interface Found {
  /** Copies, by id. */
  stored: Map<string, number>
  dead: Map<string, number>
  /** Ids covered by gaps. */
  missing: Set<string>
  gaps: { topic: Topic; partition: number; offset: number; gap: GapControl }[]
  starts: RunControl[]
  notices: Set<string>
}

/** Where a topic is read from. */
export interface Source {
  book: Book
  codec: Codec
  /** All committed batches of a partition, in order. */
  read(topic: Topic, partition: number): AsyncIterable<Uint8Array>
  /** Whether what comes first in the partition may be the middle of a run: retention took the rest. */
  startsLate?(topic: Topic): boolean
  /** Takes data that no edge wrote. Absent: there must be none. */
  foreign?(
    topic: Topic,
    partition: number,
    batches: Uint8Array,
    at: number,
    header: BatchHeader,
  ): Promise<void>
}

/** Throws what is wrong. */
export async function checkAll(stage: Stage): Promise<void> {
  await stage.stopHub()
  await stage.startHub()
  const { book, codec, hub, directories } = stage
  const found = await readAll(
    { book, codec, read: (topic, partition) => readStage(stage, topic, partition) },
    [...(hub?.engine.ports.topics.list() ?? [])],
  )
  checkFound(book, found)
  checkNotices(book, found)
  checkAlarms(
    book,
    directories.map(({ edgeId }) => edgeId),
    hub?.engine.ports.fleet.local() ?? [],
  )
}

/** What was acked is there or declared missing, once, and nothing is declared without cause. */
export function checkFound(book: Book, found: Found): void {
  for (const record of book.offered.values()) if (record.acked) checkAcked(book, record, found)
  checkCopies(book, found)
  checkReasons(book, found)
}

// ---------------------------------------------------------------------------------------------- reading

async function* readStage(stage: Stage, { topicId }: Topic, partition: number): AsyncIterable<Uint8Array> {
  const ports = stage.hub?.engine.ports
  if (ports === undefined) throw new Error('the hub must run to be read')
  const { highWatermark, startOffset } = await ports.logs.bounds(topicId, partition)
  for (let offset = startOffset; offset < highWatermark; ) {
    const read = ports.logs.read(topicId, partition, offset, MIB)
    const { batches, nextOffset } = await stage.during('a read ends', read)
    yield batches
    offset = nextOffset
  }
}

/** Reads all partitions; throws where a lane is no chain. */
export async function readAll(source: Source, topics: readonly Topic[]): Promise<Found> {
  const found: Found = {
    stored: new Map(),
    dead: new Map(),
    missing: new Set(),
    gaps: [],
    starts: [],
    notices: new Set(),
  }
  for (const topic of topics) {
    for (let partition = 0; partition < topic.partitions; partition++) {
      await new PartitionReader(source, topic, partition, found).read()
    }
  }
  return found
}

/** Reads one partition and checks that its lanes are chains without holes. */
class PartitionReader {
  readonly #source: Source
  readonly #topic: Topic
  readonly #partition: number
  readonly #found: Found
  /** Next sequence of each run, and the newest offset of each lane that has no reason to go back. */
  readonly #next = new Map<number, number>()
  readonly #newest = new Map<string, number>()
  /** The run that each lane began last. */
  readonly #started = new Map<string, RunControl>()

  constructor(source: Source, topic: Topic, partition: number, found: Found) {
    this.#source = source
    this.#topic = topic
    this.#partition = partition
    this.#found = found
  }

  async read(): Promise<void> {
    for await (const batches of this.#source.read(this.#topic, this.#partition)) {
      for (const { at, header } of eachBatch(batches)) {
        if (header.isControl) this.#control(batches, at, header.baseOffset)
        else await this.#data(batches, at, header)
      }
    }
  }

  #control(batches: Uint8Array, at: number, offset: number): void {
    const control = readEdgeControl(batches, at)
    if (control === null) return
    if (control.type === 'run') {
      this.#found.starts.push(control.run)
      this.#start(control.run)
      return
    }
    const { gap } = control
    this.#found.gaps.push({ topic: this.#topic, partition: this.#partition, offset, gap })
    if (gap.count === null) {
      if (gap.reason === 'fork') this.#fork(gap)
      return
    }
    this.#continues(gap.run, gap.from, gap.to, `gap ${gap.reason}`)
    const run = this.#runOf(gap.run)
    if (run.start + gap.from !== gap.localFrom || gap.to - gap.from !== gap.localTo - gap.localFrom) {
      throw this.#wrong(`a gap is misplaced: ${JSON.stringify({ gap, start: run.start })}`)
    }
    for (let local = gap.localFrom; local < gap.localTo; local++) {
      const record = this.#source.book.at(run.life, `${run.topic}/${run.lane}`, local)
      if (record !== null) this.#found.missing.add(record.id)
    }
  }

  /** A run without a predecessor may go back to any record; another goes on where its predecessor is held or declared. */
  #start(start: RunControl): void {
    const { edge, lane, run, prev } = start
    const key = `${edge}/${lane}`
    this.#started.set(key, start)
    if (prev === null) {
      this.#newest.delete(key)
      return
    }
    const isLate = !this.#next.has(prev.run) && this.#source.startsLate?.(this.#topic) === true
    const held = this.#next.get(prev.run) ?? 0
    if (isLate || held >= prev.end) return
    throw this.#wrong(
      `run ${run} follows ${prev.end} records of run ${prev.run}, of which ${held} are told of`,
    )
  }

  /**
   * Says of a run that has a predecessor that the hub holds more of that than its edge had: the other directory's records came
   * after this one had opened the lane. It goes back to where its own part of the predecessor ended, and no further.
   */
  #fork({ edge, lane, run }: GapControl): void {
    const key = `${edge}/${lane}`
    const started = this.#started.get(key)
    if (started?.run !== run || started.prev === null) return
    const { prev } = started
    const newest = this.#newest.get(key)
    if (newest === undefined || (this.#next.get(prev.run) ?? 0) <= prev.end) return
    this.#newest.set(key, Math.min(newest, this.#runOf(prev.run).start + prev.end - 1))
  }

  #runOf(id: number): KnownRun {
    const run = this.#source.book.runs.get(id)
    if (run === undefined) throw this.#wrong(`run ${id} is no edge's`)
    if (run.topic !== this.#topic.name) throw this.#wrong(`run ${id} is of topic ${run.topic}`)
    return run
  }

  #wrong(message: string): Error {
    return new Error(`${this.#topic.name}/${this.#partition}: ${message}`)
  }

  #continues(run: number, from: number, to: number, what: string): void {
    const isKnown = this.#next.has(run) || this.#source.startsLate?.(this.#topic) !== true
    const next = isKnown ? (this.#next.get(run) ?? 0) : from
    if (from !== next) throw this.#wrong(`${what} of run ${run} is at sequence ${from}, ${next} was next`)
    this.#next.set(run, to)
  }

  async #data(batches: Uint8Array, at: number, header: BatchHeader): Promise<void> {
    const { producerId: runId, baseSequence } = header
    const { codec, foreign } = this.#source
    if (foreign !== undefined && runId < FIRST_RUN_ID && this.#topic.name !== '_gaps') {
      return foreign(this.#topic, this.#partition, batches, at, header)
    }
    const records = await decodeRecords(batches, at, codec, MIB)
    if (this.#topic.name === '_gaps') {
      for (const { value } of records) this.#found.notices.add(noticeKey(JSON.parse(textOf(value))))
      return
    }
    const run = this.#runOf(runId)
    this.#continues(runId, baseSequence, baseSequence + records.length, 'data')
    records.forEach(({ value, headers }, index) => {
      if (this.#topic.name === '_dead') {
        const topic = textOf(headers.find(({ key }) => key === 'dead.topic')?.value ?? null)
        this.#dead(textOf(value).trimEnd(), topic)
      } else this.#stored(run, textOf(value).trimEnd(), run.start + baseSequence + index)
    })
  }

  #dead(id: string, topic: string): void {
    const record = this.#source.book.offered.get(id)
    if (record?.topic !== topic) throw this.#wrong(`dead letter ${id} of ${topic} was never offered`)
    this.#found.dead.set(id, (this.#found.dead.get(id) ?? 0) + 1)
  }

  #stored(run: KnownRun, id: string, offset: number): void {
    const { book } = this.#source
    const record = book.offered.get(id)
    if (record === undefined) throw this.#wrong(`"${id}" was never offered`)
    const { edgeId, topic, lane } = record
    if (edgeId !== run.edgeId || topic !== run.topic || lane !== run.lane) {
      throw this.#wrong(
        `${id} of ${edgeId} ${topic}/${lane} stands in a run of ${run.edgeId} ${run.topic}/${run.lane}`,
      )
    }
    const expected = book.at(run.life, `${topic}/${lane}`, offset)
    if (expected !== null && expected !== record) {
      throw this.#wrong(
        `${id} stands where ${expected.id} belongs, at offset ${offset} of ${run.edgeId} ${topic}/${lane}`,
      )
    }
    const key = `${edgeId}/${lane}`
    const newest = this.#newest.get(key) ?? -1
    if (offset <= newest)
      throw this.#wrong(`${id} at offset ${offset} of ${key} comes after offset ${newest}`)
    this.#newest.set(key, offset)
    this.#found.stored.set(id, (this.#found.stored.get(id) ?? 0) + 1)
  }
}

function textOf(value: Uint8Array | null): string {
  return utf8Text(value ?? new Uint8Array(0))
}

function noticeKey(of: {
  topicId: string
  partition: number
  offset: number
  run: number | null
  from: number
  to: number
}): string {
  return [of.topicId, of.partition, of.offset, of.run, of.from, of.to].join(' ')
}

// --------------------------------------------------------------------------------------------- judging

function checkAcked(book: Book, record: Offered, { stored, dead, missing }: Found): void {
  const { id, edgeId, topic, lane, offset, committedTo, committedEra } = record
  if (stored.has(id) || dead.has(id) || missing.has(id)) return
  // Went with the topic that held it.
  if (committedTo !== null && book.deletedTopics.has(committedTo)) return
  // The edge had given it back when it came to a hub that holds nothing of before, which is said as `moved`.
  if (record.movedBelow && committedTo !== null && book.isExcused(edgeId, 'moved', 'deleted')) return
  if (record.edgeGone && (committedTo === null || committedEra !== book.hubEra)) return
  const facts = JSON.stringify({ ...record, life: undefined, era: book.hubEra })
  throw new Error(
    `${id}, acked at offset ${offset} of ${edgeId} ${topic}/${lane}, is gone without a word: ${facts}`,
  )
}

function checkCopies(book: Book, { stored, dead, missing }: Found): void {
  for (const [id, copies] of stored) {
    const edgeId = book.offered.get(id)?.edgeId ?? ''
    const mayCopy =
      book.isExcused(edgeId, 'fork', 'moved') ||
      (book.isExcused('*', 'hub-rollback') && book.isExcused(edgeId, 'deleted', 'wiped'))
    if (copies > 1 && !mayCopy) throw new Error(`${id} is stored ${copies} times, and nothing forked`)
    const mayBoth = mayCopy || book.isExcused(edgeId, 'deleted', 'hub-rollback')
    if ((dead.has(id) || missing.has(id)) && !mayBoth)
      throw new Error(`${id} is stored, and declared missing`)
  }
  for (const [id, copies] of dead) {
    const edgeId = book.offered.get(id)?.edgeId ?? ''
    if (copies > 1 && !book.isExcused(edgeId, 'fork', 'moved', 'deleted', 'hub-rollback')) {
      throw new Error(`${id} is ${copies} times a dead letter`)
    }
  }
}

/** No gap without a fault that leads to it. */
function checkReasons(book: Book, { gaps, starts }: Found): void {
  for (const { gap, topic } of gaps) {
    const { edge, reason } = gap
    const excused =
      (reason === 'disk-full' && book.isExcused(edge, 'edge-full')) ||
      (reason === 'damage' && book.isExcused(edge, 'damage')) ||
      (reason === 'refused' && book.isExcused(edge, 'large', 'deleted')) ||
      (reason === 'hub-rollback' && book.isExcused(edge, 'hub-rollback', 'moved')) ||
      (reason === 'wiped' && book.isExcused(edge, 'wiped', 'fork', 'hub-rollback', 'deleted', 'moved')) ||
      (reason === 'fork' && book.isExcused(edge, 'fork', 'wiped')) ||
      (reason === 'moved' && book.isExcused(edge, 'moved', 'deleted'))
    if (!excused) throw new Error(`a gap without cause in ${topic.name}: ${JSON.stringify(gap)}`)
  }
  for (const start of starts) {
    const isPlain = start.reason === 'next' || start.reason === 'first'
    if (isPlain || book.isExcused(start.edge, 'fork', 'wiped', 'hub-rollback', 'moved', 'deleted')) continue
    throw new Error(`a run without cause: ${JSON.stringify(start)}`)
  }
}

/** `_gaps` tells of every gap. */
export function checkNotices(book: Book, { gaps, notices }: Found): void {
  if (book.isExcused('*', 'hub-full')) return
  for (const { topic, partition, offset, gap } of gaps) {
    const key = noticeKey({
      topicId: topic.topicId,
      partition,
      offset,
      run: gap.run,
      from: gap.from,
      to: gap.to,
    })
    if (!notices.has(key)) throw new Error(`_gaps does not tell of ${JSON.stringify(gap)}`)
  }
}

/** No alarm without a fault that leads to it. */
export function checkAlarms(book: Book, edgeIds: readonly string[], fleet: readonly EdgeInfo[]): void {
  for (const edgeId of edgeIds) {
    const known = fleet.find(({ id }) => id === edgeId)
    for (const { kind, message } of known?.alarms ?? []) {
      const excused =
        kind === 'hub-rollback'
          ? book.isExcused(edgeId, 'hub-rollback', 'moved')
          : // A hello that was long on its way may come after those of later connections.
            book.isExcused(edgeId, 'fork', 'wiped', 'moved', 'stalled')
      if (!excused) throw new Error(`the hub raised ${kind} without cause: ${message}`)
    }
    for (const [kind, message] of book.alarms(edgeId)) {
      const isWrong =
        (kind === 'damage' && !book.isExcused(edgeId, 'damage')) ||
        kind === 'protocol' ||
        kind === 'stalled' ||
        (kind === 'fork' && !book.isExcused(edgeId, 'fork', 'wiped')) ||
        (kind === 'moved' && !book.isExcused(edgeId, 'moved')) ||
        (kind === 'hub-rollback' && !book.isExcused(edgeId, 'hub-rollback', 'moved')) ||
        (kind === 'dead-letter' && !book.isExcused(edgeId, 'large', 'deleted')) ||
        (kind === 'dropped' && !book.isExcused(edgeId, 'edge-full'))
      if (isWrong) throw new Error(`${edgeId} raised ${kind} without cause: ${message}`)
    }
  }
}

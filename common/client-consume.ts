import type { BatchHeader } from './batch.ts'
import { eachBatch } from './batch.ts'
import { CONTROL_GAP, readControl } from './batch-control.ts'
import type { DecodedRecord } from './batch-records.ts'
import { decodePlain, decodeRecords } from './batch-records.ts'
import type { CborMap } from './cbor.ts'
import { decodeCbor } from './cbor.ts'
import type { ClientEnv, Connection, Live } from './client-connection.ts'
import { UNREACHABLE_MS } from './client-connection.ts'
import type { PartitionCursor, StartFrom } from './client-cursors.ts'
import { createCursors } from './client-cursors.ts'
import type { Timer } from './env.ts'
import { isTributaryError } from './errors.ts'
import { KIB, MIB, SECOND_MS } from './limits.ts'
import { pause } from './pause.ts'
import type { EndedFrame, RecordsFrame } from './wire.ts'

/** Reading: one subscription a partition on the client's connection, resumed at the exact next offset whenever it is lost. */

/** Record bytes that the hub may send ahead of the reader, over all partitions of one `consume`. */
const MAX_BUFFERED_BYTES = 8 * MIB
/** The least credit of a partition, so that many partitions do not make tiny reads. */
const MIN_PARTITION_CREDIT_BYTES = 16 * KIB
/** What one compressed batch may grow to. */
const MAX_DECODED_BATCH_BYTES = 64 * MIB

export interface ConsumeOptions {
  /**
   * Where to start: `earliest`, `latest` (default), an offset (of every partition), a Date (the first record at or after it in
   * event time), or one of these per partition: `new Map([[0, 1200], [1, 'earliest']])`; partitions not named start at `latest`.
   */
  from?: StartFrom | ReadonlyMap<number, StartFrom>
  /** Only these partitions; all where absent. */
  partitions?: readonly number[]
  /** Go on with what is appended later (default). Else end at the high watermarks as they stood at the start. */
  follow?: boolean
  /** End after so many records. */
  count?: number
  /** Ends the iteration, without an error. */
  signal?: AbortSignal
  /** Default MAX_BUFFERED_BYTES; at least 16 KiB a partition is used. */
  maxBufferedBytes?: number
  /**
   * What to do where the next record is gone: deleted by retention before it was read, cut off by a hub that went back, or
   * of a topic deleted and made again. `error` (default) throws `offset_out_of_range` or `topic_deleted`; the others go on there.
   */
  onReset?: 'error' | 'earliest' | 'latest'
  /** Told of records that will never come (see `_gaps`), in order with the records of their partition. */
  onGap?: (gap: ConsumedGap) => void
  /** How long to try to reach the hub before throwing `not_available`; Infinity for ever. Default: a minute. */
  unreachableMs?: number
}

/** A record as read. Key, value and header values are views into what came: copy before keeping few of many. */
export interface ConsumedRecord extends DecodedRecord {
  topic: string
  partition: number
}

/**
 * A declared loss: records [from, to) of a producer's run. With the reason `truncated` nobody declared it: records that were read from
 * offsets [from, to) were lost since, and what stands there now is read.
 */
export interface ConsumedGap {
  topic: string
  partition: number
  /** Where the declaration stands. */
  offset: number
  edge: string | null
  lane: number | null
  run: number | null
  from: number | null
  to: number | null
  reason: string | null
  /** How many; null where not even the edge knows. */
  count: number | null
  firstMs: number | null
  lastMs: number | null
}

type Event =
  | { kind: 'records'; cursor: PartitionCursor; sub: number; frame: RecordsFrame }
  | { kind: 'ended'; cursor: PartitionCursor; sub: number; frame: EndedFrame }
  | { kind: 'lost' }
  | { kind: 'aborted' }

/** Records in arrays as they come, one array a batch: for readers to whom a promise a record is too slow. */
export async function* consumeBatches(
  connection: Connection,
  env: ClientEnv,
  topic: string,
  options: ConsumeOptions,
): AsyncGenerator<ConsumedRecord[], void, void> {
  const events = createEventQueue()
  const onAbort = (): void => events.push({ kind: 'aborted' })
  options.signal?.addEventListener('abort', onAbort)
  const session = createReadSession(connection, env, topic, options, events)
  let left = options.count ?? Number.POSITIVE_INFINITY
  try {
    if (options.signal?.aborted || left <= 0) return
    for (;;) {
      if (!(await session.ready(onAbort))) return
      if (session.isDone()) return
      const event = await events.next()
      if (event.kind === 'aborted') return
      if (event.kind === 'lost') continue
      if (event.kind === 'ended') {
        await session.ended(event.cursor, event.sub, event.frame)
        continue
      }
      for await (const batch of session.decode(event.cursor, event.sub, event.frame)) {
        if (options.signal?.aborted) return
        const records = batch.length > left ? batch.slice(0, left) : batch
        left -= records.length
        yield records
        if (left <= 0) return
      }
    }
  } finally {
    options.signal?.removeEventListener('abort', onAbort)
    session.close()
  }
}

interface EventQueue {
  push(event: Event): void
  next(): Promise<Event>
  clear(): void
}

/** Unbounded in itself: what the hub may send is bounded by credit. */
function createEventQueue(): EventQueue {
  let events: Event[] = []
  let wake: (() => void) | null = null
  return {
    push: event => {
      events.push(event)
      wake?.()
      wake = null
    },
    next: async () => {
      for (;;) {
        const event = events.shift()
        if (event !== undefined) return event
        await new Promise<void>(resolve => {
          wake = resolve
        })
      }
    },
    clear: () => {
      events = events.filter(event => event.kind === 'aborted')
    },
  }
}

interface ReadSession {
  /** Subscribed on a living connection; false where it was aborted meanwhile. */
  ready(onAbort: () => void): Promise<boolean>
  isDone(): boolean
  ended(cursor: PartitionCursor, sub: number, frame: EndedFrame): Promise<void>
  /** The frame's records that were not read yet; moves the cursor with each batch and returns the credit at the end. */
  decode(
    cursor: PartitionCursor,
    sub: number,
    frame: RecordsFrame,
  ): AsyncGenerator<ConsumedRecord[], void, void>
  close(): void
}

function createReadSession(
  connection: Connection,
  env: ClientEnv,
  topic: string,
  options: ConsumeOptions,
  events: EventQueue,
): ReadSession {
  const cursors = createCursors(topic, options)
  const unreachableMs = options.unreachableMs ?? UNREACHABLE_MS
  let live: Live | null = null
  let forgetLost: () => void = () => {}
  let growthTimer: Timer | null = null
  let closed = false

  /** Forgets the subscriptions there are; those of a lost connection are gone already. */
  function detach(): void {
    forgetLost()
    forgetLost = () => {}
    growthTimer?.cancel()
    for (const cursor of cursors.all()) {
      if (cursor.sub !== null) live?.unsubscribe(cursor.sub)
      cursor.sub = null
    }
    live = null
    events.clear()
  }

  async function attach(): Promise<void> {
    detach()
    const next = await connection.live(unreachableMs)
    await cursors.locate(next)
    if (closed) return
    live = next
    forgetLost = next.onLost(() => {
      live = null
      events.push({ kind: 'lost' })
    })
    for (const cursor of cursors.all()) subscribe(next, cursor)
    lookForGrowth(next)
  }

  /** Partitions may be added to a topic that is read; nobody tells. */
  function lookForGrowth(on: Live): void {
    if (cursors.areFixed()) return
    growthTimer = env.clock.setTimer(() => void addPartitions(on), TOPIC_AGE_MS)
  }

  async function addPartitions(on: Live): Promise<void> {
    const [topicId, known] = [cursors.topicId(), cursors.all().length]
    try {
      await cursors.locate(on)
    } catch {
      // The connection is lost or the topic is gone: its subscriptions tell, and what to do is theirs to say.
    }
    if (live !== on || closed) return
    if (cursors.topicId() !== topicId) {
      live = null
      events.push({ kind: 'lost' })
      return
    }
    for (const cursor of cursors.all().slice(known)) subscribe(on, cursor)
    lookForGrowth(on)
  }

  function subscribe(on: Live, cursor: PartitionCursor): void {
    if (cursors.isDone(cursor)) return
    const { partition, next: offset, epoch: leaderEpoch } = cursor
    const share = Math.floor(
      (options.maxBufferedBytes ?? MAX_BUFFERED_BYTES) / Math.max(1, cursors.all().length),
    )
    const creditBytes = Math.max(MIN_PARTITION_CREDIT_BYTES, share)
    const place = { topicId: cursors.topicId(), partition, offset, leaderEpoch, creditBytes }
    const sub = on.subscribe(place, {
      records: frame => events.push({ kind: 'records', cursor, sub, frame }),
      ended: frame => events.push({ kind: 'ended', cursor, sub, frame }),
    })
    cursor.sub = sub
  }

  /** Attaches until it holds: a connection may be lost again while offsets are asked for. */
  async function attachForSure(): Promise<void> {
    const giveUpAtMs = env.clock.monotonicMs() + unreachableMs
    for (;;) {
      try {
        await attach()
        return
      } catch (error) {
        const passing = isTributaryError(error) && error.retriable && !connection.isClosed() && !closed
        if (!passing || env.clock.monotonicMs() >= giveUpAtMs) throw error
        await pause(env.clock, RETRY_PAUSE_MS, true)
      }
    }
  }

  async function decodeBatch(
    cursor: PartitionCursor,
    bytes: Uint8Array,
    at: number,
    header: BatchHeader,
  ): Promise<ConsumedRecord[]> {
    if (header.lastOffset < cursor.next) return []
    if (header.isControl) {
      tellGap(options.onGap, topic, cursor.partition, bytes, at, header.baseOffset)
      return []
    }
    const decoded =
      header.compression === 'none'
        ? decodePlain(bytes, at)
        : await decodeRecords(bytes, at, env.codec, MAX_DECODED_BATCH_BYTES)
    const records: ConsumedRecord[] = []
    for (const record of decoded) {
      // The first batch may begin below the offset asked for, the last may reach beyond where the reading ends.
      if (record.offset < cursor.next || record.offset >= cursor.end) continue
      const { offset, sequence, timestampMs, key, value, headers } = record
      // Spelled out: a spread takes several times as long, and this is done for every record.
      records.push({ topic, partition: cursor.partition, offset, sequence, timestampMs, key, value, headers })
    }
    return records
  }

  return {
    ready: async onAbort => {
      if (live?.isOpen() === true) return true
      const aborted = options.signal === undefined ? null : whenAborted(options.signal)
      const attached = attachForSure().then(() => true)
      if (aborted === null) return attached
      // An abort does not wait for a hub that is away; the attempt ends by itself.
      attached.catch(() => {})
      const done = await Promise.race([attached, aborted.promise])
      aborted.cancel()
      if (!done) onAbort()
      return done
    },
    isDone: () => cursors.all().every(cursors.isDone),
    ended: async (cursor, sub, frame) => {
      if (cursor.sub !== sub || live === null) return
      cursor.sub = null
      const next = cursors.reset(cursor, frame, (from, to) => {
        options.onGap?.(truncation(topic, cursor.partition, from, to))
      })
      if (next === 'locate') {
        detach()
        return
      }
      if (next === 'again') await pause(env.clock, RETRY_PAUSE_MS, true)
      if (live?.isOpen() === true) subscribe(live, cursor)
    },
    decode: async function* (cursor, sub, frame) {
      if (cursor.sub !== sub) return
      for (const { at, header } of eachBatch(frame.batches)) {
        const records = await decodeBatch(cursor, frame.batches, at, header)
        cursor.next = Math.max(cursor.next, header.lastOffset + 1)
        cursor.epoch = header.leaderEpoch
        if (records.length > 0) yield records
      }
      cursor.next = Math.max(cursor.next, frame.nextOffset)
      cursor.epoch = frame.leaderEpoch
      if (cursor.sub !== sub || live === null) return
      if (cursors.isDone(cursor)) live.unsubscribe(sub)
      else live.credit(sub, frame.batches.length)
    },
    close: () => {
      closed = true
      detach()
    },
  }
}

/** A topic that is followed whole is looked at so often for partitions that were added (Kafka's metadata.max.age.ms). */
const TOPIC_AGE_MS = 30 * SECOND_MS
/** Before trying again what the hub could not do just now. */
const RETRY_PAUSE_MS = 200

function whenAborted(signal: AbortSignal): { promise: Promise<false>; cancel(): void } {
  let onAbort: () => void = () => {}
  const promise = new Promise<false>(resolve => {
    onAbort = () => resolve(false)
    if (signal.aborted) resolve(false)
    signal.addEventListener('abort', onAbort)
  })
  return { promise, cancel: () => signal.removeEventListener('abort', onAbort) }
}

/** Records of offsets [from, to) that were read and are in the log no more: the node that had them alone was lost with them. */
function truncation(topic: string, partition: number, from: number, to: number): ConsumedGap {
  const unknown = { edge: null, lane: null, run: null, firstMs: null, lastMs: null }
  const count = Math.max(0, to - from)
  return { topic, partition, offset: from, ...unknown, from, to, count, reason: 'truncated' }
}

function tellGap(
  onGap: ConsumeOptions['onGap'],
  topic: string,
  partition: number,
  bytes: Uint8Array,
  at: number,
  offset: number,
): void {
  if (onGap === undefined) return
  const { type, value } = readControl(bytes, at)
  if (type !== CONTROL_GAP) return
  const decoded = decodeCbor(value)
  const map: CborMap = decoded instanceof Map ? decoded : new Map()
  const number = (key: string): number | null => {
    const field = map.get(key)
    return typeof field === 'number' ? field : null
  }
  const text = (key: string): string | null => {
    const field = map.get(key)
    return typeof field === 'string' ? field : null
  }
  const [from, to] = [number('from'), number('to')]
  onGap({
    topic,
    partition,
    offset,
    edge: text('edge'),
    lane: number('lane'),
    run: number('run'),
    from,
    to,
    reason: text('reason'),
    count: number('count') ?? (from !== null && to !== null ? to - from : null),
    firstMs: number('firstMs'),
    lastMs: number('lastMs'),
  })
}

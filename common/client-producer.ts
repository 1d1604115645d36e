import type { RecordHeader, RecordInput } from './batch-builder.ts'
import { utf8 } from './bytes.ts'
import type { ClientEnv, Connection, Live } from './client-connection.ts'
import type { Entry, Lane, SendCall } from './client-producer-lane.ts'
import { createProducerLane } from './client-producer-lane.ts'
import type { Timer } from './env.ts'
import { TributaryError } from './errors.ts'
import { KIB, MIB, MINUTE_MS } from './limits.ts'
import { partitionForKey } from './murmur2.ts'
import { pause } from './pause.ts'
import { toTributaryError } from './session.ts'
import type { TopicInfo } from './wire.ts'

/** Writing: records are gathered into batches per partition, numbered, and sent until the hub has each exactly once, in order. */

const LINGER_MS = 5
const PRODUCER_BATCH_BYTES = 256 * KIB
/** The most that `maxBatchBytes` may be: half of what a frame may hold by default. */
const MAX_PRODUCER_BATCH_BYTES = 8 * MIB
/** Batches of one partition sent and not yet answered; the hub remembers the last 5 of a producer (KIP-98). */
const MAX_IN_FLIGHT = 5
const DELIVERY_TIMEOUT_MS = 2 * MINUTE_MS
const PRODUCER_BUFFERED_BYTES = 32 * MIB
/** How often undelivered records are looked over for their timeout. */
const OVERSIGHT_MS = 500
/** Counted on top of a record's bytes: lengths and deltas in the batch, and our own bookkeeping. */
const RECORD_OVERHEAD_BYTES = 64
/** The two lengths of a header as varints, at most. */
const HEADER_OVERHEAD_BYTES = 10
/** One wait for the connection; the delivery timeout is looked at in between. */
const LIVE_WAIT_MS = 1_000
/** Before the topic is asked for again. */
const READY_PAUSE_MS = 100

export interface ProducerOptions {
  /**
   * Default `all`: durable on every in-sync replica. 1: durable on the leader; where that has just been replaced the record may be lost, or be
   * at another offset than told. 0: not waited for.
   */
  acks?: 0 | 1 | 'all'
  /** How long a batch waits for company. Default LINGER_MS. */
  lingerMs?: number
  /** Default PRODUCER_BATCH_BYTES. */
  maxBatchBytes?: number
  /** 1 to 5. Default MAX_IN_FLIGHT. */
  maxInFlight?: number
  /** A record not acked for so long is given up with `timeout`. Default DELIVERY_TIMEOUT_MS. */
  deliveryTimeoutMs?: number
  /** Records taken and not yet acked; `send` waits at the bound. Default PRODUCER_BUFFERED_BYTES. */
  maxBufferedBytes?: number
}

/** A record to be written. Text is stored as UTF-8. */
export interface ProduceRecord {
  value: Uint8Array | string | null
  key?: Uint8Array | string | null
  headers?: readonly RecordHeader[] | Readonly<Record<string, Uint8Array | string | null>>
  /** Event time; default: now. */
  timestampMs?: number
  /** Default: by key as Kafka's clients do (murmur2), else one partition after the other, changing with every batch. */
  partition?: number
}

/** Where a record went. */
export interface ProducedRecord {
  partition: number
  offset: number
}

export interface Producer {
  /**
   * Writes records in order and resolves with their places once all are acked, in the order given. Sends may overlap: records of
   * one partition keep the order of the calls. Rejects with `record_too_large`, `topic_deleted`, `unknown_topic`,
   * `invalid_argument` (a partition that is not there), `timeout` (not acked in `deliveryTimeoutMs`: may be stored, before what is
   * sent later, or not), `closed`.
   * Where it rejects, other records of the call may be stored.
   */
  send(records: ProduceRecord | readonly ProduceRecord[]): Promise<ProducedRecord[]>
  /** Sends what lingers and resolves when nothing is under way any more; failures are told by their `send`. */
  flush(): Promise<void>
  /** Flushes, then refuses further sends. */
  close(): Promise<void>
}

export function createProducer(
  connection: Connection,
  env: ClientEnv,
  topic: string,
  options: ProducerOptions,
): Producer {
  const maxBufferedBytes = options.maxBufferedBytes ?? PRODUCER_BUFFERED_BYTES
  const deliveryTimeoutMs = options.deliveryTimeoutMs ?? DELIVERY_TIMEOUT_MS
  const settings = {
    acks: options.acks ?? ('all' as const),
    lingerMs: options.lingerMs ?? LINGER_MS,
    maxBatchBytes: Math.min(options.maxBatchBytes ?? PRODUCER_BATCH_BYTES, MAX_PRODUCER_BATCH_BYTES),
    maxInFlight: Math.min(Math.max(1, options.maxInFlight ?? MAX_IN_FLIGHT), MAX_IN_FLIGHT),
    deliveryTimeoutMs,
  }
  const lanes = new Map<number, Lane>()
  let info: TopicInfo | null = null
  let infoFrom: Live | null = null
  let locating: Promise<Live> | null = null
  let turn: Promise<void> = Promise.resolve()
  let bufferedBytes = 0
  let roomWaiters: (() => void)[] = []
  let idleWaiters: (() => void)[] = []
  let sticky = -1
  let closed = false
  let oversight: Timer | null = null

  /** A connection on which the topic is known to be the one we write to; all partitions ask once. */
  function live(): Promise<Live> {
    locating ??= locate().finally(() => {
      locating = null
    })
    return locating
  }

  async function locate(): Promise<Live> {
    const current = await connection.live(Math.min(deliveryTimeoutMs, LIVE_WAIT_MS))
    if (info !== null && infoFrom === current) return current
    // Only the first time: a topic deleted since is not made again by whoever still wrote to it.
    const found = await current.topic(topic, info === null)
    if (info !== null && info.topicId !== found.topicId) {
      throw new TributaryError(
        'topic_deleted',
        `topic ${topic} was deleted and made again: open a new producer for it`,
      )
    }
    info = found
    infoFrom = current
    return current
  }

  async function ready(): Promise<TopicInfo> {
    const giveUpAtMs = env.clock.monotonicMs() + deliveryTimeoutMs
    for (;;) {
      if (info !== null) return info
      try {
        await live()
      } catch (thrown) {
        const error = toTributaryError(thrown)
        if (!error.retriable || connection.isClosed() || env.clock.monotonicMs() >= giveUpAtMs) throw error
        await pause(env.clock, READY_PAUSE_MS, true)
      }
    }
  }

  function laneOf(partition: number): Lane {
    let lane = lanes.get(partition)
    if (lane === undefined) {
      lane = createProducerLane(env, settings, {
        partition,
        live,
        topicId: () => info?.topicId ?? '',
        released: bytes => released(bytes),
        batchStarted: () => {
          sticky = -1
        },
      })
      lanes.set(partition, lane)
    }
    return lane
  }

  function released(bytes: number): void {
    bufferedBytes -= bytes
    const waiters = roomWaiters
    roomWaiters = []
    for (const wake of waiters) wake()
    if (bufferedBytes > 0) return
    oversight?.cancel()
    oversight = null
    const idle = idleWaiters
    idleWaiters = []
    for (const wake of idle) wake()
  }

  /** Takes one call's records in; calls take turns, so that waiting for room does not change their order. */
  async function take(records: readonly ProduceRecord[], call: SendCall): Promise<void> {
    const { partitions, maxRecordBytes } = await ready()
    const inputs = records.map(record => recordInput(record, env))
    // All are looked at before the first is taken: a mistake in one leaves none of them half sent.
    for (const { input, bytes } of inputs) {
      if (bytes - RECORD_OVERHEAD_BYTES > maxRecordBytes) throw tooLarge(topic, input, bytes, maxRecordBytes)
    }
    for (const { partition } of records)
      if (partition !== undefined) checkPartition(partition, partitions.length)
    for (const [index, { input, bytes }] of inputs.entries()) {
      const partition = partitionOf(records[index]?.partition, input.key, partitions.length)
      while (bufferedBytes > 0 && bufferedBytes + bytes > maxBufferedBytes) {
        for (const lane of lanes.values()) lane.flush()
        await new Promise<void>(resolve => roomWaiters.push(resolve))
      }
      if (connection.isClosed()) throw new TributaryError('closed', 'the client was closed')
      bufferedBytes += bytes
      const entry: Entry = { input, bytes, call, index, sinceMs: env.clock.monotonicMs() }
      laneOf(partition).add(entry)
    }
    oversee()
  }

  function checkPartition(partition: number, count: number): void {
    if (Number.isSafeInteger(partition) && partition >= 0 && partition < count) return
    throw new TributaryError(
      'invalid_argument',
      `topic ${topic} has partitions 0 to ${count - 1}, not ${partition}`,
    )
  }

  function partitionOf(wanted: number | undefined, key: Uint8Array | null, count: number): number {
    if (wanted !== undefined) return wanted
    if (key !== null) return partitionForKey(key, count)
    if (sticky === -1 || sticky >= count) sticky = env.rng.below(count)
    return sticky
  }

  function oversee(): void {
    if (oversight !== null || bufferedBytes === 0) return
    oversight = env.clock.setTimer(() => {
      oversight = null
      for (const lane of lanes.values()) lane.expire()
      oversee()
    }, OVERSIGHT_MS)
  }

  function send(records: ProduceRecord | readonly ProduceRecord[]): Promise<ProducedRecord[]> {
    const list = isList(records) ? records : [records]
    return new Promise((resolve, reject) => {
      if (closed || connection.isClosed()) {
        reject(new TributaryError('closed', 'this producer was closed: open another'))
        return
      }
      if (list.length === 0) {
        resolve([])
        return
      }
      const call: SendCall = { places: new Array(list.length), left: list.length, resolve, reject }
      turn = turn.then(() => take(list, call)).catch((error: unknown) => reject(toTributaryError(error)))
    })
  }

  async function flush(): Promise<void> {
    await turn
    for (const lane of lanes.values()) lane.flush()
    if (bufferedBytes > 0) await new Promise<void>(resolve => idleWaiters.push(resolve))
  }

  return {
    send,
    flush,
    close: async () => {
      closed = true
      await flush()
      oversight?.cancel()
    },
  }
}

function isList(records: ProduceRecord | readonly ProduceRecord[]): records is readonly ProduceRecord[] {
  return Array.isArray(records)
}

function bytesOf(value: Uint8Array | string | null | undefined): Uint8Array | null {
  if (value === null || value === undefined) return null
  return typeof value === 'string' ? utf8(value) : value
}

function isHeaderList(headers: NonNullable<ProduceRecord['headers']>): headers is readonly RecordHeader[] {
  return Array.isArray(headers)
}

function headersOf(headers: ProduceRecord['headers']): readonly RecordHeader[] {
  if (headers === undefined) return []
  if (isHeaderList(headers)) return headers
  return Object.entries(headers).map(([key, value]) => ({ key, value: bytesOf(value) }))
}

function recordInput(record: ProduceRecord, env: ClientEnv): { input: RecordInput; bytes: number } {
  const timestampMs = record.timestampMs ?? Math.floor(env.clock.nowMs())
  if (!Number.isSafeInteger(timestampMs)) {
    throw new TributaryError(
      'invalid_argument',
      `timestampMs must be whole milliseconds, but is ${timestampMs}`,
    )
  }
  const input = {
    key: bytesOf(record.key),
    value: bytesOf(record.value),
    headers: headersOf(record.headers),
    timestampMs,
  }
  let bytes = RECORD_OVERHEAD_BYTES + (input.key?.length ?? 0) + (input.value?.length ?? 0)
  for (const { key, value } of input.headers)
    bytes += Buffer.byteLength(key) + (value?.length ?? 0) + HEADER_OVERHEAD_BYTES
  return { input, bytes }
}

function tooLarge(topic: string, input: RecordInput, bytes: number, maxRecordBytes: number): TributaryError {
  return new TributaryError(
    'record_too_large',
    `a record of ${bytes - RECORD_OVERHEAD_BYTES} bytes is more than topic ${topic} takes (maxRecordBytes ${maxRecordBytes}): ` +
      'send it in parts or alter the topic',
    { details: { bytes: bytes - RECORD_OVERHEAD_BYTES, maxRecordBytes, timestampMs: input.timestampMs } },
  )
}

import { must } from './assert.ts'
import { BATCH_HEADER_BYTES, MAX_SEQUENCE } from './batch.ts'
import type { RecordInput } from './batch-builder.ts'
import { BatchBuilder } from './batch-builder.ts'
import type { ClientEnv, Live } from './client-connection.ts'
import type { ProducedRecord } from './client-producer.ts'
import { TributaryError } from './errors.ts'
import { pause } from './pause.ts'
import { toTributaryError } from './session.ts'
import type { ProducerInfo } from './wire.ts'

/**
 * One partition of a producer. Batches get their sequence when they are first sent and keep it for every retry, so that the hub
 * knows a copy (KIP-98). When something fails, nothing more is sent until all batches in flight are answered; then they are sent
 * again from the first that is not stored, or given up, and the numbering starts anew under the next epoch of the producer id: once
 * a batch of that is stored, the hub refuses what of older epochs is still on its way (KIP-360), so that nothing comes late.
 */

/** A `send` waiting for its records. */
export interface SendCall {
  places: ProducedRecord[]
  left: number
  resolve(places: ProducedRecord[]): void
  reject(error: TributaryError): void
}

/** A record on its way. */
export interface Entry {
  input: RecordInput
  bytes: number
  call: SendCall
  index: number
  /** Monotonic time since when it waits. */
  sinceMs: number
}

export interface LaneSettings {
  acks: 0 | 1 | 'all'
  lingerMs: number
  maxBatchBytes: number
  maxInFlight: number
  deliveryTimeoutMs: number
}

export interface LaneHost {
  partition: number
  live(): Promise<Live>
  topicId(): string
  /** Records of so many bytes are acked or given up. */
  released(bytes: number): void
  /** A batch was closed: records without a key may go elsewhere. */
  batchStarted(): void
}

export interface Lane {
  add(entry: Entry): void
  /** Does not wait for company. */
  flush(): void
  /** Gives up what is older than `deliveryTimeoutMs`. */
  expire(): void
}

interface Batch {
  entries: Entry[]
  bytes: Uint8Array
  state: 'unsent' | 'sent' | 'stored' | 'failed'
  error: TributaryError | null
}

/** After a failure that may pass. */
const RETRY_PAUSE_MS = 100
/** The last epoch of a producer id: int16 in the batch header. */
const MAX_PRODUCER_EPOCH = 2 ** 15 - 1
/** Well above the records of one batch: a numbering ends before the hub's limit. */
const SEQUENCE_ROOM = 2 ** 24

export function createProducerLane(env: ClientEnv, settings: LaneSettings, host: LaneHost): Lane {
  const waiting: Entry[] = []
  let waitingBytes = 0
  /** Numbered, in order, not yet stored or given up. */
  let inflight: Batch[] = []
  let producer: ProducerInfo | null = null
  let nextSequence = 0
  /** Whether the hub has a batch of this numbering. Before, it would take any sequence for the first, so one batch goes alone. */
  let known = false
  let lingering = false
  /** Send without waiting for more, as far as what was there when asked. */
  let hurry = false
  let running = false
  let failing = false

  function add(entry: Entry): void {
    waiting.push(entry)
    waitingBytes += entry.bytes
    if (waitingBytes >= settings.maxBatchBytes) run()
    if (lingering) return
    lingering = true
    // A timer takes a millisecond at least; what need not wait goes out with this turn.
    if (settings.lingerMs === 0) env.clock.soon(lingered)
    else env.clock.setTimer(lingered, settings.lingerMs, true)
  }

  function lingered(): void {
    lingering = false
    hurry = waiting.length > 0
    run()
  }

  /** Whether a batch should go out now. */
  function isDue(): boolean {
    return waiting.length > 0 && (hurry || waitingBytes >= settings.maxBatchBytes)
  }

  function mayStart(): boolean {
    return !failing && inflight.length < (known ? settings.maxInFlight : 1) && isDue()
  }

  /** Sends what is due, one loop at a time. */
  function run(): void {
    if (running || !mayStart()) return
    running = true
    void sendDue().finally(() => {
      running = false
      run()
    })
  }

  async function sendDue(): Promise<void> {
    try {
      const live = await host.live()
      if (nextSequence > MAX_SEQUENCE - SEQUENCE_ROOM && inflight.length === 0) renumber(nextEpoch(producer))
      producer ??= await live.producer()
      while (mayStart() && nextSequence <= MAX_SEQUENCE - SEQUENCE_ROOM) post(live, startBatch(producer))
    } catch (thrown) {
      const error = toTributaryError(thrown)
      // Nothing was numbered for this yet: what waits, waits on or is given up as it is.
      if (!error.retriable || error.code === 'closed') giveUpWaiting(error)
      else await pause(env.clock, RETRY_PAUSE_MS, true)
    }
    // At the end of the numbers the batches in flight are awaited; their answers run this again.
    if (nextSequence > MAX_SEQUENCE - SEQUENCE_ROOM && inflight.length > 0)
      await pause(env.clock, RETRY_PAUSE_MS, true)
  }

  function startBatch({ producerId, producerEpoch }: ProducerInfo): Batch {
    const builder = new BatchBuilder({
      producerId,
      producerEpoch,
      baseSequence: nextSequence,
      // One record always fits: its size was checked against the topic.
      maxBytes: Math.max(settings.maxBatchBytes, BATCH_HEADER_BYTES + (waiting[0]?.bytes ?? 0)),
    })
    let count = 0
    for (const { input } of waiting) {
      if (!builder.append(input.timestampMs, input.key, input.value, input.headers)) break
      count++
    }
    const entries = waiting.splice(0, count)
    for (const entry of entries) waitingBytes -= entry.bytes
    if (waiting.length === 0) hurry = false
    nextSequence += count
    const batch: Batch = { entries, bytes: builder.finish(0), state: 'unsent', error: null }
    inflight.push(batch)
    host.batchStarted()
    return batch
  }

  function post(live: Live, batch: Batch): void {
    batch.state = 'sent'
    batch.error = null
    void live.produce(host.topicId(), host.partition, settings.acks, batch.bytes).then(
      ({ baseOffset }) => stored(batch, baseOffset),
      (error: unknown) => {
        batch.state = 'failed'
        batch.error = toTributaryError(error)
        failing = true
        settleFailure()
      },
    )
  }

  function stored(batch: Batch, baseOffset: number): void {
    batch.state = 'stored'
    known = true
    for (const [position, entry] of batch.entries.entries()) {
      // Without acks the hub may not know the offset (-1).
      finish(entry, { partition: host.partition, offset: baseOffset < 0 ? -1 : baseOffset + position })
    }
    inflight = inflight.filter(other => other.state !== 'stored')
    if (failing) settleFailure()
    else run()
  }

  function finish(entry: Entry, place: ProducedRecord): void {
    const { call } = entry
    call.places[entry.index] = place
    call.left--
    if (call.left === 0) call.resolve(call.places)
    host.released(entry.bytes)
  }

  function giveUp(entries: readonly Entry[], error: TributaryError): void {
    for (const entry of entries) {
      entry.call.reject(error)
      host.released(entry.bytes)
    }
  }

  function giveUpWaiting(error: TributaryError): void {
    waitingBytes = 0
    hurry = false
    giveUp(waiting.splice(0), error)
  }

  /** Once everything in flight is answered: what the first failure means for it and those behind. */
  function settleFailure(): void {
    if (inflight.some(batch => batch.state === 'sent')) return
    const head = inflight[0]
    const error = head?.error
    if (head === undefined || error === null || error === undefined) {
      // The first failed for the sake of one that is stored by now.
      void retry()
      return
    }
    if (isExpired(head)) abandon(inflight.length, timedOut(settings.deliveryTimeoutMs, error))
    else if (error.retriable && error.code !== 'closed') void retry()
    // Somebody else has the id, of a hub that went back: what of ours is stored it does not tell any more.
    else if (error.code === 'fenced') abandon(inflight.length, error)
    else abandon(1, error)
  }

  /**
   * Gives up the first `count` batches. What is behind them cannot be stored: the hub refuses a jump in sequence. So it goes back
   * to be numbered anew.
   */
  function abandon(count: number, error: TributaryError): void {
    const lost = inflight.slice(0, count)
    const again = inflight.slice(count).flatMap(batch => batch.entries)
    inflight = []
    renumber(error.code === 'fenced' ? null : nextEpoch(producer))
    failing = false
    waiting.unshift(...again)
    for (const entry of again) waitingBytes += entry.bytes
    if (again.length > 0) hurry = true
    for (const batch of lost) giveUp(batch.entries, error)
    run()
  }

  /** Null: under an id to be asked for. */
  function renumber(next: ProducerInfo | null): void {
    producer = next
    nextSequence = 0
    known = false
  }

  /** Sends the batches in flight again, in order, with the sequences they have. */
  async function retry(): Promise<void> {
    for (const batch of inflight) batch.state = 'unsent'
    await pause(env.clock, RETRY_PAUSE_MS, true)
    let live: Live
    try {
      live = await host.live()
    } catch (thrown) {
      const error = toTributaryError(thrown)
      for (const batch of inflight) {
        batch.state = 'failed'
        batch.error = error
      }
      settleFailure()
      return
    }
    failing = false
    for (const batch of [...inflight]) post(live, batch)
    run()
  }

  function isExpired(batch: Batch): boolean {
    const first = must(batch.entries[0], 'a batch has a record')
    return env.clock.monotonicMs() - first.sinceMs > settings.deliveryTimeoutMs
  }

  return {
    add,
    flush: () => {
      hurry = waiting.length > 0
      run()
    },
    expire: () => {
      const oldestMs = env.clock.monotonicMs() - settings.deliveryTimeoutMs
      const count = waiting.findIndex(entry => entry.sinceMs > oldestMs)
      const expired = waiting.splice(0, count === -1 ? waiting.length : count)
      for (const entry of expired) waitingBytes -= entry.bytes
      giveUp(expired, timedOut(settings.deliveryTimeoutMs, null))
    },
  }
}

/** Null where the id has no more epochs. */
function nextEpoch(producer: ProducerInfo | null): ProducerInfo | null {
  if (producer === null || producer.producerEpoch >= MAX_PRODUCER_EPOCH) return null
  return { ...producer, producerEpoch: producer.producerEpoch + 1 }
}

function timedOut(deliveryTimeoutMs: number, cause: TributaryError | null): TributaryError {
  const why = cause === null ? '' : ` (${cause.message})`
  return new TributaryError(
    'timeout',
    `not acked in ${deliveryTimeoutMs} ms: it may be stored or not${why}`,
    { cause },
  )
}

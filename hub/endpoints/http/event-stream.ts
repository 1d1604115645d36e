import type { ServerResponse } from 'node:http'
import type { FastifyBaseLogger } from 'fastify'
import type { DecodedRecord } from '../../../common/batch-records.ts'
import type { Timer } from '../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../common/errors.ts'
import { KIB } from '../../../common/limits.ts'
import { recordJson } from '../../../common/record-json.ts'
import type { Topic } from '../../ports.ts'
import type { HttpContext } from './context.ts'
import { countLimit } from './context.ts'
import { errorBody } from './errors.ts'
import { eachRecords } from './records.ts'
import { formatStreamId } from './stream-id.ts'

/** One open stream of records to one client; see stream.ts for what it says. */
export interface RecordStream {
  /** Ends it after the events already written; idempotent. */
  close(): void
}

export interface RecordStreamOptions {
  context: HttpContext
  topic: Topic
  /** Where each partition starts; kept up to date, in the order of ids. */
  offsets: Map<number, number>
  /** Partitions that the topic grows by join in. */
  wholeTopic: boolean
  response: ServerResponse
  log: FastifyBaseLogger
}

/** Batches read from the log at once: what a stream holds for a slow reader, before decompression. */
const PORTION_BYTES = 256 * KIB
/** Events go to the socket in pieces of about this many characters; while it takes none, none are made. */
const WRITE_CHARACTERS = 32 * KIB
/** Suggested to browsers between connections. */
const RETRY_MS = 2_000

export function openRecordStream(options: RecordStreamOptions): RecordStream {
  const { context, topic, offsets, response, log } = options
  const { logs, topics } = context.ports
  const { clock, limits } = context
  /** Leader epochs of what was read last. */
  const epochs = new Map<number, number>()
  /** Partitions that may have something to send. */
  const ready: number[] = []
  const cancelWaits = new Map<number, () => void>()
  let closed = false
  let heartbeat: Timer | undefined
  let wake = (): void => {}
  let drained = (): void => {}

  response.on('drain', () => drained())
  response.write(`retry: ${RETRY_MS}\n${idLine()}\n`)
  pump().catch(fail)
  scheduleHeartbeat()
  return { close }

  function idLine(): string {
    return `id: ${formatStreamId(topic.topicId, offsets)}\n`
  }

  async function pump(): Promise<void> {
    // Each is read once before it is waited for: a log that ends earlier than its offset is told then.
    ready.push(...offsets.keys())
    while (!closed) {
      const partition = ready.shift()
      if (partition === undefined) {
        await new Promise<void>(resolve => {
          wake = resolve
        })
      } else {
        const isMore = await sendPortion(partition)
        if (isMore) ready.push(partition)
        else if (!closed) awaitRecords(partition)
      }
    }
  }

  function awaitRecords(partition: number): void {
    const offset = offsets.get(partition) ?? 0
    const cancel = logs.whenPast(topic.topicId, partition, offset, () => {
      cancelWaits.delete(partition)
      ready.push(partition)
      wake()
    })
    cancelWaits.set(partition, cancel)
  }

  /** Sends what there is, up to a limit; whether there is more. */
  async function sendPortion(partition: number): Promise<boolean> {
    const offset = offsets.get(partition) ?? 0
    const result = await logs
      .read(topic.topicId, partition, offset, PORTION_BYTES, epochs.get(partition) ?? -1)
      .catch((error: unknown) => {
        return resetTo(partition, offset, error)
      })
    if (typeof result === 'string') {
      await write(result)
      return true
    }
    await eachRecords(context, result.batches, offset, records => writeRecords(partition, records))
    if (!closed) offsets.set(partition, result.nextOffset)
    epochs.set(partition, result.lastEpoch)
    return result.nextOffset < result.bounds.highWatermark
  }

  async function writeRecords(partition: number, records: readonly DecodedRecord[]): Promise<boolean> {
    let text = ''
    for (const record of records) {
      if (closed) return false
      offsets.set(partition, record.offset + 1)
      text += `${idLine()}data: ${recordJson(topic.name, partition, record)}\n\n`
      if (text.length < WRITE_CHARACTERS) continue
      await write(text)
      text = ''
    }
    await write(text)
    return !closed
  }

  /** Moves a partition to where its log is now and returns the event that tells so; other errors are thrown again. */
  function resetTo(partition: number, from: number, error: unknown): string {
    if (!isTributaryError(error, 'offset_out_of_range')) throw error
    const { startOffset, highWatermark, truncatedTo = from } = error.details
    if (typeof startOffset !== 'number' || typeof highWatermark !== 'number') throw error
    const least = typeof truncatedTo === 'number' ? Math.min(from, truncatedTo) : from
    const to = from < startOffset ? startOffset : Math.min(least, highWatermark)
    if (to === from && !epochs.delete(partition)) throw error
    epochs.delete(partition)
    offsets.set(partition, to)
    const reason = to > from ? 'retention' : 'truncated'
    return `${idLine()}event: reset\ndata: ${JSON.stringify({ partition, from, to, reason })}\n\n`
  }

  /** Writes whole events, and waits while the socket is full. */
  async function write(text: string): Promise<void> {
    if (closed || text === '' || response.write(text)) return
    const stall = clock.setTimer(() => {
      countLimit(context, 'streamStallMs')
      log.warn(
        { topic: topic.name, streamStallMs: limits.streamStallMs },
        'ended a stream whose reader takes nothing',
      )
      close()
      response.destroy()
    }, limits.streamStallMs)
    await new Promise<void>(resolve => {
      drained = resolve
    })
    stall.cancel()
  }

  function scheduleHeartbeat(): void {
    heartbeat = clock.setTimer(() => {
      try {
        admitNewPartitions()
        // The id alone makes no event, and keeps resumption exact over records that are passed over.
        if (!response.writableNeedDrain) response.write(`: heartbeat\n${idLine()}\n`)
        scheduleHeartbeat()
      } catch (error) {
        fail(error)
      }
    }, limits.streamHeartbeatMs)
  }

  function admitNewPartitions(): void {
    const { partitions } = topics.byId(topic.topicId)
    for (let partition = offsets.size; options.wholeTopic && partition < partitions; partition++) {
      offsets.set(partition, 0)
      ready.push(partition)
      wake()
    }
  }

  function fail(error: unknown): void {
    if (closed) return
    const known = isTributaryError(error)
      ? error
      : new TributaryError('internal', 'the stream failed; the log of the hub says why')
    if (known !== error) log.error({ err: error, topic: topic.name }, 'a stream failed')
    response.write(`event: error\ndata: ${JSON.stringify(errorBody(known))}\n\n`)
    close()
  }

  function close(): void {
    if (closed) return
    closed = true
    heartbeat?.cancel()
    for (const cancel of cancelWaits.values()) cancel()
    cancelWaits.clear()
    response.end()
    wake()
    drained()
  }
}

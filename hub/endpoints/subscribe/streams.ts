import type { TributaryError } from '../../../common/errors.ts'
import { GIB, MIB } from '../../../common/limits.ts'
import { toTributaryError } from '../../../common/session.ts'
import type { ClientHubFrame, SubscribeFrame } from '../../../common/wire.ts'
import type { Logs, PartitionRead } from '../../ports.ts'

/** Bytes asked of the log at once: enough to keep a socket busy, little enough to be fair. */
const READ_CHUNK_BYTES = MIB
/** Reads under way for one connection. */
const MAX_READS_PER_CONNECTION = 4
/** Credit beyond this is not counted. */
const MAX_CREDIT_BYTES = GIB

export interface StreamCounters {
  subscriptions: number
  recordsFrames: number
  recordsBytes: number
  /** Times that a subscription had sent all that it had credit for. */
  creditUsedUp: number
  /** Times that a connection's socket was full and its reads waited. */
  socketFull: number
}

export interface StreamsHost {
  logs: Logs
  counters: StreamCounters
  /** Bytes being read and not yet taken by the network, at most (one read may go over). */
  readBytesPerConnection: number
  /** As Channel's. */
  send(frame: ClientHubFrame): boolean
  bufferedBytes(): number
  /** Runs a callback once this turn's input is dealt with. */
  soon(callback: () => void): void
  /** A subscription ended by this error, which its client was told. */
  failed(error: TributaryError): void
}

/** The subscriptions of one connection: reads under credit, round robin, no faster than the socket takes it. */
export interface Streams {
  has(sub: number): boolean
  count(): number
  add(frame: SubscribeFrame): void
  credit(sub: number, bytes: number): void
  remove(sub: number): void
  /** The socket has room again. */
  drained(): void
  stop(): void
}

interface Stream {
  readonly sub: number
  readonly topicId: string
  readonly partition: number
  offset: number
  /** Of the record before `offset`, -1 where that is not known. */
  lastEpoch: number
  creditBytes: number
  /** In `ready`, being read, or waiting for records: to be left alone. */
  busy: boolean
  cancelWait: (() => void) | null
}

export function createStreams(host: StreamsHost): Streams {
  const { logs, counters } = host
  const streams = new Map<number, Stream>()
  /** Those with credit and perhaps records, each once, the longest unserved first. */
  const ready: Stream[] = []
  let reads = 0
  let readingBytes = 0
  let full = false
  let pumping = false
  let stopped = false

  function offer(stream: Stream): void {
    if (stream.busy || stream.creditBytes <= 0) return
    stream.busy = true
    ready.push(stream)
    // One pump for all that wake in one turn, as after a commit to many partitions.
    if (pumping) return
    pumping = true
    host.soon(() => {
      pumping = false
      pump()
    })
  }

  function pump(): void {
    while (!stopped && mayRead()) {
      const stream = ready.shift()
      if (stream === undefined) return
      if (streams.get(stream.sub) === stream) void read(stream)
    }
  }

  function mayRead(): boolean {
    if (full || reads >= MAX_READS_PER_CONNECTION) return false
    // With no read under way one may always start: a small bound must not stop everything.
    return reads === 0 || readingBytes + host.bufferedBytes() < host.readBytesPerConnection
  }

  async function read(stream: Stream): Promise<void> {
    const maxBytes = Math.min(stream.creditBytes, READ_CHUNK_BYTES)
    reads++
    readingBytes += maxBytes
    try {
      const { topicId, partition, offset, lastEpoch } = stream
      const found = await logs.read(topicId, partition, offset, maxBytes, lastEpoch)
      if (!gone(stream)) deliver(stream, found)
    } catch (error) {
      if (!gone(stream)) end(stream, toTributaryError(error))
    } finally {
      reads--
      readingBytes -= maxBytes
    }
    pump()
  }

  function gone(stream: Stream): boolean {
    return stopped || streams.get(stream.sub) !== stream
  }

  function deliver(stream: Stream, found: PartitionRead): void {
    const { sub } = stream
    const { batches, nextOffset, lastEpoch: leaderEpoch, isSettled } = found
    if (batches.length === 0) {
      wait(stream)
      return
    }
    const { highWatermark } = found.bounds
    stream.offset = nextOffset
    stream.lastEpoch = leaderEpoch
    stream.creditBytes -= batches.length
    counters.recordsFrames++
    counters.recordsBytes += batches.length
    const told = isSettled ? { highWatermark } : {}
    if (!host.send({ t: 'records', sub, batches, nextOffset, ...told, leaderEpoch })) {
      full = true
      counters.socketFull++
    }
    stream.busy = false
    if (stream.creditBytes <= 0) counters.creditUsedUp++
    // At the end of the log a read would find nothing: wait without one.
    if (nextOffset < highWatermark) offer(stream)
    else if (stream.creditBytes > 0) wait(stream)
  }

  function wait(stream: Stream): void {
    stream.busy = true
    // The listener may be called before whenPast returns.
    let called = false
    const cancel = logs.whenPast(stream.topicId, stream.partition, stream.offset, () => {
      called = true
      stream.cancelWait = null
      if (gone(stream)) return
      stream.busy = false
      offer(stream)
    })
    if (!called) stream.cancelWait = cancel
  }

  function end(stream: Stream, error: TributaryError): void {
    drop(stream)
    const { startOffset, highWatermark, truncatedTo } = error.details
    host.send({
      t: 'ended',
      sub: stream.sub,
      code: error.code,
      message: error.message,
      ...(typeof startOffset === 'number' ? { startOffset } : {}),
      ...(typeof highWatermark === 'number' ? { highWatermark } : {}),
      ...(typeof truncatedTo === 'number' ? { truncatedTo } : {}),
    })
    host.failed(error)
  }

  function drop(stream: Stream): void {
    streams.delete(stream.sub)
    counters.subscriptions--
    stream.cancelWait?.()
    stream.cancelWait = null
  }

  return {
    has: sub => streams.has(sub),
    count: () => streams.size,
    add: ({ sub, topicId, partition, offset, leaderEpoch, creditBytes }) => {
      const credit = Math.min(creditBytes, MAX_CREDIT_BYTES)
      const stream: Stream = {
        sub,
        topicId,
        partition,
        offset,
        lastEpoch: leaderEpoch,
        creditBytes: credit,
        busy: false,
        cancelWait: null,
      }
      streams.set(sub, stream)
      counters.subscriptions++
      offer(stream)
    },
    credit: (sub, bytes) => {
      const stream = streams.get(sub)
      // Credit may cross the `ended` of its subscription.
      if (stream === undefined) return
      stream.creditBytes = Math.min(stream.creditBytes + bytes, MAX_CREDIT_BYTES)
      offer(stream)
    },
    remove: sub => {
      const stream = streams.get(sub)
      if (stream !== undefined) drop(stream)
    },
    drained: () => {
      full = false
      pump()
    },
    stop: () => {
      stopped = true
      for (const stream of [...streams.values()]) drop(stream)
    },
  }
}

import type { Channel, ChannelClosed } from './channel.ts'
import type { Env, Timer } from './env.ts'
import { TributaryError } from './errors.ts'
import { createHubList } from './hub-list.ts'
import { MAX_FRAME_BYTES, MINUTE_MS, SECOND_MS } from './limits.ts'
import type { ChannelFrame } from './session.ts'
import { dialChannel, toTributaryError } from './session.ts'
import { VERSION } from './version.ts'
import type {
  EndedFrame,
  OffsetInfo,
  ProducedInfo,
  ProducerInfo,
  RecordsFrame,
  RequestFrame,
  ResponseFrame,
  TopicInfo,
} from './wire.ts'
import { CLOSE, SUBSCRIBE_PATH } from './wire.ts'

/** The client's one WebSocket: dialled when first needed and again when lost, at the hub's next node, with backoff when all are. */

/** Between attempts to reach the hub: from the first to the last, doubled each time, with jitter. */
const RECONNECT_MIN_MS = 100
const RECONNECT_MAX_MS = 5 * SECOND_MS
const CONNECT_TIMEOUT_MS = 10 * SECOND_MS
/** The same where there are other nodes to try: a machine that is gone swallows packets. */
const CONNECT_ONE_OF_MS = 3 * SECOND_MS
/** Where there are other nodes to go to, one that owes an answer is asked whether it is there, and given up, sooner than by heartbeats. */
const ASK = { afterMs: 2 * SECOND_MS, deadMs: 6 * SECOND_MS }
/** A request without an answer for so long fails with `timeout`. */
const REQUEST_TIMEOUT_MS = 30 * SECOND_MS
/** How long calls wait for a hub that cannot be reached, unless told otherwise. */
export const UNREACHABLE_MS = MINUTE_MS

export type ClientEnv = Pick<Env, 'clock' | 'rng' | 'net' | 'codec'>

/** A request without what the connection adds. */
export type RequestBody = RequestFrame extends infer F
  ? F extends { op: string }
    ? Omit<F, 't' | 'id'>
    : never
  : never

/** Where the frames of one subscription go. */
export interface SubscriptionHandlers {
  records(frame: RecordsFrame): void
  ended(frame: EndedFrame): void
}

/** One established connection. It ends for good when lost; `Connection.live` gives its successor. */
export interface Live {
  readonly clusterId: string
  isOpen(): boolean
  /** Calls back once when this connection is lost; at once where it is. Cancel by calling the result. */
  onLost(listener: (error: TributaryError) => void): () => void
  /** `produce`: it is about to be written to, see RequestFrame. */
  topic(topic: string, produce?: boolean): Promise<TopicInfo>
  offset(
    topicId: string,
    partition: number,
    at: 'earliest' | 'latest' | { timeMs: number },
  ): Promise<OffsetInfo>
  producer(): Promise<ProducerInfo>
  produce(topicId: string, partition: number, acks: 0 | 1 | 'all', batches: Uint8Array): Promise<ProducedInfo>
  /** Streams a partition; returns the handle for `credit` and `unsubscribe`. */
  subscribe(
    place: { topicId: string; partition: number; offset: number; leaderEpoch: number; creditBytes: number },
    handlers: SubscriptionHandlers,
  ): number
  credit(sub: number, bytes: number): void
  unsubscribe(sub: number): void
}

export interface Connection {
  /**
   * The connection, dialled if need be. Rejects with `unauthorized`, `unsupported_version` or `protocol_error` at once, with
   * `not_available` when the hub was not reached within `waitMs`, with `closed` after `close`.
   */
  live(waitMs: number): Promise<Live>
  close(): void
  isClosed(): boolean
  /** Times that an established connection was lost. */
  lostCount(): number
}

export interface ConnectionOptions {
  /** `ws:` or `wss:`, without path: nodes of one hub, at least one. */
  wsUrls: readonly string[]
  /** Told of nodes that the hub named, HOST:PORT each. */
  learned?: (nodes: readonly string[]) => void
  token?: string
  caPem?: string
}

interface Waiter {
  resolve(live: Live): void
  reject(error: TributaryError): void
  /** Null to wait for ever. */
  timer: Timer | null
}

export function createConnection(env: ClientEnv, options: ConnectionOptions): Connection {
  const waiters = new Set<Waiter>()
  let current: Established | null = null
  let dialling = false
  let closed = false
  let failures = 0
  let lost = 0
  let retry: Timer | null = null
  const hubs = createHubList(options.wsUrls, env.rng)
  let lastError = new TributaryError('not_available', `${hubs.current()} was not reached yet`)

  function settle(act: (waiter: Waiter) => void): void {
    for (const waiter of [...waiters]) {
      waiters.delete(waiter)
      waiter.timer?.cancel()
      act(waiter)
    }
  }

  async function dial(): Promise<void> {
    if (dialling || closed || retry !== null) return
    dialling = true
    try {
      const link = await env.net.dial(`${hubs.current()}${SUBSCRIBE_PATH}`, {
        maxFrameBytes: MAX_FRAME_BYTES,
        connectTimeoutMs: hubs.isOne() ? CONNECT_TIMEOUT_MS : CONNECT_ONE_OF_MS,
        ...(options.token === undefined ? {} : { token: options.token }),
        ...(options.caPem === undefined ? {} : { caPem: options.caPem }),
      })
      if (closed) {
        link.terminate()
        return
      }
      const live = await establish(env, link, !hubs.isOne(), (self, reason) => {
        if (current === self) current = null
        lost++
        failed(reason)
      })
      if (closed) live.close()
      else if (live.isOpen()) {
        current = live
        failures = 0
        hubs.reached()
        if (hubs.learn(live.nodes)) options.learned?.(hubs.learned())
        settle(waiter => waiter.resolve(live))
      }
    } catch (error) {
      failed(toTributaryError(error))
    } finally {
      dialling = false
    }
    if (waiters.size > 0 && current === null) void dial()
  }

  /** After a failed attempt or a lost connection: gives up what is hopeless, comes again later for who waits. */
  function failed(error: TributaryError): void {
    lastError = error
    if (isHopeless(error)) {
      settle(waiter => waiter.reject(error))
      return
    }
    const isNextAtOnce = hubs.failed()
    const ceilingMs = Math.min(RECONNECT_MAX_MS, RECONNECT_MIN_MS * 2 ** Math.min(failures, 16))
    if (!isNextAtOnce) failures++
    retry?.cancel()
    retry = env.clock.setTimer(
      () => {
        retry = null
        if (waiters.size > 0) void dial()
      },
      isNextAtOnce ? 0 : ceilingMs * (0.5 + env.rng.float() / 2),
      true,
    )
  }

  function wait(waitMs: number): Promise<Live> {
    return new Promise((resolve, reject) => {
      const giveUp = (): void => {
        waiters.delete(waiter)
        const message = `${options.wsUrls.join(', ')} was not reached in ${Math.round(waitMs)} ms: ${lastError.message}`
        reject(new TributaryError('not_available', message, { cause: lastError }))
      }
      // Timers hold no more than 2^31 - 1 ms.
      const timer = waitMs < 2 ** 31 ? env.clock.setTimer(giveUp, waitMs, true) : null
      const waiter: Waiter = { resolve, reject, timer }
      waiters.add(waiter)
      void dial()
    })
  }

  return {
    live: async waitMs => {
      if (closed) throw closedError()
      // One that began to close is of no use any more.
      if (current?.isOpen() === false) current = null
      return current ?? wait(waitMs)
    },
    close: () => {
      if (closed) return
      closed = true
      retry?.cancel()
      settle(waiter => waiter.reject(closedError()))
      current?.close()
    },
    isClosed: () => closed,
    lostCount: () => lost,
  }
}

function closedError(): TributaryError {
  return new TributaryError('closed', 'this client was closed: connect again')
}

/** Trying again unchanged cannot help. */
function isHopeless(error: TributaryError): boolean {
  const { code } = error
  return (
    code === 'unauthorized' ||
    code === 'unsupported_version' ||
    code === 'protocol_error' ||
    code === 'invalid_argument' ||
    code === 'frame_too_large'
  )
}

interface Pending {
  resolve(result: NonNullable<ResponseFrame['result']>): void
  reject(error: TributaryError): void
  timer: Timer
}

type Established = Live & { nodes: readonly string[]; close(): void }

/** Shakes hands over a fresh link; resolves at the hub's welcome. `gone` is called once if that connection is lost later. */
function establish(
  env: ClientEnv,
  link: Parameters<typeof dialChannel>[0],
  hasOthers: boolean,
  gone: (self: Established, error: TributaryError) => void,
): Promise<Established> {
  const { promise, resolve, reject } = Promise.withResolvers<Established>()
  const pending = new Map<number, Pending>()
  const subscriptions = new Map<number, SubscriptionHandlers>()
  const listeners = new Set<(error: TributaryError) => void>()
  let ending: TributaryError | null = null
  let nextId = 1
  let expecting = false
  let established: Established | null = null

  const channel: Channel = dialChannel(link, {
    clock: env.clock,
    frames: 'client-hub',
    ...(hasOthers ? { ask: ASK } : {}),
    hello: { software: `tributary-client/${VERSION}` },
    welcome: ({ clusterId, nodes = [] }) => {
      established = liveOf(clusterId, nodes)
      resolve(established)
    },
    frame,
    drain: () => {},
    closed,
  })

  /** After each change of what the hub owes. */
  function expect(): void {
    const owes = pending.size > 0 || subscriptions.size > 0
    if (owes === expecting) return
    expecting = owes
    channel.expect(owes)
  }

  function frame(frame: ChannelFrame<'client-hub'>): void {
    take(frame)
    expect()
  }

  function take(frame: ChannelFrame<'client-hub'>): void {
    switch (frame.t) {
      case 'records':
        subscriptions.get(frame.sub)?.records(frame)
        return
      case 'ended': {
        const handlers = subscriptions.get(frame.sub)
        subscriptions.delete(frame.sub)
        handlers?.ended(frame)
        return
      }
      case 'response': {
        const waiting = pending.get(frame.id)
        pending.delete(frame.id)
        waiting?.timer.cancel()
        if (frame.result !== undefined) waiting?.resolve(frame.result)
        else if (frame.error !== undefined) {
          const { code, message, details = {} } = frame.error
          waiting?.reject(new TributaryError(code, message, { details }))
        }
        return
      }
      case 'error':
        // Errors about one frame come as responses and `ended`; anything else is fatal and ends the channel.
        return
    }
  }

  function closed({ error }: ChannelClosed): void {
    const reason = error ?? new TributaryError('not_available', 'the hub closed the connection')
    ending = reason
    for (const waiting of pending.values()) {
      waiting.timer.cancel()
      waiting.reject(
        new TributaryError('not_available', `the connection to the hub was lost: ${reason.message}`),
      )
    }
    pending.clear()
    subscriptions.clear()
    if (established === null) reject(reason)
    else gone(established, reason)
    for (const listener of [...listeners]) listener(reason)
    listeners.clear()
  }

  function request(body: RequestBody): Promise<NonNullable<ResponseFrame['result']>> {
    return new Promise((resolve, reject) => {
      if (!channel.isOpen()) {
        reject(new TributaryError('not_available', 'the connection to the hub was lost'))
        return
      }
      const id = nextId++
      const timer = env.clock.setTimer(() => {
        pending.delete(id)
        reject(new TributaryError('timeout', `the hub did not answer ${body.op} in ${REQUEST_TIMEOUT_MS} ms`))
      }, REQUEST_TIMEOUT_MS)
      pending.set(id, { resolve, reject, timer })
      channel.send({ t: 'request', id, ...body })
      expect()
    })
  }

  function liveOf(clusterId: string, nodes: readonly string[]): Established {
    return {
      clusterId,
      nodes,
      isOpen: () => channel.isOpen(),
      onLost: listener => {
        if (ending !== null) listener(ending)
        else listeners.add(listener)
        return () => listeners.delete(listener)
      },
      topic: async (topic, produce = false) => {
        const result = await request({ op: 'topic', topic, ...(produce ? { produce } : {}) })
        return 'partitions' in result ? result : wrongAnswer('topic')
      },
      offset: async (topicId, partition, at) => {
        const result = await request({ op: 'offset', topicId, partition, at })
        return 'offset' in result ? result : wrongAnswer('offset')
      },
      producer: async () => {
        const result = await request({ op: 'producer' })
        return 'producerId' in result ? result : wrongAnswer('producer')
      },
      produce: async (topicId, partition, acks, batches) => {
        const result = await request({ op: 'produce', topicId, partition, acks, batches })
        return 'baseOffset' in result ? result : wrongAnswer('produce')
      },
      subscribe: (place, handlers) => {
        const sub = nextId++
        subscriptions.set(sub, handlers)
        channel.send({ t: 'subscribe', sub, ...place })
        expect()
        return sub
      },
      credit: (sub, bytes) => {
        if (subscriptions.has(sub)) channel.send({ t: 'credit', sub, bytes })
      },
      unsubscribe: sub => {
        if (subscriptions.delete(sub)) channel.send({ t: 'unsubscribe', sub })
      },
      close: () => channel.close(CLOSE.normal, ''),
    }
  }

  function wrongAnswer(op: string): never {
    const error = new TributaryError('protocol_error', `the hub answered ${op} with something else`)
    channel.fail(error)
    throw error
  }

  return promise
}

import type { Logger } from 'pino'
import type { ChannelClosed } from '../../../common/channel.ts'
import type { HubLimitsConfig } from '../../../common/config-hub.ts'
import type { Clock, Link } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { Intake } from '../../../common/intake.ts'
import { createIntake } from '../../../common/intake.ts'
import type { AcceptedChannel, ChannelFrame } from '../../../common/session.ts'
import { acceptChannel } from '../../../common/session.ts'
import type { HelloFrame, RequestFrame, SubscribeFrame } from '../../../common/wire.ts'
import type { Ports } from '../../ports.ts'
import { answer } from './requests.ts'
import type { StreamCounters, Streams } from './streams.ts'
import { createStreams } from './streams.ts'

/** Subscriptions of one connection: several topics of the most partitions that are sensible. */
const MAX_SUBSCRIPTIONS_PER_CONNECTION = 10_000
/** Requests under way for one connection; at the bound it is not read. */
const MAX_REQUESTS_PER_CONNECTION = 256

export interface SubscribeDeps {
  ports: Ports
  env: { clock: Clock }
  log: Logger
  limits: Pick<
    HubLimitsConfig,
    | 'maxFrameBytes'
    | 'maxInflightBytesPerConnection'
    | 'readBytesPerConnection'
    | 'heartbeatMs'
    | 'deadMs'
    | 'helloTimeoutMs'
  >
  /** Shared by all connections of the endpoint. */
  counters: SubscribeCounters
}

/** Since the process started, but for `open` and `subscriptions`, which are of now. */
export interface SubscribeCounters extends StreamCounters {
  connections: number
  open: number
  requests: number
  requestErrors: number
  producedBytes: number
  /** Times that a connection had too many requests under way and was not read. */
  paused: number
  /** Connections ended for what the client sent. */
  failed: number
}

export function createSubscribeCounters(): SubscribeCounters {
  return {
    connections: 0,
    open: 0,
    subscriptions: 0,
    recordsFrames: 0,
    recordsBytes: 0,
    creditUsedUp: 0,
    socketFull: 0,
    requests: 0,
    requestErrors: 0,
    producedBytes: 0,
    paused: 0,
    failed: 0,
  }
}

/** One client's connection. */
export interface SubscribeSession {
  /** Takes no more requests, answers those under way and closes with `goingAway`. Resolves when closed. */
  close(): Promise<void>
  /** Ends the connection at once, so that the client goes on with another node. */
  sendAway(reason: string): void
}

/** Serves one client on a link that was opened at SUBSCRIBE_PATH; see common/wire.ts for what is said on it. */
export function acceptSubscriber(link: Link, deps: SubscribeDeps): SubscribeSession {
  return new Subscriber(link, deps)
}

class Subscriber implements SubscribeSession {
  private readonly deps: SubscribeDeps
  private readonly channel: AcceptedChannel
  private readonly streams: Streams
  private readonly intake: Intake

  constructor(link: Link, deps: SubscribeDeps) {
    const { clock } = deps.env
    this.deps = deps
    deps.counters.connections++
    deps.counters.open++
    this.channel = acceptChannel(link, {
      clock,
      frames: 'client',
      heartbeatMs: deps.limits.heartbeatMs,
      deadMs: deps.limits.deadMs,
      maxFrameBytes: deps.limits.maxFrameBytes,
      helloTimeoutMs: deps.limits.helloTimeoutMs,
      hello: hello => this.hello(hello),
      frame: frame => this.frame(frame),
      drain: () => this.streams.drained(),
      closed: closed => this.closed(closed),
    })
    this.intake = createIntake({
      clock,
      channel: this.channel,
      maxBytes: deps.limits.maxInflightBytesPerConnection,
      maxCount: MAX_REQUESTS_PER_CONNECTION,
      paused: () => {
        deps.counters.paused++
      },
      leaving: () => {},
    })
    this.streams = createStreams({
      logs: deps.ports.logs,
      counters: deps.counters,
      readBytesPerConnection: deps.limits.readBytesPerConnection,
      send: this.channel.send,
      bufferedBytes: this.channel.bufferedBytes,
      soon: callback => clock.soon(callback),
      failed: error => this.failed(error),
    })
  }

  close(): Promise<void> {
    this.streams.stop()
    return this.intake.drain()
  }

  sendAway(reason: string): void {
    this.channel.fail(new TributaryError('not_available', `this node can't serve (${reason}): go to another`))
  }

  /** Where another node may reach the leader that this one does not. */
  private failed(error: { message: string; details?: Readonly<Record<string, unknown>> }): void {
    if (error.details?.elsewhere === true && this.deps.ports.addresses().length > 0)
      this.sendAway(error.message)
  }

  private hello(hello: HelloFrame): void {
    const { ports } = this.deps
    const reason = ports.notReadyReason()
    if (hello.edge !== undefined) {
      this.channel.fail(
        new TributaryError('protocol_error', 'hello.edge is for /v1/uplink: clients have none'),
      )
    } else if (reason !== null) {
      this.channel.fail(new TributaryError('not_available', `not ready: ${reason}`))
    } else {
      const nodes = ports.addresses()
      this.channel.welcome({
        clusterId: ports.clusterId,
        nodeId: ports.nodeId,
        ...(nodes.length === 0 ? {} : { nodes }),
      })
    }
  }

  private frame(frame: ChannelFrame<'client'>): void {
    if (this.intake.isDraining()) return
    switch (frame.t) {
      case 'credit':
        this.streams.credit(frame.sub, frame.bytes)
        return
      case 'subscribe':
        this.subscribe(frame)
        return
      case 'unsubscribe':
        this.streams.remove(frame.sub)
        return
      case 'request':
        void this.request(frame)
        return
      case 'error':
        this.deps.log.warn({ remote: this.channel.remote, ...frame }, 'a client reports an error')
    }
  }

  private subscribe(frame: SubscribeFrame): void {
    if (this.streams.has(frame.sub)) {
      throw new TributaryError('protocol_error', `subscribe.sub ${frame.sub} is in use: choose another`)
    }
    if (this.streams.count() >= MAX_SUBSCRIPTIONS_PER_CONNECTION) {
      const message = `at most ${MAX_SUBSCRIPTIONS_PER_CONNECTION} subscriptions on a connection: open another`
      this.channel.send({ t: 'ended', sub: frame.sub, code: 'limit_exceeded', message })
      return
    }
    this.streams.add(frame)
  }

  private async request(request: RequestFrame): Promise<void> {
    const { counters, ports } = this.deps
    const costBytes = request.op === 'produce' ? request.batches.length : 0
    counters.requests++
    counters.producedBytes += costBytes
    this.intake.began(costBytes)
    const response = await answer(ports, request)
    this.channel.send(response)
    this.intake.done(costBytes)
    if (response.error !== undefined) {
      counters.requestErrors++
      this.failed(response.error)
    }
  }

  private closed(closed: ChannelClosed): void {
    const { counters, log } = this.deps
    this.streams.stop()
    counters.open--
    const code = closed.error?.code
    if (code === 'protocol_error' || code === 'frame_too_large' || code === 'limit_exceeded')
      counters.failed++
    log.debug(
      { remote: this.channel.remote, code: closed.code, error: closed.error?.message },
      'client disconnected',
    )
    this.intake.closed()
  }
}

import type { Logger } from 'pino'
import type { ChannelClosed } from '../../../common/channel.ts'
import type { HubLimitsConfig } from '../../../common/config-hub.ts'
import type { Clock, Link } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { Intake } from '../../../common/intake.ts'
import { createIntake } from '../../../common/intake.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { AcceptedChannel, ChannelFrame } from '../../../common/session.ts'
import { acceptChannel, toTributaryError } from '../../../common/session.ts'
import type { HelloFrame, ReportFrame } from '../../../common/wire.ts'
import type { Ports } from '../../ports.ts'
import type { Lane, LaneFrame } from './lane.ts'
import { createLane, frameCost } from './lane.ts'

/** Log handles of one connection. Lanes beyond it are refused `limit_exceeded`. */
const MAX_LOGS_PER_CONNECTION = 8_192
/** What an edge is told to wait after a refusal that may pass. */
const THROTTLE_MS = { not_available: SECOND_MS, disk_full: 5 * SECOND_MS } as const

export type UplinkLimits = Pick<
  HubLimitsConfig,
  'maxFrameBytes' | 'maxInflightBytesPerConnection' | 'heartbeatMs' | 'deadMs' | 'helloTimeoutMs'
>

export interface UplinkDeps {
  ports: Ports
  env: { clock: Clock }
  log: Logger
  limits: UplinkLimits
  /** Shared by all connections of the endpoint. */
  counters: UplinkCounters
}

/** Since the process started. */
export interface UplinkCounters {
  connections: number
  /** Connections now. */
  open: number
  appends: number
  appendBytes: number
  refused: number
  throttled: number
  /** Times that a connection had too much in flight and was not read. */
  paused: number
  /** Connections ended for what the edge sent. */
  failed: number
  fenced: number
}

export function createUplinkCounters(): UplinkCounters {
  return {
    connections: 0,
    open: 0,
    appends: 0,
    appendBytes: 0,
    refused: 0,
    throttled: 0,
    paused: 0,
    failed: 0,
    fenced: 0,
  }
}

/** One edge's connection. */
export interface UplinkSession {
  /** Takes no more frames, waits for the appends under way, acks them and closes with `goingAway`. Resolves when closed. */
  close(): Promise<void>
  /** Ends the connection at once, so that the edge goes on with another node. */
  sendAway(reason: string): void
}

/** Serves one edge on a link that was opened at UPLINK_PATH; see common/wire.ts for what is said on it. */
export function acceptUplink(link: Link, deps: UplinkDeps): UplinkSession {
  return new Uplink(link, deps)
}

/** Other nodes that the edge may go to; nothing where there are none. */
function nodesOf(ports: Ports): { nodes?: string[] } {
  const nodes = ports.addresses()
  return nodes.length === 0 ? {} : { nodes }
}

class Uplink implements UplinkSession {
  private readonly deps: UplinkDeps
  private readonly channel: AcceptedChannel
  private readonly lanes = new Map<number, Lane>()
  private readonly moved = new Set<Lane>()
  /** What came between `start` and its being recorded. */
  private readonly early: LaneFrame[] = []
  private readonly intake: Intake
  private edgeId = ''
  private session = 0
  private state: 'hello' | 'granted' | 'starting' | 'started' | 'closed' = 'hello'

  constructor(link: Link, deps: UplinkDeps) {
    this.deps = deps
    deps.counters.connections++
    deps.counters.open++
    this.channel = acceptChannel(link, {
      clock: deps.env.clock,
      frames: 'edge',
      heartbeatMs: deps.limits.heartbeatMs,
      deadMs: deps.limits.deadMs,
      maxFrameBytes: deps.limits.maxFrameBytes,
      helloTimeoutMs: deps.limits.helloTimeoutMs,
      hello: hello => void this.hello(hello),
      frame: frame => this.frame(frame),
      drain: () => {},
      closed: closed => this.closed(closed),
    })
    this.intake = createIntake({
      clock: deps.env.clock,
      channel: this.channel,
      maxBytes: deps.limits.maxInflightBytesPerConnection,
      maxCount: Number.POSITIVE_INFINITY,
      paused: () => {
        deps.counters.paused++
      },
      leaving: () => this.ackMoved(),
    })
  }

  close(): Promise<void> {
    return this.intake.drain()
  }

  sendAway(reason: string): void {
    this.channel.fail(new TributaryError('not_available', `this node can't serve (${reason}): go to another`))
  }

  // ------------------------------------------------------------------------------------------ handshake

  private async hello(hello: HelloFrame): Promise<void> {
    const { ports, log } = this.deps
    const { edge } = hello
    const reason = ports.notReadyReason()
    if (edge === undefined) {
      return this.channel.fail(
        new TributaryError('protocol_error', 'hello.edge is missing: clients use /v1/subscribe'),
      )
    }
    if (reason !== null) return this.channel.fail(new TributaryError('not_available', `not ready: ${reason}`))
    try {
      const granted = await ports.fleet.connect({
        id: edge.id,
        session: edge.session,
        address: this.channel.remote,
        software: hello.software,
        nowMs: edge.nowMs,
        isWanted: () => this.state === 'hello',
        fence: () => this.fence(),
      })
      this.edgeId = edge.id
      this.session = granted.session
      if (this.state !== 'hello') return ports.fleet.disconnect(edge.id, granted.session)
      this.state = 'granted'
      this.channel.welcome({
        clusterId: ports.clusterId,
        nodeId: ports.nodeId,
        ...nodesOf(ports),
        edge: granted,
      })
      log.info({ edge: edge.id, remote: this.channel.remote, ...granted }, 'edge connected')
    } catch (error) {
      this.channel.fail(toTributaryError(error))
    }
  }

  private fence(): void {
    this.deps.counters.fenced++
    this.channel.fail(new TributaryError('fenced', 'a newer connection of this edge took over'))
    this.stopLanes()
  }

  private async start(session: number): Promise<void> {
    if (this.state !== 'granted' || session !== this.session) {
      throw new TributaryError(
        'protocol_error',
        `start.session must be ${this.session}, once, but is ${session}`,
      )
    }
    this.state = 'starting'
    try {
      await this.deps.ports.fleet.start(this.edgeId, session)
    } catch (error) {
      return this.channel.fail(toTributaryError(error))
    }
    // Closing may have begun meanwhile.
    if (this.state !== 'starting') return
    this.state = 'started'
    try {
      for (const frame of this.early.splice(0)) this.push(frame)
    } catch (error) {
      this.channel.fail(toTributaryError(error))
    }
  }

  // --------------------------------------------------------------------------------------------- frames

  private frame(frame: ChannelFrame<'edge'>): void {
    if (this.intake.isDraining()) return
    switch (frame.t) {
      case 'start':
        void this.start(frame.session).catch((error: unknown) => this.channel.fail(toTributaryError(error)))
        return
      case 'report':
        this.report(frame)
        return
      case 'error':
        this.deps.log.warn({ edge: this.edgeId, ...frame }, 'the edge reports an error')
        return
      default:
        this.laneFrame(frame)
    }
  }

  private laneFrame(frame: LaneFrame): void {
    if (this.state !== 'starting' && this.state !== 'started') {
      throw new TributaryError(
        'protocol_error',
        `${frame.t} came before start: send the session number first`,
      )
    }
    this.intake.began(frameCost(frame))
    if (this.state === 'starting') this.early.push(frame)
    else this.push(frame)
  }

  private push(frame: LaneFrame): void {
    let lane = this.lanes.get(frame.log)
    if (lane === undefined) {
      if (frame.t !== 'open') {
        throw new TributaryError(
          'protocol_error',
          `${frame.t}.log ${frame.log} was never opened on this connection`,
        )
      }
      if (this.lanes.size >= MAX_LOGS_PER_CONNECTION) {
        throw new TributaryError(
          'limit_exceeded',
          `at most ${MAX_LOGS_PER_CONNECTION} logs may be open on a connection`,
        )
      }
      lane = this.newLane(frame.log)
      this.lanes.set(frame.log, lane)
    }
    if (frame.t === 'append') {
      this.deps.counters.appends++
      this.deps.counters.appendBytes += frame.batches.length
    }
    lane.push(frame)
  }

  private newLane(handle: number): Lane {
    const { ports, limits } = this.deps
    const host = {
      ports,
      edgeId: this.edgeId,
      maxFrameBytes: limits.maxFrameBytes,
      send: this.channel.send,
      release: this.intake.done,
      moved: (lane: Lane) => this.ackSoon(lane),
      refused: (error: TributaryError) => this.refused(error),
    }
    return createLane(host, handle)
  }

  private report(report: ReportFrame): void {
    if (this.state === 'hello') return
    const { diskBytes, diskBudgetBytes, lanes } = report
    const atMs = Math.floor(this.deps.env.clock.nowMs())
    const { fleet } = this.deps.ports
    fleet.report(this.edgeId, this.session, { atMs, diskBytes, diskBudgetBytes, lanes }, report.nowMs - atMs)
  }

  // ------------------------------------------------------------------------------------ what lanes report

  /** One ack a lane and turn of the event loop: everything that one commit made durable is told at once. */
  private ackSoon(lane: Lane): void {
    if (this.moved.size === 0) this.deps.env.clock.soon(() => this.ackMoved())
    this.moved.add(lane)
  }

  private ackMoved(): void {
    for (const lane of this.moved) lane.ack()
    this.moved.clear()
  }

  private refused(error: TributaryError): void {
    const { counters, log } = this.deps
    counters.refused++
    log.info({ edge: this.edgeId, code: error.code, err: error.cause }, `refused: ${error.message}`)
    if (error.code === 'fenced' || error.code === 'disk_failed' || error.code === 'closed') {
      this.channel.fail(error)
      return
    }
    if (error.details.elsewhere === true && this.deps.ports.addresses().length > 0) {
      this.sendAway(error.message)
      return
    }
    // Where a leader is awaited the answer to the next `open` comes when there is one: no need to keep the other logs waiting.
    if (!error.retriable || 'leader' in error.details) return
    counters.throttled++
    const delayMs = error.code === 'disk_full' ? THROTTLE_MS.disk_full : THROTTLE_MS.not_available
    this.channel.send({ t: 'throttle', delayMs })
  }

  // --------------------------------------------------------------------------------------------- closing

  private stopLanes(): void {
    for (const lane of this.lanes.values()) lane.stop()
  }

  private closed(closed: ChannelClosed): void {
    const { counters, log, ports } = this.deps
    const granted = this.session !== 0
    this.state = 'closed'
    this.stopLanes()
    counters.open--
    const code = closed.error?.code
    if (code === 'protocol_error' || code === 'frame_too_large' || code === 'limit_exceeded')
      counters.failed++
    if (granted) ports.fleet.disconnect(this.edgeId, this.session)
    log.info(
      { edge: this.edgeId, remote: this.channel.remote, code: closed.code, error: closed.error?.message },
      'edge disconnected',
    )
    this.intake.closed()
  }
}

import { AssertionFailure } from './assert.ts'
import type { Clock, Link, LinkClosed, Timer } from './env.ts'
import type { ErrorCode } from './errors.ts'
import { messageOf, TributaryError } from './errors.ts'
import { DEAD_MS, HEARTBEAT_MS, MAX_FRAME_BYTES, MIB, SECOND_MS } from './limits.ts'
import type { ErrorFrame, Frame, HelloFrame, PingFrame, PongFrame, WelcomeFrame } from './wire.ts'
import { CLOSE, PROTOCOL_MAX, PROTOCOL_MIN } from './wire.ts'
import type { ExpectedFrames } from './wire-codec.ts'
import { decodeFrame, encodeFrame } from './wire-codec.ts'

/**
 * What every connection of ours does, at either end: hello and welcome, heartbeats, finding the other end dead, errors and
 * closing in order. The decisions (`negotiate`, `createHeartbeat`) are pure; `acceptChannel` and `dialChannel` are the shell.
 */

/** Time that a dialler has for `hello`, and a hub for `welcome`. */
export const HANDSHAKE_TIMEOUT_MS = 15 * SECOND_MS
/** Time the other end has to finish the closing handshake before the connection is cut. */
export const CLOSE_TIMEOUT_MS = 5 * SECOND_MS
/** A peer that reads this much too slowly is cut off; senders of bulk stop far below. */
const MAX_UNREAD_BYTES = 96 * MIB

/** The highest protocol version both speak; throws `unsupported_version` saying which we do. */
export function negotiate(hello: Pick<HelloFrame, 'min' | 'max'>): number {
  const version = Math.min(hello.max, PROTOCOL_MAX)
  if (version >= Math.max(hello.min, PROTOCOL_MIN)) return version
  throw new TributaryError(
    'unsupported_version',
    `this hub speaks protocol ${PROTOCOL_MIN} to ${PROTOCOL_MAX}, the dialler ${hello.min} to ${hello.max}: ` +
      `update ${hello.max < PROTOCOL_MIN ? 'the dialler' : 'the hub'}`,
    { details: { min: PROTOCOL_MIN, max: PROTOCOL_MAX } },
  )
}

/** Decides when to send a ping and when the other end is dead. Times are monotonic milliseconds. */
export interface Heartbeat {
  sent(nowMs: number): void
  received(nowMs: number): void
  /** While we do not read, the other end cannot be heard and is not called dead. */
  suspend(): void
  resume(nowMs: number): void
  /** What is due now, and when to ask again at the latest. */
  due(nowMs: number): { action: 'none' | 'ping' | 'dead'; nextMs: number }
}

/**
 * A side pings when it has *sent* nothing for `heartbeatMs`, so the other hears from it that often at least, also while it reads
 * nothing; a side that has *received* nothing for `deadMs` gives up.
 */
export function createHeartbeat(limits: { heartbeatMs: number; deadMs: number }, startMs: number): Heartbeat {
  let sentMs = startMs
  let receivedMs = startMs
  let suspended = false
  return {
    sent: nowMs => {
      sentMs = nowMs
    },
    received: nowMs => {
      receivedMs = nowMs
    },
    suspend: () => {
      suspended = true
    },
    resume: nowMs => {
      suspended = false
      receivedMs = nowMs
    },
    due: nowMs => {
      const deadAtMs = suspended ? Number.POSITIVE_INFINITY : receivedMs + limits.deadMs
      if (nowMs >= deadAtMs) return { action: 'dead', nextMs: nowMs }
      const pingAtMs = sentMs + limits.heartbeatMs
      if (nowMs >= pingAtMs) return { action: 'ping', nextMs: Math.min(deadAtMs, nowMs + limits.heartbeatMs) }
      return { action: 'none', nextMs: Math.min(deadAtMs, pingAtMs) }
    },
  }
}

/** How a channel ended. `error` says why where either side said so or the other end went silent; null after an orderly close. */
export interface ChannelClosed extends LinkClosed {
  error: TributaryError | null
}

/** Frames that a channel hands on: all but its own. */
export type ChannelFrame<E extends 'edge' | 'client' | 'uplink-hub' | 'client-hub'> = Exclude<
  ExpectedFrames[E],
  PingFrame | PongFrame | WelcomeFrame
>

/** A connection that speaks frames. */
export interface Channel {
  readonly remote: string
  /** False when more than the link's high-water mark waits to be sent: go on after `drain`. Nothing is sent once closing. */
  send(frame: Frame): boolean
  bufferedBytes(): number
  /** Stops and resumes reading. */
  pause(): void
  resume(): void
  /** Tells the other end a fatal error and closes. */
  fail(error: TributaryError): void
  /** Closes in order: what was sent goes out first. */
  close(code: number, reason: string): void
  /** False from the moment that either side began to close. */
  isOpen(): boolean
}

interface ChannelHandlers<F> {
  frame(frame: F): void
  drain(): void
  /** Called once, whatever the end. */
  closed(closed: ChannelClosed): void
}

export interface AcceptOptions<E extends 'edge' | 'client'> extends ChannelHandlers<ChannelFrame<E>> {
  clock: Clock
  frames: E
  heartbeatMs?: number
  deadMs?: number
  maxFrameBytes?: number
  helloTimeoutMs?: number
  /** The dialler's hello, of a version that we speak. Answer by `welcome`, at once or later; frames that come before are an error. */
  hello(hello: HelloFrame): void
}

export interface AcceptedChannel extends Channel {
  welcome(node: Pick<WelcomeFrame, 'clusterId' | 'nodeId' | 'edge'>): void
}

/** The hub's end of a connection. */
export function acceptChannel<E extends 'edge' | 'client'>(
  link: Link,
  options: AcceptOptions<E>,
): AcceptedChannel {
  const heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS
  const deadMs = options.deadMs ?? DEAD_MS
  const maxFrameBytes = options.maxFrameBytes ?? MAX_FRAME_BYTES
  let state: 'hello' | 'welcome' | 'open' = 'hello'
  let protocol = 0

  const core = openCore(link, options.clock, maxFrameBytes, {
    message: data => {
      if (state === 'hello') {
        const hello = decodeFrame(data, 'hello')
        if (hello.t === 'error') return core.peerError(hello)
        protocol = negotiate(hello)
        state = 'welcome'
        return options.hello(hello)
      }
      const frame: ExpectedFrames[E] = decodeFrame(data, options.frames)
      if (core.handled(frame)) return
      if (state !== 'open') {
        throw new TributaryError('protocol_error', `${frame.t} came before the welcome: wait for it`)
      }
      if (isOwn(frame)) options.frame(frame)
    },
    drain: options.drain,
    closed: options.closed,
  })
  core.expectWithin(options.helloTimeoutMs ?? HANDSHAKE_TIMEOUT_MS, 'no hello came')

  return {
    ...core.channel,
    welcome: node => {
      if (!core.channel.isOpen()) return
      state = 'open'
      const nowMs = Math.floor(options.clock.nowMs())
      core.channel.send({ t: 'welcome', protocol, ...node, nowMs, maxFrameBytes, heartbeatMs, deadMs })
      core.startHeartbeat({ heartbeatMs, deadMs })
    },
  }
}

export interface DialChannelOptions<E extends 'uplink-hub' | 'client-hub'>
  extends ChannelHandlers<ChannelFrame<E>> {
  clock: Clock
  frames: E
  /** `min` and `max` are filled in. */
  hello: Pick<HelloFrame, 'software' | 'edge'>
  maxFrameBytes?: number
  /** Pings at least so often, whatever the hub asks for; and so patient, if the hub's own pings allow it. Default: as the hub says. */
  heartbeat?: { heartbeatMs: number; deadMs: number }
  /** The handshake is done. */
  welcome(welcome: WelcomeFrame): void
}

/** The dialler's wishes as far as the hub's own rhythm allows: it is not dead before it had to speak twice. */
function dialledHeartbeat(
  wanted: { heartbeatMs: number; deadMs: number },
  hub: { heartbeatMs: number; deadMs: number },
): { heartbeatMs: number; deadMs: number } {
  return {
    heartbeatMs: Math.min(wanted.heartbeatMs, hub.heartbeatMs),
    deadMs: Math.max(wanted.deadMs, 2 * hub.heartbeatMs),
  }
}

/** The dialler's end of a connection: sends hello at once. */
export function dialChannel<E extends 'uplink-hub' | 'client-hub'>(
  link: Link,
  options: DialChannelOptions<E>,
): Channel {
  let welcomed = false
  const core = openCore(link, options.clock, options.maxFrameBytes ?? MAX_FRAME_BYTES, {
    message: data => {
      const frame: ExpectedFrames[E] = decodeFrame(data, options.frames)
      if (core.handled(frame)) return
      if (frame.t === 'welcome') {
        if (welcomed) throw new TributaryError('protocol_error', 'welcome came twice')
        if (frame.protocol < PROTOCOL_MIN || frame.protocol > PROTOCOL_MAX) {
          throw new TributaryError(
            'unsupported_version',
            `the hub chose protocol ${frame.protocol}, which was not offered`,
          )
        }
        welcomed = true
        core.startHeartbeat(dialledHeartbeat(options.heartbeat ?? frame, frame))
        return options.welcome(frame)
      }
      if (!welcomed) throw new TributaryError('protocol_error', `${frame.t} came before welcome`)
      if (isOwn(frame)) options.frame(frame)
    },
    drain: options.drain,
    closed: options.closed,
  })
  core.expectWithin(HANDSHAKE_TIMEOUT_MS, 'the hub sent no welcome')
  core.channel.send({ t: 'hello', min: PROTOCOL_MIN, max: PROTOCOL_MAX, ...options.hello })
  return core.channel
}

function isOwn<F extends Frame>(frame: F): frame is Exclude<F, PingFrame | PongFrame | WelcomeFrame> {
  return frame.t !== 'ping' && frame.t !== 'pong' && frame.t !== 'welcome'
}

interface Core {
  channel: Channel
  /** Ends the connection with `timeout` unless `startHeartbeat` comes first. */
  expectWithin(timeoutMs: number, what: string): void
  startHeartbeat(limits: { heartbeatMs: number; deadMs: number }): void
  /** Takes pings, pongs and fatal errors; true where the frame was one of those. */
  handled(frame: Frame): boolean
  peerError(frame: ErrorFrame): void
}

interface CoreHandlers {
  /** May throw a TributaryError: the connection fails with it. */
  message(data: Uint8Array): void
  drain(): void
  closed(closed: ChannelClosed): void
}

function openCore(link: Link, clock: Clock, maxFrameBytes: number, handlers: CoreHandlers): Core {
  let open = true
  let ended = false
  let reason: TributaryError | null = null
  let heartbeat: Heartbeat | null = null
  let timer: Timer | null = null

  const arm = (callback: () => void, delayMs: number): void => {
    timer?.cancel()
    timer = clock.setTimer(callback, Math.max(1, delayMs))
  }

  const send = (frame: Frame): boolean => {
    if (!open) return false
    heartbeat?.sent(clock.monotonicMs())
    const roomy = link.send(encodeFrame(frame))
    if (link.bufferedBytes() > MAX_UNREAD_BYTES) {
      reason ??= new TributaryError(
        'limit_exceeded',
        `the other end reads too slowly: ${MAX_UNREAD_BYTES} bytes wait`,
      )
      open = false
      link.terminate()
    }
    return roomy
  }

  const shut = (code: number, text: string): void => {
    if (!open) return
    open = false
    link.resume()
    link.close(code, text.slice(0, 40))
    if (!ended) arm(() => link.terminate(), CLOSE_TIMEOUT_MS)
  }

  const fail = (error: TributaryError): void => {
    if (!open) return
    reason ??= error
    send({ t: 'error', code: error.code, message: error.message, fatal: true })
    shut(closeCode(error.code), error.code)
  }

  const beat = (): void => {
    if (heartbeat === null || !open) return
    const { action, nextMs } = heartbeat.due(clock.monotonicMs())
    if (action === 'dead') {
      reason ??= new TributaryError('timeout', 'nothing came from the other end for too long: taken for dead')
      open = false
      link.terminate()
      return
    }
    if (action === 'ping') send({ t: 'ping', nowMs: Math.floor(clock.nowMs()) })
    arm(beat, nextMs - clock.monotonicMs())
  }

  const peerError = (frame: ErrorFrame): void => {
    reason ??= new TributaryError(frame.code, frame.message)
    shut(CLOSE.normal, frame.code)
  }

  link.handle({
    message: data => {
      if (!open) return
      heartbeat?.received(clock.monotonicMs())
      try {
        if (data.length > maxFrameBytes) {
          throw new TributaryError(
            'frame_too_large',
            `a frame of ${data.length} bytes; at most ${maxFrameBytes}`,
          )
        }
        handlers.message(data)
      } catch (error) {
        // A broken invariant of ours is not the peer's doing and must not be swallowed here.
        if (!(error instanceof TributaryError)) throw error
        fail(error)
      }
    },
    drain: () => {
      if (open) handlers.drain()
    },
    close: closed => {
      if (ended) return
      open = false
      ended = true
      timer?.cancel()
      handlers.closed({ ...closed, error: reason ?? closeError(closed) })
    },
  })

  return {
    channel: {
      remote: link.remote,
      send,
      bufferedBytes: () => link.bufferedBytes(),
      pause: () => {
        heartbeat?.suspend()
        link.pause()
      },
      resume: () => {
        heartbeat?.resume(clock.monotonicMs())
        link.resume()
      },
      fail,
      close: shut,
      isOpen: () => open,
    },
    expectWithin: (timeoutMs, what) =>
      arm(() => fail(new TributaryError('timeout', `${what} within ${timeoutMs} ms`)), timeoutMs),
    startHeartbeat: limits => {
      heartbeat = createHeartbeat(limits, clock.monotonicMs())
      arm(beat, limits.heartbeatMs)
    },
    handled: frame => {
      if (frame.t === 'ping') send({ t: 'pong', echoMs: frame.nowMs, nowMs: Math.floor(clock.nowMs()) })
      if (frame.t === 'error' && frame.fatal) peerError(frame)
      return frame.t === 'ping' || frame.t === 'pong' || (frame.t === 'error' && frame.fatal)
    },
    peerError,
  }
}

/** The close code that goes with a fatal error. */
function closeCode(code: ErrorCode): number {
  switch (code) {
    case 'protocol_error':
    case 'unsupported_version':
    case 'frame_too_large':
      return CLOSE.protocolError
    case 'unauthorized':
      return CLOSE.unauthorized
    case 'fenced':
      return CLOSE.fenced
    case 'limit_exceeded':
    case 'throttled':
      return CLOSE.limit
    case 'closed':
    case 'not_available':
      return CLOSE.goingAway
    default:
      return CLOSE.failed
  }
}

/** What a close without an error frame means; null for an orderly one. */
function closeError(closed: LinkClosed): TributaryError | null {
  const text = `the connection was closed (${closed.code}${closed.reason === '' ? '' : ` ${closed.reason}`})`
  switch (closed.code) {
    case CLOSE.normal:
      return null
    case CLOSE.protocolError:
      return new TributaryError('protocol_error', text)
    case CLOSE.unauthorized:
      return new TributaryError('unauthorized', text)
    case CLOSE.fenced:
      return new TributaryError('fenced', text)
    case CLOSE.limit:
      return new TributaryError('limit_exceeded', text)
    case 1009: // RFC 6455 section 7.4.1: message too big
      return new TributaryError('frame_too_large', text)
    default:
      return new TributaryError('not_available', text)
  }
}

/**
 * Anything thrown as a TributaryError, to tell a peer: failures without a code of ours are `not_available`, to be tried again, for
 * what is refused for good an edge takes out of its log.
 * A broken invariant is thrown on, to end the process.
 */
export function toTributaryError(error: unknown): TributaryError {
  if (error instanceof TributaryError) return error
  if (error instanceof AssertionFailure) throw error
  return new TributaryError('not_available', messageOf(error), { cause: error })
}

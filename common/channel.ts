import type { Clock, Link, LinkClosed, Timer } from './env.ts'
import type { ErrorCode } from './errors.ts'
import { TributaryError } from './errors.ts'
import { MIB, SECOND_MS } from './limits.ts'
import type { ErrorFrame, Frame, PingFrame, PongFrame } from './wire.ts'
import { CLOSE } from './wire.ts'

/**
 * A link that speaks frames, whatever its protocol: heartbeats, finding the other end dead, errors and closing in order. The
 * decisions (`createHeartbeat`) are pure; handshakes are of those who use it.
 */

/** Time the other end has to finish the closing handshake before the connection is cut. */
export const CLOSE_TIMEOUT_MS = 5 * SECOND_MS
/** A peer that reads this much too slowly is cut off; senders of bulk stop far below. */
const MAX_UNREAD_BYTES = 96 * MIB
/** A side that does not read answers no ping, and so says by itself that it is there. */
const PAUSED_PING_MS = 2 * SECOND_MS

/** When a side pings and gives up. */
export interface HeartbeatLimits {
  heartbeatMs: number
  deadMs: number
  /** While something is expected: pings when it has heard nothing for `afterMs`, gives up after `deadMs`. */
  ask?: { afterMs: number; deadMs: number }
}

/** Decides when to send a ping and when the other end is dead. Times are monotonic milliseconds. */
export interface Heartbeat {
  sent(nowMs: number): void
  received(nowMs: number): void
  /** While we do not read, the other end cannot be heard and is not called dead. */
  suspend(): void
  resume(nowMs: number): void
  /** Whether an answer is awaited: with `ask` in the limits the other end is then found dead sooner. */
  expect(isExpecting: boolean, nowMs: number): void
  /** What is due now, and when to ask again at the latest. */
  due(nowMs: number): { action: 'none' | 'ping' | 'dead'; nextMs: number }
}

/**
 * A side pings when it has *sent* nothing for `heartbeatMs`, so the other hears from it that often at least, also while it reads
 * nothing; a side that has *received* nothing for `deadMs` gives up.
 */
export function createHeartbeat(limits: HeartbeatLimits, startMs: number): Heartbeat {
  const { heartbeatMs, deadMs, ask } = limits
  let sentMs = startMs
  let receivedMs = startMs
  let askedMs = startMs
  let expectingSinceMs: number | null = null
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
    expect: (isExpecting, nowMs) => {
      if (!isExpecting) expectingSinceMs = null
      else expectingSinceMs ??= nowMs
    },
    due: nowMs => {
      const everyMs = suspended ? Math.min(heartbeatMs, PAUSED_PING_MS) : heartbeatMs
      let deadAtMs = suspended ? Number.POSITIVE_INFINITY : receivedMs + deadMs
      let pingAtMs = sentMs + everyMs
      let againMs = everyMs
      if (ask !== undefined && expectingSinceMs !== null && !suspended) {
        const silentMs = Math.max(receivedMs, expectingSinceMs)
        deadAtMs = Math.min(deadAtMs, silentMs + ask.deadMs)
        pingAtMs = Math.min(pingAtMs, Math.max(silentMs, askedMs) + ask.afterMs)
        againMs = Math.min(everyMs, ask.afterMs)
      }
      if (nowMs >= deadAtMs) return { action: 'dead', nextMs: nowMs }
      if (nowMs < pingAtMs) return { action: 'none', nextMs: Math.min(deadAtMs, pingAtMs) }
      askedMs = nowMs
      return { action: 'ping', nextMs: Math.min(deadAtMs, nowMs + againMs) }
    },
  }
}

/** How a channel ended. `error` says why where either side said so or the other end went silent; null after an orderly close. */
export interface ChannelClosed extends LinkClosed {
  error: TributaryError | null
}

/** A connection that speaks frames. */
export interface Channel<F = Frame> {
  readonly remote: string
  /** False when more than the link's high-water mark waits to be sent: go on after `drain`. Nothing is sent once closing. */
  send(frame: F): boolean
  bufferedBytes(): number
  /** Stops and resumes reading. */
  pause(): void
  resume(): void
  /** Whether an answer is awaited, see HeartbeatLimits.ask. */
  expect(isExpecting: boolean): void
  /** Tells the other end a fatal error and closes. */
  fail(error: TributaryError): void
  /** Closes in order: what was sent goes out first. */
  close(code: number, reason: string): void
  /** False from the moment that either side began to close. */
  isOpen(): boolean
}

/** Frames of every protocol of ours. */
export type CommonFrame = PingFrame | PongFrame | ErrorFrame

function isCommon(frame: { t: string }): frame is CommonFrame {
  return frame.t === 'ping' || frame.t === 'pong' || frame.t === 'error'
}

/** What handshakes are made with. */
export interface ChannelCore<F> {
  channel: Channel<F>
  /** Ends the connection with `timeout` unless `startHeartbeat` comes first. */
  expectWithin(timeoutMs: number, what: string): void
  startHeartbeat(limits: HeartbeatLimits): void
  /** Takes pings, pongs and fatal errors; true where the frame was one of those. */
  handled(frame: F | CommonFrame): boolean
  peerError(frame: ErrorFrame): void
}

export interface CoreHandlers<F> {
  encode(frame: F | CommonFrame): Uint8Array
  /** May throw a TributaryError: the connection fails with it. */
  message(data: Uint8Array): void
  drain(): void
  closed(closed: ChannelClosed): void
}

/** A channel over `link`, before any handshake. */
export function openChannel<F extends { t: string }>(
  link: Link,
  clock: Clock,
  maxFrameBytes: number,
  handlers: CoreHandlers<F>,
): ChannelCore<F> {
  let open = true
  let ended = false
  let reason: TributaryError | null = null
  let heartbeat: Heartbeat | null = null
  let timer: Timer | null = null

  const arm = (callback: () => void, delayMs: number): void => {
    timer?.cancel()
    timer = clock.setTimer(callback, Math.max(1, delayMs))
  }

  const send = (frame: F | CommonFrame): boolean => {
    if (!open) return false
    heartbeat?.sent(clock.monotonicMs())
    const roomy = link.send(handlers.encode(frame))
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
      // A process that was held up itself reads what came meanwhile before it judges.
      clock.soon(judge)
      return
    }
    if (action === 'ping') send({ t: 'ping', nowMs: Math.floor(clock.nowMs()) })
    arm(beat, nextMs - clock.monotonicMs())
  }

  const judge = (): void => {
    if (heartbeat === null || !open) return
    if (heartbeat.due(clock.monotonicMs()).action !== 'dead') {
      beat()
      return
    }
    reason ??= new TributaryError('timeout', 'nothing came from the other end for too long: taken for dead')
    open = false
    link.terminate()
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
        beat()
      },
      expect: isExpecting => {
        heartbeat?.expect(isExpecting, clock.monotonicMs())
        if (isExpecting) beat()
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
      if (!isCommon(frame)) return false
      if (frame.t === 'ping') send({ t: 'pong', echoMs: frame.nowMs, nowMs: Math.floor(clock.nowMs()) })
      if (frame.t !== 'error') return true
      if (frame.fatal) peerError(frame)
      return frame.fatal
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

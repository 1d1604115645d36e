import { AssertionFailure } from './assert.ts'
import type { Channel, ChannelClosed } from './channel.ts'
import { openChannel } from './channel.ts'
import type { Clock, Link } from './env.ts'
import { messageOf, TributaryError } from './errors.ts'
import { DEAD_MS, HEARTBEAT_MS, MAX_FRAME_BYTES, SECOND_MS } from './limits.ts'
import type { Frame, HelloFrame, PingFrame, PongFrame, WelcomeFrame } from './wire.ts'
import { PROTOCOL_MAX, PROTOCOL_MIN } from './wire.ts'
import type { ExpectedFrames } from './wire-codec.ts'
import { decodeFrame, encodeFrame } from './wire-codec.ts'

/** How edges and clients come to a hub: hello, welcome, and then frames over a channel. */

/** Time that a dialler has for `hello`, and a hub for `welcome`. */
export const HANDSHAKE_TIMEOUT_MS = 15 * SECOND_MS

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

/** Frames that a channel hands on: all but its own. */
export type ChannelFrame<E extends 'edge' | 'client' | 'uplink-hub' | 'client-hub'> = Exclude<
  ExpectedFrames[E],
  PingFrame | PongFrame | WelcomeFrame
>

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
  welcome(node: Pick<WelcomeFrame, 'clusterId' | 'nodeId' | 'edge' | 'nodes'>): void
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

  const core = openChannel<Frame>(link, options.clock, maxFrameBytes, {
    encode: encodeFrame,
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
  /** While something is expected of the hub: asks sooner, gives up sooner, for there is another to go to. */
  ask?: { afterMs: number; deadMs: number }
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
  const core = openChannel<Frame>(link, options.clock, options.maxFrameBytes ?? MAX_FRAME_BYTES, {
    encode: encodeFrame,
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
        const ask = options.ask === undefined ? {} : { ask: options.ask }
        core.startHeartbeat({ ...dialledHeartbeat(options.heartbeat ?? frame, frame), ...ask })
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

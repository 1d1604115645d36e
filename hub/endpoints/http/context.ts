import type { FastifyBaseLogger } from 'fastify'
import type { Clock, Codec } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import { MIB, SECOND_MS } from '../../../common/limits.ts'
import type { Ports } from '../../ports.ts'

/** What every route of the HTTP endpoint works with. */
export interface HttpContext {
  ports: Ports
  clock: Clock
  codec: Codec
  log: FastifyBaseLogger
  limits: HttpLimits
  /** Times that a limit has bitten, by its name; read by /metrics. */
  limitHits: Map<string, number>
  /** Bytes of request bodies and answers of range reads being worked on. */
  budget: ByteBudget
}

/** Bounds of the HTTP endpoint; defaults in HTTP_LIMITS. */
export interface HttpLimits {
  /** HTTP and WebSocket connections together. */
  maxConnections: number
  /** The largest WebSocket message. */
  maxFrameBytes: number
  /** The largest body of a produce request. */
  maxBodyBytes: number
  /** Produce bodies and range reads in progress, together. */
  maxBusyBytes: number
  /** Server-sent event streams open at once. */
  maxStreams: number
  /** A stream says at least this often that it is alive. */
  streamHeartbeatMs: number
  /** A stream whose reader takes nothing for so long is ended; it may resume where it was. */
  streamStallMs: number
  /** What `close` gives requests in progress and WebSockets to end by themselves. */
  closeGraceMs: number
}

export const HTTP_LIMITS: Readonly<HttpLimits> = {
  maxConnections: 20_000,
  maxFrameBytes: 16 * MIB,
  maxBodyBytes: 16 * MIB,
  maxBusyBytes: 128 * MIB,
  maxStreams: 256,
  streamHeartbeatMs: 15 * SECOND_MS,
  streamStallMs: 300 * SECOND_MS,
  closeGraceMs: 8 * SECOND_MS,
}

/** The largest batch after decompression that is shown as JSON. */
export const MAX_DECODED_BATCH_BYTES = 64 * MIB

/** Counts a limit that has bitten. */
export function countLimit(context: Pick<HttpContext, 'limitHits'>, name: string): void {
  context.limitHits.set(name, (context.limitHits.get(name) ?? 0) + 1)
}

/** Memory shared by requests in progress: whoever finds none left is told to come again. */
export interface ByteBudget {
  /** Takes `bytes`, or throws `throttled`. */
  take(bytes: number): void
  give(bytes: number): void
  usedBytes(): number
}

/** A budget of `maxBytes`; a single request over it is let in alone. */
export function createByteBudget(maxBytes: number, limitHits: Map<string, number>): ByteBudget {
  let usedBytes = 0
  return {
    take: bytes => {
      if (usedBytes > 0 && usedBytes + bytes > maxBytes) {
        countLimit({ limitHits }, 'maxBusyBytes')
        throw new TributaryError(
          'throttled',
          `the hub is busy with ${usedBytes} bytes of other HTTP requests (maxBusyBytes ${maxBytes}): try again soon`,
        )
      }
      usedBytes += bytes
    },
    give: bytes => {
      usedBytes -= bytes
    },
    usedBytes: () => usedBytes,
  }
}

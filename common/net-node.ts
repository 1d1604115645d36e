import type { RawData } from 'ws'
import { WebSocket } from 'ws'
import type { DialOptions, Link, LinkHandlers, Net } from './env.ts'
import { messageOf, TributaryError } from './errors.ts'
import { dialProblem } from './tls.ts'

/** WebSockets as links, for both ends. */

/** `send` answers false from so many queued bytes on. */
const LINK_HIGH_WATER_BYTES = 4 * 1024 * 1024
/** `drain` is told below so many. */
const LINK_LOW_WATER_BYTES = 1024 * 1024
/** Messages that arrive before anybody handles the link are kept up to so many bytes; more closes it. */
const MAX_UNHANDLED_BYTES = 1024 * 1024

const GOING_AWAY = 1001
const UNSUPPORTED_DATA = 1003
const BROKEN = 1006
const POLICY_VIOLATION = 1008

/** Dials with `ws`; text frames are refused, compression is off (batches are compressed already). */
export function nodeNet(): Net {
  return { dial }
}

function dial(url: string, options: DialOptions): Promise<Link> {
  return new Promise((resolve, reject) => {
    let socket: WebSocket
    try {
      socket = new WebSocket(url, {
        perMessageDeflate: false,
        maxPayload: options.maxFrameBytes,
        handshakeTimeout: options.connectTimeoutMs,
        skipUTF8Validation: true,
        ...(options.caPem === undefined ? {} : { ca: options.caPem }),
        ...(options.identity === undefined
          ? {}
          : { cert: options.identity.certPem, key: options.identity.keyPem }),
        ...(options.unmasked === true ? { generateMask: zeroMask } : {}),
        ...(options.token === undefined ? {} : { headers: { authorization: `Bearer ${options.token}` } }),
      })
    } catch (error) {
      reject(
        new TributaryError('invalid_argument', `${url} is no WebSocket URL: ${messageOf(error)}`, {
          cause: error,
        }),
      )
      return
    }
    const link = wsLink(socket, url)
    socket.once('open', () => resolve(link))
    socket.once('unexpected-response', (request, response) => {
      request.destroy()
      const { statusCode = 0 } = response
      const code = statusCode === 401 || statusCode === 403 ? 'unauthorized' : 'not_available'
      const hint = code === 'unauthorized' ? ': check the token' : ''
      reject(new TributaryError(code, `${url} answered HTTP ${statusCode}${hint}`))
    })
    socket.on('error', error => {
      const timedOut = /timed? ?out/i.test(error.message)
      const what = timedOut
        ? `no answer from ${url} in ${options.connectTimeoutMs} ms`
        : `${url}: ${dialProblem(error)}`
      reject(new TributaryError(timedOut ? 'timeout' : 'not_available', what, { cause: error }))
    })
  })
}

function zeroMask(mask: Buffer): void {
  mask.fill(0)
}

/**
 * A Link over a WebSocket, open or opening. Binary messages only; a text message closes with 1003. Messages that
 * arrive before `handle` was called are kept for it.
 */
export function wsLink(socket: WebSocket, remote: string): Link {
  let handlers: LinkHandlers | undefined
  let early: Uint8Array[] = []
  let earlyBytes = 0
  let closed: { code: number; reason: string } | undefined
  let waitsForDrain = false
  socket.binaryType = 'nodebuffer'

  const deliver = (data: Uint8Array): void => {
    if (handlers !== undefined) {
      handlers.message(data)
      return
    }
    early.push(data)
    earlyBytes += data.length
    if (earlyBytes > MAX_UNHANDLED_BYTES) socket.close(POLICY_VIOLATION, 'too much before the start')
  }
  socket.on('message', (data: RawData, isBinary: boolean) => {
    if (!isBinary) socket.close(UNSUPPORTED_DATA, 'binary messages only')
    else if (closed === undefined) deliver(bytesOf(data))
  })
  socket.on('close', (code, reason) => {
    closed = { code, reason: reason.toString() }
    handlers?.close(closed)
  })
  // A close always follows; unheard, the event would end the process.
  socket.on('error', () => {})

  const sent = (): void => {
    if (!waitsForDrain || socket.bufferedAmount > LINK_LOW_WATER_BYTES || closed !== undefined) return
    waitsForDrain = false
    handlers?.drain()
  }

  return {
    remote,
    // What came before is told when the caller's turn is over: it may need what it makes of this link.
    handle: next =>
      queueMicrotask(() => {
        handlers = next
        const kept = early
        early = []
        for (const data of kept) next.message(data)
        if (closed !== undefined) next.close(closed)
      }),
    send: data => {
      if (socket.readyState !== WebSocket.OPEN) return false
      socket.send(data, { binary: true }, sent)
      if (socket.bufferedAmount <= LINK_HIGH_WATER_BYTES) return true
      waitsForDrain = true
      return false
    },
    bufferedBytes: () => socket.bufferedAmount,
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    close: (code, reason) => {
      // 1005 and 1006 are reports, never sent (RFC 6455, 7.4.1); a reason has at most 123 bytes.
      const sendable =
        code === 1000 || (code >= 1001 && code <= 1014 && code !== 1005 && code !== BROKEN) || code >= 3000
      socket.close(sendable ? code : GOING_AWAY, Buffer.from(reason).subarray(0, 123).toString())
    },
    terminate: () => socket.terminate(),
  }
}

function bytesOf(data: RawData): Uint8Array {
  if (Array.isArray(data)) return Buffer.concat(data)
  return data instanceof ArrayBuffer ? new Uint8Array(data) : data
}

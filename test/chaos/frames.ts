/** Finds frame borders in a byte stream, so that a proxy can cut a connection right before or after one. */

import { decode } from 'cbor-x'

/** A whole frame at the head of a buffer. */
export interface FoundFrame {
  /** What it is, such as `puback` or `ack`. */
  kind: string
  sizeBytes: number
}

/** Looks at the head of `buffer`: a whole frame, or null where more bytes are needed. */
export type Splitter = (buffer: Buffer) => FoundFrame | null

const MQTT_KINDS = [
  'reserved',
  'connect',
  'connack',
  'publish',
  'puback',
  'pubrec',
  'pubrel',
  'pubcomp',
  'subscribe',
  'suback',
  'unsubscribe',
  'unsuback',
  'pingreq',
  'pingresp',
  'disconnect',
  'auth',
]

/** MQTT control packets (MQTT-3.1.1 section 2.2). */
export const splitMqtt: Splitter = buffer => {
  let length = 0
  for (let at = 1; at < Math.min(5, buffer.length); at++) {
    const byte = buffer[at] ?? 0
    length += (byte & 0x7f) * 128 ** (at - 1)
    if ((byte & 0x80) !== 0) continue
    const sizeBytes = at + 1 + length
    return buffer.length < sizeBytes
      ? null
      : { kind: MQTT_KINDS[(buffer[0] ?? 0) >> 4] ?? 'reserved', sizeBytes }
  }
  return null
}

/** WebSocket messages (RFC 6455 section 5.2), preceded by the HTTP upgrade; a binary one is named by its CBOR `t`. */
export function webSocketSplitter(): Splitter {
  let upgraded = false
  return buffer => {
    if (!upgraded) {
      const end = buffer.indexOf('\r\n\r\n')
      if (end < 0) return null
      upgraded = true
      return { kind: 'http', sizeBytes: end + 4 }
    }
    return splitWebSocket(buffer)
  }
}

interface Message {
  isBinary: boolean
  sizeBytes: number
  payload: Buffer
}

/** The WebSocket message at the head of `buffer`, unmasked; null where more bytes are needed. */
function readMessage(buffer: Buffer): Message | null {
  if (buffer.length < 2) return null
  const short = (buffer[1] ?? 0) & 0x7f
  const masked = ((buffer[1] ?? 0) & 0x80) !== 0
  const lengthBytes = short === 126 ? 2 : short === 127 ? 8 : 0
  const head = 2 + lengthBytes + (masked ? 4 : 0)
  if (buffer.length < head) return null
  const length =
    short === 126 ? buffer.readUInt16BE(2) : short === 127 ? Number(buffer.readBigUInt64BE(2)) : short
  const sizeBytes = head + length
  if (buffer.length < sizeBytes) return null
  const payload = Buffer.from(buffer.subarray(head, sizeBytes))
  if (masked)
    for (let i = 0; i < payload.length; i++)
      payload[i] = (payload[i] ?? 0) ^ (buffer[head - 4 + (i & 3)] ?? 0)
  return { isBinary: ((buffer[0] ?? 0) & 0x0f) === 2, sizeBytes, payload }
}

/** The content of the first binary WebSocket message in `buffer`; null where more bytes are needed. */
export function webSocketPayload(buffer: Buffer): Buffer | null {
  const message = readMessage(buffer)
  if (message === null) return null
  return message.isBinary ? message.payload : webSocketPayload(buffer.subarray(message.sizeBytes))
}

function splitWebSocket(buffer: Buffer): FoundFrame | null {
  const message = readMessage(buffer)
  if (message === null) return null
  const { isBinary, sizeBytes, payload } = message
  if (!isBinary) return { kind: 'websocket', sizeBytes }
  const frame: unknown = decode(payload)
  const kind = typeof frame === 'object' && frame !== null && 't' in frame ? String(frame.t) : 'unknown'
  return { kind, sizeBytes }
}

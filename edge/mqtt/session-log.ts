/**
 * What must survive a crash beside the records: key/value entries that go into the same commit as the record they belong to,
 * through `Ingest.append`, and so before its ack. Client ids and topics hold no U+0000, which therefore separates.
 *
 *   mqtt/retained/<topic>              a message, the retained one of that topic
 *   mqtt/session/<client id>           JSON [[filter, QoS], ...]: a session with clean=0 and its subscriptions
 *   mqtt/open/<client id>\0<packet id> 16 bytes: an inbound QoS 2 id between PUBREC and PUBCOMP, with its content's digest
 *   mqtt/queue/<client id>\0<number>   a message for a session with clean=0 until the client has acked it
 *   mqtt/will/<client id>\0<connection> a message: the will of a connection that has not ended
 *
 * Messages are encoded by `encodeMessage`.
 */

import { hash } from 'node:crypto'
import type { StateEntry } from '../../common/log/types.ts'
import type { AppendDone, Ingest, RoutedRecord } from '../ports.ts'

export const RETAINED_PREFIX = 'mqtt/retained/'
export const SESSION_PREFIX = 'mqtt/session/'
export const OPEN_PREFIX = 'mqtt/open/'
export const QUEUE_PREFIX = 'mqtt/queue/'
export const WILL_PREFIX = 'mqtt/will/'

const QUEUE_NUMBER_DIGITS = 16

export const retainedKey = (topic: string) => RETAINED_PREFIX + topic
export const sessionKey = (clientId: string) => SESSION_PREFIX + clientId
export const openKey = (clientId: string, packetId: number) => `${OPEN_PREFIX}${clientId}\0${packetId}`
export const willKey = (clientId: string, connection: string) => `${WILL_PREFIX}${clientId}\0${connection}`
/** Numbers are padded, so that key order is queue order. */
export const queueKey = (clientId: string, number: number) =>
  `${QUEUE_PREFIX}${clientId}\0${String(number).padStart(QUEUE_NUMBER_DIGITS, '0')}`

/** Takes a key below `prefix` apart: the client id and what follows it. */
export function splitKey(key: string, prefix: string): { clientId: string; rest: string } {
  const separator = key.indexOf('\0', prefix.length)
  return { clientId: key.slice(prefix.length, separator), rest: key.slice(separator + 1) }
}

/** A message as a publisher sends it. */
export interface Message {
  topic: string
  payload: Uint8Array
  qos: number
  retain: boolean
}

/** A message as it is kept. */
export interface StoredMessage extends Message {
  /** Outbound: the packet id it was sent with (QoS 2 only); 0 for none. Wills: the client's keepalive in seconds. */
  number: number
  /** Outbound QoS 2: PUBREC came, so PUBREL is what is resent. */
  released: boolean
}

const MESSAGE_HEADER_BYTES = 5

/** flags u8 (QoS, retain 4, released 8), number u16, topic length u16, topic, payload. Copies the payload. */
export function encodeMessage(message: StoredMessage): Uint8Array {
  const topicBytes = Buffer.byteLength(message.topic)
  const bytes = Buffer.allocUnsafe(MESSAGE_HEADER_BYTES + topicBytes + message.payload.length)
  bytes.writeUInt8(message.qos | (message.retain ? 4 : 0) | (message.released ? 8 : 0), 0)
  bytes.writeUInt16BE(message.number, 1)
  bytes.writeUInt16BE(topicBytes, 3)
  bytes.write(message.topic, MESSAGE_HEADER_BYTES)
  bytes.set(message.payload, MESSAGE_HEADER_BYTES + topicBytes)
  return bytes
}

/** Reads what `encodeMessage` wrote; the payload is a slice. */
export function decodeMessage(encoded: Uint8Array): StoredMessage {
  const bytes = Buffer.from(encoded.buffer, encoded.byteOffset, encoded.length)
  const flags = bytes.readUInt8(0)
  const topicEnd = MESSAGE_HEADER_BYTES + bytes.readUInt16BE(3)
  return {
    topic: bytes.toString('utf8', MESSAGE_HEADER_BYTES, topicEnd),
    payload: bytes.subarray(topicEnd),
    qos: flags & 3,
    retain: (flags & 4) !== 0,
    number: bytes.readUInt16BE(1),
    released: (flags & 8) !== 0,
  }
}

const DIGEST_BYTES = 16

/** Tells a resend from another message under the same packet id. `body` holds topic, packet id and payload. */
export function contentDigest(body: Uint8Array, retain: boolean): Buffer {
  const digest = hash('sha256', body, 'buffer').subarray(0, DIGEST_BYTES)
  if (retain) digest.writeUInt8(digest.readUInt8(0) ^ 0xff, 0)
  return digest
}

/** `Ingest` with the bytes of session state counted. */
export interface SessionLog {
  /** Bytes of session state other than retained messages. */
  readonly stateBytes: number
  readonly retainedBytes: number
  /** As `Ingest.append`. */
  append(record: RoutedRecord | null, entries: readonly StateEntry[], done: AppendDone): void
  entries(prefix: string): [string, Uint8Array][]
  entry(key: string): Uint8Array | undefined
}

/** What an entry costs beside key and value: the map that holds it. */
const ENTRY_OVERHEAD_BYTES = 64

/** What an entry counts against the bounds. */
export function entryBytes(key: string, value: Uint8Array | null | undefined): number {
  return value ? Buffer.byteLength(key) + value.length + ENTRY_OVERHEAD_BYTES : 0
}

/** Counts what is there, and from now on what is put and removed. */
export function openSessionLog(ingest: Ingest): SessionLog {
  const count = (prefix: string) =>
    ingest.sessionEntries(prefix).reduce((sum, [key, value]) => sum + entryBytes(key, value), 0)
  let retainedBytes = count(RETAINED_PREFIX)
  let stateBytes = [SESSION_PREFIX, OPEN_PREFIX, QUEUE_PREFIX, WILL_PREFIX]
    .map(count)
    .reduce((sum, bytes) => sum + bytes)

  function append(record: RoutedRecord | null, entries: readonly StateEntry[], done: AppendDone): void {
    if (entries.length === 0) {
      ingest.append(record, entries, done)
      return
    }
    let retainedDelta = 0
    let stateDelta = 0
    for (const { key, value } of entries) {
      const delta = entryBytes(key, value) - entryBytes(key, ingest.sessionEntry(key))
      if (key.startsWith(RETAINED_PREFIX)) retainedDelta += delta
      else stateDelta += delta
    }
    retainedBytes += retainedDelta
    stateBytes += stateDelta
    ingest.append(record, entries, error => {
      if (error !== undefined) {
        retainedBytes -= retainedDelta
        stateBytes -= stateDelta
      }
      done(error)
    })
  }

  return {
    get stateBytes() {
      return stateBytes
    },
    get retainedBytes() {
      return retainedBytes
    },
    append,
    entries: prefix => ingest.sessionEntries(prefix),
    entry: key => ingest.sessionEntry(key),
  }
}

/** Reads the MQTT 3.1.1 packets that the guard looks into; strict where the protocol says MUST, copying nothing. */

import { isUtf8 } from 'node:buffer'
import { isReserved, isTopicFilter, isTopicName } from './topic-filter.ts'

/** Packet types (MQTT 3.1.1 section 2.2.1). */
export const TYPE = {
  connect: 1,
  publish: 3,
  puback: 4,
  pubrec: 5,
  pubrel: 6,
  pubcomp: 7,
  subscribe: 8,
  unsubscribe: 10,
  pingreq: 12,
  disconnect: 14,
} as const

/** The client broke the protocol; the connection must end (MQTT-4.8.0-1). The message says how. */
export class ProtocolViolation extends Error {
  override readonly name = 'ProtocolViolation'
}

/** A PUBLISH as it came. */
export interface InboundPublish {
  topic: string
  payload: Buffer
  qos: 0 | 1 | 2
  retain: boolean
  /** 0 with QoS 0. */
  packetId: number
  /** QoS 2: topic, packet id and payload as they came, which tell a resend from a new message under the same id. */
  body: Buffer | null
}

/** The first byte of the packets by which we ack PUBLISH and PUBREL (MQTT 3.1.1 sections 3.4, 3.5, 3.7). */
export const ACK = { puback: 0x40, pubrec: 0x50, pubcomp: 0x70 } as const

/** What the guard needs of a CONNECT before aedes sees it. */
export interface ConnectHeader {
  protocolName: string
  level: number
  clean: boolean
  clientId: string
}

/** Reads a 16-bit length and the UTF-8 text after it. */
function readText(bytes: Buffer, at: number, what: string): { text: string; end: number } {
  if (at + 2 > bytes.length) throw new ProtocolViolation(`${what} is cut off`)
  const end = at + 2 + bytes.readUInt16BE(at)
  if (end > bytes.length) throw new ProtocolViolation(`${what} is cut off`)
  return { text: decodeText(bytes.subarray(at + 2, end), what), end }
}

function decodeText(bytes: Buffer, what: string): string {
  // MQTT-1.5.3-1
  if (!isUtf8(bytes)) throw new ProtocolViolation(`${what} is not UTF-8`)
  return bytes.toString('utf8')
}

function readPacketId(bytes: Buffer, at: number, what: string): number {
  if (at + 2 > bytes.length) throw new ProtocolViolation(`${what} has no packet id`)
  const id = bytes.readUInt16BE(at)
  // MQTT-2.3.1-1
  if (id === 0) throw new ProtocolViolation(`${what} has packet id 0`)
  return id
}

/** The topic last decoded on a connection: most publish to few topics, and comparing is cheaper than decoding. */
export interface TopicMemory {
  bytes: Buffer
  topic: string
}

/**
 * Reads a PUBLISH from its flags and where its body (what follows the fixed header) stands in `bytes`. Runs per message:
 * payload and body are slices.
 */
export function readPublish(
  flags: number,
  bytes: Buffer,
  start: number,
  end: number,
  memory: TopicMemory,
): InboundPublish {
  const qos = (flags >> 1) & 3
  // MQTT-3.3.1-4
  if (qos === 3) throw new ProtocolViolation('PUBLISH has QoS 3')
  // MQTT-3.3.1-2
  if (qos === 0 && (flags & 8) !== 0) throw new ProtocolViolation('PUBLISH has DUP set at QoS 0')
  if (start + 2 > end) throw new ProtocolViolation('PUBLISH is cut off')
  const topicEnd = start + 2 + bytes.readUInt16BE(start)
  if (topicEnd > end) throw new ProtocolViolation('PUBLISH is cut off in its topic')
  const topic = topicOf(bytes, start + 2, topicEnd, memory)
  let packetId = 0
  let payloadStart = topicEnd
  if (qos > 0) {
    payloadStart += 2
    if (payloadStart > end) throw new ProtocolViolation('PUBLISH has no packet id')
    packetId = readPacketId(bytes, topicEnd, 'PUBLISH')
  }
  return {
    topic,
    payload: bytes.subarray(payloadStart, end),
    qos: qos === 0 ? 0 : qos === 1 ? 1 : 2,
    retain: (flags & 1) !== 0,
    packetId,
    body: qos === 2 ? bytes.subarray(start, end) : null,
  }
}

function topicOf(bytes: Buffer, start: number, end: number, memory: TopicMemory): string {
  const known = memory.bytes
  if (known.length > 0 && known.length === end - start && known.compare(bytes, start, end) === 0) {
    return memory.topic
  }
  const topic = checkedTopic(bytes, start, end)
  if (memory.bytes.length !== end - start) memory.bytes = Buffer.from(bytes.subarray(start, end))
  else bytes.copy(memory.bytes, 0, start, end)
  memory.topic = topic
  return topic
}

/** Topics seen and found good, by their bytes as Latin-1, for connections that publish to many by turns. */
const goodTopics = new Map<string, string>()
const MAX_GOOD_TOPICS = 4_096
const MAX_GOOD_TOPIC_BYTES = 256

function checkedTopic(bytes: Buffer, start: number, end: number): string {
  const raw = bytes.toString('latin1', start, end)
  const known = goodTopics.get(raw)
  if (known !== undefined) return known
  const topic = decodeText(bytes.subarray(start, end), 'the topic of PUBLISH')
  if (!isTopicName(topic)) {
    throw new ProtocolViolation(
      'PUBLISH has a topic that is empty, has a wildcard, U+0000 or over 100 levels',
    )
  }
  if (isReserved(topic))
    throw new ProtocolViolation("PUBLISH to a topic below $SYS, which are the broker's own")
  if (end - start > MAX_GOOD_TOPIC_BYTES) return topic
  if (goodTopics.size >= MAX_GOOD_TOPICS) goodTopics.clear()
  goodTopics.set(raw, topic)
  return topic
}

const ACK_NAMES = { 4: 'puback', 5: 'pubrec', 6: 'pubrel', 7: 'pubcomp' } as const

/** PUBACK, PUBREC, PUBREL or PUBCOMP. */
export function readAck(type: keyof typeof ACK_NAMES, flags: number, body: Buffer) {
  const cmd = ACK_NAMES[type]
  // MQTT-2.2.2-2, MQTT-3.6.1-1
  if (flags !== (cmd === 'pubrel' ? 2 : 0)) throw new ProtocolViolation(`${cmd} has wrong flags`)
  if (body.length !== 2) throw new ProtocolViolation(`${cmd} has a length other than 2`)
  return { cmd, messageId: readPacketId(body, 0, cmd), length: 2 }
}

/** Checks SUBSCRIBE and UNSUBSCRIBE as far as aedes does not: packet id, UTF-8, filters; throws ProtocolViolation. */
export function checkFilters(type: 8 | 10, flags: number, body: Buffer): void {
  const what = type === TYPE.subscribe ? 'SUBSCRIBE' : 'UNSUBSCRIBE'
  if (flags !== 2) throw new ProtocolViolation(`${what} has wrong flags`)
  readPacketId(body, 0, what)
  let at = 2
  // MQTT-3.8.3-3, MQTT-3.10.3-2
  if (at === body.length) throw new ProtocolViolation(`${what} names no topic filter`)
  while (at < body.length) {
    const { text, end } = readText(body, at, `a topic filter of ${what}`)
    if (!isTopicFilter(text)) throw new ProtocolViolation(`${what} has a malformed topic filter`)
    at = end
    if (type === TYPE.subscribe) {
      const qos = body[at++]
      // MQTT-3-8.3-4
      if (qos === undefined || qos > 2) throw new ProtocolViolation('SUBSCRIBE asks for no known QoS')
    }
  }
}

const NAME_OF_LEVEL: Record<number, string> = { 3: 'MQIsdp', 4: 'MQTT', 5: 'MQTT' }
const CONNECT_CLEAN = 2
/** Protocol level byte, connect flags, keepalive. */
const CONNECT_FIXED_BYTES = 4

/** Reads a CONNECT as far as the client id; of any protocol level, so that a refusal can name the client. */
export function readConnect(flags: number, body: Buffer): ConnectHeader {
  if (flags !== 0) throw new ProtocolViolation('CONNECT has wrong flags')
  const name = readText(body, 0, 'the protocol name of CONNECT')
  if (name.end + CONNECT_FIXED_BYTES > body.length) throw new ProtocolViolation('CONNECT is cut off')
  const level = body.readUInt8(name.end) & 0x7f
  const connectFlags = body.readUInt8(name.end + 1)
  // MQTT-3.1.2-1
  if (name.text !== (NAME_OF_LEVEL[level] ?? 'MQTT')) {
    throw new ProtocolViolation('CONNECT names another protocol than MQTT')
  }
  let at = name.end + CONNECT_FIXED_BYTES
  const known = level >= 3 && level <= 5
  if (level === 5) at = skipProperties(body, at)
  return {
    protocolName: name.text,
    level,
    clean: (connectFlags & CONNECT_CLEAN) !== 0,
    clientId: known ? readText(body, at, 'the client id').text : '',
  }
}

function skipProperties(body: Buffer, at: number): number {
  const length = readRemainingLength(body, at)
  if (length === 'incomplete' || length === 'malformed') throw new ProtocolViolation('CONNECT is cut off')
  return length.end + length.value
}

/** A variable byte integer (MQTT 3.1.1 section 2.2.3) and where it ends. */
export function readRemainingLength(
  bytes: Buffer,
  at: number,
): { value: number; end: number } | 'incomplete' | 'malformed' {
  let value = 0
  for (let index = 0; index < 4; index++) {
    const byte = bytes[at + index]
    if (byte === undefined) return 'incomplete'
    value += (byte & 0x7f) * 128 ** index
    if (byte < 0x80) return { value, end: at + index + 1 }
  }
  return 'malformed'
}

/** CONNACK of a refusal in MQTT 3.1.1 (section 3.2.2.3). */
export function refusal(returnCode: 1 | 2 | 3): Buffer {
  return Buffer.from([0x20, 2, 0, returnCode])
}

const UNSUPPORTED_VERSION = 0x84
const REASON_STRING = 0x1f

/** CONNACK of MQTT 5 that says in MQTT 5's own terms that the version is not supported (MQTT 5 section 3.2.2.2). */
export function refusalOfMqtt5(reason: string): Buffer {
  const text = Buffer.from(reason)
  const properties = Buffer.concat([Buffer.from([REASON_STRING, 0, text.length]), text])
  const body = Buffer.concat([Buffer.from([0, UNSUPPORTED_VERSION, properties.length]), properties])
  return Buffer.concat([Buffer.from([0x20, body.length]), body])
}

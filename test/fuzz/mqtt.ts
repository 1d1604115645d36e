import type { Packet } from 'mqtt-packet'
import { generate } from 'mqtt-packet'
import { assert } from '../../common/assert.ts'
import type { Rng } from '../../common/env.ts'
import { SESSION_PREFIX } from '../../edge/mqtt/session-log.ts'
import type { Edge, RawClient } from '../edge/mqtt/harness.ts'
import { connectPacket, connectRaw, dial, startEdge, until } from '../edge/mqtt/harness.ts'
import { seededRng } from '../rng.ts'

/** Hostile connections open at once. */
const CONCURRENT = 40
const MAX_PACKET_BYTES = 4_096

/**
 * Near misses of MQTT and plain garbage, cut at random places, from clients that share few names and leave without
 * a word. Meanwhile a well-behaved client publishes: each of its messages must be acked and stored, once and in order, and when all
 * is over the broker holds nothing of the others. Throws where that is not so.
 */
export async function fuzz(iterations: number, seed: number): Promise<void> {
  const rng = seededRng(seed)
  const edge = await startEdge({ config: { maxPacketBytes: MAX_PACKET_BYTES } })
  try {
    const witness = await connectRaw(edge.port, 'witness', { clean: false })
    let sent = 0
    for (let done = 0; done < iterations; done += CONCURRENT) {
      const attackers = Array.from({ length: Math.min(CONCURRENT, iterations - done) }, () =>
        attack(edge, seededRng(rng.below(2 ** 32))),
      )
      witness.publish('witness', `${++sent}`, 2, (sent % 65_535) + 1)
      await Promise.all(attackers)
      await until('PUBREC for the witness', () => witness.received.at(-1) === `pubrec ${(sent % 65_535) + 1}`)
      witness.send({ cmd: 'pubrel', messageId: (sent % 65_535) + 1 })
      await until('PUBCOMP for the witness', () => witness.received.at(-1)?.startsWith('pubcomp') === true)
      witness.received.length = 0
      witness.bytes.length = 0
    }
    await checkLeftovers(edge, sent)
  } finally {
    await edge.broker.close()
  }
}

async function checkLeftovers(edge: Edge, sent: number): Promise<void> {
  await until('hostile connections to end', () => edge.broker.stats().connections === 1)
  await until('appends to end', () => edge.broker.stats().inflight === 0)
  const stored = edge.ingest.disk.records
    .filter(record => Buffer.from(record.key ?? []).toString() === 'edge-1/witness')
    .map(record => Number(Buffer.from(record.value)))
  assert(
    stored.length === sent && stored.every((value, index) => value === index + 1),
    `the witness sent 1 to ${sent}, stored are ${JSON.stringify(stored.slice(0, 50))}`,
  )
  // Mutations make client ids of their own; whoever has a session may come and end it.
  const names = edge.ingest.sessionEntries(SESSION_PREFIX).map(([key]) => key.slice(SESSION_PREFIX.length))
  for (const id of names) {
    if (id === 'witness') continue
    const client = await connectRaw(edge.port, id)
    assert(client.received[0] === 'connack 0', `${id} may connect, got ${client.received[0]}`)
    client.send({ cmd: 'disconnect' })
    await client.expectClosed()
  }
  const { sessions, openQos2, queuedMessages, subscriptions, wills } = edge.broker.stats()
  const left = { sessions: sessions - 1, openQos2, queuedMessages, subscriptions, wills }
  assert(
    Object.values(left).every(count => count === 0),
    `something of closed sessions is left: ${JSON.stringify(left)}`,
  )
}

async function attack(edge: Edge, rng: Rng): Promise<void> {
  const client = await dial(edge.port)
  const stream = Buffer.concat(Array.from({ length: 1 + rng.below(6) }, (_, at) => piece(rng, at === 0)))
  for (let at = 0; at < stream.length && !client.closed; ) {
    const end = at + 1 + rng.below(rng.below(2) === 0 ? 8 : stream.length)
    client.socket.write(stream.subarray(at, end))
    at = end
    if (rng.below(3) === 0) await new Promise(resolve => setImmediate(resolve))
  }
  await leave(client, rng)
}

async function leave(client: RawClient, rng: Rng): Promise<void> {
  if (rng.below(2) === 0) client.drop()
  else client.socket.end()
  await client.expectClosed()
}

const CLIENT_IDS = ['a', 'b', 'c']
const TOPICS = ['t', 't/1', 'x/y/z', '$x', '']
const FILTERS = ['#', 't/+', '+/y/#', 'witness', '$SYS/#', 't/1']

/** One packet: mostly CONNECT first, mostly intact. */
function piece(rng: Rng, first: boolean): Buffer {
  if (rng.below(20) === 0) return Buffer.from(rng.bytes(rng.below(64)))
  const bytes = generate(first && rng.below(10) > 0 ? anyConnect(rng) : anyPacket(rng))
  if (rng.below(4) > 0) return bytes
  const mutated = Buffer.from(bytes)
  for (let edits = 1 + rng.below(3); edits > 0; edits--) {
    mutated.writeUInt8(rng.below(256), rng.below(Math.min(mutated.length, 16)))
  }
  return rng.below(4) === 0 ? mutated.subarray(0, rng.below(mutated.length)) : mutated
}

function pick<T>(rng: Rng, from: readonly T[]): T {
  const picked = from[rng.below(from.length)]
  assert(picked !== undefined, 'pick from something')
  return picked
}

function anyConnect(rng: Rng): Packet {
  return connectPacket(pick(rng, CLIENT_IDS), {
    clean: rng.below(2) === 0,
    keepalive: rng.below(100),
    ...(rng.below(2) === 0 && {
      will: { topic: 'will', payload: 'w', qos: pick(rng, [0, 1, 2]), retain: rng.below(4) === 0 },
    }),
  })
}

function anyPacket(rng: Rng): Packet {
  const messageId = 1 + rng.below(4)
  const qos = pick(rng, [0, 1, 2] as const)
  switch (rng.below(9)) {
    case 0:
      return { cmd: 'subscribe', messageId, subscriptions: [{ topic: pick(rng, FILTERS), qos }] }
    case 1:
      return { cmd: 'unsubscribe', messageId, unsubscriptions: [pick(rng, FILTERS)] }
    case 2:
      return { cmd: pick(rng, ['puback', 'pubrec', 'pubcomp'] as const), messageId }
    case 3:
      return { cmd: 'pubrel', messageId }
    case 4:
      return { cmd: pick(rng, ['pingreq', 'disconnect'] as const) }
    case 5:
      return anyConnect(rng)
    default: {
      const payload = Buffer.alloc(
        rng.below(10) === 0 ? rng.below(2 * MAX_PACKET_BYTES) : rng.below(40),
        0x61,
      )
      const flags = { dup: qos > 0 && rng.below(4) === 0, retain: rng.below(6) === 0 }
      return { cmd: 'publish', topic: pick(rng, TOPICS), payload, qos, ...flags, messageId }
    }
  }
}

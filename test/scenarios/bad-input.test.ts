/** Bad input at every face, beside clients that must not notice: a clear error, and nothing else harmed (issue, part 6.8). */

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectTcp } from 'node:net'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { BATCH_HEADER_BYTES } from '../../common/batch.ts'
import { writeU32 } from '../../common/bytes.ts'
import type { TributaryClient } from '../../common/client.ts'
import { crc32c } from '../../common/crc32c.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { MIB } from '../../common/limits.ts'
import { SUBSCRIBE_PATH, UPLINK_PATH } from '../../common/wire.ts'
import type { Hub } from '../../hub/node.ts'
import { rawPeer } from '../raw-peer.ts'
import { seededRng } from '../rng.ts'
import type { RawEdge, Stage } from './stage.ts'
import { createStage, eventually, mqttPort, rawEdge, statusOf, urlOf, valuesOf } from './stage.ts'

let stage: Stage
beforeEach(() => {
  stage = createStage()
})
afterEach(() => stage.end())

/** Someone who goes on: `step` has a record acked, `all` is what was. */
interface Healthy {
  step(): Promise<void>
  expectAll(): Promise<void>
}

/** An edge of its own and a client that follows: neither may see a close, a refusal, or a record too many or few. */
async function healthyBeside(hub: Hub, client: TributaryClient): Promise<Healthy> {
  const edge = await rawEdge(hub, 'healthy', 'good')
  const seen: string[] = []
  const stop = new AbortController()
  const following = (async () => {
    const options = { from: 'earliest', signal: stop.signal, unreachableMs: 1_000 } as const
    for await (const { value } of client.consume('good', options))
      seen.push(Buffer.from(value ?? []).toString())
  })()
  let next = 0
  return {
    step: async () => {
      edge.append(next++, 1)
      await edge.acked(next)
    },
    expectAll: async () => {
      await eventually('the healthy records', () => seen.length >= next)
      stop.abort()
      await following
      expect(next).toBeGreaterThan(0)
      expect(seen).toEqual(Array.from({ length: next }, (_, sequence) => String(sequence)))
      expect(edge.peer.waiting()).toEqual([])
    },
  }
}

/** A socket to a WebSocket path, past the handshake of HTTP. */
async function open(hub: Hub, path: string): Promise<WebSocket> {
  const socket = new WebSocket(`ws://127.0.0.1:${hub.address.port}${path}`)
  socket.on('error', () => {})
  await once(socket, 'open')
  return socket
}

/** Bytes of WebSocket frames that no client may send, RFC 6455 part 5. */
const BROKEN_FRAMES: Record<string, Buffer> = {
  'reserved bits set': Buffer.from([0xf2, 0x80, 0, 0, 0, 0]),
  'an opcode that is none': Buffer.from([0x83, 0x80, 0, 0, 0, 0]),
  'a frame without mask': Buffer.from([0x82, 0x01, 0x00]),
  'a length of 2^63': Buffer.from([0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
  'a fragmented ping': Buffer.from([0x09, 0x80, 0, 0, 0, 0]),
  'a continuation of nothing': Buffer.from([0x80, 0x80, 0, 0, 0, 0]),
}

test('garbage and oversize WebSocket frames on both paths', async () => {
  const hub = await stage.hub({ limits: { maxFrameBytes: 2 * MIB } })
  const client = stage.client(hub)
  const healthy = await healthyBeside(hub, client)
  for (const path of [UPLINK_PATH, SUBSCRIBE_PATH]) {
    for (const [what, bytes] of Object.entries(BROKEN_FRAMES)) {
      const socket = await open(hub, path)
      const closed = once(socket, 'close')
      const raw = Reflect.get(socket, '_socket')
      if (typeof raw?.write !== 'function') throw new Error('ws keeps its socket elsewhere now')
      raw.write(bytes)
      const [code] = await closed
      expect([1002, 1006, 1009], `${path}: ${what}`).toContain(code)
      await healthy.step()
    }
    const text = await open(hub, path)
    const textClosed = once(text, 'close')
    text.send('{"t":"hello"}')
    expect((await textClosed)[0]).toBe(1003)

    for (const [what, bytes, code] of [
      ['bytes that are no CBOR', Buffer.from([0xff, 0x00]), 'protocol_error'],
      ['random bytes', randomBytes(500), 'protocol_error'],
      ['no map', Buffer.from([0x01]), 'protocol_error'],
      ['a hello of 20 KB', Buffer.alloc(20_000), 'protocol_error'],
    ] as const) {
      const options = { maxFrameBytes: MIB, connectTimeoutMs: 5_000 }
      const link = await nodeEnv().net.dial(`ws://127.0.0.1:${hub.address.port}${path}`, options)
      const peer = rawPeer(link, path === UPLINK_PATH ? 'uplink-hub' : 'client-hub')
      peer.sendBytes(bytes)
      const { code: closeCode } = await peer.whenClosed
      expect(peer.waiting(), `${path}: ${what}`).toMatchObject([{ t: 'error', code, fatal: true }])
      expect(closeCode).toBe(4000)
      await healthy.step()
    }
    // Past the handshake too: a message larger than any may be is refused before it is in memory.
    const socket = await open(hub, path)
    const closed = once(socket, 'close')
    socket.send(Buffer.alloc(2 * MIB + 1))
    expect((await closed)[0]).toBe(1009)
    await healthy.step()
  }
  await healthy.expectAll()
  const metrics = await (await fetch(`${urlOf(hub)}/metrics`)).text()
  expect(metrics).toMatch(/tributary_uplink_open 1$/m)
  expect(metrics).toMatch(/tributary_uplink_failed_total [1-9]/)
})

/** Changes a batch and makes its CRC right again, so that only what it says is wrong. */
function doctored(batch: Uint8Array, change: (bytes: Uint8Array) => void): Uint8Array {
  const bytes = Uint8Array.from(batch)
  change(bytes)
  writeU32(bytes, 17, crc32c(bytes.subarray(21)))
  return bytes
}

/** Batches that are none, and what must be said of them. */
const BAD_BATCHES: [string, (batch: Uint8Array) => Uint8Array, RegExp][] = [
  [
    'a bad CRC',
    batch => {
      const bytes = Uint8Array.from(batch)
      bytes[bytes.length - 2] = (bytes[bytes.length - 2] ?? 0) ^ 1
      return bytes
    },
    /CRC/,
  ],
  [
    'a record too many in the count',
    batch => doctored(batch, bytes => writeU32(bytes, 57, 4)),
    /count|record/,
  ],
  [
    'a record too few in the count',
    batch => doctored(batch, bytes => writeU32(bytes, 57, 2)),
    /count|record/,
  ],
  ['another last offset', batch => doctored(batch, bytes => writeU32(bytes, 23, 9)), /offset|count/],
  [
    'counts that agree and are wrong',
    batch =>
      doctored(batch, bytes => {
        writeU32(bytes, 23, 3)
        writeU32(bytes, 57, 4)
      }),
    /record|count/,
  ],
  ['magic 1', batch => doctored(batch, bytes => void bytes.set([1], 16)), /magic|version/],
  [
    'a length beyond its end',
    batch => doctored(batch, bytes => writeU32(bytes, 8, bytes.length * 2)),
    /only \d+ are there/,
  ],
  ['half a header', batch => batch.subarray(0, BATCH_HEADER_BYTES / 2), /only \d+ are there|header|bytes/],
]

test('batches with a bad CRC, wrong counts, a gap or an unknown run on the uplink', async () => {
  const hub = await stage.hub()
  const client = stage.client(hub)
  const healthy = await healthyBeside(hub, client)
  const bad = await rawEdge(hub, 'bad', 'same')
  bad.append(0, 3)
  await bad.acked(3)
  let next = 3
  const goOn = async () => {
    bad.append(next, 3)
    next += 3
    await bad.acked(next)
    await healthy.step()
  }
  for (const [what, damage, message] of BAD_BATCHES) {
    bad.send({ t: 'append', log: 1, batches: damage(bad.batch(next, 3)) })
    // Pipelined behind it: must not be taken for what was refused.
    bad.append(next + 3, 3)
    const refused = await bad.refused()
    expect(refused, what).toMatchObject({ code: 'corrupt_batch', run: bad.run, next })
    expect(refused.message, what).toMatch(message)
    await goOn()
  }
  bad.append(next + 1, 3)
  expect(await bad.refused()).toMatchObject({ code: 'out_of_order_sequence', run: bad.run, next })
  await goOn()
  bad.append(next - 1, 3)
  expect(await bad.refused()).toMatchObject({ code: 'out_of_order_sequence', next })
  await goOn()
  const stranger = bad.run + 1_000_000
  bad.send({ t: 'append', log: 1, batches: bad.batch(0, 3, { run: stranger }) })
  const unknown = await bad.refused()
  expect(unknown).toMatchObject({ code: 'unknown_run', run: bad.run, next })
  expect(unknown.message).toContain(String(stranger))
  await goOn()
  // A run whose predecessor ends where the hub holds nothing.
  bad.send({ t: 'run', log: 1, run: stranger, prev: { run: bad.run, end: next + 5 }, reason: 'next' })
  expect(await bad.refused()).toMatchObject({ run: bad.run, next })
  await goOn()
  const batches = bad.batch(next, 2, { bytes: 2 * MIB })
  bad.send({ t: 'append', log: 1, batches })
  expect(await bad.refused()).toMatchObject({ code: 'record_too_large', run: bad.run, next, sequence: next })
  await goOn()
  expect(await valuesOf(client, 'same')).toEqual(
    Array.from({ length: next }, (_, sequence) => String(sequence)),
  )
  await healthy.expectAll()
})

test('bad batches, topics and offsets from clients', async () => {
  const hub = await stage.hub({ autoCreateTopics: false })
  const client = stage.client(hub)
  for (const name of ['good', 'elsewhere']) await client.topics.create({ name })
  const healthy = await healthyBeside(hub, client)
  await client.topics.create({ name: 't', partitions: 1 })
  await client.produce('t', { value: 'first' })
  const edgeShape: RawEdge = await rawEdge(hub, 'shape', 'elsewhere')

  const options = { maxFrameBytes: MIB, connectTimeoutMs: 5_000 }
  const link = await nodeEnv().net.dial(`ws://127.0.0.1:${hub.address.port}${SUBSCRIBE_PATH}`, options)
  const peer = rawPeer(link, 'client-hub')
  peer.send({ t: 'hello', min: 1, max: 1, software: 'bad' })
  await peer.expect('welcome')
  const { topicId } = await client.topics.describe('t')
  let id = 0
  const produce = async (batches: Uint8Array, to = { topicId, partition: 0 }) => {
    peer.send({ t: 'request', id: ++id, op: 'produce', ...to, acks: 'all', batches })
    return (await peer.expect('response')).error
  }
  const plain = edgeShape.batch(0, 3, { run: -1 })
  for (const [what, damage, message] of BAD_BATCHES) {
    const error = await produce(damage(plain))
    expect(error, what).toMatchObject({ code: 'corrupt_batch' })
    expect(error?.message, what).toMatch(message)
  }
  expect(await produce(edgeShape.batch(0, 3))).toMatchObject({ code: 'invalid_argument' })
  expect(await produce(plain, { topicId: 'f'.repeat(32), partition: 0 })).toMatchObject({
    code: 'unknown_topic',
  })
  expect(await produce(plain, { topicId, partition: 7 })).toMatchObject({ code: 'unknown_topic' })
  expect(await produce(edgeShape.batch(0, 1, { run: -1, bytes: 500_000 }))).toBeUndefined()
  peer.send({
    t: 'subscribe',
    sub: 1,
    topicId,
    partition: 0,
    offset: 99,
    leaderEpoch: -1,
    creditBytes: 1_000,
  })
  expect(await peer.expect('ended')).toMatchObject({
    code: 'offset_out_of_range',
    startOffset: 0,
    highWatermark: 2,
  })
  await healthy.step()

  const consume = async (topic: string, from: number) => {
    for await (const record of client.consume(topic, { from, follow: false })) return record
    return null
  }
  await expect(consume('t', 99)).rejects.toMatchObject({ code: 'offset_out_of_range' })
  await expect(consume('t', -1)).rejects.toMatchObject({ code: 'invalid_argument' })
  await expect(consume('nowhere', 0)).rejects.toMatchObject({ code: 'unknown_topic' })
  await expect(client.produce('nowhere', { value: 'v' })).rejects.toMatchObject({ code: 'unknown_topic' })
  for (const [path, status, code] of [
    ['/v1/topics/nowhere/records', 404, 'unknown_topic'],
    ['/v1/topics/t/records?offset=99', 416, 'offset_out_of_range'],
    ['/v1/topics/t/records?offset=-1', 400, 'invalid_argument'],
    ['/v1/topics/t/records?offset=1.5', 400, 'invalid_argument'],
    ['/v1/topics/t/records?partition=1', 404, 'unknown_topic'],
    ['/v1/topics/t/records?time=noon', 400, 'invalid_argument'],
    ['/v1/topics/t/stream?from=soon', 400, 'invalid_argument'],
  ] as const) {
    const response = await fetch(urlOf(hub) + path)
    const body: unknown = await response.json()
    expect({ path, status: response.status, body }).toMatchObject({ status, body: { error: { code } } })
  }
  await healthy.step()
  expect((await valuesOf(client, 't')).map(value => value.trim())).toEqual(['first', '0'])
  await healthy.expectAll()
})

test('garbage, oversize and cut off MQTT at an edge, beside a publisher whose messages reach the hub', async () => {
  const hub = await stage.hub()
  const client = stage.client(hub)
  const edge = await stage.edge({
    hub: `ws://127.0.0.1:${hub.address.port}`,
    mqtt: { maxPacketBytes: 64 * 1024 },
  })
  const publisher = await connectAsync(`mqtt://127.0.0.1:${mqttPort(edge)}`, { reconnectPeriod: 0 })
  stage.later(() => publisher.endAsync(true))
  let closes = 0
  publisher.on('close', () => closes++)
  const rng = seededRng(8)
  const hello = Buffer.from([0x10, 13, 0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, 1, 98])
  const sent: string[] = []
  for (let round = 0; round < 40; round++) {
    const socket = connectTcp(mqttPort(edge), '127.0.0.1')
    socket.on('error', () => {})
    const closed = new Promise<void>(resolve => socket.on('close', () => resolve()).resume())
    if (round % 2 === 0) socket.write(hello)
    if (round % 4 === 3) socket.write(Buffer.from([0x30, 0xff, 0xff, 0xff, 0x7f]))
    // PUBLISH whose topic is cut off, then what is no packet at all.
    socket.write(Buffer.from([0x32, 3, 0, 9, 65]))
    socket.write(Buffer.from(rng.bytes(1 + rng.below(2_000))))
    if (round % 5 === 4) socket.destroy()
    const value = String(round)
    await publisher.publishAsync('n/1', value, { qos: round % 2 === 0 ? 1 : 2 })
    sent.push(value)
    await closed
  }
  const large = publisher.publishAsync('n/1', Buffer.alloc(1_000), { qos: 1 })
  await large
  expect(closes).toBe(0)
  await eventually('the drain', async () => (await statusOf(edge)).lagRecords === 0)
  expect((await valuesOf(client, 'telemetry')).slice(0, 40)).toEqual(sent)
  const { mqtt, ingest } = await statusOf(edge)
  expect(mqtt?.protocolViolations).toBeGreaterThanOrEqual(30)
  expect(ingest.appended).toBe(41)
})

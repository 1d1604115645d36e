import { afterEach, describe, expect, test } from 'vitest'
import { TributaryError } from '../../../common/errors.ts'
import { MAX_WITHHELD } from '../../../edge/mqtt/bridge.ts'
import type { Edge, EdgeOptions } from './harness.ts'
import { connectPacket, connectRaw, dial, settle, startEdge, until } from './harness.ts'

const edges: Edge[] = []
async function edgeOf(options?: EdgeOptions): Promise<Edge> {
  const edge = await startEdge(options)
  edges.push(edge)
  return edge
}

afterEach(async () => {
  for (const edge of edges.splice(0)) await edge.broker.close()
})

describe('QoS 0 and 1', () => {
  test('PUBACK leaves only once the record is durable, in the order of the publishes', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    edge.ingest.commits = 'held'
    for (const id of [5, 3, 9]) client.publish('t', `m${id}`, 1, id)
    await until('three appends', () => edge.ingest.pending === 3)
    await settle()
    expect(client.received).toEqual(['connack 0'])
    edge.ingest.commit(1)
    await client.expect(2)
    await settle()
    expect(client.received).toEqual(['connack 0', 'puback 5'])
    edge.ingest.commit()
    expect(await client.expect(4)).toEqual(['connack 0', 'puback 5', 'puback 3', 'puback 9'])
    expect(edge.ingest.payloads()).toEqual(['m5', 'm3', 'm9'])
  })

  test('the bytes of a QoS 1 exchange', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    client.raw(0x32, 8, 0, 1, 0x74, 0x12, 0x34, 0x61, 0x62, 0x63)
    await client.expect(2)
    expect(Buffer.concat(client.bytes).toString('hex')).toBe('20020000' + '40021234')
  })

  test('acks of a whole commit leave in one write', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    edge.ingest.commits = 'held'
    for (let id = 1; id <= 100; id++) client.publish('t', 'x', 1, id)
    await until('appends', () => edge.ingest.pending === 100)
    client.bytes.length = 0
    edge.ingest.commit()
    await client.expect(101)
    expect(client.bytes.length).toBe(1)
  })

  test('packets that come in one chunk with CONNECT are served after CONNACK', async () => {
    const edge = await edgeOf()
    const eager = await dial(edge.port)
    const publishes = Array.from({ length: 200 }, (_, index) => ({
      cmd: 'publish' as const,
      topic: 't',
      payload: `${index}`,
      qos: 1 as const,
      messageId: index + 1,
      dup: false,
      retain: false,
    }))
    eager.send(connectPacket('eager'), ...publishes)
    const received = await eager.expect(201)
    expect(received[0]).toBe('connack 0')
    expect(received.slice(1)).toEqual(publishes.map(({ messageId }) => `puback ${messageId}`))
  })

  test('a failed append is not acked: the client is closed and nobody else', async () => {
    const edge = await edgeOf()
    const [bad, good] = [await connectRaw(edge.port, 'bad'), await connectRaw(edge.port, 'good')]
    edge.ingest.fails = record =>
      record !== null && Buffer.from(record.value).toString() === 'bad'
        ? new TributaryError('record_too_large', 'too large')
        : undefined
    bad.publish('t', 'bad', 1, 1)
    await bad.expectClosed()
    expect(bad.received).toEqual(['connack 0'])
    good.publish('t', 'good', 1, 2)
    expect(await good.expect(2)).toEqual(['connack 0', 'puback 2'])
    expect(edge.broker.stats().appendFailures).toBe(1)
  })

  test('where a topic is full only that ack is withheld, until too many are', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    edge.ingest.fails = record =>
      record !== null && Buffer.from(record.value).toString() === 'full'
        ? new TributaryError('disk_full', 'the topic is full')
        : undefined
    client.publish('t', 'full', 1, 1)
    client.publish('t', 'fits', 1, 2)
    client.publish('t', 'full', 2, 3)
    client.publish('t', 'fits', 2, 4)
    client.publish('t', 'full', 0)
    expect(await client.expect(3)).toEqual(['connack 0', 'puback 2', 'pubrec 4'])
    expect(edge.broker.stats().withheld).toBe(3)
    for (let id = 0; id < MAX_WITHHELD - 2; id++) client.publish('t', 'full', 1, 100 + id)
    client.publish('t', 'fits', 1, 50_000)
    await client.expect(4)
    expect(client.closed).toBe(false)
    client.publish('t', 'full', 1, 50_001)
    await client.expectClosed()
  })

  test('a message withheld at QoS 2 is taken when it is sent again', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a', { clean: false })
    edge.ingest.fails = record => (record === null ? undefined : new TributaryError('disk_full', 'full'))
    client.publish('t', 'm', 2, 7)
    await until('the failure', () => edge.broker.stats().withheld === 1)
    edge.ingest.fails = () => undefined
    client.publish('t', 'm', 2, 7, { dup: true })
    expect(await client.expect(2)).toEqual(['connack 0', 'pubrec 7'])
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('with room again only connections with withheld acks are closed, and get them when they resend', async () => {
    const edge = await edgeOf()
    const clients = await Promise.all(['full', 'other'].map(id => connectRaw(edge.port, id)))
    const [full, other] = clients
    edge.ingest.fails = record =>
      record !== null && record.topic === 'telemetry' && Buffer.from(record.value).toString() === 'm'
        ? new TributaryError('disk_full', 'full')
        : undefined
    full?.publish('t', 'm', 1, 7)
    full?.publish('t', 'm', 2, 8)
    other?.publish('t', 'n', 1, 9)
    await until('the failures', () => edge.broker.stats().withheld === 2)
    edge.ingest.fails = () => undefined
    edge.ingest.roomReturned()
    await full?.expectClosed()
    expect(await other?.expect(2)).toEqual(['connack 0', 'puback 9'])
    const again = await connectRaw(edge.port, 'full')
    again.publish('t', 'm', 1, 7, { dup: true })
    again.publish('t', 'm', 2, 8, { dup: true })
    expect(await again.expect(3)).toEqual(['connack 0', 'puback 7', 'pubrec 8'])
    edge.ingest.roomReturned()
    await settle()
    expect([again.closed, other?.closed]).toEqual([false, false])
    expect(edge.broker.stats().closedToResend).toBe(1)
  })

  test('closing acks what was taken before', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    edge.ingest.commits = 'held'
    client.publish('t', 'm', 1, 7)
    await until('the append', () => edge.ingest.pending === 1)
    const closing = edge.broker.close()
    client.publish('t', 'late', 1, 8)
    await settle()
    edge.ingest.commit()
    await closing
    expect(await client.expect(2)).toEqual(['connack 0', 'puback 7'])
    await client.expectClosed()
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('a socket is paused at maxInflight and read on once the window has room', async () => {
    const edge = await edgeOf({ config: { maxInflight: 10 } })
    const client = await connectRaw(edge.port, 'a', { keepalive: 1 })
    edge.ingest.commits = 'held'
    for (let id = 1; id <= 500; id++) client.publish('t', `${id}`, 1, id)
    await until('ten appends', () => edge.ingest.pending === 10)
    await settle()
    expect(edge.ingest.pending).toBe(10)
    // Time while we do not read is not the client's silence.
    edge.clock.skewMs += 60_000
    await new Promise(resolve => setTimeout(resolve, 700))
    expect(client.closed).toBe(false)
    edge.ingest.commits = 'auto'
    edge.ingest.commit()
    const received = await client.expect(501)
    expect(received.slice(1)).toEqual(Array.from({ length: 500 }, (_, index) => `puback ${index + 1}`))
    expect(edge.broker.stats().pauses).toBeGreaterThan(0)
  })
})

import { connectAsync } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { MAX_QUEUED_PER_SESSION } from '../../../edge/mqtt/sessions.ts'
import { FakeIngest } from './fake-ingest.ts'
import type { Edge, EdgeOptions } from './harness.ts'
import { connectPacket, connectRaw, dial, settle, startEdge, until } from './harness.ts'

const edges: Edge[] = []
async function edgeOf(options: EdgeOptions = {}): Promise<Edge> {
  const edge = await startEdge(options)
  edges.push(edge)
  return edge
}

async function restart(edge: Edge): Promise<Edge> {
  const disk = edge.ingest.crash()
  await edge.broker.close()
  return edgeOf({ ingest: new FakeIngest(disk) })
}

afterEach(async () => {
  for (const edge of edges.splice(0)) await edge.broker.close()
})

describe('retained messages', () => {
  test('PUBACK waits for them, and they survive a crash', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    client.publish('r/1', 'kept', 1, 1, { retain: true })
    client.publish('r/2', 'gone', 0, 0, { retain: true })
    client.publish('r/2', '', 1, 2, { retain: true })
    await client.expect(3)
    edge.ingest.commits = 'held'
    client.publish('r/3', 'not durable', 1, 3, { retain: true })
    await until('the append', () => edge.ingest.pending === 1)
    const again = await restart(edge)
    const reader = await connectRaw(again.port, 'b')
    reader.subscribe('r/#', 2)
    await reader.expect(3)
    await settle()
    expect(reader.received).toEqual(['connack 0', 'suback 1 2', 'publish r/1 1 retain kept'])
    expect(again.broker.stats().retainedMessages).toBe(1)
  })

  test('come with no more QoS than the subscription has', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    client.publish('r/1', 'm', 2, 1, { retain: true })
    await client.expect(2)
    client.subscribe('r/+', 0)
    expect((await client.expect(4)).slice(2)).toEqual(['suback 1 0', 'publish r/1 0 retain m'])
  })

  test('over maxRetainedBytes a message is taken but not retained, and the outdated one goes', async () => {
    const edge = await edgeOf({ config: { maxRetainedBytes: 1_000 } })
    const client = await connectRaw(edge.port, 'a')
    client.publish('r', 'small', 1, 1, { retain: true })
    client.publish('r', 'x'.repeat(2_000), 1, 2, { retain: true })
    expect(await client.expect(3)).toEqual(['connack 0', 'puback 1', 'puback 2'])
    const { retainedRefused, retainedMessages, retainedBytes } = edge.broker.stats()
    expect({ retainedRefused, retainedMessages, retainedBytes }).toEqual({
      retainedRefused: 1,
      retainedMessages: 0,
      retainedBytes: 0,
    })
    expect(edge.ingest.disk.records.length).toBe(2)
  })
})

describe('wills', () => {
  const will = { topic: 'w', payload: 'last words', qos: 1 as const }

  test('are recorded when a connection breaks and not after DISCONNECT', async () => {
    const edge = await edgeOf()
    const polite = await connectRaw(edge.port, 'polite', { will })
    polite.send({ cmd: 'disconnect' })
    await polite.expectClosed()
    const rude = await connectRaw(edge.port, 'rude', { will })
    rude.drop()
    await until('the will', () => edge.ingest.disk.records.length === 1)
    await settle()
    expect(edge.ingest.payloads()).toEqual(['last words'])
    expect([...edge.ingest.disk.session.keys()]).toEqual([])
  })

  test('on takeover the old one is published once and the new one stays stored', async () => {
    const edge = await edgeOf()
    await connectRaw(edge.port, 'a', { will: { topic: 'w', payload: 'old' } })
    const second = await connectRaw(edge.port, 'a', { will: { topic: 'w', payload: 'new' } })
    await until('the old will', () => edge.ingest.disk.records.length === 1)
    expect(edge.ingest.payloads()).toEqual(['old'])
    expect([...edge.ingest.disk.session.keys()].length).toBe(1)
    second.drop()
    await until('the new will', () => edge.ingest.disk.records.length === 2)
    expect(edge.ingest.payloads()).toEqual(['old', 'new'])
    expect([...edge.ingest.disk.session.keys()]).toEqual([])
  })

  test('after a crash are published for clients that stay away, not for those that come back', async () => {
    const edge = await edgeOf()
    await connectRaw(edge.port, 'gone', { keepalive: 10, will: { topic: 'w', payload: 'gone' } })
    await connectRaw(edge.port, 'back', { keepalive: 10, will: { topic: 'w', payload: 'back' } })
    const again = await restart(edge)
    await connectRaw(again.port, 'back', { keepalive: 0 })
    await settle()
    again.clock.skewMs += 14_000
    await new Promise(resolve => setTimeout(resolve, 600))
    expect(again.ingest.payloads()).toEqual([])
    again.clock.skewMs += 2_000
    await until('the will', () => again.ingest.disk.records.length === 1)
    await new Promise(resolve => setTimeout(resolve, 600))
    expect(again.ingest.payloads()).toEqual(['gone'])
    expect(again.ingest.disk.session.size).toBe(0)
  })

  test('CONNACK waits until the will is durable', async () => {
    const edge = await edgeOf()
    edge.ingest.commits = 'held'
    const connecting = connectRaw(edge.port, 'a', { will })
    await until('the will to be appended', () => edge.ingest.pending === 1)
    edge.ingest.commit()
    expect((await connecting).received).toEqual(['connack 0'])
  })

  test('reach local subscribers and may be retained', async () => {
    const edge = await edgeOf()
    const reader = await connectRaw(edge.port, 'reader')
    reader.subscribe('w', 1)
    await reader.expect(2)
    const client = await connectRaw(edge.port, 'a', { will: { ...will, retain: true } })
    client.drop()
    expect((await reader.expect(3))[2]).toBe('publish w 1 last words')
    expect(edge.broker.stats().retainedMessages).toBe(1)
  })
})

describe('local subscribers', () => {
  test('get each message once, at the highest QoS that matches and no more than its own', async () => {
    const edge = await edgeOf()
    const client = await connectRaw(edge.port, 'a')
    client.subscribe('t/1', 0, 1)
    client.subscribe('t/#', 1, 2)
    await client.expect(3)
    client.publish('t/1', 'm', 2, 9)
    await until('pubrec and message', () => client.received.length >= 5)
    await settle()
    expect(client.received.slice(3).sort()).toEqual(['publish t/1 1 m', 'pubrec 9'])
  })

  test('of a session with clean=0 get what was published while they were away, also across a crash', async () => {
    const edge = await edgeOf()
    const away = await connectRaw(edge.port, 'away', { clean: false })
    away.subscribe('t/#', 2)
    await away.expect(2)
    away.drop()
    const client = await connectRaw(edge.port, 'a')
    for (const qos of [0, 1, 2] as const) client.publish('t/x', `qos ${qos}`, qos, 10 + qos)
    await client.expect(3)
    const again = await restart(edge)
    const back = await connectRaw(again.port, 'away', { clean: false })
    await back.expect(3)
    client.drop()
    await settle()
    expect(back.received).toEqual(['connack 0 present', 'publish t/x 1 qos 1', 'publish t/x 2 qos 2'])
    expect(again.broker.stats().queuedMessages).toBe(2)
  })

  test('what a session has not acked is sent again, marked, under its id; what it has acked is not', async () => {
    const edge = await edgeOf()
    const first = await connectRaw(edge.port, 'sub', { clean: false })
    first.subscribe('t', 2)
    await first.expect(2)
    const ids = new Map<string, number>()
    const { parser } = await import('mqtt-packet')
    const reading = parser()
    reading.on('packet', packet => {
      if (packet.cmd === 'publish') ids.set(packet.payload.toString(), packet.messageId ?? 0)
    })
    first.socket.on('data', chunk => reading.parse(chunk))
    const client = await connectRaw(edge.port, 'a')
    client.publish('t', 'one', 2, 1)
    client.publish('t', 'two', 2, 2)
    client.publish('t', 'three', 1, 3)
    await first.expect(5)
    const [one = 0, three = 0] = [ids.get('one'), ids.get('three')]
    first.send({ cmd: 'puback', messageId: three }, { cmd: 'pubrec', messageId: one })
    expect((await first.expect(6))[5]).toBe(`pubrel ${one}`)
    const again = await restart(edge)
    const second = await connectRaw(again.port, 'sub', { clean: false })
    expect((await second.expect(3)).slice(1)).toEqual([`pubrel ${one}`, 'publish t 2 dup two'])
    second.send({ cmd: 'pubcomp', messageId: one })
    await until('one left', () => again.broker.stats().queuedMessages === 1)
  })

  test('may subscribe in one breath with CONNECT', async () => {
    const edge = await edgeOf()
    for (const clean of [true, false]) {
      const eager = await dial(edge.port)
      eager.send(connectPacket('eager', { clean }), {
        cmd: 'subscribe',
        messageId: 1,
        subscriptions: [{ topic: 't', qos: 1 }],
      })
      await eager.expect(2)
      eager.publish('t', 'm', 1, 5)
      expect((await eager.expect(4)).toSorted()).toEqual([
        'connack 0',
        'puback 5',
        'publish t 1 m',
        'suback 1 1',
      ])
    }
  })

  test('a queue is bounded, and what does not fit is counted', async () => {
    const edge = await edgeOf()
    const away = await connectRaw(edge.port, 'away', { clean: false })
    away.subscribe('t', 1)
    await away.expect(2)
    away.drop()
    await until('it to be away', () => edge.broker.stats().connections === 0)
    const client = await connectRaw(edge.port, 'a')
    const count = MAX_QUEUED_PER_SESSION + 5
    for (let id = 1; id <= count; id++) client.publish('t', `${id}`, 1, id)
    await client.expect(count + 1)
    const { queuedMessages, sessionQueueDropped } = edge.broker.stats()
    expect({ queuedMessages, sessionQueueDropped }).toEqual({
      queuedMessages: MAX_QUEUED_PER_SESSION,
      sessionQueueDropped: 5,
    })
    expect(edge.ingest.disk.records.length).toBe(count)
  })

  test('a CONNECT with clean=1 ends the session with all that belongs to it', async () => {
    const edge = await edgeOf()
    const first = await connectRaw(edge.port, 'a', { clean: false })
    first.subscribe('t', 1)
    await first.expect(2)
    first.publish('u', 'm', 2, 3)
    await first.expect(3)
    first.drop()
    const client = await connectRaw(edge.port, 'b')
    client.publish('t', 'm', 1, 1)
    await client.expect(2)
    const second = await connectRaw(edge.port, 'a')
    expect(second.received).toEqual(['connack 0'])
    expect(edge.ingest.disk.session.size).toBe(0)
    const { sessions, openQos2, queuedMessages, sessionStateBytes } = edge.broker.stats()
    expect({ sessions, openQos2, queuedMessages, sessionStateBytes }).toEqual({
      sessions: 0,
      openQos2: 0,
      queuedMessages: 0,
      sessionStateBytes: 0,
    })
  })

  test('one that does not read is dropped, and the publisher and others go on', async () => {
    const edge = await edgeOf()
    const slow = await connectRaw(edge.port, 'slow')
    slow.subscribe('t', 0)
    await slow.expect(2)
    slow.socket.pause()
    const fast = await connectRaw(edge.port, 'fast')
    fast.subscribe('t', 0)
    await fast.expect(2)
    const client = await connectRaw(edge.port, 'a')
    const payload = 'x'.repeat(100_000)
    let sent = 0
    while (edge.broker.stats().slowSubscribers === 0 && sent < 400) {
      client.publish('t', payload, 1, ++sent)
      await client.expect(sent + 1)
    }
    expect(edge.broker.stats().slowSubscribers).toBe(1)
    await fast.expect(2 + sent)
    expect(fast.closed).toBe(false)
  })

  test('mqtt.js subscribes, gets all three QoS and unsubscribes', async () => {
    const edge = await edgeOf()
    const client = await connectAsync(`mqtt://127.0.0.1:${edge.port}`, { clientId: 'js' })
    const got: string[] = []
    client.on('message', (topic, payload) => got.push(`${topic} ${payload}`))
    await client.subscribeAsync('s/#', { qos: 2 })
    for (const qos of [0, 1, 2] as const) await client.publishAsync(`s/${qos}`, 'm', { qos })
    await until('three messages', () => got.length === 3)
    await client.unsubscribeAsync('s/#')
    await client.publishAsync('s/1', 'unheard', { qos: 1 })
    await settle()
    expect(got).toEqual(['s/0 m', 's/1 m', 's/2 m'])
    await client.endAsync()
  })
})

import { connectAsync } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import { FakeIngest } from './fake-ingest.ts'
import type { Edge } from './harness.ts'
import { connectRaw, settle, startEdge, until } from './harness.ts'

const edges: Edge[] = []
async function edgeOn(ingest = new FakeIngest()): Promise<Edge> {
  const edge = await startEdge({ ingest })
  edges.push(edge)
  return edge
}

/** kill -9 and a start on what was durable. */
async function restart(edge: Edge): Promise<Edge> {
  const disk = edge.ingest.crash()
  await edge.broker.close()
  return edgeOn(new FakeIngest(disk))
}

const OPEN = '\0session'
const persistent = { clean: false }

afterEach(async () => {
  for (const edge of edges.splice(0)) await edge.broker.close()
})

describe('QoS 2 from a publisher', () => {
  test('PUBREC leaves once the record is durable, PUBCOMP once the id is freed durably', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    edge.ingest.commits = 'held'
    client.publish('t', 'm', 2, 7)
    await until('the append', () => edge.ingest.pending === 1)
    await settle()
    expect(client.received).toEqual(['connack 0'])
    edge.ingest.commit()
    await client.expect(2)
    client.send({ cmd: 'pubrel', messageId: 7 })
    await until('the removal', () => edge.ingest.pending === 1)
    await settle()
    expect(client.received).toEqual(['connack 0', 'pubrec 7'])
    edge.ingest.commit()
    expect(await client.expect(3)).toEqual(['connack 0', 'pubrec 7', 'pubcomp 7'])
    expect(edge.ingest.payloads()).toEqual(['m'])
    expect([...edge.ingest.disk.session.keys()]).toEqual(['mqtt/session/a'])
  })

  test('PUBRECs leave in the order of the publishes, whoever subscribes to them', async () => {
    const edge = await edgeOn()
    const subscriber = await connectRaw(edge.port, 'sub', persistent)
    subscriber.subscribe('heard', 2)
    await subscriber.expect(2)
    const client = await connectRaw(edge.port, 'a')
    for (let id = 1; id <= 50; id++) client.publish(id % 2 ? 'heard' : 'unheard', `${id}`, 2, id)
    const received = await client.expect(51)
    expect(received.slice(1)).toEqual(Array.from({ length: 50 }, (_, index) => `pubrec ${index + 1}`))
  })

  test('a resend before PUBREC waits for the first and is not stored', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    edge.ingest.commits = 'held'
    client.publish('t', 'm', 2, 7)
    client.publish('t', 'm', 2, 7, { dup: true })
    await until('the resend', () => edge.broker.stats().duplicates === 1)
    await settle()
    expect(client.received).toEqual(['connack 0'])
    expect(edge.ingest.pending).toBe(1)
    edge.ingest.commit()
    await client.expect(3)
    expect(client.received).toEqual(['connack 0', 'pubrec 7', 'pubrec 7'])
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('resends that wait count against the window', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    edge.ingest.commits = 'held'
    for (let resend = 0; resend < 3_000; resend++) client.publish('t', 'm', 2, 7, { dup: resend > 0 })
    await until('the window to fill', () => edge.broker.stats().inflight === 1_000)
    await settle()
    expect(edge.broker.stats().duplicates).toBe(999)
    edge.ingest.commits = 'auto'
    edge.ingest.commit()
    const received = await client.expect(3_001)
    expect(new Set(received.slice(1))).toEqual(new Set(['pubrec 7']))
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('a resend on a new connection, while the first is not durable, is not stored twice', async () => {
    const edge = await edgeOn()
    const first = await connectRaw(edge.port, 'a', persistent)
    edge.ingest.commits = 'held'
    first.publish('t', 'm', 2, 7)
    await until('the append', () => edge.ingest.pending === 1)
    first.drop()
    const second = await connectRaw(edge.port, 'a', persistent)
    second.publish('t', 'm', 2, 7, { dup: true })
    await until('the resend', () => edge.broker.stats().duplicates === 1)
    edge.ingest.commit()
    expect(await second.expect(2)).toEqual(['connack 0 present', 'pubrec 7'])
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('a resend after PUBREC, and after a crash of the edge, is acked and not stored', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    client.publish('t', 'm', 2, 7)
    await client.expect(2)
    client.publish('t', 'm', 2, 7, { dup: true })
    await client.expect(3)
    const again = await restart(edge)
    const back = await connectRaw(again.port, 'a', persistent)
    back.publish('t', 'm', 2, 7, { dup: true })
    expect(await back.expect(2)).toEqual(['connack 0 present', 'pubrec 7'])
    back.send({ cmd: 'pubrel', messageId: 7 })
    await back.expect(3)
    expect(again.ingest.payloads()).toEqual(['m'])
    expect(again.broker.stats().openQos2).toBe(0)
  })

  test('a message whose record was not durable at the crash is stored when it is resent', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    edge.ingest.commits = 'held'
    client.publish('t', 'm', 2, 7)
    await until('the append', () => edge.ingest.pending === 1)
    const again = await restart(edge)
    expect(client.received).toEqual(['connack 0'])
    const back = await connectRaw(again.port, 'a', persistent)
    back.publish('t', 'm', 2, 7, { dup: true })
    expect(await back.expect(2)).toEqual(['connack 0 present', 'pubrec 7'])
    expect(again.ingest.payloads()).toEqual(['m'])
  })

  test('an open id that comes with other content is a new message', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    client.publish('t', 'one', 2, 1)
    await client.expect(2)
    client.publish('t', 'two', 2, 1)
    await client.expect(3)
    client.publish('u', 'two', 2, 1)
    await client.expect(4)
    expect(edge.ingest.payloads()).toEqual(['one', 'two', 'two'])
  })

  test('a client that always uses packet id 1 and one payload loses and repeats nothing', async () => {
    let edge = await edgeOn()
    for (let round = 0; round < 3; round++) {
      const client = await connectRaw(edge.port, 'a', persistent)
      for (let index = 0; index < 5; index++) {
        client.publish('t', 'same', 2, 1)
        await client.expect(2 + 2 * index)
        client.send({ cmd: 'pubrel', messageId: 1 })
        await client.expect(3 + 2 * index)
      }
      edge = await restart(edge)
    }
    expect(edge.ingest.payloads()).toEqual(Array.from({ length: 15 }, () => 'same'))
  })

  test('PUBCOMP for a repeated PUBREL does not overtake the removal of the id', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a', persistent)
    client.publish('t', 'm', 2, 7)
    await client.expect(2)
    edge.ingest.commits = 'held'
    client.send({ cmd: 'pubrel', messageId: 7 }, { cmd: 'pubrel', messageId: 7 })
    await until('two removals', () => edge.ingest.pending === 2)
    await settle()
    expect(client.received).toEqual(['connack 0', 'pubrec 7'])
    edge.ingest.commit()
    expect((await client.expect(4)).slice(2)).toEqual(['pubcomp 7', 'pubcomp 7'])
  })

  test('a clean session forgets its ids with its connection and keeps none on disk', async () => {
    const edge = await edgeOn()
    const client = await connectRaw(edge.port, 'a')
    client.publish('t', 'm', 2, 7)
    await client.expect(2)
    expect([...edge.ingest.disk.session.keys()]).toEqual([])
    client.drop()
    await until('the connection to end', () => edge.broker.stats().connections === 0)
    expect(edge.broker.stats().openQos2).toBe(0)
  })

  test('a connection that is never let in does not touch the ids of the client whose name it takes', async () => {
    const { hashPassword } = await import('../../../edge/mqtt/users.ts')
    const users = Buffer.from(`me:${await hashPassword('secret')}\n`)
    const edge = await startEdge({ config: { usersFile: 'users' }, files: { users } })
    edges.push(edge)
    const client = await connectRaw(edge.port, 'a', { ...persistent, username: 'me', password: 'secret' })
    client.publish('t', 'm', 2, 7)
    await client.expect(2)
    const thief = await connectRaw(edge.port, 'a', { username: 'me', password: 'wrong' })
    expect(thief.received).toEqual(['connack 4'])
    await thief.expectClosed()
    client.publish('t', 'm', 2, 7, { dup: true })
    await client.expect(3)
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('mqtt.js at QoS 2 through crashes: every acked message once, in order', async () => {
    let edge = await edgeOn()
    const { port } = edge
    const client = await connectAsync(`mqtt://127.0.0.1:${port}`, {
      clientId: 'js',
      clean: false,
      reconnectPeriod: 20,
    })
    client.on('error', () => {})
    const sent: string[] = []
    for (let round = 0; round < 3; round++) {
      const acks: Promise<unknown>[] = []
      for (let index = 0; index < 50; index++) {
        sent.push(`${round}-${index}`)
        acks.push(client.publishAsync('t', `${round}-${index}`, { qos: 2 }))
      }
      await until('some to be durable', () => edge.ingest.disk.records.length > round * 50 + 10)
      const disk = edge.ingest.crash()
      await edge.broker.close()
      edge = await startEdge({ ingest: new FakeIngest(disk), config: { listen: `127.0.0.1:${port}` } })
      edges.push(edge)
      await Promise.all(acks)
    }
    await client.endAsync()
    expect(edge.ingest.payloads()).toEqual(sent)
  })
})

test('client ids and packet ids can not be confused with each other', async () => {
  const edge = await edgeOn()
  const client = await connectRaw(edge.port, `a/1${OPEN.slice(1)}`, persistent)
  client.publish('t', 'm', 2, 1)
  await client.expect(2)
  const again = await restart(edge)
  expect(again.broker.stats().openQos2).toBe(1)
})

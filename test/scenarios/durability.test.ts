/** Nothing is acked that fdatasync has not made durable, at any face of hub and edge; and a failed fdatasync ends them (issue, part 6.4). */

import { afterEach, beforeEach, expect, test } from 'vitest'
import { connectRaw, settle } from '../edge/mqtt/harness.ts'
import { FakeDisk } from '../fake-disk.ts'
import { seededRng } from '../rng.ts'
import type { Stage } from './stage.ts'
import { createStage, eventually, mqttPort, rawEdge, statusOf, urlOf, valuesOf } from './stage.ts'

let stage: Stage
let disk: FakeDisk
beforeEach(() => {
  stage = createStage()
  disk = new FakeDisk({ rng: seededRng(1) })
})
afterEach(() => stage.end())

const post = (url: string, value: string) =>
  fetch(`${url}/v1/topics/t/records`, {
    method: 'POST',
    headers: { 'content-type': 'text/plain' },
    body: value,
  })

test('while fdatasync is held at the edge no PUBACK, PUBREC or PUBCOMP leaves; then all do', async () => {
  const edge = await stage.edge({}, disk)
  const client = await connectRaw(mqttPort(edge), 'a', { clean: false })
  client.publish('n/0', 'open', 2, 9)
  await client.expect(2)
  expect(client.received).toEqual(['connack 0', 'pubrec 9'])

  const release = disk.holdSyncs()
  client.publish('n/1', 'one', 1, 1)
  client.publish('n/2', 'two', 2, 2)
  client.send({ cmd: 'pubrel', messageId: 9 })
  client.send({ cmd: 'pingreq' })
  await client.expect(3)
  await eventually('the commit at the disk', () => disk.heldSyncs > 0)
  await settle()
  expect(client.received.slice(2)).toEqual(['pingresp'])
  // Served meanwhile: its status counts what waits.
  expect((await statusOf(edge)).mqtt?.inflight).toBeGreaterThan(0)
  release()
  await client.expect(6)
  expect(client.received.slice(3).sort()).toEqual(['puback 1', 'pubcomp 9', 'pubrec 2'])
})

test('while fdatasync is held at the hub no uplink ack and no REST or client answer leaves, nor the records', async () => {
  const hub = await stage.hub({}, disk)
  const client = stage.client(hub)
  await client.topics.create({ name: 't', partitions: 1 })
  const edge = await rawEdge(hub, 'raw', 't')
  edge.append(0, 5)
  await edge.acked(5)
  await client.produce('t', { value: 'warm' })
  expect(edge.peer.waiting()).toEqual([])

  const release = disk.holdSyncs()
  edge.append(5, 5)
  let answers = 0
  const count = () => answers++
  const rest = post(urlOf(hub), 'rest').finally(count)
  const sdk = client.produce('t', { value: 'sdk' }).finally(count)
  const creating = client.topics.create({ name: 'later' }).finally(count)
  await eventually('the commit at the disk', () => disk.heldSyncs > 0)
  await settle()
  expect(edge.peer.waiting()).toEqual([])
  expect(answers).toBe(0)
  const described = await client.topics.describe('t')
  expect(described.partitions[0]?.highWatermark).toBe(7)
  expect(await valuesOf(client, 't')).toEqual(['0', '1', '2', '3', '4', 'warm'])
  release()
  await edge.acked(10)
  expect((await rest).status).toBe(200)
  await Promise.all([sdk, creating])
  expect((await valuesOf(client, 't')).slice(6).sort()).toEqual(['5', '6', '7', '8', '9', 'rest', 'sdk'])
})

test('a failed fdatasync at the edge: no ack, clients are closed, status says so, the agent fails', async () => {
  const edge = await stage.edge({}, disk)
  const clients = [await connectRaw(mqttPort(edge), 'a'), await connectRaw(mqttPort(edge), 'b')]
  const [first, second] = clients
  disk.failSyncs(1)
  first?.publish('n/1', 'one', 1, 1)
  await first?.expectClosed()
  expect(first?.received).toEqual(['connack 0'])
  const failure = await edge.failed
  expect(failure.code).toBe('disk_failed')
  expect(failure.message).toMatch(/restart|start/i)
  // Who had nothing under way is not acked either.
  second?.publish('n/2', 'two', 2, 2)
  await second?.expectClosed()
  expect(second?.received).toEqual(['connack 0'])
  const ready = await fetch(`http://127.0.0.1:${edge.httpAddress?.port}/readyz`)
  expect({ status: ready.status, body: await ready.json() }).toMatchObject({
    status: 503,
    body: { error: { code: 'not_available' } },
  })
  expect((await statusOf(edge)).alarms.map(alarm => alarm.kind)).toContain('disk')
})

test('a failed fdatasync at the hub: no ack, edges and clients are sent away, the hub fails', async () => {
  const hub = await stage.hub({}, disk)
  const client = stage.client(hub)
  await client.topics.create({ name: 't', partitions: 1 })
  const edge = await rawEdge(hub, 'raw', 't')
  edge.append(0, 5)
  await edge.acked(5)
  const producer = client.producer('t', { lingerMs: 0, deliveryTimeoutMs: 500 })
  await producer.send({ value: 'before' })
  disk.failSyncs(1)
  edge.append(5, 5)
  const sdk = producer.send({ value: 'sdk' }).catch((error: unknown) => error)
  const rest = await post(urlOf(hub), 'rest')
  expect({ status: rest.status, body: await rest.json() }).toMatchObject({
    status: 503,
    body: { error: { code: 'disk_failed', message: expect.stringContaining('restart') } },
  })
  await edge.peer.whenClosed
  const said = edge.peer.waiting()
  expect(said.filter(frame => frame.t === 'ack')).toEqual([])
  expect(said.at(-1)).toMatchObject({ t: 'error', code: 'disk_failed', fatal: true })
  expect((await hub.failed).code).toBe('disk_failed')
  expect((await fetch(`${urlOf(hub)}/readyz`)).status).toBe(503)
  // What was acked before is still there to be read, and nothing else is.
  const read = await fetch(`${urlOf(hub)}/v1/topics/t/records`)
  expect(await read.json()).toMatchObject({
    records: ['0', '1', '2', '3', '4', 'before'].map(value => ({ value })),
  })
  expect(await sdk).toMatchObject({ code: expect.stringMatching(/disk_failed|timeout|not_available/) })
})

/** A full disk on either side: who is told what, that nothing acked is lost, and that all goes on once there is room. */

import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { KIB, MIB } from '../../common/limits.ts'
import { connectRaw } from '../edge/mqtt/harness.ts'
import type { FakeDisk } from '../fake-disk.ts'
import { smallDisk } from '../fake-disk.ts'
import type { Stage } from './stage.ts'
import { createStage, eventually, mqttPort, rawEdge, statusOf, urlOf, valuesOf } from './stage.ts'

let stage: Stage
let disk: FakeDisk
beforeEach(() => {
  stage = createStage()
  disk = smallDisk(5)
})
afterEach(() => stage.end())

const padded = (number: number) => String(number).padEnd(10_000)
const numbers = (values: readonly string[]) => values.map(value => Number(value))

test('the hub’s: edges are throttled and keep all, clients are told, readers go on; with room everything arrives once', async () => {
  const hub = await stage.hub({ autoCreateTopics: false }, disk)
  const client = stage.client(hub)
  for (const name of ['telemetry', 'rest']) await client.topics.create({ name, partitions: 1 })
  const edge = await stage.edge({ hub: `ws://127.0.0.1:${hub.address.port}` })
  const publisher = await connectAsync(`mqtt://127.0.0.1:${mqttPort(edge)}`)
  stage.later(() => publisher.endAsync(true))
  const publish = (number: number) => publisher.publishAsync('n/1', padded(number), { qos: 1 })
  let next = 0
  await publish(next++)
  await eventually('the first record', async () => (await statusOf(edge)).lanes[0]?.committedOffset === 1)

  disk.setCapacity(disk.usedBytes())
  while ((await statusOf(edge)).uplink.connected && next < 400) {
    await publish(next++)
    if ((await statusOf(edge)).lagRecords > 50) break
  }
  const post = (body: string) =>
    fetch(`${urlOf(hub)}/v1/topics/rest/records`, {
      method: 'POST',
      headers: { 'content-type': 'text/plain' },
      body,
    })
  let refused = await post(padded(0))
  for (let tries = 0; refused.status === 200 && tries < 100; tries++) refused = await post(padded(0))
  expect({ status: refused.status, body: await refused.json() }).toMatchObject({
    status: 507,
    body: { error: { code: 'disk_full', message: expect.stringMatching(/free|room|space/) } },
  })
  const status = await statusOf(edge)
  expect(status.connected).toBe(true)
  expect(status.alarms.map(({ message }) => message).join('\n')).toContain('disk_full')
  expect(Number((await valuesOf(client, 'telemetry'))[0])).toBe(0)
  // A new edge and its session are admitted on the reserve.
  await rawEdge(hub, 'newcomer', 'rest')

  disk.setCapacity(Number.POSITIVE_INFINITY)
  await publish(next++)
  await eventually('the drain', async () => (await statusOf(edge)).lagRecords === 0)
  expect(numbers(await valuesOf(client, 'telemetry'))).toEqual(Array.from({ length: next }, (_, at) => at))
  expect((await post('again')).status).toBe(200)
})

test('a topic that rejects: clients that wait for withheld acks are let go once the hub made room, and resend', async () => {
  const directory = await stage.directory()
  const data = join(directory, 'hub')
  const first = await stage.hub({ data })
  const http = `127.0.0.1:${first.address.port}`
  await first.close()
  const edge = await stage.edge({
    hub: `ws://${http}`,
    topics: { '*': { onFull: 'reject' } },
    storage: { budgetBytes: MIB, segmentBytes: 64 * KIB },
  })
  // Window 1, as most devices do it: nothing comes after the message without an ack.
  const publisher = await connectRaw(mqttPort(edge), 'a')
  let next = 1
  const publishOne = async (): Promise<boolean> => {
    const before = publisher.received.length
    publisher.publish('n/1', padded(next), 1, next)
    const isOver = async () =>
      publisher.received.length > before || (await statusOf(edge)).mqtt?.withheld === 1
    await eventually('an ack, or none', isOver)
    return publisher.received.length > before
  }
  while (await publishOne()) next++
  expect(next).toBeGreaterThan(50)
  const idle = await connectRaw(mqttPort(edge), 'b')

  const hub = await stage.hub({ data, http })
  await eventually('the close', () => publisher.closed)
  const again = await connectRaw(mqttPort(edge), 'a')
  again.publish('n/1', padded(next), 1, next, { dup: true })
  expect(await again.expect(2)).toEqual(['connack 0', `puback ${next}`])
  expect(idle.closed).toBe(false)
  expect((await statusOf(edge)).mqtt?.closedToResend).toBe(1)
  await eventually('the drain', async () => (await statusOf(edge)).lagRecords === 0)
  const expected = Array.from({ length: next }, (_, at) => at + 1)
  expect(numbers(await valuesOf(stage.client(hub), 'telemetry'))).toEqual(expected)
})

test('the edge’s: what could not be kept is not acked, its status says so, and with room it takes on', async () => {
  const edge = await stage.edge({}, disk)
  const acked: number[] = []
  const publisher = await connectRaw(mqttPort(edge), 'a')
  let next = 1
  const publish = (to: typeof publisher) => to.publish('n/1', padded(next), 1, next++)
  publish(publisher)
  await publisher.expect(2)
  disk.setCapacity(disk.usedBytes())
  while (!publisher.closed && next < 500) {
    const before = publisher.received.length
    publish(publisher)
    await eventually('an ack or a close', () => publisher.closed || publisher.received.length > before)
  }
  expect(publisher.closed).toBe(true)
  acked.push(...publisher.received.slice(1).map(line => Number(line.split(' ')[1])))
  expect(acked.length).toBe(next - 2)
  const status = await statusOf(edge)
  expect(status.ingest.failures + status.ingest.refused).toBeGreaterThan(0)
  expect(status.mqtt?.appendFailures).toBeGreaterThan(0)
  expect(status.alarms.map(alarm => alarm.kind)).toContain('disk-full')
  const metrics = await (await fetch(`http://127.0.0.1:${edge.httpAddress?.port}/metrics`)).text()
  expect(metrics).toMatch(/tributary_storage_disk_full_total [1-9]/)

  disk.setCapacity(Number.POSITIVE_INFINITY)
  // A device comes back and sends again what it has no ack for; the edge looks at the disk every second.
  const number = next - 1
  await eventually('an ack', async () => {
    const again = await connectRaw(mqttPort(edge), 'a')
    again.publish('n/1', padded(number), 1, number)
    await eventually('an ack or a close', () => again.closed || again.received.length > 1)
    return again.received[1] === `puback ${number}`
  })
  acked.push(number)
  await edge.close()
  const hub = await stage.hub()
  const resumed = await stage.edge({ hub: `ws://127.0.0.1:${hub.address.port}` }, disk)
  await eventually('the drain', async () => {
    const { connected, lagRecords } = await statusOf(resumed)
    return connected && lagRecords === 0
  })
  expect(numbers(await valuesOf(stage.client(hub), 'telemetry'))).toEqual(acked)
})

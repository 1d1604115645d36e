/** `conflate` and `thin` from MQTT to a reader of `_gaps`: acked = stored + summarised, over power cuts, for every QoS. */

import type { MqttClient } from 'mqtt'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { TributaryClient } from '../../common/client.ts'
import type { EdgeOverrides } from '../../common/config-edge.ts'
import type { Edge } from '../../edge/agent.ts'
import type { Hub } from '../../hub/node.ts'
import { connectRaw } from '../edge/mqtt/harness.ts'
import { FakeDisk } from '../fake-disk.ts'
import { seededRng } from '../rng.ts'
import { runCli } from '../run-cli.ts'
import type { Stage } from './stage.ts'
import { createStage, eventually, mqttPort, statusOf, valuesOf } from './stage.ts'

const MINUTE_MS = 60_000
const POLICIES: EdgeOverrides = {
  rules: [
    { match: 'fast/#', topic: 'fast' },
    { match: 'slow/#', topic: 'slow' },
  ],
  topics: { fast: { conflate: { windowMs: 200 } }, slow: { thin: { everyMs: MINUTE_MS } } },
}

let stage: Stage
let hub: Hub
let client: TributaryClient
beforeEach(async () => {
  stage = createStage()
  hub = await stage.hub()
  client = stage.client(hub)
})
afterEach(() => stage.end())

interface Notice {
  topic: string
  reason: string
  count: number
  keys: number
  from: number
  to: number
}

async function summaries(topic: string): Promise<Notice[]> {
  const notices = (await valuesOf(client, '_gaps')).map((text): Notice => JSON.parse(text))
  return notices.filter(notice => notice.topic === topic)
}

const countOf = (notices: readonly Notice[]) => notices.reduce((sum, { count }) => sum + count, 0)

async function startEdge(disk: FakeDisk): Promise<{ edge: Edge; publisher: MqttClient }> {
  const edge = await stage.edge({ ...POLICIES, hub: `ws://127.0.0.1:${hub.address.port}` }, disk)
  const publisher = await connectAsync(`mqtt://127.0.0.1:${mqttPort(edge)}`, { reconnectPeriod: 0 })
  stage.later(() => publisher.endAsync(true))
  return { edge, publisher }
}

test('a client with window 1 gets each ack at once; the hub gets the newest reading, and how many it does not get', async () => {
  const { edge } = await startEdge(new FakeDisk({ rng: seededRng(1) }))
  const subscriber = await connectRaw(mqttPort(edge), 'watcher')
  subscriber.subscribe('#', 1)
  await subscriber.expect(2)
  const device = await connectRaw(mqttPort(edge), 'device')
  const values: string[] = []
  for (const qos of [1, 2, 1, 2, 0, 1] as const) {
    for (const topic of ['fast/a', 'slow/a']) {
      const id = values.length + 1
      const value = `${topic}-${id}`
      device.publish(topic, value, qos, id, { retain: true })
      values.push(value)
      const ack = { 0: null, 1: `puback ${id}`, 2: `pubrec ${id}` }[qos]
      await eventually('the ack', () => ack === null || device.received.at(-1) === ack)
    }
  }
  // Long before the window of the other topic ends.
  expect((await statusOf(edge)).lanes.find(({ topic }) => topic === 'slow')?.thinnedReadings).toBe(5)
  await eventually('the window to end', async () => (await valuesOf(client, 'fast')).length > 0)
  await eventually('the drain', async () => (await statusOf(edge)).lagRecords === 0)
  // A slow machine may have had more than one window.
  const stored = await valuesOf(client, 'fast')
  expect(stored.at(-1)).toBe('fast/a-11')
  expect(stored.length + countOf(await summaries('fast'))).toBe(6)
  expect(await valuesOf(client, 'slow')).toEqual(['slow/a-2'])

  // Local subscribers and retained messages know nothing of it.
  const received = () => subscriber.received.filter(line => line.startsWith('publish'))
  await eventually('all at the subscriber', () => received().length === values.length)
  const late = await connectRaw(mqttPort(edge), 'late')
  late.subscribe('#', 1)
  await late.expect(4)
  expect(late.received.filter(line => line.startsWith('publish')).toSorted()).toEqual([
    'publish fast/a 1 retain fast/a-11',
    'publish slow/a 1 retain slow/a-12',
  ])

  const { stdout } = await runCli(['edge', 'status', '--http', `127.0.0.1:${edge.httpAddress?.port}`])
  expect(stdout).toMatch(/by policy \d readings? conflated, 5 thinned/)
  expect(stdout).toMatch(/held.*conflated.*thinned/)
  const metrics = await (await fetch(`http://127.0.0.1:${edge.httpAddress?.port}/metrics`)).text()
  expect(metrics).toContain('tributary_edge_thinned_readings{topic="slow",lane="0"} 5')
})

test('power cuts at any time: what was acked is at the hub or summarised, once, in its topic and in order', async () => {
  let disk = new FakeDisk({ rng: seededRng(7) })
  const acked: Record<'fast' | 'slow', string[]> = { fast: [], slow: [] }
  let next = 0
  for (let life = 0; life < 4; life++) {
    const { edge, publisher } = await startEdge(disk)
    const publish = async (topic: 'fast' | 'slow'): Promise<void> => {
      const value = `${topic}-${next++}`
      await publisher.publishAsync(`${topic}/${next % 3}`, value, { qos: next % 2 === 0 ? 1 : 2 })
      acked[topic].push(value)
    }
    const pending: Promise<unknown>[] = []
    for (let round = 0; round < 15; round++) {
      for (let count = 0; count < 10; count++)
        pending.push(publish(count % 2 === 0 ? 'fast' : 'slow').catch(() => {}))
      // All but the last are waited for; the power goes while those are under way.
      if (round < 14) await Promise.all(pending.splice(0))
    }
    if (life === 1)
      await eventually('a window to end', async () => (await valuesOf(client, 'fast')).length > 0)
    if (life === 3) {
      await Promise.all(pending)
      await publisher.endAsync(true)
      await edge.close()
    }
    disk = life === 3 ? disk : disk.crash()
    if (life < 3) await edge.close().catch(() => {})
  }
  // What the last life held is in its log; a start without traffic sends it.
  const { edge } = await startEdge(disk)
  await eventually('the drain', async () => {
    const { connected, lagRecords } = await statusOf(edge)
    return connected && lagRecords === 0
  })
  for (const topic of ['fast', 'slow'] as const) {
    const stored = await valuesOf(client, topic)
    const notices = await summaries(topic)
    expect(new Set(stored).size).toBe(stored.length)
    for (const key of [0, 1, 2]) {
      const numbers = stored
        .map(value => Number(value.split('-')[1]))
        .filter(number => (number + 1) % 3 === key)
      expect(numbers).toEqual(numbers.toSorted((left, right) => left - right))
    }
    const missing = acked[topic].filter(value => !stored.includes(value)).length
    const count = countOf(notices)
    expect(count).toBeGreaterThanOrEqual(missing)
    // Readings whose ack the power cut took may be counted too.
    expect(stored.length + count).toBeLessThanOrEqual(next / 2)
    expect(notices.length).toBeGreaterThan(1)
    expect(
      notices.every(
        ({ reason, from, to, keys }) => to === from + 1 && keys >= 1 && keys <= 3 && reason.length > 0,
      ),
    ).toBe(true)
    expect(new Set(notices.map(({ reason }) => reason))).toEqual(
      new Set([topic === 'fast' ? 'conflated' : 'thinned']),
    )
  }
})

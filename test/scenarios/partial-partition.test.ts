/** A hub node that edges and clients reach, and the rest of its cluster does not: they go on with another node. */

import { resolve } from 'node:path'
import type { MqttClient } from 'mqtt'
import { connectAsync } from 'mqtt'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { TributaryClient } from '../../common/client.ts'
import { connect } from '../../common/client.ts'
import { nodeEnv } from '../../common/env-node.ts'
import type { HubNodes } from '../hub-nodes.ts'
import { allInSync, createHubNodes } from '../hub-nodes.ts'
import type { Stage } from './stage.ts'
import { createStage, mqttPort } from './stage.ts'

const SCRIPT = resolve(import.meta.dirname, '../../main.ts')
const NODES = 3
/** A node that does not reach a leader sends away after 4 s, one that knows no controller after 4.5 s, and the next one may be no better. */
const BOUND_MS = 30_000
const TOPIC = 'telemetry'

const stage: Stage = createStage()
let nodes: HubNodes
let client: TributaryClient
/** Of an edge that prefers the node that the test cuts off. */
let publisher: MqttClient
let edgeId: string
let cutOff: number
let controller: number
/** Values that a subscriber of that node got. */
let seen: Set<string>
let sent = 0

beforeAll(async () => {
  const options = { isGated: true, isGrown: false }
  nodes = await createHubNodes(await stage.directory(), SCRIPT, NODES, options)
  await Promise.all(nodes.hubs.map(hub => hub.start()))
  stage.later(async () => {
    await Promise.all(nodes.hubs.map(hub => hub.kill()))
    await nodes.gates.close()
  })
  client = connect({ hub: nodes.urls, env: nodeEnv() })
  stage.later(() => client.close())
  await client.topics.create({ name: TOPIC, partitions: 6 })
})
afterAll(() => stage.end())

beforeEach(async () => {
  nodes.gates.heal()
  await allInSync(client, NODES)
  controller = (await client.cluster.status()).controllerId ?? 0
  cutOff = [1, 2, 3].find(id => id !== controller) ?? 0
  const url = nodes.urls[cutOff - 1] ?? ''
  // It is told of the others by the one it comes to.
  const hub = url.replace('http:', 'ws:')
  // Lanes of several partitions, so of several leaders.
  edgeId = `edge-${sent}`
  const edge = await stage.edge({
    id: edgeId,
    hub,
    topics: { [TOPIC]: { partitionBy: 'key', lanes: 6 } },
  })
  publisher = await connectAsync(`mqtt://127.0.0.1:${mqttPort(edge)}`)
  const reader = connect({ hub: url, env: nodeEnv() })
  const stop = new AbortController()
  const found = new Set<string>()
  seen = found
  const reading = (async () => {
    for await (const { value } of reader.consume(TOPIC, { signal: stop.signal, from: 'earliest' })) {
      found.add(Buffer.from(value ?? []).toString())
    }
  })()
  stage.later(async () => {
    stop.abort()
    await Promise.all([reading, publisher.endAsync(true)])
    await reader.close()
  })
})

/** Publishes over the edge, to every lane, and resolves when the subscriber has it all. */
async function through(): Promise<void> {
  const values = Array.from({ length: 60 }, () => `value-${sent++}`)
  await Promise.all(values.map((value, at) => publisher.publishAsync(`n/${at}`, value, { qos: 1 })))
  await expect
    .poll(() => values.filter(value => !seen.has(value)), { timeout: BOUND_MS, interval: 20 })
    .toEqual([])
}

const others = () => [1, 2, 3].filter(id => id !== cutOff)

/** The node that the edge is at, as the controller's tells. */
async function place(): Promise<number | null> {
  const edges: unknown = await (await fetch(`${nodes.urls[controller - 1]}/v1/edges`)).json()
  const found = Object(edges).edges.find(({ id }: { id: string }) => id === edgeId)
  return found.connected ? found.nodeId : null
}

test('both ways from all nodes', async () => {
  await through()
  expect(await place()).toBe(cutOff)
  for (const other of others()) {
    nodes.gates.hold(cutOff, other)
    nodes.gates.hold(other, cutOff)
  }
  await through()
  expect(others()).toContain(await place())
})

test('one way: what it says does not come to the controller', async () => {
  await through()
  expect(await place()).toBe(cutOff)
  nodes.gates.hold(cutOff, controller)
  await through()
  expect(others()).toContain(await place())
})

test('both ways from a leader, while the controller reaches both', async () => {
  await through()
  expect(await place()).toBe(cutOff)
  const leader = others().find(id => id !== controller) ?? 0
  nodes.gates.hold(cutOff, leader)
  nodes.gates.hold(leader, cutOff)
  await through()
  expect(others()).toContain(await place())
})

/** An edge's directory copied while it runs, and both started: each acked record reaches the hub, and everyone is told (issue, part 6.5). */

import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import type { MqttClient } from 'mqtt'
import { connectAsync } from 'mqtt'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Edge } from '../../edge/agent.ts'
import { runCli } from '../run-cli.ts'
import type { Stage } from './stage.ts'
import { createStage, eventually, mqttPort, statusOf, urlOf, valuesOf } from './stage.ts'

let stage: Stage
beforeEach(() => {
  stage = createStage()
})
afterEach(() => stage.end())

test('both go on side by side: nothing acked is lost, each one’s records stay in order, the alarms say clone', async () => {
  const hub = await stage.hub()
  const client = stage.client(hub)
  const directory = await stage.directory()
  const start = async (name: string): Promise<{ edge: Edge; publisher: MqttClient }> => {
    const edge = await stage.edge({ data: join(directory, name), hub: `ws://127.0.0.1:${hub.address.port}` })
    const publisher = await connectAsync(`mqtt://127.0.0.1:${mqttPort(edge)}`)
    stage.later(() => publisher.endAsync(true))
    return { edge, publisher }
  }
  const acked: string[] = []
  const publish = async ({ publisher }: { publisher: MqttClient }, name: string) => {
    for (let count = 0; count < 10; count++) {
      const value = `${name}-${acked.length}`
      await publisher.publishAsync('n/1', value, { qos: 1 })
      acked.push(value)
    }
  }
  const original = await start('original')
  await publish(original, 'before')
  await cp(join(directory, 'original'), join(directory, 'clone'), { recursive: true })
  await publish(original, 'original')
  const clone = await start('clone')
  for (let round = 0; round < 3; round++) {
    await publish(clone, 'clone')
    await publish(original, 'original')
  }
  const alarmsOfHub = async () => {
    const answer = await (await fetch(`${urlOf(hub)}/v1/edges`)).json()
    const kinds: string[] = Object(answer).edges[0].alarms.map(({ kind }: { kind: string }) => kind)
    return kinds
  }
  await eventually('everything at the hub', async () => {
    const stored = new Set(await valuesOf(client, 'telemetry'))
    return acked.every(value => stored.has(value)) && (await alarmsOfHub()).includes('clone')
  })
  // One of them is stopped, and the other settles.
  await clone.publisher.endAsync(true)
  await clone.edge.close()
  await publish(original, 'after')
  await eventually('the drain', async () => {
    const { connected, lagRecords } = await statusOf(original.edge)
    return connected && lagRecords === 0
  })

  const stored = await valuesOf(client, 'telemetry')
  const first = [...new Set(stored)]
  expect(first.toSorted()).toEqual(acked.toSorted())
  for (const name of ['original', 'clone', 'after']) {
    const own = (values: readonly string[]) => values.filter(value => value.startsWith(name))
    expect(own(first)).toEqual(own(acked))
  }
  const gaps = (await valuesOf(client, '_gaps')).map(text => Object(JSON.parse(text)))
  expect(gaps.length).toBeGreaterThan(0)
  expect(gaps.every(({ edge, reason }) => edge === 'e1' && reason === 'fork')).toBe(true)

  expect((await statusOf(original.edge)).alarms.map(({ kind }) => kind)).toContain('fork')
  const { stdout } = await runCli(['edges', 'list', '--hub', urlOf(hub)])
  expect(stdout).toMatch(/^alarm clone of e1: .{20}/m)
  const status = await runCli(['edge', 'status', '--http', `127.0.0.1:${original.edge.httpAddress?.port}`])
  expect(status.stdout).toMatch(/^alarm fork: .{20}/m)
})

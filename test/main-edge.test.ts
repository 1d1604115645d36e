/** From MQTT to a subscriber through real processes, as an operator sees it. */

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import mqtt from 'mqtt'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runCli, startCli, waitForLine } from './run-cli.ts'

const directory = mkdtempSync(join(tmpdir(), 'tributary-main-edge-'))
const running: ChildProcess[] = []

async function startDaemon(args: readonly string[], ready: RegExp) {
  const child = startCli([...args, '--log-level', 'info'])
  running.push(child)
  return { child, ready: await waitForLine(child, ready) }
}

async function startHub(http: string): Promise<{ child: ChildProcess; http: string }> {
  const { child, ready } = await startDaemon(
    ['hub', '--data', join(directory, 'hub'), '--http', http],
    /"http":"([\d.:]+)".*the hub is ready/,
  )
  return { child, http: ready[1] ?? '' }
}

async function stop(child: ChildProcess): Promise<number | null> {
  const closed = once(child, 'close')
  child.kill('SIGTERM')
  await closed
  return child.exitCode
}

let hub: { child: ChildProcess; http: string }
let edge: ChildProcess
let mqttAddress: string
let edgeHttp: string

beforeAll(async () => {
  hub = await startHub('127.0.0.1:0')
  const config = join(directory, 'edge.yaml')
  writeFileSync(
    config,
    "edge: { id: e1, uplink: { backoffMinMs: 50ms, backoffMaxMs: 200ms }, topics: { '*': { priority: 7 } } }",
  )
  const flags = ['--hub', `http://${hub.http}`, '--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const started = await startDaemon(
    ['edge', '--config', config, '--data', join(directory, 'edge'), ...flags],
    /"mqtt":"([\d.:]+)".*"http":"([\d.:]+)".*the edge is ready/,
  )
  edge = started.child
  mqttAddress = started.ready[1] ?? ''
  edgeHttp = started.ready[2] ?? ''
})

afterAll(() => {
  for (const child of running) child.kill('SIGKILL')
})

async function publish(...values: string[]): Promise<void> {
  const client = await mqtt.connectAsync(`mqtt://${mqttAddress}`)
  for (const value of values) await client.publishAsync('plant/1/temp', value, { qos: 2 })
  await client.endAsync()
}

const status = async () => JSON.parse((await runCli(['edge', 'status', '--json', '--http', edgeHttp])).stdout)

/** Values in the hub's log, once there are `count`. */
async function consumed(count: number): Promise<unknown[]> {
  const args = ['consume', 'telemetry', '--hub', `ws://${hub.http}`, '--follow', '--count', String(count)]
  const { stdout } = await runCli(args)
  return stdout
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line))
}

test('a reading goes from MQTT through edge and hub to a subscriber, also over an outage of the hub', async () => {
  await runCli(['topics', 'create', 'telemetry', '--hub', `ws://${hub.http}`])
  await publish('21.5')
  expect(await consumed(1)).toEqual([
    {
      topic: 'telemetry',
      partition: expect.any(Number),
      offset: expect.any(Number),
      timestamp: expect.any(Number),
      key: 'e1/plant/1/temp',
      value: '21.5',
      headers: { 'mqtt.topic': 'plant/1/temp', edge: 'e1', 'edge.time': expect.stringMatching(/^\d+$/) },
    },
  ])
  expect(await stop(hub.child)).toBe(0)
  await publish('22', '22')
  expect(await status()).toMatchObject({ id: 'e1', connected: false, lagRecords: 2 })
  const table = await runCli(['edge', 'status', '--http', edgeHttp])
  expect(table.stdout).toMatch(/NOT connected, 2 records behind[\s\S]*^telemetry +0 +0 +3 /m)
  hub = await startHub(hub.http)
  const values = (await consumed(3)).map(record => Object(record).value)
  expect(values).toEqual(['21.5', '22', '22'])
  const { stdout } = await runCli(['edges', 'list', '--hub', `ws://${hub.http}`])
  expect(stdout).toMatch(/^e1 +connected/m)
})

test('a port in use names the flags that choose another', async () => {
  for (const flag of ['--mqtt', '--http']) {
    const address = flag === '--mqtt' ? mqttAddress : edgeHttp
    const free = { '--mqtt': '127.0.0.1:0', '--http': '127.0.0.1:0', [flag]: address }
    const args = ['edge', '--data', join(directory, 'other'), ...Object.entries(free).flat()]
    const { code, stderr } = await runCli(args)
    const error = stderr.split('\n').filter(line => line.startsWith('error: '))
    expect({ code, error }).toEqual({ code: 1, error: [expect.stringContaining(flag)] })
    expect(error[0]).toContain(address.split(':')[1])
  }
})

test('a data directory in use is refused', async () => {
  const free = ['--mqtt', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const { code, stderr } = await runCli(['edge', '--data', join(directory, 'edge'), ...free])
  expect(code).toBe(1)
  expect(stderr).toMatch(/^error: .*in use/m)
})

test('SIGTERM drains the edge and exits 0', async () => {
  expect(await stop(edge)).toBe(0)
})

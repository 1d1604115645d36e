import { createServer } from 'node:net'
import type { MqttClient } from 'mqtt'
import { connectAsync } from 'mqtt'
import { pino } from 'pino'
import { afterEach, expect, test } from 'vitest'
import { nodeCodec } from '../../common/compression.ts'
import type { EdgeOverrides } from '../../common/config-edge.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { Env } from '../../common/env.ts'
import { KIB, MIB } from '../../common/limits.ts'
import type { Edge } from '../../edge/agent.ts'
import { startEdge } from '../../edge/agent.ts'
import type { EdgeStatus } from '../../edge/report.ts'
import { FakeDisk } from '../fake-disk.ts'
import { liveClock } from '../live-clock.ts'
import { seededRng } from '../rng.ts'
import { until } from './edge-stage.ts'

/** The whole agent, MQTT to disk, on a disk that holds and fails; the hub is away throughout. */

const closing: (() => Promise<unknown>)[] = []

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

async function edgeOn(disk: FakeDisk, overrides: EdgeOverrides = {}): Promise<Edge> {
  const net = { dial: () => Promise.reject(new Error('the hub is away')) }
  const env: Env = { clock: liveClock, rng: seededRng(3), disk, codec: nodeCodec(), net }
  const config = defaultEdgeConfig({
    data: '/edge',
    http: '127.0.0.1:0',
    ...overrides,
    mqtt: { listen: '127.0.0.1:0', ...overrides.mqtt },
    storage: { journalBytes: 256 * KIB, budgetBytes: 64 * MIB, commitMs: 0 },
  })
  const edge = await startEdge(config, env, pino({ level: 'silent' }))
  closing.push(() => edge.close().catch(() => {}))
  return edge
}

async function clientOf(edge: Edge): Promise<MqttClient> {
  const client = await connectAsync(`mqtt://127.0.0.1:${edge.mqttAddress?.port}`, { reconnectPeriod: 0 })
  closing.push(() => client.endAsync(true))
  return client
}

async function get(edge: Edge, path: string): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://127.0.0.1:${edge.httpAddress?.port}${path}`)
  return { status: response.status, text: await response.text() }
}

const newDisk = () => new FakeDisk({ rng: seededRng(1) })

test('no PUBACK, PUBREC or PUBCOMP leaves while fdatasync is held', async () => {
  const disk = newDisk()
  const edge = await edgeOn(disk)
  const client = await clientOf(edge)
  await client.publishAsync('warm/up', 'x', { qos: 1 })
  const seen: string[] = []
  client.on('packetreceive', packet => seen.push(packet.cmd))
  const release = disk.holdSyncs()
  const published = Promise.all([
    client.publishAsync('a', '1', { qos: 1 }),
    client.publishAsync('a', '2', { qos: 2 }),
    client.publishAsync('a', '3', { qos: 1 }),
  ])
  await until('a commit waits', () => disk.heldSyncs > 0)
  await new Promise(resolve => setTimeout(resolve, 50))
  expect(seen).toEqual([])
  release()
  await published
  expect(seen.filter(cmd => cmd === 'puback').length).toBe(2)
  expect(seen).toContain('pubrec')
})

test('a failed fdatasync acks nothing, ends the connection and the agent', async () => {
  const disk = newDisk()
  const edge = await edgeOn(disk)
  const client = await clientOf(edge)
  await client.publishAsync('a', '1', { qos: 1 })
  let pubacks = 0
  client.on('packetreceive', packet => {
    if (packet.cmd === 'puback') pubacks++
  })
  const closed = new Promise<void>(resolve => client.once('close', () => resolve()))
  disk.failSyncs(1)
  client.publish('a', '2', { qos: 1 })
  expect((await edge.failed).code).toBe('disk_failed')
  await closed
  expect(pubacks).toBe(0)
  expect((await get(edge, '/readyz')).status).toBe(503)
})

test('status, health and metrics are there while the hub is away', async () => {
  const edge = await edgeOn(newDisk())
  const client = await clientOf(edge)
  for (let index = 0; index < 5; index++) await client.publishAsync('a/b', String(index), { qos: 1 })
  const status: EdgeStatus = JSON.parse((await get(edge, '/status')).text)
  expect(status).toMatchObject({ id: edge.id, connected: false, lagRecords: 5, droppedRecords: 0 })
  expect(status.lanes).toMatchObject([
    { topic: 'telemetry', lane: 0, startOffset: 0, endOffset: 5, durableEndOffset: 5, committedOffset: 0 },
  ])
  expect(status.uplink.lastError).toContain('the hub is away')
  expect(status.disk.usedBytes).toBeGreaterThan(0)
  expect((await get(edge, '/healthz')).status).toBe(200)
  expect((await get(edge, '/readyz')).status).toBe(200)
  const metrics = (await get(edge, '/metrics')).text
  expect(metrics).toContain('tributary_edge_lag_records{topic="telemetry",lane="0"} 5')
  expect(metrics).toContain('nodejs_eventloop_lag_p99_seconds')
  const lost = await get(edge, '/nothing')
  expect(lost.status).toBe(404)
  expect(lost.text).toContain('/status')
})

test('the id is made once; what was taken is there after a restart', async () => {
  const disk = newDisk()
  const first = await edgeOn(disk)
  const client = await clientOf(first)
  await client.publishAsync('a', '1', { qos: 1 })
  await client.endAsync(true)
  await first.close()
  const second = await edgeOn(disk)
  expect(second.id).toBe(first.id)
  expect(second.id).toMatch(/^[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{8}$/)
  const status: EdgeStatus = JSON.parse((await get(second, '/status')).text)
  expect(status.lagRecords).toBe(1)
})

test('a port in use is said, and nothing is left open', async () => {
  const disk = newDisk()
  const taken = createServer()
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
  const bound = taken.address()
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0
  await expect(edgeOn(disk, { http: `127.0.0.1:${port}` })).rejects.toMatchObject({ code: 'port_in_use' })
  taken.close()
  // The directory is free again.
  await edgeOn(disk)
})

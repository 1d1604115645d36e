import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { nodeCodec } from '../../common/compression.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import { nodeDisk } from '../../common/disk-node.ts'
import { isTributaryError } from '../../common/errors.ts'
import { nodeNet } from '../../common/net-node.ts'
import { freePorts } from '../../demo/child.ts'
import type { Hub } from '../../hub/node.ts'
import { startHub } from '../../hub/node.ts'
import { liveClock } from '../live-clock.ts'
import { until } from '../raw-peer.ts'
import { seededRng } from '../rng.ts'
import { plainOf } from './replica/batches.ts'

/** Hub nodes with real disks and sockets, two to a cluster. */

let directory = ''
let peers: string[] = []
let https: string[] = []
const hubs: Hub[] = []

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tributary-nodes-'))
  const ports = await freePorts(6)
  peers = ports.slice(0, 3).map((port, at) => `${at + 1}@127.0.0.1:${port}`)
  https = ports.slice(3).map(port => `127.0.0.1:${port}`)
})

afterEach(async () => {
  await Promise.all(hubs.splice(0).map(hub => hub.close().catch(() => {})))
  rmSync(directory, { recursive: true, force: true })
})

async function start(
  nodeId: number,
  others: readonly number[],
  data = `${nodeId}`,
  stop?: AbortSignal,
): Promise<Hub> {
  const config = defaultHubConfig({
    data: join(directory, data),
    nodeId,
    http: https[nodeId - 1] ?? '',
    cluster: { peers: [nodeId, ...others].map(id => peers[id - 1] ?? '') },
    storage: { journalBytes: 1 << 20, reserveBytes: 1 << 16 },
  })
  const env = {
    clock: liveClock,
    rng: seededRng(nodeId),
    disk: nodeDisk(),
    net: nodeNet(),
    codec: nodeCodec(),
  }
  const hub = await startHub(config, env, pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' }), stop)
  hubs.push(hub)
  return hub
}

async function stop(hub: Hub): Promise<void> {
  hubs.splice(hubs.indexOf(hub), 1)
  await hub.close()
}

async function answerOf(nodeId: number, path: string): Promise<{ status: number; text: string }> {
  try {
    const response = await fetch(`http://${https[nodeId - 1]}${path}`)
    return { status: response.status, text: await response.text() }
  } catch {
    return { status: 0, text: '' }
  }
}

describe('a node that waits for others', () => {
  it('says that it is alive and not ready, and for whom it waits', async () => {
    const first = start(1, [2])
    let ready = await answerOf(1, '/readyz')
    for (let tries = 0; !ready.text.includes('to found') && tries < 500; tries++) {
      await new Promise(resolve => setTimeout(resolve, 10))
      ready = await answerOf(1, '/readyz')
    }
    expect(ready).toMatchObject({ status: 503, text: expect.stringContaining('to found a cluster with: 2') })
    expect(await answerOf(1, '/healthz')).toMatchObject({ status: 200, text: '{"status":"ok"}' })
    expect((await answerOf(1, '/v1/topics')).status).toBe(503)
    const hubs = await Promise.all([first, start(2, [1])])
    await until(() => hubs.every(hub => hub.ports.notReadyReason() === null), 'both serve')
    expect(await answerOf(1, '/readyz')).toMatchObject({ status: 200 })
    expect((await answerOf(1, '/v1/topics')).status).toBe(200)
  })

  it('frees its ports when it is stopped', async () => {
    const stopping = new AbortController()
    const waiting = start(1, [2], '1', stopping.signal).catch((error: unknown) => error)
    while ((await answerOf(1, '/healthz')).status === 0) await new Promise(resolve => setTimeout(resolve, 10))
    stopping.abort()
    expect(isTributaryError(await waiting, 'closed')).toBe(true)
    expect((await answerOf(1, '/healthz')).status).toBe(0)
  })
})

describe('a node that finds no controller', () => {
  it('says so, and stops when it is told to', async () => {
    const [first, second] = await Promise.all([start(1, [2]), start(2, [1])])
    await until(() => first.ports.cluster.status().activeNodes === 2, 'both live')
    await stop(second)
    await stop(first)
    const stopping = new AbortController()
    const waiting = start(2, [1], '2', stopping.signal).catch((error: unknown) => error)
    while ((await answerOf(2, '/readyz')).status === 0) await new Promise(resolve => setTimeout(resolve, 10))
    stopping.abort()
    const stoppedMs = performance.now()
    expect(isTributaryError(await waiting, 'closed')).toBe(true)
    expect(performance.now() - stoppedMs).toBeLessThan(3_000)
    // As if it had never been there.
    const again = await Promise.all([start(1, [2]), start(2, [1])])
    await until(() => again.every(hub => hub.ports.notReadyReason() === null), 'both serve')
  })
})

describe('what operators see', () => {
  it('names partitions that miss replicas, in a status, a description and metrics', async () => {
    const [first, second] = await Promise.all([start(1, [2]), start(2, [1])])
    await until(() => first.ports.cluster.status().activeNodes === 2, 'both live')
    const config = { minInsyncReplicas: 2 }
    const { topicId } = await first.ports.topics.create({ name: 't', partitions: 1, replication: 2, config })
    await first.ports.logs.append(topicId, 0, plainOf(['x']), 'all')
    const status = () => first.ports.cluster.status()
    await until(() => status().unwell.length === 0, 'all is well')
    await stop(second)
    await until(() => status().unwell.some(({ topic }) => topic === 't'), 'it is not')
    expect(status().unwell[0]).toEqual({
      ...{ topic: 't', partition: 0, leader: 1, minInSync: 2, isr: [1] },
      replicas: expect.arrayContaining([1, 2]),
    })
    const described = JSON.parse((await answerOf(1, '/v1/topics/t')).text)
    expect(described.partitions).toMatchObject([{ leader: 1, isr: [1], endOffset: 1 }])
    const refused = await first.ports.logs
      .append(topicId, 0, plainOf(['y']), 'all')
      .catch((error: unknown) => error)
    expect(isTributaryError(refused, 'not_available') && refused.message).toMatch(
      /1 replica is in sync, 2 must be/,
    )
    const { text } = await answerOf(1, '/metrics')
    expect(text).toMatch(/^tributary_cluster_nodes_active 1$/m)
    expect(text).toMatch(/^tributary_cluster_partitions_offline 0$/m)
    expect(text).toMatch(/^tributary_partitions_below_min_in_sync 1$/m)
    expect(text).toMatch(/^tributary_partitions_under_replicated [1-9]/m)
    expect(text).toMatch(/^tributary_isr_shrinks_total [1-9]/m)
    expect(text).toMatch(/^tributary_leader_elections_total [1-9]/m)
    expect(text).toMatch(/^tributary_unclean_leader_elections_total 0$/m)
    expect(text).toMatch(/^tributary_replication_bytes_out_total \d+/m)
    const again = await start(2, [1])
    await until(() => status().unwell.length === 0, 'all is well again')
    await until(() => again.ports.cluster.status().underReplicated === 0, 'the other node knows too')
    expect((await answerOf(1, '/metrics')).text).toMatch(/^tributary_isr_expands_total [1-9]/m)
  })
})

describe('a node that is removed while it runs', () => {
  it('stops, and comes back with another directory alone', async () => {
    const [first, second] = await Promise.all([start(1, [2]), start(2, [1])])
    const { cluster } = first.ports
    await until(() => cluster.status().activeNodes === 2, 'both live')
    await cluster.drain(2, true)
    await until(() => cluster.nodes().find(({ nodeId }) => nodeId === 2)?.replicas === 0, 'it is drained')
    await cluster.remove(2)
    expect((await second.failed).code).toBe('fenced')
    await stop(second)
    const refused = await start(2, [1]).catch((error: unknown) => error)
    expect(isTributaryError(refused, 'config_invalid') && refused.message).toContain('was removed')
    await start(2, [1], '2b')
    await until(() => cluster.status().activeNodes === 2, 'it is back')
  })
})

describe('a data directory', () => {
  it('is refused to another node, which would remove what may be the only copy in it', async () => {
    const [first, second] = await Promise.all([start(1, [2]), start(2, [1])])
    await until(() => second.ports.cluster.status().activeNodes === 2, 'both live')
    const { topicId } = await first.ports.topics.create({ name: 't', partitions: 2, replication: 1 })
    for (const partition of [0, 1]) await first.ports.logs.append(topicId, partition, plainOf(['x']), 'all')
    await stop(second)
    const refused = await start(3, [1], '2').catch((error: unknown) => error)
    expect(isTributaryError(refused, 'config_invalid') && refused.message).toContain('--node 2')
    const again = await start(2, [1])
    for (const partition of [0, 1])
      expect(await again.ports.logs.bounds(topicId, partition)).toMatchObject({ highWatermark: 1 })
    expect(again.ports.cluster.nodes().map(({ nodeId }) => nodeId)).toEqual([1, 2])
  })

  it('of a node alone is refused to another one too, instead of waiting for ever', async () => {
    await stop(await start(1, []))
    rmSync(join(directory, '1', 'node-id'))
    const refused = await start(2, [], '1').catch((error: unknown) => error)
    expect(isTributaryError(refused, 'config_invalid') && refused.message).toContain('--node 1')
    expect((await start(1, [])).ports.notReadyReason()).toBeNull()
  })
})

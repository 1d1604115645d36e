/** Three nodes on this machine: what many replicated partitions cost at rest, and what replication costs an append. */

import { rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TributaryClient } from '../../common/client.ts'
import { connect } from '../../common/client.ts'
import { nodeEnv } from '../../common/env-node.ts'
import type { HubNodes } from '../hub-nodes.ts'
import { createHubNodes } from '../hub-nodes.ts'
import type { BenchContext } from './measure.ts'
import { cpuMs, markdownTable, median, round, rssMb } from './measure.ts'
import { profiled, profileUs, whereTimeWent } from './where.ts'

const SCRIPT = resolve(import.meta.dirname, '../../main.ts')
const NODES = 3
const TOPICS = 10
const PARTITIONS_PER_TOPIC = 100
const IDLE_MS = 15_000
const IN_SYNC_LIMIT_MS = 120_000
const STOP_LIMIT_MS = 30_000

const RECORD_BYTES = 1_024
const ACTIVE_PARTITIONS = [1, 100, 1_000]
const THROUGHPUT_RECORDS = 60_000
const LATENCY_SENDS = 500

async function startNodes(root: string): Promise<{ nodes: HubNodes; client: TributaryClient }> {
  const nodes = await createHubNodes(root, SCRIPT, NODES, { isGated: false, isGrown: false })
  await Promise.all(nodes.hubs.map(hub => hub.start()))
  return { nodes, client: connect({ hub: nodes.urls.join(','), env: nodeEnv() }) }
}

async function stopNodes({ hubs, gates }: HubNodes, client: TributaryClient, root: string): Promise<void> {
  await client.close()
  await Promise.all(hubs.map(hub => hub.kill()))
  await gates.close()
  await rm(root, { recursive: true, force: true })
}

const pids = ({ hubs }: HubNodes): number[] => hubs.flatMap(hub => hub.pid() ?? [])

async function cpuOf(nodes: HubNodes): Promise<number[]> {
  return Promise.all(pids(nodes).map(cpuMs))
}

/** Resolves with the time until `partitions` partitions have all their replicas in sync. */
async function untilInSync(client: TributaryClient, partitions: number): Promise<number> {
  const startedMs = performance.now()
  while (performance.now() - startedMs < IN_SYNC_LIMIT_MS) {
    const status = await client.cluster.status().catch(() => null)
    const isWell =
      status !== null &&
      status.activeNodes === NODES &&
      status.partitions >= partitions &&
      status.leaderless + status.underReplicated + status.reassigning === 0
    if (isWell) return performance.now() - startedMs
    await sleep(20)
  }
  throw new Error(`not in sync within ${IN_SYNC_LIMIT_MS} ms`)
}

/** 1,000 partitions of three replicas: start, idle cost, memory, creation of topics. */
export async function benchClusterAtRest({ directory, runs, write }: BenchContext): Promise<void> {
  const starts: number[] = []
  const creations: number[] = []
  let idle: number[] = []
  let memory: number[] = []
  for (let run = 0; run < runs; run++) {
    const root = join(directory, `cluster-${run}`)
    const { nodes, client } = await startNodes(root)
    for (let topic = 0; topic < TOPICS; topic++) {
      const startedMs = performance.now()
      await client.topics.create({ name: `t${topic}`, partitions: PARTITIONS_PER_TOPIC })
      creations.push(performance.now() - startedMs)
      const records = Array.from({ length: PARTITIONS_PER_TOPIC }, (_, partition) => ({
        value: 'x',
        partition,
      }))
      await client.produce(`t${topic}`, records)
    }
    await untilInSync(client, TOPICS * PARTITIONS_PER_TOPIC)
    await Promise.all(nodes.hubs.map(hub => hub.kill()))
    const startedMs = performance.now()
    await Promise.all(nodes.hubs.map(hub => hub.start()))
    await untilInSync(client, TOPICS * PARTITIONS_PER_TOPIC)
    starts.push(performance.now() - startedMs)
    await sleep(3_000)
    const before = await cpuOf(nodes)
    await sleep(IDLE_MS)
    const after = await cpuOf(nodes)
    idle = idle.concat(after.map((ms, at) => ((ms - (before[at] ?? 0)) / IDLE_MS) * 100))
    memory = memory.concat(await Promise.all(pids(nodes).map(rssMb)))
    await stopNodes(nodes, client, root)
  }
  const rows = [
    ['start after kill -9 of all, until all in sync', `${round(median(starts) / 1000, 1)} s`],
    [`topic of ${PARTITIONS_PER_TOPIC} partitions created, p50`, `${round(median(creations))} ms`],
    ['the same, worst', `${round(Math.max(...creations))} ms`],
    ['idle CPU of a core, worst node', `${round(Math.max(...idle), 1)} %`],
    ['memory (RSS), largest node', `${round(Math.max(...memory))} MB`],
  ]
  const head = [`${NODES} nodes, ${TOPICS * PARTITIONS_PER_TOPIC} partitions x 3, ${runs} runs`, '']
  write(`${markdownTable(head, rows)}\n`)
}

interface Cost {
  megabytesPerSecond: number
  cpuMsPerMegabyte: number
  p50Ms: number
  p99Ms: number
}

/** Produce with acks=all, one replica against three in the same run, over 1, 100 and 1,000 partitions. */
export async function benchReplication({ directory, runs, write }: BenchContext): Promise<void> {
  const root = join(directory, 'replication')
  const { nodes, client } = await startNodes(root)
  const rows: string[][] = []
  for (const partitions of ACTIVE_PARTITIONS) {
    const costs = new Map<number, Cost[]>([
      [1, []],
      [3, []],
    ])
    for (const replication of [1, 3]) {
      await client.topics.create({ name: `r${replication}-${partitions}`, partitions, replication })
    }
    await untilInSync(client, 0)
    for (let run = 0; run < runs; run++) {
      // By turns, so that a busy moment of the machine meets both.
      for (const replication of [1, 3]) {
        costs
          .get(replication)
          ?.push(await measure(nodes, client, `r${replication}-${partitions}`, partitions))
      }
    }
    for (const [replication, all] of costs) {
      const figure = (pick: (cost: Cost) => number, digits: number): string =>
        round(median(all.map(pick)), digits)
      rows.push([
        String(partitions),
        String(replication),
        figure(cost => cost.megabytesPerSecond, 1),
        figure(cost => cost.cpuMsPerMegabyte, 1),
        figure(cost => cost.p50Ms, 2),
        figure(cost => cost.p99Ms, 2),
      ])
    }
  }
  await stopNodes(nodes, client, root)
  const head = ['active partitions', 'replicas', 'MB/s', 'CPU ms/MB (all nodes)', 'p50 ms', 'p99 ms']
  write(`${markdownTable(head, rows)}\n`)
  await writeWhere(join(directory, 'profiled'), write)
}

/** Where the CPU time of all nodes goes, with three replicas. */
async function writeWhere(root: string, write: (text: string) => void): Promise<void> {
  const shares: Map<string, number>[] = []
  for (const partitions of ACTIVE_PARTITIONS) {
    const at = join(root, String(partitions))
    const profiles = join(root, `profiles-${partitions}`)
    const { nodes, client } = await profiled(profiles, () => startNodes(at))
    await client.topics.create({ name: 'p', partitions, replication: NODES })
    await untilInSync(client, partitions)
    const fromUs = profileUs()
    await measure(nodes, client, 'p', partitions)
    const toUs = profileUs()
    // Profiles are written at an end in order.
    for (const hub of nodes.hubs) await hub.stop(STOP_LIMIT_MS)
    await stopNodes(nodes, client, at)
    shares.push(new Map(await whereTimeWent(profiles, fromUs, toUs)))
  }
  const parts = [...new Set(shares.flatMap(share => [...share.keys()]))]
  const rows = parts.map(part => [part, ...shares.map(share => `${round(share.get(part) ?? 0)} %`)])
  const head = [
    'CPU of the main threads, three replicas',
    ...ACTIVE_PARTITIONS.map(partitions => `${partitions} partitions`),
  ]
  write(`${markdownTable(head, rows)}\n`)
}

async function measure(
  nodes: HubNodes,
  client: TributaryClient,
  topic: string,
  partitions: number,
): Promise<Cost> {
  const value = Buffer.alloc(RECORD_BYTES, 0x61)
  const producer = client.producer(topic, { lingerMs: 0 })
  const sum = (values: readonly number[]): number => values.reduce((total, one) => total + one, 0)
  const cpuBeforeMs = sum(await cpuOf(nodes))
  const startedMs = performance.now()
  const group = Math.max(100, partitions)
  let sending: Promise<unknown>[] = []
  for (let sent = 0; sent < THROUGHPUT_RECORDS; sent += group) {
    const records = Array.from({ length: group }, (_, at) => ({ value, partition: (sent + at) % partitions }))
    sending.push(producer.send(records))
    if (sending.length < 8) continue
    await sending[0]
    sending = sending.slice(1)
  }
  await Promise.all(sending)
  const seconds = (performance.now() - startedMs) / 1_000
  const megabytes = (THROUGHPUT_RECORDS * RECORD_BYTES) / 1e6
  const cpu = sum(await cpuOf(nodes)) - cpuBeforeMs
  const latencies: number[] = []
  for (let n = 0; n < LATENCY_SENDS; n++) {
    const sentMs = performance.now()
    await producer.send({ value, partition: n % partitions })
    latencies.push(performance.now() - sentMs)
  }
  await producer.close()
  latencies.sort((a, b) => a - b)
  return {
    megabytesPerSecond: megabytes / seconds,
    cpuMsPerMegabyte: cpu / megabytes,
    p50Ms: latencies[Math.floor(LATENCY_SENDS * 0.5)] ?? 0,
    p99Ms: latencies[Math.floor(LATENCY_SENDS * 0.99)] ?? 0,
  }
}

/** MQTT QoS 1 ingest, 64-byte payloads, durable: ours against mosquitto without persistence and nats-server. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { EdgeChildOptions } from './edge-child.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median, round, runScript, thousands } from './measure.ts'
import type { LoadOptions, LoadResult } from './mqtt-load.ts'
import type { Server } from './peers.ts'
import { startMosquitto, startNats } from './peers.ts'

const CONNECTIONS = [1, 10, 100, 1_000]
/** Publishes in flight over all connections together when pipelined. */
const PIPELINED_TOTAL = 4_000
const WARMUP_MS = 500
const MEASURE_MS = 1_000

interface Load {
  connections: number
  window: 'pipelined' | 1
  topics: number
}

interface Subject {
  name: string
  start(directory: string): Promise<Server | null>
}

async function startEdgeChild(options: EdgeChildOptions): Promise<Server> {
  const script = join(import.meta.dirname, 'edge-child.ts')
  const child = spawn(process.execPath, [script, JSON.stringify(options)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, UV_THREADPOOL_SIZE: '16' },
  })
  const [line]: unknown[] = await once(createInterface({ input: child.stdout }), 'line')
  const { port }: { port: number } = JSON.parse(String(line))
  return {
    name: 'tributary',
    port,
    pid: child.pid ?? 0,
    stop: async () => {
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    },
  }
}

let started = 0
const ours = (commitMs: number, syncDelayMs: number): Subject => ({
  name: `tributary commitMs ${commitMs}${syncDelayMs > 0 ? `, fdatasync + ${syncDelayMs} ms` : ''}`,
  start: directory =>
    startEdgeChild({
      data: join(directory, `edge-${started++}`),
      commitMs,
      syncDelayMs,
      hub: 'ws://127.0.0.1:9',
    }),
})
const PEERS: Subject[] = [
  { name: 'mosquitto, no persistence', start: startMosquitto },
  { name: 'nats-server, file, acks unsynced', start: startNats },
]

async function measureOnce(server: Server, load: Load): Promise<LoadResult> {
  const window = load.window === 1 ? 1 : Math.max(1, Math.floor(PIPELINED_TOTAL / load.connections))
  const options: LoadOptions = {
    port: server.port,
    pid: server.pid,
    connections: load.connections,
    window,
    topics: load.topics,
    payloadBytes: 64,
    warmupMs: WARMUP_MS,
    measureMs: MEASURE_MS,
  }
  const result = await runScript('mqtt-load.ts', options, 60_000)
  if (!isLoadResult(result)) throw new Error('mqtt-load.ts printed no result')
  return result
}

function isLoadResult(value: unknown): value is LoadResult {
  return typeof value === 'object' && value !== null && 'messagesPerSecond' in value
}

/** One table: subjects as rows, loads as columns; runs alternate between subjects so that noise hits all alike. */
async function compare(
  context: BenchContext,
  title: string,
  subjects: Subject[],
  loads: Load[],
): Promise<void> {
  const cells = new Map<string, LoadResult[]>()
  const names = new Set<string>()
  for (let run = 0; run < context.runs; run++) {
    for (const subject of subjects) {
      const server = await subject.start(context.directory)
      if (server === null) continue
      names.add(subject.name)
      for (const [index, load] of loads.entries()) {
        const key = `${subject.name}/${index}`
        const result = await measureOnce(server, load)
        cells.set(key, [...(cells.get(key) ?? []), result])
      }
      await server.stop()
    }
  }
  const head = [
    `median of ${context.runs}; µs: server CPU a message`,
    ...loads.map(
      l =>
        `${l.connections} conn, ${l.window === 1 ? 'window 1' : 'pipelined'}${l.topics > 1 ? `, ${l.topics} topics` : ''}`,
    ),
  ]
  const rows = [...names].map(name => [
    name,
    ...loads.map((_, index) => {
      const results = cells.get(`${name}/${index}`) ?? []
      const of = (pick: (one: LoadResult) => number): number => median(results.map(pick))
      return `${thousands(of(one => one.messagesPerSecond))} msg/s, p99 ${round(
        of(one => one.publishP99Ms),
        1,
      )} ms, ${round(
        of(one => one.cpuMicrosPerMessage),
        1,
      )} µs`
    }),
  ])
  context.write(`### ${title}\n\n${markdownTable(head, rows)}\n`)
  for (const subject of subjects)
    if (!names.has(subject.name)) context.write(`SKIPPED: ${subject.name} is not installed.\n`)
}

export async function benchMqttIngest(context: BenchContext): Promise<void> {
  const pipelined = CONNECTIONS.map((connections): Load => ({ connections, window: 'pipelined', topics: 1 }))
  const single = CONNECTIONS.map((connections): Load => ({ connections, window: 1, topics: 1 }))
  await compare(context, 'MQTT QoS 1 ingest, pipelined', [ours(0, 0), ours(10, 0), ...PEERS], pipelined)
  await compare(context, 'MQTT QoS 1 ingest, window 1', [ours(0, 0), ours(10, 0), ...PEERS], single)
  const wide: Load[] = [
    { connections: 100, window: 'pipelined', topics: 40 },
    { connections: 100, window: 1, topics: 40 },
  ]
  await compare(context, 'MQTT QoS 1 ingest, 40 topics', [ours(0, 0), ours(10, 0), ...PEERS], wide)
  const slow: Load[] = [
    { connections: 100, window: 'pipelined', topics: 1 },
    { connections: 100, window: 1, topics: 1 },
  ]
  await compare(context, 'MQTT QoS 1 ingest, fdatasync slowed by 5 ms', [ours(0, 5), ours(10, 5)], slow)
}

/**
 * What the MQTT side alone can take: the broker on an Ingest that commits at once, pipelined QoS 1 or 2 from a load process of its own.
 * Run: node test/bench/mqtt-broker.ts [connections] [window]. `--cpu-prof` on this process shows where time goes.
 */

import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { FakeIngest } from '../edge/mqtt/fake-ingest.ts'
import { startEdge } from '../edge/mqtt/harness.ts'
import type { LoadOptions, LoadResult } from './mqtt-load.ts'

async function measure(port: number, connections: number, window: number): Promise<LoadResult> {
  const options: LoadOptions = {
    port,
    connections,
    window,
    topics: 10,
    payloadBytes: 64,
    warmupMs: 700,
    measureMs: 2_000,
  }
  const script = join(import.meta.dirname, 'mqtt-load.ts')
  const child = spawn(process.execPath, [script, JSON.stringify(options)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const result: LoadResult = JSON.parse(await text(child.stdout))
  return result
}

const [connections = '0', window = '400'] = process.argv.slice(2)
const ingest = new FakeIngest()
ingest.keeps = false
const edge = await startEdge({ ingest })
for (const count of connections === '0' ? [1, 10, 100] : [Number(connections)]) {
  const cpuBefore = process.cpuUsage()
  const takenBefore = edge.broker.stats().durable
  const result = await measure(edge.port, count, Number(window))
  const cpu = process.cpuUsage(cpuBefore)
  const microsecondsEach = (cpu.user + cpu.system) / (edge.broker.stats().durable - takenBefore)
  console.log(
    `${count} connections, window ${window}: ${Math.round(result.messagesPerSecond)} msg/s, p99 ${result.publishP99Ms.toFixed(2)} ms, ${microsecondsEach.toFixed(2)} us CPU a message`,
  )
}
await edge.broker.close()

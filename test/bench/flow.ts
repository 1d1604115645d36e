/** End-to-end latency at a steady rate, and fan-out to subscribers. */

import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import mqtt from 'mqtt'
import type { BenchContext } from './measure.ts'
import { cpuMs, markdownTable, median, round } from './measure.ts'
import { createBenchStage } from './stage.ts'

const RATE = 1_000
const LATENCY_MS = 5_000
const FAN_OUT_RECORDS = 200_000
const FAN_OUT_BYTES = 1_024
const SUBSCRIBERS = [1, 4]

/** Publish call to consumer, QoS 1, through edge and hub with default settings, at 1,000 messages a second. */
export async function benchLatency(context: BenchContext): Promise<void> {
  const p50: number[] = []
  const p99: number[] = []
  for (let run = 0; run < context.runs; run++) {
    const stage = await createBenchStage(join(context.directory, `latency-${run}`), {})
    await stage.hub.start()
    await stage.edge.start()
    const latencies: number[] = []
    const stop = new AbortController()
    await stage.client.topics.create({ name: 'telemetry' })
    const watching = (async () => {
      for await (const record of stage.client.consume('telemetry', {
        from: 'earliest',
        follow: true,
        signal: stop.signal,
      }))
        latencies.push(performance.now() - Number(Buffer.from(record.value ?? []).toString()))
    })()
    const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${stage.mqttPort}`, { protocolVersion: 4 })
    await client.publishAsync('bench/warm', String(performance.now()), { qos: 1 })
    while (latencies.length === 0) await sleep(10)
    latencies.length = 0
    const startedMs = performance.now()
    for (let sent = 0; performance.now() - startedMs < LATENCY_MS; ) {
      while (sent < ((performance.now() - startedMs) * RATE) / 1000) {
        client.publish('bench/latency', String(performance.now()), { qos: 1 })
        sent++
      }
      await sleep(1)
    }
    await sleep(500)
    stop.abort()
    await watching
    await client.endAsync()
    await stage.stop()
    const sorted = latencies.toSorted((a, b) => a - b)
    p50.push(sorted[Math.floor(sorted.length / 2)] ?? 0)
    p99.push(sorted[Math.floor(sorted.length * 0.99)] ?? 0)
  }
  context.write(
    `MQTT publish to subscriber at ${RATE} msg/s, median of ${context.runs}: p50 ${round(median(p50), 1)} ms, p99 ${round(median(p99), 1)} ms.\n`,
  )
}

/** MB/s of record bytes out of the hub to subscribers in one client process. */
export async function benchFanOut(context: BenchContext): Promise<void> {
  const stage = await createBenchStage(join(context.directory, 'fan-out'), {})
  await stage.hub.start()
  await stage.client.topics.create({ name: 'fan', partitions: 1 })
  const value = Buffer.alloc(FAN_OUT_BYTES, 0x61)
  for (let i = 0; i < FAN_OUT_RECORDS; i += 1_000)
    await stage.client.produce(
      'fan',
      Array.from({ length: 1_000 }, () => ({ value })),
    )
  const rows: string[][] = []
  for (const subscribers of SUBSCRIBERS) {
    const rates: number[] = []
    const cpu: number[] = []
    const megabytes = (subscribers * FAN_OUT_RECORDS * FAN_OUT_BYTES) / 1e6
    for (let run = 0; run < context.runs; run++) {
      const startedMs = performance.now()
      const cpuBeforeMs = await cpuMs(stage.hub.pid() ?? 0)
      await Promise.all(
        Array.from({ length: subscribers }, async () => {
          let count = 0
          for await (const _ of stage.client.consume('fan', { from: 'earliest', follow: false })) count++
          if (count !== FAN_OUT_RECORDS)
            throw new Error(`a subscriber got ${count} of ${FAN_OUT_RECORDS} records`)
        }),
      )
      rates.push((megabytes * 1_000) / (performance.now() - startedMs))
      cpu.push(((await cpuMs(stage.hub.pid() ?? 0)) - cpuBeforeMs) / megabytes)
    }
    rows.push([String(subscribers), `${round(median(rates))} MB/s`, `${round(median(cpu), 2)} ms/MB`])
  }
  await stage.stop()
  context.write(
    `${markdownTable([`subscribers (all in one client process), median of ${context.runs}`, 'together', 'CPU of the hub'], rows)}\n`,
  )
}

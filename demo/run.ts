/**
 * `tributary demo`: hub, edge and real MQTT publishers on free ports in a temporary directory, watched by a
 * live subscriber, and at the end the whole log read back and compared with what was acked.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ConsumedRecord, TributaryClient } from '../common/client.ts'
import { connect } from '../common/client.ts'
import type { Env } from '../common/env.ts'
import { csvDevices } from './csv.ts'
import { edgeDrained, edgeLagRecords } from './edge-lag.ts'
import { killInRun, until } from './kills.ts'
import type { DemoReport, Ledger } from './ledger.ts'
import { createLedger } from './ledger.ts'
import type { Payload } from './publisher.ts'
import { publishDevice } from './publisher.ts'
import { machineDevices } from './sensors.ts'
import type { Stage } from './stage.ts'
import { createStage, TOPIC } from './stage.ts'
import { createTable } from './table.ts'

export interface DemoOptions {
  /** The command's script, for the child processes. */
  script: string
  /** Stop publishing after so long; null: at the end of the CSV files, or never. */
  seconds: number | null
  csvDirectory: string | null
  /** Seconds of event time a second; null as fast as it goes. */
  speed: number | null
  kill: boolean
  /** Hub nodes; partitions are replicated to up to three of them. */
  nodes: number
  qos: 0 | 1 | 2
  /** Where the live table goes. */
  out: NodeJS.WriteStream
  signal: AbortSignal
}

/** How long acks, the edge's backlog and the subscriber may take after the last reading. */
const DRAIN_TIMEOUT_MS = 120_000
const STOP_TIMEOUT_MS = 10_000
const VIEW_TTY_MS = 500
const VIEW_PLAIN_MS = 2_000

/** Starts everything, runs to the end and reports. */
export async function runDemo(options: DemoOptions, env: Env): Promise<DemoReport> {
  const directory = await mkdtemp(join(tmpdir(), 'tributary-demo-'))
  try {
    return await runIn(directory, options, env)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function runIn(directory: string, options: DemoOptions, env: Env): Promise<DemoReport> {
  const stage = await createStage(directory, options.script, options.nodes)
  const client = connect({ hub: stage.hubUrls.join(','), env })
  const live = new AbortController()
  const publishing = new AbortController()
  const giveUp = new AbortController()
  const ledger = createLedger()
  const stopPublishing = (): void => publishing.abort()
  options.signal.addEventListener('abort', stopPublishing, { once: true })
  let secondsTimer: NodeJS.Timeout | undefined
  try {
    await Promise.all(stage.hubs.map(hub => hub.start()))
    await stage.edge.start()
    await client.topics.create({ name: TOPIC })
    const devices =
      options.csvDirectory === null
        ? await machineDevices(publishing.signal)
        : await csvDevices(options.csvDirectory, options.speed, publishing.signal)
    if (options.seconds !== null) secondsTimer = setTimeout(stopPublishing, options.seconds * 1000)
    const watching = watchLive(client, ledger, env, live.signal)
    const stopView = startView(stage, ledger, options.out)
    const total =
      options.kill && options.csvDirectory !== null ? await countReadings(options.csvDirectory) : null
    const killing = options.kill
      ? killInRun({ stage, client, ledger, total, seconds: options.seconds, signal: publishing.signal })
      : null
    const publishers = Promise.all(
      devices.map(device =>
        publishDevice({
          device,
          url: stage.mqttUrl,
          qos: options.qos,
          ledger,
          kill: options.kill,
          giveUp: giveUp.signal,
        }),
      ),
    )
    const finished = publishers.then(() => publishing.abort())
    await Promise.race([finished, aborted(publishing.signal)])
    const drainTimer = setTimeout(() => giveUp.abort(), DRAIN_TIMEOUT_MS)
    await killing
    await finished
    await edgeDrained(stage.edgeUrl, giveUp.signal)
    await readBack(client, ledger)
    const { stored } = ledger.report()
    await until(() => ledger.deliveredCount() >= stored, giveUp.signal)
    clearTimeout(drainTimer)
    stopView()
    live.abort()
    await watching
    return ledger.report()
  } finally {
    clearTimeout(secondsTimer)
    live.abort()
    giveUp.abort()
    await client.close()
    await stage.edge.stop(STOP_TIMEOUT_MS)
    await Promise.all(stage.hubs.map(hub => hub.stop(STOP_TIMEOUT_MS)))
  }
}

/** The device and payload of one of our records. */
function parse(record: ConsumedRecord): { device: string; payload: Payload } {
  const key = Buffer.from(record.key ?? []).toString()
  const payload: Payload = JSON.parse(Buffer.from(record.value ?? []).toString())
  return { device: key.slice(key.indexOf('/sensors/') + '/sensors/'.length), payload }
}

async function watchLive(
  client: TributaryClient,
  ledger: Ledger,
  env: Env,
  signal: AbortSignal,
): Promise<void> {
  for await (const record of client.consume(TOPIC, { from: 'earliest', follow: true, signal })) {
    const { device, payload } = parse(record)
    ledger.delivered(device, payload.n, env.clock.nowMs() - payload.sentMs, env.rng.float())
  }
}

async function readBack(client: TributaryClient, ledger: Ledger): Promise<void> {
  for await (const record of client.consume(TOPIC, { from: 'earliest', follow: false })) {
    const { device, payload } = parse(record)
    ledger.stored(device, payload.n)
  }
}

async function countReadings(directory: string): Promise<number> {
  let total = 0
  for (const device of await csvDevices(directory, null, new AbortController().signal)) {
    for await (const _ of device.readings) total++
  }
  return total
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise(resolve => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })

function startView(stage: Stage, ledger: Ledger, out: NodeJS.WriteStream): () => void {
  const draw = createTable(out)
  const everyMs = out.isTTY ? VIEW_TTY_MS : VIEW_PLAIN_MS
  const startedMs = performance.now()
  let before = { deliveredMs: startedMs, delivered: 0 }
  let drawing = Promise.resolve()
  const show = async (): Promise<void> => {
    const lagRecords = await edgeLagRecords(stage.edgeUrl)
    const nowMs = performance.now()
    const delivered = ledger.deliveredCount()
    const readingsPerSecond = Math.round(
      ((delivered - before.delivered) * 1000) / Math.max(1, nowMs - before.deliveredMs),
    )
    before = { deliveredMs: nowMs, delivered }
    await draw({
      elapsedMs: nowMs - startedMs,
      published: ledger.publishedCount(),
      acked: ledger.ackedCount(),
      delivered,
      readingsPerSecond,
      lagRecords,
      latencyMs: ledger.latency(),
      lastValues: ledger.lastValues(),
      processes: [...stage.hubs, stage.edge].map(child => ({
        name: child.name,
        up: child.pid() !== undefined,
        kills: stage.kills.get(child.name) ?? 0,
      })),
    })
  }
  const timer = setInterval(() => {
    drawing = drawing.then(show)
  }, everyMs)
  return () => clearInterval(timer)
}

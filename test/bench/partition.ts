import { rm } from 'node:fs/promises'
import { pino } from 'pino'
import { BatchBuilder } from '../../common/batch-builder.ts'
import { utf8 } from '../../common/bytes.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { openClusterEngine } from '../../hub/engines/cluster/engine.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median } from './measure.ts'

/** Raw batches of one lane into the engine: CRC, sequences, stamp, durable commit. */

const TOTAL_BYTES = 256 * 1024 * 1024
const FRAME_BYTES = 256 * 1024
const WINDOW_FRAMES = 16
const VALUE_BYTES = 200
const RUN = 2 ** 52 + 1

/** Frames of `FRAME_BYTES` in one run, sequences on end. */
function frames(count: number): Uint8Array[] {
  const builder = new BatchBuilder({ producerId: RUN, maxBytes: FRAME_BYTES })
  const value = new Uint8Array(VALUE_BYTES).fill(65)
  const key = utf8('edge-17/plant/line4/temperature')
  let sequence = 0
  return Array.from({ length: count }, () => {
    builder.reset({ producerId: RUN, producerEpoch: 0, baseSequence: sequence })
    while (builder.append(1_700_000_000_000 + sequence, key, value, [])) sequence++
    return builder.finish(0)
  })
}

interface Figures {
  megabytesPerSecond: number
  cpuMsPerMegabyte: number
}

async function once(directory: string, sent: readonly Uint8Array[]): Promise<Figures> {
  const data = `${directory}/hub`
  const engine = await openClusterEngine(defaultHubConfig({ data }), nodeEnv(), pino({ level: 'silent' }))
  const { topics, logs } = engine.ports
  const { topicId } = await topics.create({ name: 'bench', partitions: 1 })
  const lane = { edgeId: 'edge-17', topicId, partition: 0, lane: 0 }
  await logs.startRun(lane, { run: RUN, prev: null, reason: 'first' })
  const own = sent.map(frame => Uint8Array.from(frame))
  const cpuBefore = process.cpuUsage()
  const startedMs = performance.now()
  const waiting: Promise<unknown>[] = []
  for (const frame of own) {
    waiting.push(logs.appendLane(lane, frame))
    if (waiting.length >= WINDOW_FRAMES) await waiting.shift()
  }
  await Promise.all(waiting)
  const seconds = (performance.now() - startedMs) / 1_000
  const cpu = process.cpuUsage(cpuBefore)
  await engine.close()
  await rm(data, { recursive: true })
  const megabytes = sent.reduce((total, frame) => total + frame.length, 0) / 1e6
  return {
    megabytesPerSecond: megabytes / seconds,
    cpuMsPerMegabyte: (cpu.user + cpu.system) / 1_000 / megabytes,
  }
}

/** One lane at full speed. */
export async function benchPartition({ directory, runs, write }: BenchContext): Promise<void> {
  const sent = frames(TOTAL_BYTES / FRAME_BYTES)
  const figures: Figures[] = []
  for (let run = 0; run < runs; run++) figures.push(await once(directory, sent))
  const row = [
    `one lane, ${FRAME_BYTES / 1024} KiB frames, ${VALUE_BYTES}-byte values, ${WINDOW_FRAMES} in flight`,
    median(figures.map(({ megabytesPerSecond }) => megabytesPerSecond)).toFixed(0),
    median(figures.map(({ cpuMsPerMegabyte }) => cpuMsPerMegabyte)).toFixed(2),
  ]
  write(`${markdownTable(['hub append', 'MB/s', 'CPU ms/MB'], [row])}\n`)
}

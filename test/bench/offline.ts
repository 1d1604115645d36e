/** A week offline in small: the edge takes a backlog while the hub is down, then drains it. */

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { edgeDrained } from '../../demo/edge-lag.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median, round, rssMb, thousands } from './measure.ts'
import { NUMBER_DIGITS, publishNumbered } from './numbered-publisher.ts'
import type { BenchStage } from './stage.ts'
import { createBenchStage } from './stage.ts'

const RECORDS = 1_000_000
const PAYLOAD_BYTES = 200
const DRAIN_TIMEOUT_MS = 120_000

interface OfflineResult {
  takenPerSecond: number
  drainedPerSecond: number
  idleRssMb: number
  peakRssMb: number
  backlogMb: number
  leftMb: number
  lost: number
  duplicated: number
  reordered: number
}

async function folderMb(path: string): Promise<number> {
  let bytes = 0
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true })) {
    if (entry.isFile())
      bytes += (await stat(join(entry.parentPath, entry.name)).catch(() => ({ size: 0 }))).size
  }
  return bytes / 1e6
}

/** Samples the edge's RSS until stopped. */
function watchRss(pid: number): { peakMb(): number; stop(): void } {
  let peak = 0
  const timer = setInterval(
    () =>
      void rssMb(pid).then(
        mb => {
          peak = Math.max(peak, mb)
        },
        () => undefined,
      ),
    100,
  )
  return { peakMb: () => peak, stop: () => clearInterval(timer) }
}

async function readBack(stage: BenchStage): Promise<{ lost: number; duplicated: number; reordered: number }> {
  const seen = new Uint8Array(RECORDS)
  let duplicated = 0
  let reordered = 0
  let highest = -1
  for await (const record of stage.client.consume('telemetry', { from: 'earliest', follow: false })) {
    const n = Number(Buffer.from(record.value ?? []).toString('latin1', 0, NUMBER_DIGITS))
    if (seen[n] === 1) duplicated++
    else if (n < highest) reordered++
    seen[n] = 1
    highest = Math.max(highest, n)
  }
  return { lost: RECORDS - seen.reduce((sum, one) => sum + one, 0), duplicated, reordered }
}

async function runOnce(directory: string): Promise<OfflineResult> {
  const stage = await createBenchStage(directory, { topics: { '*': { keepAckedMs: '0ms' } } })
  await stage.edge.start()
  const pid = stage.edge.pid() ?? 0
  await sleep(2_000)
  const idleRssMb = await rssMb(pid)
  const rss = watchRss(pid)
  const takeMs = performance.now()
  await publishNumbered(stage.mqttPort, 'bench/offline', RECORDS, PAYLOAD_BYTES)
  const takenPerSecond = (RECORDS * 1000) / (performance.now() - takeMs)
  const backlogMb = await folderMb(stage.edgeData)
  await stage.hub.start()
  const drainMs = performance.now()
  const limit = AbortSignal.timeout(DRAIN_TIMEOUT_MS)
  await edgeDrained(stage.edgeUrl, limit)
  if (limit.aborted) throw new Error(`the edge did not drain within ${DRAIN_TIMEOUT_MS} ms`)
  const drainedPerSecond = (RECORDS * 1000) / (performance.now() - drainMs)
  rss.stop()
  await sleep(2_000)
  const leftMb = await folderMb(stage.edgeData)
  const verdict = await readBack(stage)
  await stage.stop()
  return {
    takenPerSecond,
    drainedPerSecond,
    idleRssMb,
    peakRssMb: rss.peakMb(),
    backlogMb,
    leftMb,
    ...verdict,
  }
}

/** Takes, drains and reads back a million records; throws where one was lost, repeated or reordered. */
export async function benchOffline(context: BenchContext): Promise<void> {
  const results: OfflineResult[] = []
  for (let run = 0; run < context.runs; run++)
    results.push(await runOnce(join(context.directory, `offline-${run}`)))
  const of = (pick: (result: OfflineResult) => number): number => median(results.map(pick))
  const bad = results.reduce((sum, r) => sum + r.lost + r.duplicated + r.reordered, 0)
  context.write(
    `${markdownTable(
      [`${thousands(RECORDS)} records of ${PAYLOAD_BYTES} bytes, median of ${context.runs}`, 'value'],
      [
        ['taken while the hub was down', `${thousands(of(r => r.takenPerSecond))} records/s`],
        ['drained when it came back', `${thousands(of(r => r.drainedPerSecond))} records/s`],
        ['edge RSS idle', `${round(of(r => r.idleRssMb))} MB`],
        ['edge RSS at most', `${round(of(r => r.peakRssMb))} MB`],
        ['edge directory with the backlog', `${round(of(r => r.backlogMb))} MB`],
        ['edge directory after (journal included)', `${round(of(r => r.leftMb))} MB`],
        ['lost, repeated or reordered', String(bad)],
      ],
    )}\n`,
  )
  if (bad > 0) throw new Error(`${bad} records were lost, repeated or reordered`)
}

import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { buildBatch } from '../../common/batch-builder.ts'
import { utf8 } from '../../common/bytes.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import type { DataDir, DataDirOptions, FlushMode, Log, LogOptions, LogTurn } from '../../common/log/types.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median, round, thousands } from './measure.ts'

/** The log by itself: commits over 1, 100 and 1,000 active logs, reads, and start-up with many records. */

const DIR_OPTIONS: DataDirOptions = {
  commitMs: 0,
  journalBytes: 64 * 1024 * 1024,
  reserveBytes: 0,
  tailCacheBytes: 32 * 1024 * 1024,
}
const LOG_OPTIONS: LogOptions = {
  segmentBytes: 128 * 1024 * 1024,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: 1024 * 1024,
}

interface CommitFigures {
  logs: number
  batchBytes: number
  seconds: number
  appendsPerSecond: number
  megabytesPerSecond: number
  commits: number
  fdatasyncP50Ms: number
}

interface LoneFigures {
  commitsPerSecond: number
  p50Ms: number
  p99Ms: number
  cpuMicros: number
}

interface StartFigures {
  records: number
  cleanMs: number
  afterKillMs: number
  firstColdReadMs: number
}

/** Each commit figure is measured for so long. */
const COMMIT_SECONDS = 1
const START_RECORDS = 10_000_000

function batchOf(bytes: number, records: number): Uint8Array {
  const value = utf8('x'.repeat(Math.max(1, Math.floor(bytes / records) - 12)))
  return buildBatch(
    Array.from({ length: records }, () => ({ key: null, value, headers: [], timestampMs: 1 })),
  )
}

/** Appended to partitions and waiting, while a log of metadata is appended to. */
const BULK_BYTES = 64 * 1024 * 1024
const BULK_BATCH_BYTES = 512 * 1024

async function openLogs(dir: DataDir, count: number): Promise<Log[]> {
  const names = Array.from({ length: count }, (_, at) => `bench/${at}`)
  return Promise.all(names.map(name => dir.openLog(name, LOG_OPTIONS)))
}

/** Each log always has one append under way: as many writers as logs (at least 8). */
async function commitsOver(
  path: string,
  logs: number,
  batchBytes: number,
  seconds: number,
): Promise<CommitFigures> {
  const dir = await openDataDir(path, DIR_OPTIONS, nodeEnv())
  const opened = await openLogs(dir, logs)
  const template = batchOf(batchBytes, Math.max(1, Math.floor(batchBytes / 100)))
  const before = dir.stats().commits
  const startMs = performance.now()
  const endMs = startMs + seconds * 1000
  let appends = 0
  const writer = async (log: Log): Promise<void> => {
    while (performance.now() < endMs) {
      await log.append(Uint8Array.from(template))
      appends++
    }
  }
  const writers = Math.max(8, logs)
  await Promise.all(
    Array.from({ length: writers }, (_, at) => {
      const log = opened[at % logs]
      return log === undefined ? undefined : writer(log)
    }),
  )
  const took = (performance.now() - startMs) / 1000
  const stats = dir.stats()
  await dir.close()
  return {
    logs,
    batchBytes: template.length,
    seconds: took,
    appendsPerSecond: appends / took,
    megabytesPerSecond: (appends * template.length) / took / 1e6,
    commits: stats.commits - before,
    fdatasyncP50Ms: stats.fdatasyncP50Ms,
  }
}

/** What an append to the metadata takes while partitions are given more than the disk takes. */
async function behindBulk(path: string, turn: LogTurn, seconds: number): Promise<number[]> {
  const dir = await openDataDir(path, DIR_OPTIONS, nodeEnv())
  const logs = await openLogs(dir, 8)
  const metadata = await dir.openLog('metadata', LOG_OPTIONS, turn)
  const template = batchOf(BULK_BATCH_BYTES, 100)
  const small = batchOf(200, 2)
  const endMs = performance.now() + seconds * 1000
  // Each by itself, as they come over many connections: what is appended in one turn is one commit.
  const writer = async (log: Log, at: number): Promise<void> => {
    while (performance.now() < endMs) {
      await new Promise(resolve => setTimeout(resolve, at % 32))
      await log.append(template.slice())
    }
  }
  const writers: Promise<void>[] = []
  for (let at = 0; at < BULK_BYTES / BULK_BATCH_BYTES; at++) {
    const log = logs[at % logs.length]
    if (log !== undefined) writers.push(writer(log, at))
  }
  const times: number[] = []
  while (performance.now() < endMs) {
    const startMs = performance.now()
    await metadata.append(Uint8Array.from(small))
    times.push(performance.now() - startMs)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  await Promise.all(writers)
  await dir.close()
  return times.toSorted((left, right) => left - right)
}

/** One writer that waits for each append before the next, as a device with a window of 1 makes an edge do. */
async function loneCommits(path: string, flush: FlushMode, seconds: number): Promise<LoneFigures> {
  const dir = await openDataDir(path, { ...DIR_OPTIONS, flush }, nodeEnv())
  const log = await dir.openLog('bench/0', LOG_OPTIONS)
  const template = batchOf(200, 2)
  const times: number[] = []
  const startMs = performance.now()
  const startCpu = process.cpuUsage()
  for (let nowMs = startMs; nowMs < startMs + seconds * 1000; ) {
    await log.append(Uint8Array.from(template))
    const endMs = performance.now()
    times.push(endMs - nowMs)
    nowMs = endMs
  }
  const took = (performance.now() - startMs) / 1000
  const { user, system } = process.cpuUsage(startCpu)
  await dir.close()
  times.sort((left, right) => left - right)
  return {
    commitsPerSecond: times.length / took,
    p50Ms: times[Math.floor(times.length / 2)] ?? 0,
    p99Ms: times[Math.floor(times.length * 0.99)] ?? 0,
    cpuMicros: (user + system) / times.length,
  }
}

async function startWith(
  path: string,
  records: number,
): Promise<StartFigures & { coldMegabytesPerSecond: number }> {
  const perBatch = 1000
  let dir = await openDataDir(path, DIR_OPTIONS, nodeEnv())
  const [log] = await openLogs(dir, 1)
  if (log === undefined) throw new Error('no log')
  const template = batchOf(perBatch * 60, perBatch)
  for (let done = 0; done < records; done += perBatch * 50) {
    await Promise.all(Array.from({ length: 50 }, () => log.append(Uint8Array.from(template))))
  }
  await dir.close()
  let startMs = performance.now()
  dir = await openDataDir(path, DIR_OPTIONS, nodeEnv())
  const cleanMs = performance.now() - startMs
  const [again] = await openLogs(dir, 1)
  if (again === undefined) throw new Error('no log')
  startMs = performance.now()
  await again.read(Math.floor(records / 2), 64 * 1024)
  const firstColdReadMs = performance.now() - startMs
  startMs = performance.now()
  let bytes = 0
  for (let offset = 0; offset < again.durableEndOffset(); ) {
    const read = await again.read(offset, 1024 * 1024)
    bytes += read.batches.length
    offset = read.nextOffset
    read.release?.()
  }
  const coldMegabytesPerSecond = bytes / (performance.now() - startMs) / 1000
  // As a kill leaves it: a journal's worth of commits not checkpointed. The lock is this process's own.
  for (let at = 0; at < 20; at++) {
    await Promise.all(Array.from({ length: 50 }, () => again.append(Uint8Array.from(template))))
  }
  const unlocked = { ...nodeEnv().disk, lock: async () => async () => {} }
  startMs = performance.now()
  const second = await openDataDir(path, DIR_OPTIONS, { ...nodeEnv(), disk: unlocked })
  const afterKillMs = performance.now() - startMs
  await second.close()
  await dir.close()
  return { records, cleanMs, afterKillMs, firstColdReadMs, coldMegabytesPerSecond }
}

async function inTemporary<T>(directory: string, work: (path: string) => Promise<T>): Promise<T> {
  const path = await mkdtemp(join(directory, 'log-'))
  try {
    return await work(path)
  } finally {
    await rm(path, { recursive: true, force: true })
  }
}

/** Commits over active partitions, then start-up and cold reads, which are measured once: they write 600 MB. */
export async function benchLog({ directory, runs, write }: BenchContext): Promise<void> {
  const rows: string[][] = []
  for (const logs of [1, 100, 1000]) {
    for (const batchBytes of [200, 16 * 1024]) {
      const figures: CommitFigures[] = []
      for (let run = 0; run < runs; run++)
        figures.push(
          await inTemporary(directory, path => commitsOver(path, logs, batchBytes, COMMIT_SECONDS)),
        )
      const of = (pick: (one: CommitFigures) => number): number => median(figures.map(pick))
      rows.push([
        `${logs} x ${thousands(of(one => one.batchBytes))} bytes`,
        `${thousands(of(one => one.appendsPerSecond))}/s`,
        `${round(of(one => one.megabytesPerSecond))} MB/s`,
        `${thousands(of(one => one.commits / one.seconds))}/s`,
        `${round(
          of(one => one.fdatasyncP50Ms),
          2,
        )} ms`,
      ])
    }
  }
  const head = [`active partitions, median of ${runs}`, 'appends', 'data', 'commits', 'fdatasync p50']
  write(`${markdownTable(head, rows)}\n`)
  const lone: string[][] = []
  for (const flush of ['commit', 'async'] as const) {
    const figures: LoneFigures[] = []
    for (let run = 0; run < runs; run++)
      figures.push(await inTemporary(directory, path => loneCommits(path, flush, COMMIT_SECONDS)))
    const of = (pick: (one: LoneFigures) => number): number => median(figures.map(pick))
    lone.push([
      `flush: ${flush}`,
      `${thousands(of(one => one.commitsPerSecond))}/s`,
      `${round(
        of(one => one.p50Ms),
        3,
      )} ms`,
      `${round(
        of(one => one.p99Ms),
        2,
      )} ms`,
      `${round(of(one => one.cpuMicros))} µs`,
    ])
  }
  write(
    `${markdownTable([`one append of 255 bytes at a time, median of ${runs}`, 'commits', 'p50', 'p99', 'CPU each'], lone)}\n`,
  )
  const behind: string[][] = []
  for (const turn of ['in order', 'first'] as const) {
    const times = await inTemporary(directory, path => behindBulk(path, turn, 3 * COMMIT_SECONDS))
    const quantile = (share: number): string => `${round(times[Math.floor(times.length * share)] ?? 0, 1)} ms`
    behind.push([`its turn: ${turn}`, quantile(0.5), quantile(0.99), `${round(times.at(-1) ?? 0, 1)} ms`])
  }
  write(
    `${markdownTable(['an append to the metadata behind 64 MiB of others, once', 'p50', 'p99', 'most'], behind)}\n`,
  )
  const start = await inTemporary(directory, path => startWith(path, START_RECORDS))
  const startRows = [
    ['start after a clean stop', `${round(start.cleanMs, 1)} ms`],
    ['start after a kill', `${round(start.afterKillMs, 1)} ms`],
    ['first cold read', `${round(start.firstColdReadMs, 1)} ms`],
    ['cold reads', `${round(start.coldMegabytesPerSecond)} MB/s`],
  ]
  write(`${markdownTable([`a log of ${thousands(START_RECORDS)} records, once`, 'value'], startRows)}\n`)
}

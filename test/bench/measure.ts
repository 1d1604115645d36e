/** Shared parts of the benchmarks: medians, tables, the disk below, processes' memory and CPU. */

import { execFile, spawnSync } from 'node:child_process'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** What a benchmark section gets. */
export interface BenchContext {
  /** An empty folder on the disk under test. */
  directory: string
  runs: number
  /** Markdown; printed at once. */
  write(text: string): void
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

/** A markdown table. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')
}

/** A folder on a real disk under the temporary directory; refuses tmpfs, whose fdatasync costs nothing. */
export async function benchDirectory(): Promise<{ directory: string; filesystem: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'tributary-bench-'))
  const filesystem = spawnSync('stat', ['-f', '-c', '%T', directory], { encoding: 'utf8' }).stdout.trim()
  if (filesystem !== 'tmpfs') return { directory, filesystem }
  await rm(directory, { recursive: true })
  throw new Error(`${tmpdir()} is a tmpfs, where durability costs nothing: set TMPDIR to a folder on a disk`)
}

/** Median of fdatasync after overwriting 4 KiB. */
export async function fdatasyncP50Ms(directory: string): Promise<number> {
  const file = await open(join(directory, 'fdatasync'), 'w+')
  const block = Buffer.alloc(4_096, 1)
  await file.write(block)
  await file.sync()
  const times: number[] = []
  for (let i = 0; i < 200; i++) {
    await file.write(block, 0, block.length, 0)
    const startedMs = performance.now()
    await file.datasync()
    times.push(performance.now() - startedMs)
  }
  await file.close()
  return median(times)
}

/** Runs a script of this folder with JSON options in a process of its own; its last line is JSON. */
export async function runScript(script: string, options: unknown, timeoutMs: number): Promise<unknown> {
  const path = join(import.meta.dirname, script)
  const { stdout } = await promisify(execFile)(process.execPath, [path, JSON.stringify(options)], {
    timeout: timeoutMs,
  })
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? 'null')
}

/** Resident memory of a process in MB (Linux). */
export async function rssMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024
}

/** CPU time a process has used, in milliseconds (Linux, ticks of 10 ms). */
export async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}

export const round = (value: number, digits = 0): string => value.toFixed(digits)
export const thousands = (value: number): string => Math.round(value).toLocaleString('en-US')

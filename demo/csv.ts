/** Replays CSV files `timestamp,value`, one device a file, as readings in the files' own order. */

import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf, TributaryError } from '../common/errors.ts'

/** One measurement of one device. */
export interface Reading {
  /** Event time. */
  timeMs: number
  value: number
}

/** A device and its readings, pulled as fast as its publisher takes them. */
export interface Device {
  name: string
  readings: AsyncIterable<Reading>
}

/** The CSV files of `directory` as devices; rejects with `not_found` where there is none. */
export async function csvDevices(
  directory: string,
  speed: number | null,
  signal: AbortSignal,
): Promise<Device[]> {
  let names: string[]
  try {
    names = (await readdir(directory)).filter(name => name.endsWith('.csv')).sort()
  } catch (error) {
    throw new TributaryError('not_found', `cannot read --csv ${directory}: ${messageOf(error)}`, {
      cause: error,
    })
  }
  if (names.length === 0) throw new TributaryError('not_found', `no .csv file in ${directory}`)
  return names.map(name => {
    const rows = parseFile(join(directory, name), signal)
    return { name: basename(name, '.csv'), readings: speed === null ? rows : paced(rows, speed, signal) }
  })
}

/** `2014-04-01 12:00:00,1.5` -> reading; times without a zone are UTC. Null for a header or an empty line. */
export function parseRow(line: string, place: string): Reading | null {
  if (line.trim() === '' || line.startsWith('timestamp,')) return null
  const comma = line.indexOf(',')
  const text = line.slice(0, comma).trim().replace(' ', 'T')
  const timeMs = Date.parse(/(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`)
  const value = Number(line.slice(comma + 1))
  if (comma < 0 || Number.isNaN(timeMs) || !Number.isFinite(value))
    throw new TributaryError(
      'invalid_argument',
      `${place}: expected "timestamp,value", got "${line.slice(0, 80)}"`,
    )
  return { timeMs, value }
}

async function* parseFile(path: string, signal: AbortSignal): AsyncGenerator<Reading> {
  const lines = createInterface({ input: createReadStream(path), crlfDelay: Number.POSITIVE_INFINITY })
  let lineNumber = 0
  for await (const line of lines) {
    lineNumber++
    const reading = parseRow(line, `${path}:${lineNumber}`)
    if (reading !== null) yield reading
    if (signal.aborted) return
  }
}

/** Holds readings back so that `speed` seconds of event time pass in a second. */
async function* paced(
  readings: AsyncIterable<Reading>,
  speed: number,
  signal: AbortSignal,
): AsyncGenerator<Reading> {
  const startedMs = performance.now()
  let firstMs: number | undefined
  for await (const reading of readings) {
    firstMs ??= reading.timeMs
    const waitMs = (reading.timeMs - firstMs) / speed - (performance.now() - startedMs)
    if (waitMs > 1) await sleep(waitMs, undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return
    yield reading
  }
}

import { once } from 'node:events'
import type { Writable } from 'node:stream'
import type { Clock } from '../env.ts'
import { DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS } from '../limits.ts'

/** Lines that wait are written together from here on; less and they wait for the end of the turn. */
const FLUSH_CHARS = 64 * 1024

/** Many small pieces to a stream: few writes, and a promise to wait for when the reader is slow. */
export interface Output {
  /** Resolves, or is undefined at once, when more may be written. */
  write(piece: string | Uint8Array): Promise<void> | undefined
  /** Resolves when everything is handed to the stream. */
  flush(): Promise<void>
}

/** What one turn of the event loop writes goes out in one write at its end. */
export function createOutput(stream: Writable, clock: Pick<Clock, 'soon'>): Output {
  let pieces: Buffer[] = []
  let pendingBytes = 0
  let scheduled = false
  const send = (): void => {
    scheduled = false
    if (pieces.length === 0) return
    const chunk = Buffer.concat(pieces)
    pieces = []
    pendingBytes = 0
    stream.write(chunk)
  }
  const drained = async (): Promise<void> => {
    if (stream.writableNeedDrain) await once(stream, 'drain')
  }
  return {
    write: piece => {
      const bytes = Buffer.from(piece)
      pieces.push(bytes)
      pendingBytes += bytes.length
      if (pendingBytes >= FLUSH_CHARS) send()
      else if (!scheduled) {
        scheduled = true
        clock.soon(send)
      }
      return stream.writableNeedDrain ? drained() : undefined
    },
    flush: async () => {
      send()
      await drained()
    },
  }
}

/** Prints rows under headings, as a table for people. */
export async function printTable(
  stream: Writable,
  headings: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): Promise<void> {
  stream.write(`${await tableText(headings, rows)}\n`)
}

/** Rows under headings in columns; columns of numbers stand to the right. */
export async function tableText(
  headings: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): Promise<string> {
  const { default: Table } = await import('cli-table3')
  const bare = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '' }
  const none = { 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '', 'mid-mid': '' }
  const table = new Table({
    head: [...headings],
    chars: { ...bare, ...none, right: '', 'right-mid': '', middle: '  ' },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
    colAligns: headings.map((_, column) =>
      rows.length > 0 && rows.every(row => typeof row[column] === 'number') ? 'right' : 'left',
    ),
  })
  for (const row of rows) table.push([...row])
  return trimEnds(table.toString())
}

function trimEnds(text: string): string {
  return text
    .split('\n')
    .map(line => line.trimEnd())
    .join('\n')
}

/** Prints one JSON document. */
export function printJson(stream: Writable, value: unknown): void {
  stream.write(`${JSON.stringify(value, null, 2)}\n`)
}

/** A moment in UTC without the noise of ISO's T and milliseconds. */
export function showTime(timeMs: number): string {
  return `${new Date(timeMs).toISOString().slice(0, 19).replace('T', ' ')}Z`
}

const SIZES = [
  ['GiB', GIB],
  ['MiB', MIB],
  ['KiB', KIB],
] as const

/** Bytes in the unit that reads best, rounded: `3.4 MiB`. */
export function showSize(bytes: number): string {
  for (const [unit, size] of SIZES) if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`
  return `${bytes} bytes`
}

const DURATIONS = [
  ['d', DAY_MS],
  ['h', HOUR_MS],
  ['m', MINUTE_MS],
  ['s', SECOND_MS],
] as const

/** A duration in its two largest units: `3d 1h`, `42s`. */
export function showDuration(durationMs: number): string {
  const first = DURATIONS.findIndex(([, size]) => durationMs >= size)
  if (first < 0) return '0s'
  let restMs = durationMs
  const parts = DURATIONS.slice(first, first + 2).map(([unit, size]) => {
    const count = Math.floor(restMs / size)
    restMs -= count * size
    return { text: `${count}${unit}`, count }
  })
  return parts
    .filter(({ count }) => count > 0)
    .map(({ text }) => text)
    .join(' ')
}

import { DAY_MS, GIB, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS } from './limits.ts'

/** Sizes and durations as people write them, in config files and flags. */

const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KiB: KIB,
  MiB: MIB,
  GiB: GIB,
  TiB: 1024 * GIB,
}
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: SECOND_MS,
  m: MINUTE_MS,
  h: HOUR_MS,
  d: DAY_MS,
}

/** Bytes from a number or text such as `256KiB`; null where it is neither or no whole number of bytes. */
export function parseSize(raw: unknown): number | null {
  return withUnit(raw, SIZE_UNITS)
}

/** Milliseconds from a number or text such as `10ms`, `24h`; null where it is neither. */
export function parseDuration(raw: unknown): number | null {
  return withUnit(raw, DURATION_UNITS)
}

/** A size in the largest unit that shows it exactly. */
export function formatSize(bytes: number): string {
  return inLargestUnit(bytes, SIZE_UNITS)
}

/** A duration in the largest unit that shows it exactly. */
export function formatDuration(durationMs: number): string {
  return inLargestUnit(durationMs, DURATION_UNITS)
}

function withUnit(raw: unknown, units: Readonly<Record<string, number>>): number | null {
  if (typeof raw === 'number') return Number.isSafeInteger(raw) ? raw : null
  if (typeof raw !== 'string') return null
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(raw.trim())
  if (match === null) return null
  const unit = match[2] === '' ? 1 : units[match[2] ?? '']
  if (unit === undefined) return null
  const value = Number(match[1]) * unit
  return Number.isSafeInteger(value) ? value : null
}

function inLargestUnit(value: number, units: Readonly<Record<string, number>>): string {
  let text = String(value)
  if (value === 0) return text
  for (const [unit, size] of Object.entries(units)) if (value % size === 0) text = `${value / size}${unit}`
  return text
}

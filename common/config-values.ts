import { z } from 'zod'
import { parseAddress, parseHubUrls } from './address.ts'
import { formatDuration, formatSize, parseDuration, parseSize } from './units.ts'

/**
 * The kinds of values a setting can have. Each takes what YAML gives and what an environment variable or a flag gives
 * (always text), and says in its issue what is allowed; config.ts adds the key and the value.
 */

/** Bounds of a number, both inclusive. */
export interface Range {
  min: number
  max: number
}

/** A value that `parse` makes out of the raw one; undefined means it is not what `allowed` says. */
export function leaf<T>(allowed: string, parse: (raw: unknown) => T | undefined) {
  return z.unknown().transform((raw, context): T => {
    const value = parse(raw)
    if (value !== undefined) return value
    context.addIssue({ code: 'custom', message: allowed })
    return z.NEVER
  })
}

/** Like `leaf`, where null, `off` and `none` switch the setting off. */
function nullable<T>(allowed: string, parse: (raw: unknown) => T | undefined) {
  return leaf<T | null>(`${allowed}, or off`, raw =>
    raw === null || raw === 'off' || raw === 'none' ? null : parse(raw),
  )
}

function inRange(value: number | null, range: Range): number | undefined {
  return value !== null && value >= range.min && value <= range.max ? value : undefined
}

const sizeAllowed = (range: Range) =>
  `a size from ${formatSize(range.min)} to ${formatSize(range.max)}: a number of bytes, or with a unit such as 256KiB or 16MiB`
const durationAllowed = (range: Range) =>
  `a duration from ${formatDuration(range.min)} to ${formatDuration(range.max)}: a number of milliseconds, or with a unit such as 10ms, 5s or 24h`

export const size = (range: Range) => leaf(sizeAllowed(range), raw => inRange(parseSize(raw), range))
export const sizeOrOff = (range: Range) => nullable(sizeAllowed(range), raw => inRange(parseSize(raw), range))
export const duration = (range: Range) =>
  leaf(durationAllowed(range), raw => inRange(parseDuration(raw), range))
export const durationOrOff = (range: Range) =>
  nullable(durationAllowed(range), raw => inRange(parseDuration(raw), range))

/** A whole number without unit. */
export function count(range: Range) {
  return leaf(`a whole number from ${range.min} to ${range.max}`, raw => {
    const value = typeof raw === 'string' && /^\d+$/.test(raw) ? Number(raw) : raw
    return typeof value === 'number' && Number.isSafeInteger(value) ? inRange(value, range) : undefined
  })
}

export const flag = leaf('true or false', raw => {
  if (raw === true || raw === 'true') return true
  if (raw === false || raw === 'false') return false
  return undefined
})

export const text = (allowed: string, pattern: RegExp) =>
  leaf(allowed, raw => (typeof raw === 'string' && pattern.test(raw) ? raw : undefined))
export const textOrOff = (allowed: string, pattern: RegExp) =>
  nullable(allowed, raw => (typeof raw === 'string' && pattern.test(raw) ? raw : undefined))

export const path = text('a path', /^[^\0]+$/)
export const pathOrOff = textOrOff('a path', /^[^\0]+$/)

const LISTEN = 'an address to listen on, host:port, such as 127.0.0.1:1883 or [::1]:1883'
const asListen = (raw: unknown) => (typeof raw === 'string' && parseAddress(raw) !== null ? raw : undefined)
export const listen = leaf(LISTEN, asListen)
export const listenOrOff = nullable(LISTEN, asListen)

/** A hub's URL or several, as a list or separated by commas; `http:` and `https:` become `ws:` and `wss:`, a trailing slash goes. */
export const hubUrls = leaf(
  'the URL of a hub, such as ws://127.0.0.1:7600 or wss://hub.example:7600, or those of its nodes, separated by commas',
  raw => {
    const text = Array.isArray(raw) ? raw.join(',') : raw
    return typeof text === 'string' ? parseHubUrls(text)?.join(',') : undefined
  },
)

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
/** How much is logged. */
export type LogLevel = (typeof LOG_LEVELS)[number]
export const logLevel = z.enum(LOG_LEVELS)

/** See FlushMode. */
export const flushMode = z.enum(['commit', 'async'])

/** A group of settings; an empty one in YAML (`mqtt:`) is null and means the defaults. */
export function section<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  return z.preprocess(raw => raw ?? {}, z.strictObject(shape))
}

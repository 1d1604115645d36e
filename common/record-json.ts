import { isUtf8 } from 'node:buffer'
import type { RecordHeader, RecordInput } from './batch-builder.ts'
import type { DecodedRecord } from './batch-records.ts'
import { utf8, utf8Text } from './bytes.ts'
import { TributaryError } from './errors.ts'
import { parseIsoTime } from './position.ts'
import { nearest } from './suggest.ts'

/**
 * Records as JSON, the same wherever one is shown or taken: `consume --format json`, REST, server-sent events.
 *
 *   {"topic":"t","partition":0,"offset":7,"timestamp":1700000000000,"key":"k","value":"v","headers":{"edge":"e1"}}
 *
 * `timestamp` is event time in milliseconds since the epoch. Keys, values and header values are text where they are
 * valid UTF-8, `{"base64":"..."}` where they are not, null where there is none. A header that stands more than once has an array.
 */

/** One line of JSON, without line end. */
export function recordJson(topic: string, partition: number, record: DecodedRecord): string {
  return (
    `{"topic":${JSON.stringify(topic)},"partition":${partition},"offset":${record.offset}` +
    `,"timestamp":${record.timestampMs},"key":${bytesJson(record.key)},"value":${bytesJson(record.value)}` +
    `,"headers":${record.headers.length === 0 ? '{}' : headersJson(record.headers)}}`
  )
}

function bytesJson(bytes: Uint8Array | null): string {
  if (bytes === null) return 'null'
  if (isUtf8(bytes)) return JSON.stringify(utf8Text(bytes))
  return `{"base64":"${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64')}"}`
}

function headersJson(headers: readonly RecordHeader[]): string {
  if (mayHaveRepeatedKeys(headers)) return repeatedHeadersJson(headers)
  let text = ''
  for (const { key, value } of headers) {
    text += `${text === '' ? '{' : ','}${JSON.stringify(key)}:${bytesJson(value)}`
  }
  return `${text}}`
}

/** Records have few headers: comparing them beats a set, up to where the square would tell. */
function mayHaveRepeatedKeys(headers: readonly RecordHeader[]): boolean {
  if (headers.length > 16) return true
  for (let i = 1; i < headers.length; i++) {
    for (let j = 0; j < i; j++) if (headers[i]?.key === headers[j]?.key) return true
  }
  return false
}

function repeatedHeadersJson(headers: readonly RecordHeader[]): string {
  const values = new Map<string, string[]>()
  for (const { key, value } of headers) {
    const seen = values.get(key)
    if (seen === undefined) values.set(key, [bytesJson(value)])
    else seen.push(bytesJson(value))
  }
  const fields = Array.from(values, ([key, list]) => {
    return `${JSON.stringify(key)}:${list.length === 1 ? list[0] : `[${list.join(',')}]`}`
  })
  return `{${fields.join(',')}}`
}

/** A record as a client sent it. */
export interface RecordRequest extends RecordInput {
  /** Null: by key, or wherever it suits where there is none. */
  partition: number | null
}

const RECORD_FIELDS = ['key', 'value', 'headers', 'timestamp', 'partition']
/** More headers than this on one record are a mistake. */
export const MAX_RECORD_HEADERS = 1_000

/**
 * Reads `{key?, value, headers?, timestamp?, partition?}`. Keys and values are text, `{"base64":...}`, null, or any other
 * JSON, which is kept as its JSON text; `timestamp` is milliseconds since the epoch or an ISO 8601 time, else `nowMs`. Throws
 * `invalid_argument` naming the field under `where` (such as `records[3]`), its value and what is allowed.
 */
export function recordFromJson(raw: unknown, where: string, nowMs: number): RecordRequest {
  if (!isObject(raw)) return refuse(where, raw, 'an object {key?, value, headers?, timestamp?, partition?}')
  for (const field of Object.keys(raw)) {
    if (!RECORD_FIELDS.includes(field)) refuseField(where, field)
  }
  if (raw.value === undefined) refuse(`${where}.value`, undefined, 'there; null makes a record without value')
  return {
    key: raw.key === undefined ? null : bytesFromJson(raw.key, `${where}.key`),
    value: bytesFromJson(raw.value, `${where}.value`),
    headers: raw.headers === undefined ? [] : headersFromJson(raw.headers, `${where}.headers`),
    timestampMs: raw.timestamp === undefined ? nowMs : timeFromJson(raw.timestamp, `${where}.timestamp`),
    partition: raw.partition === undefined ? null : partitionFromJson(raw.partition, `${where}.partition`),
  }
}

function isObject(raw: unknown): raw is Record<string, unknown> {
  return typeof raw === 'object' && raw !== null && !Array.isArray(raw)
}

function refuse(field: string, raw: unknown, allowed: string): never {
  const shown = raw === undefined ? 'missing' : JSON.stringify(raw)
  const value = shown.length > 100 ? `${shown.slice(0, 100)}...` : shown
  throw new TributaryError('invalid_argument', `${field} is ${value}; it must be ${allowed}`, {
    details: { field },
  })
}

function refuseField(where: string, field: string): never {
  const meant = nearest(field, RECORD_FIELDS)
  const hint = meant === null ? `known are ${RECORD_FIELDS.join(', ')}` : `did you mean "${meant}"?`
  throw new TributaryError('invalid_argument', `${where} has an unknown field "${field}"; ${hint}`, {
    details: { field: `${where}.${field}` },
  })
}

function bytesFromJson(raw: unknown, field: string): Uint8Array | null {
  if (typeof raw === 'string') return utf8(raw)
  if (raw === null) return null
  if (isObject(raw) && 'base64' in raw && Object.keys(raw).length === 1)
    return base64FromJson(raw.base64, field)
  return utf8(JSON.stringify(raw))
}

function base64FromJson(raw: unknown, field: string): Uint8Array {
  const allowed = 'base64 text (RFC 4648 section 4)'
  if (typeof raw !== 'string') return refuse(`${field}.base64`, raw, allowed)
  const bytes = Buffer.from(raw, 'base64')
  // Buffer skips over what is no base64; encoding again shows whether it did.
  if (bytes.toString('base64').replace(/=+$/, '') !== raw.replace(/=+$/, '')) {
    return refuse(`${field}.base64`, raw, allowed)
  }
  return bytes
}

function headersFromJson(raw: unknown, field: string): RecordHeader[] {
  if (!isObject(raw)) return refuse(field, raw, 'an object of header names and values')
  const headers: RecordHeader[] = []
  for (const [key, value] of Object.entries(raw)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      headers.push({ key, value: bytesFromJson(one, `${field}[${JSON.stringify(key)}]`) })
    }
  }
  if (headers.length > MAX_RECORD_HEADERS) {
    const message = `${field} has ${headers.length} headers; it must have at most ${MAX_RECORD_HEADERS}`
    throw new TributaryError('invalid_argument', message, { details: { field } })
  }
  return headers
}

function timeFromJson(raw: unknown, field: string): number {
  if (typeof raw === 'number' && Number.isSafeInteger(raw) && raw >= 0) return raw
  const timeMs = typeof raw === 'string' ? parseIsoTime(raw) : null
  return timeMs ?? refuse(field, raw, 'milliseconds since the epoch or an ISO 8601 time')
}

function partitionFromJson(raw: unknown, field: string): number {
  if (typeof raw === 'number' && Number.isSafeInteger(raw) && raw >= 0) return raw
  return refuse(field, raw, 'a partition number from 0')
}

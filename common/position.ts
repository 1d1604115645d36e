/** Where reading starts, as people write it: `--from` of the command, `from=` and `time=` of the REST interface. */

/** `offset` counts in each partition; `timeMs` is event time. */
export type Position =
  | { kind: 'earliest' }
  | { kind: 'latest' }
  | { kind: 'offset'; offset: number }
  | { kind: 'time'; timeMs: number }

/** What `parsePosition` takes, for messages. */
export const POSITION_FORMS =
  'earliest, latest, an offset such as 1200, or an ISO 8601 time such as 2026-01-31T12:00:00Z'

const ISO_TIME =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?\s?(Z|[+-]\d{2}:?\d{2})?$/i

/** Milliseconds since the epoch of an ISO 8601 date or time; UTC where it names no zone. Null where it is none. */
export function parseIsoTime(text: string): number | null {
  const match = ISO_TIME.exec(text)
  if (match === null) return null
  const [, year, month, day, hour = '00', minute = '00', second = '00', fraction = '', zone = 'Z'] = match
  const millis = fraction.slice(0, 3).padEnd(3, '0')
  const offset = zone.length === 5 ? `${zone.slice(0, 3)}:${zone.slice(3)}` : zone.toUpperCase()
  const timeMs = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}.${millis}${offset}`)
  if (Number.isNaN(timeMs) || timeMs < 0) return null
  // Date.parse takes the 31st of a month of 30 days for the 1st of the next.
  return Number(day) > daysInMonth(Number(year), Number(month)) ? null : timeMs
}

function daysInMonth(year: number, month: number): number {
  return new Date(Date.UTC(year, month, 0)).getUTCDate()
}

/** Reads one of POSITION_FORMS; null where the text is none. */
export function parsePosition(text: string): Position | null {
  if (text === 'earliest' || text === 'latest') return { kind: text }
  if (/^\d+$/.test(text)) {
    const offset = Number(text)
    return Number.isSafeInteger(offset) ? { kind: 'offset', offset } : null
  }
  const timeMs = parseIsoTime(text)
  return timeMs === null ? null : { kind: 'time', timeMs }
}

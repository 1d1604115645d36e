/** Pure: event time out of a JSON payload. */

import { utf8Text } from '../common/bytes.ts'
import type { EventTimeSource } from '../common/config-edge.ts'

const PATH = /^\$(?:\.[^.[\]]+|\[\d+\])+$/

/** The largest time a JavaScript Date holds; beyond it nothing downstream could print the record. */
const MAX_TIME_MS = 8_640_000_000_000_000

const MS_PER_UNIT = { s: 1_000, ms: 1, us: 0.001 } as const

/**
 * Compiles `$.a.b[0]` and a unit into a reader of payloads: milliseconds since the epoch, or undefined where the payload is no
 * JSON, the path leads nowhere or what stands there is no time. Numbers may be written as text.
 * A malformed path compiles to undefined.
 */
export function compileEventTime(
  source: EventTimeSource,
): ((payload: Uint8Array) => number | undefined) | undefined {
  if (!PATH.test(source.path)) return undefined
  const steps = [...source.path.matchAll(/\.([^.[\]]+)|\[(\d+)\]/g)].map(step => step[1] ?? step[2] ?? '')
  const toMs = source.unit === 'iso' ? isoToMs : numberToMs(MS_PER_UNIT[source.unit])
  return payload => {
    const found = follow(parse(payload), steps)
    const timeMs = toMs(found)
    return timeMs !== undefined && timeMs >= 0 && timeMs <= MAX_TIME_MS ? timeMs : undefined
  }
}

function parse(payload: Uint8Array): unknown {
  try {
    return JSON.parse(utf8Text(payload))
  } catch {
    return undefined
  }
}

function follow(value: unknown, steps: readonly string[]): unknown {
  let here: unknown = value
  for (const step of steps) {
    if (typeof here !== 'object' || here === null || !Object.hasOwn(here, step)) return undefined
    here = Reflect.get(here, step)
  }
  return here
}

function numberToMs(msPerUnit: number): (value: unknown) => number | undefined {
  return value => {
    const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
    return typeof number === 'number' && Number.isFinite(number) ? Math.floor(number * msPerUnit) : undefined
  }
}

/** ISO 8601 with a date at least; a time without zone is read as UTC, for sensors that leave it out. */
function isoToMs(value: unknown): number | undefined {
  if (typeof value !== 'string' || !/^\d{4}-\d{2}-\d{2}/.test(value)) return undefined
  const withZone = /T|\s/.test(value) && !/(?:[zZ]|[+-]\d{2}:?\d{2})$/.test(value) ? `${value}Z` : value
  const timeMs = Date.parse(withZone)
  return Number.isNaN(timeMs) ? undefined : timeMs
}

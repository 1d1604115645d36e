import type { CborInput } from './cbor.ts'
import type { ErrorFrame, GapFrame, LaneReport, LaneTip, PingFrame, PongFrame, RunFrame } from './wire.ts'
import { GAP_REASONS, isSummary, WIRE_LIMITS } from './wire.ts'
import type { Fields } from './wire-fields.ts'

/** What frames of several protocols of ours have in common, field by field. */

/** Error messages as they fit a frame. */
export function clipMessage(message: string): string {
  // A UTF-16 unit takes at most 3 bytes.
  const most = Math.floor(WIRE_LIMITS.maxMessageBytes / 3)
  return message.length <= most ? message : message.slice(0, most)
}

/** Details of an error are for people and hints: what does not fit the frame is left out rather than failing the answer. */
export function encodableDetails(given: Readonly<Record<string, unknown>>): Record<string, CborInput> {
  const details: Record<string, CborInput> = {}
  for (const [key, value] of Object.entries(given)) {
    if (key === '__proto__') continue
    if (typeof value === 'boolean' || value === null) details[key] = value
    if (typeof value === 'string') details[key] = clipMessage(value)
    if (typeof value === 'number' && Number.isSafeInteger(value)) details[key] = value
  }
  return details
}

export function decodeCommon<T extends 'ping' | 'pong' | 'error'>(
  f: Fields,
  t: T,
): PingFrame | PongFrame | ErrorFrame {
  if (t === 'ping') return { t: 'ping', nowMs: f.int('nowMs') }
  if (t === 'pong') return { t: 'pong', echoMs: f.int('echoMs'), nowMs: f.int('nowMs') }
  return decodeError(f)
}

export function decodeError(f: Fields): ErrorFrame {
  const error: ErrorFrame = { t: 'error', code: f.code('code'), message: f.message(), fatal: f.bool('fatal') }
  const ref = f.optionalUint('ref')
  return ref === undefined ? error : { ...error, ref }
}

export function decodeTip(f: Fields): LaneTip {
  const tip = { run: f.uint('run'), next: f.uint('next'), committed: f.uint('committed') }
  if (!f.present('past')) return tip
  const pastOf = (item: Fields) => ({ run: item.uint('run'), next: item.uint('next') })
  return { ...tip, past: f.maps('past', WIRE_LIMITS.maxPastRuns, pastOf) }
}

export function encodableTip(tip: LaneTip | null): CborInput {
  if (tip === null) return null
  return { ...tip, past: tip.past?.map(past => ({ ...past })) }
}

export function decodeRunStart(f: Fields): Pick<RunFrame, 'run' | 'prev' | 'reason'> {
  const prev = f.nullableMap('prev')
  return {
    run: f.uint('run'),
    prev: prev === null ? null : { run: prev.uint('run'), end: prev.uint('end') },
    reason: f.oneOf('reason', ['next', 'first', 'wiped', 'fork', 'moved'] as const),
  }
}

export function decodeGapRange(f: Fields): Omit<GapFrame, 't' | 'log'> {
  const gap = {
    run: f.uint('run'),
    from: f.uint('from'),
    to: f.uint('to'),
    reason: f.oneOf('reason', GAP_REASONS),
    firstMs: f.nullableInt('firstMs'),
    lastMs: f.nullableInt('lastMs'),
    localFrom: f.uint('localFrom'),
    localTo: f.uint('localTo'),
  }
  if (gap.to < gap.from) f.bad('to', 'at least from')
  if (gap.localTo < gap.localFrom) f.bad('localTo', 'at least localFrom')
  if (!isSummary(gap.reason)) return gap
  if (gap.to !== gap.from + 1) f.bad('to', 'from + 1 in a summary')
  return { ...gap, count: f.positive('count'), keys: f.positive('keys') }
}

export function decodeLaneReport(f: Fields): LaneReport {
  return {
    topic: f.text('topic', WIRE_LIMITS.maxTopicBytes),
    lane: f.uint('lane'),
    lagRecords: f.uint('lagRecords'),
    lagBytes: f.uint('lagBytes'),
    oldestMs: f.nullableInt('oldestMs'),
    droppedRecords: f.uint('droppedRecords'),
  }
}

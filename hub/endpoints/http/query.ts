import type { FastifyRequest } from 'fastify'
import { TributaryError } from '../../../common/errors.ts'
import type { Position } from '../../../common/position.ts'
import { POSITION_FORMS, parseIsoTime, parsePosition } from '../../../common/position.ts'
import { nearest } from '../../../common/suggest.ts'
import type { Topic } from '../../ports.ts'

/** Reading of paths and query strings. Everything throws `invalid_argument` with the name, the value and what is allowed. */

function invalid(message: string, name: string): never {
  throw new TributaryError('invalid_argument', message, { details: { parameter: name } })
}

/** A path parameter. */
export function pathParam(request: FastifyRequest, name: string): string {
  const { params } = request
  const value = typeof params === 'object' && params !== null ? Reflect.get(params, name) : undefined
  return typeof value === 'string' ? value : invalid(`the path has no ${name}`, name)
}

/** The topic's name in the path. */
export function nameParam(request: FastifyRequest): string {
  return pathParam(request, 'name')
}

export type Query = ReadonlyMap<string, string>

/** The query string, each name once and known. */
export function readQuery(request: FastifyRequest, known: readonly string[]): Query {
  const query = new Map<string, string>()
  const raw = request.query
  if (typeof raw !== 'object' || raw === null) return query
  for (const [name, value] of Object.entries(raw)) {
    if (!known.includes(name)) {
      const meant = nearest(name, known)
      const hint = meant === null ? `known are ${known.join(', ')}` : `did you mean "${meant}"?`
      invalid(`unknown parameter "${name}"; ${hint}`, name)
    }
    if (typeof value !== 'string') invalid(`parameter "${name}" is given more than once`, name)
    query.set(name, value)
  }
  return query
}

/** A whole number, `fallback` where it is not given. */
export function numberParam<T>(
  query: Query,
  name: string,
  range: { min: number; max: number },
  fallback: T,
): number | T {
  const text = query.get(name)
  if (text === undefined) return fallback
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (value >= range.min && value <= range.max) return value
  return invalid(`${name} is "${text}"; it must be a whole number from ${range.min} to ${range.max}`, name)
}

/** `partition=` as it is asked for, whatever partitions there are; undefined where it is not given. */
export function partitionAsked(query: Query): number | undefined {
  return numberParam(query, 'partition', { min: 0, max: Number.MAX_SAFE_INTEGER }, null) ?? undefined
}

/** `partition=`, null where it is not given. Throws `unknown_topic` where the topic has no such partition. */
export function partitionParam(query: Query, topic: Topic): number | null {
  const partition = numberParam(query, 'partition', { min: 0, max: Number.MAX_SAFE_INTEGER }, null)
  if (partition !== null && partition >= topic.partitions) refusePartition(partition, topic)
  return partition
}

export function refusePartition(partition: number, topic: Topic): never {
  throw new TributaryError(
    'unknown_topic',
    `topic "${topic.name}" has no partition ${partition}: it has 0 to ${topic.partitions - 1}`,
    { details: { partition, partitions: topic.partitions } },
  )
}

/** `from=`. */
export function positionParam(query: Query, name: string, fallback: Position): Position {
  const text = query.get(name)
  if (text === undefined) return fallback
  return parsePosition(text) ?? invalid(`${name} is "${text}"; it must be ${POSITION_FORMS}`, name)
}

/** `time=`: milliseconds since the epoch or ISO 8601. */
export function timeParam(query: Query, name: string): number | null {
  const text = query.get(name)
  if (text === undefined) return null
  const timeMs = /^\d{1,16}$/.test(text) ? Number(text) : parseIsoTime(text)
  if (timeMs !== null && Number.isSafeInteger(timeMs)) return timeMs
  return invalid(
    `${name} is "${text}"; it must be milliseconds since the epoch or an ISO 8601 time such as 2026-01-31T12:00:00Z`,
    name,
  )
}

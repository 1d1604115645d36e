/**
 * Pure: which record, if any, an MQTT publish becomes. Rules are tried in order and the first whose filter matches
 * decides; where none does, everything goes to topic `telemetry` with key `<edge>/<MQTT topic>`.
 *
 * Templates know `{edge}`, `{topic}`, `{client}` and `{1}`, `{2}`... for the levels of the MQTT topic (empty where there is no such
 * level). A hub topic must be one of Kafka's names (`[A-Za-z0-9._-]{1,249}`): in what a template yields every other
 * character becomes `_`, and what is longer is cut. So two MQTT topics may share a hub topic; the header `mqtt.topic` tells them
 * apart. Filters of rules follow MQTT: a leading wildcard does not match topics that start with `$`.
 *
 * Content type: the rule's, else `application/json` where the payload starts and ends like a JSON object or array
 * (two byte compares; nothing is parsed), else none.
 */

import type { RecordHeader } from '../common/batch-builder.ts'
import { encodeHeaders } from '../common/batch-builder.ts'
import { utf8 } from '../common/bytes.ts'
import type { EdgeConfig, EventTimeSource, Rule } from '../common/config-edge.ts'
import { topicPolicy } from '../common/config-edge.ts'
import { TributaryError } from '../common/errors.ts'
import { MAX_TOPIC_NAME_LENGTH } from '../common/limits.ts'
import { partitionForKey } from '../common/murmur2.ts'
import { compileEventTime } from './event-time.ts'
import { compileFilter, isTopicFilter } from './mqtt/topic-filter.ts'
import type { RoutedRecord } from './ports.ts'

const DEFAULT_TOPIC = 'telemetry'
const DEFAULT_KEY = '{edge}/{topic}'

/** MQTT topics whose routes are remembered; above it the oldest goes. */
export const MAX_CACHED_ROUTES = 10_000
/** Longer MQTT topics are routed anew each time, so that the cache stays within some 20 MB. */
const MAX_CACHED_ROUTE_LENGTH = 512

/** Header of a record whose event time could not be read from its payload and is the time of arrival instead. */
const EVENT_TIME_FALLBACK_HEADER = 'event.time.error'

export interface Publish {
  topic: string
  payload: Uint8Array
  clientId: string
  nowMs: number
}

export interface RouterStats {
  cachedRoutes: number
  /** Publishes whose event time could not be read: they carry the time of arrival and the header `event.time.error`. */
  eventTimeFallbacks: number
  /** Publishes that a rule dropped. */
  dropped: number
}

/** Null: a rule drops the message (local subscribers still get it). The publish is not kept. */
export type Router = ((publish: Publish) => RoutedRecord | null) & { stats(): RouterStats }

export interface RouterOptions {
  edgeId: string
  rules: readonly Rule[]
  topics: EdgeConfig['topics']
}

interface CompiledRule {
  matches(topic: string): boolean
  rule: Rule
  eventTime: ((payload: Uint8Array) => number | undefined) | null
}

/** What is the same for every publish to one MQTT topic. */
interface Route {
  topic: string
  lane: number
  key: Uint8Array
  eventTime: CompiledRule['eventTime']
  plain: EncodedHeaders
  json: EncodedHeaders
  plainFallback: EncodedHeaders
  jsonFallback: EncodedHeaders
}

interface EncodedHeaders {
  bytes: Uint8Array
  count: number
}

/** Compiles the rules; throws `config_invalid` naming the rule and what is wrong with it. */
export function createRouter(options: RouterOptions): Router {
  const rules = options.rules.map(compileRule)
  const byClient = options.rules.some(rule => /\{client\}/.test(`${rule.topic}${rule.key}`))
  const cache = new Map<string, Route | null>()
  const counters = { eventTimeFallbacks: 0, dropped: 0 }

  function routeOf(topic: string, clientId: string): Route | null {
    const cacheKey = byClient ? `${topic}\0${clientId}` : topic
    const known = cache.get(cacheKey)
    if (known !== undefined) return known
    const route = makeRoute(options, rules, topic, clientId)
    if (cacheKey.length <= MAX_CACHED_ROUTE_LENGTH) {
      if (cache.size >= MAX_CACHED_ROUTES) dropOldest(cache)
      cache.set(cacheKey, route)
    }
    return route
  }

  const router = (publish: Publish): RoutedRecord | null => {
    const route = routeOf(publish.topic, publish.clientId)
    if (route === null) {
      counters.dropped++
      return null
    }
    const json = looksLikeJson(publish.payload)
    let timestampMs = publish.nowMs
    let headers = json ? route.json : route.plain
    if (route.eventTime !== null) {
      const eventTimeMs = route.eventTime(publish.payload)
      if (eventTimeMs === undefined) {
        counters.eventTimeFallbacks++
        headers = json ? route.jsonFallback : route.plainFallback
      } else {
        timestampMs = eventTimeMs
      }
    }
    return {
      topic: route.topic,
      lane: route.lane,
      key: route.key,
      value: publish.payload,
      timestampMs,
      headers: headers.bytes,
      headerCount: headers.count,
    }
  }
  return Object.assign(router, { stats: () => ({ cachedRoutes: cache.size, ...counters }) })
}

function dropOldest(cache: Map<string, unknown>): void {
  for (const oldest of cache.keys()) {
    cache.delete(oldest)
    return
  }
}

function compileRule(rule: Rule, index: number): CompiledRule {
  if (!isTopicFilter(rule.match)) {
    throw invalidRule(index, 'match', rule.match, 'an MQTT topic filter such as plant/+/#')
  }
  for (const [name, template] of [
    ['topic', rule.topic],
    ['key', rule.key],
  ] as const) {
    if (template !== undefined && !/^(?:[^{}]|\{(?:edge|topic|client|[1-9]\d{0,2})\})+$/.test(template)) {
      throw invalidRule(index, name, template, 'text with {edge}, {topic}, {client}, {1}, {2}... in it')
    }
  }
  return { matches: compileFilter(rule.match), rule, eventTime: compileTime(rule.eventTime, index) }
}

function compileTime(source: EventTimeSource | 'now' | undefined, index: number): CompiledRule['eventTime'] {
  if (source === undefined || source === 'now') return null
  const compiled = compileEventTime(source)
  if (compiled !== undefined) return compiled
  throw invalidRule(index, 'eventTime.path', source.path, 'a path such as $.ts or $.meta.times[0]')
}

function invalidRule(index: number, key: string, value: string, allowed: string): TributaryError {
  return new TributaryError(
    'config_invalid',
    `rules[${index}].${key} is ${JSON.stringify(value)}; it must be ${allowed}`,
  )
}

const NO_RULE: CompiledRule = { matches: () => true, rule: { match: '#' }, eventTime: null }

function makeRoute(
  options: RouterOptions,
  rules: readonly CompiledRule[],
  topic: string,
  clientId: string,
): Route | null {
  const { rule, eventTime } = rules.find(candidate => candidate.matches(topic)) ?? NO_RULE
  if (rule.drop) return null
  const levels = topic.split('/')
  const fill = (template: string) =>
    template.replace(/\{(\w+)\}/g, (_, name: string) => {
      if (name === 'edge') return options.edgeId
      if (name === 'topic') return topic
      if (name === 'client') return clientId
      return levels[Number(name) - 1] ?? ''
    })
  const hubTopic = hubTopicName(fill(rule.topic ?? DEFAULT_TOPIC))
  const key = utf8(fill(rule.key ?? DEFAULT_KEY))
  const policy = topicPolicy(options.topics, hubTopic)
  const base = [header('mqtt.topic', topic), header('edge', options.edgeId)]
  const plain = rule.contentType === undefined ? base : [...base, header('content-type', rule.contentType)]
  const json = rule.contentType === undefined ? [...base, header('content-type', 'application/json')] : plain
  const fallback = header(EVENT_TIME_FALLBACK_HEADER, 'payload')
  return {
    topic: hubTopic,
    lane: policy.partitionBy === 'key' ? partitionForKey(key, policy.lanes) : 0,
    key,
    eventTime,
    plain: encoded(plain),
    json: encoded(json),
    plainFallback: encoded([...plain, fallback]),
    jsonFallback: encoded([...json, fallback]),
  }
}

function hubTopicName(text: string): string {
  const name = text.replace(/[^A-Za-z0-9._-]/g, '_').slice(0, MAX_TOPIC_NAME_LENGTH)
  // Kafka refuses these two, which would be paths.
  if (name === '' || name === '.' || name === '..') return name.replaceAll('.', '_') || '_'
  return name
}

function header(key: string, value: string): RecordHeader {
  return { key, value: utf8(value) }
}

function encoded(headers: readonly RecordHeader[]): EncodedHeaders {
  return { bytes: encodeHeaders(headers), count: headers.length }
}

const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

function looksLikeJson(payload: Uint8Array): boolean {
  const first = payload[0]
  if (first !== OPEN_BRACE && first !== OPEN_BRACKET) return false
  return payload[payload.length - 1] === (first === OPEN_BRACE ? CLOSE_BRACE : CLOSE_BRACKET)
}

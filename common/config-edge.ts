import { z } from 'zod'
import { isLoopback, parseAddress } from './address.ts'
import type { LogLevel } from './config-values.ts'
import * as value from './config-values.ts'
import {
  DAY_MS,
  DEAD_MS,
  GIB,
  HEARTBEAT_MS,
  HOUR_MS,
  KIB,
  MAX_LANES,
  MAX_TOPIC_NAME_LENGTH,
  MIB,
  MINUTE_MS,
  SECOND_MS,
} from './limits.ts'

/** Everything an edge agent can be told; loaded by config.ts, explained in the README. */
export interface EdgeConfig {
  /** Null: `<hostname>-<random>`, made once and stored in the data directory. */
  id: string | null
  /** The data directory. */
  data: string
  /** `ws://host:port` or `wss://host:port`; several nodes of one hub are separated by commas. */
  hub: string
  /** Sent to the hub as `Authorization: Bearer`; read from `tokenFile`. */
  token: string | null
  /** Certificate authorities trusted for `wss:` instead of the system's; read from the file `ca`. */
  caPem: string | null
  mqtt: EdgeMqttConfig
  /** Where status, health and metrics are served; null for nowhere. */
  http: string | null
  /** Whether `http` may listen beyond loopback, where it asks nobody for credentials. */
  httpAllowAnonymous: boolean
  logLevel: LogLevel
  /** The first rule that matches decides; none: everything to `telemetry`. */
  rules: Rule[]
  /** Policies by hub topic, `*` for every other one; see `topicPolicy`. */
  topics: Record<string, Partial<TopicPolicy>>
  storage: EdgeStorageConfig
  uplink: UplinkConfig
}

/** MQTT 3.1.1 listeners and what they allow. */
export interface EdgeMqttConfig {
  /** Plain TCP; null for none. */
  listen: string | null
  tls: MqttTlsConfig | null
  /** Lines of `tributary mqtt-users add`; null: no users. */
  usersFile: string | null
  /** Whether clients without user name and password are let in on listeners beyond loopback. */
  allowAnonymous: boolean
  /** Larger packets close their connection before they are buffered. */
  maxPacketBytes: number
  maxConnections: number
  /** Publishes of one connection taken and not yet acked; at the bound its socket is paused. */
  maxInflight: number
  /** From connection to CONNECT. */
  connectTimeoutMs: number
  maxRetainedBytes: number
  /** All session state together: retained messages, wills, open QoS 2 ids. */
  maxSessionStateBytes: number
}

/** The TLS listener; paths of PEM files. */
export interface MqttTlsConfig {
  listen: string
  certFile: string
  keyFile: string
}

/** Event time from the payload: a JSON path such as `$.ts` or `$.meta.time`, and the unit of what stands there. */
export interface EventTimeSource {
  path: string
  unit: 's' | 'ms' | 'us' | 'iso'
}

/** How MQTT topics become records; templates know {edge} {topic} {client} and {1}, {2}... for the levels of the MQTT topic. */
export interface Rule {
  /** An MQTT topic filter with + and #. */
  match: string
  /** Template of the hub topic; default `telemetry`. */
  topic?: string
  /** Template of the key; default `{edge}/{topic}`. */
  key?: string
  /** Default `now`. */
  eventTime?: EventTimeSource | 'now'
  contentType?: string
  /** Takes no record; local MQTT subscribers still get the message. */
  drop?: true
}

/** How records of one hub topic are kept and sent. */
export interface TopicPolicy {
  lanes: number
  /** `edge`: all records of this edge to one partition, in one lane. `key`: by murmur2 of the key over the lanes. */
  partitionBy: 'edge' | 'key'
  onFull: 'reject' | 'drop-oldest'
  /** How long records are kept after the hub committed them. */
  keepAckedMs: number
  /** 0 to 9; higher goes to the hub first. */
  priority: number
  /** Of the readings of a key in a window only the newest becomes a record, when the window ends; null for all. */
  conflate: { windowMs: number } | null
  /** Of a key at most one reading in so long becomes a record: the first; null for all. */
  thin: { everyMs: number } | null
}

export interface EdgeStorageConfig {
  /** Null: min(10 GiB, half the free disk at first start). */
  budgetBytes: number | null
  segmentBytes: number
  /** Share of the budget kept for gaps and session state. */
  reservePercent: number
  /** A commit waits so long for company: fewer commits, less flash wear. */
  commitMs: number
  /** Each of the two journal files. */
  journalBytes: number
  /** Memory for the newest batches. */
  tailCacheBytes: number
  /** Hub topics this edge may write to, so that a template can't explode logs. */
  maxTopics: number
}

export interface UplinkConfig {
  /** Bytes sent and not yet acked. */
  windowBytes: number
  /** Small batches are joined up to this. */
  maxBatchBytes: number
  compression: 'zstd' | 'none'
  heartbeatMs: number
  /** Silence after which the connection is given up. */
  deadMs: number
  backoffMinMs: number
  backoffMaxMs: number
  /** How often the edge tells the hub its lag. */
  reportMs: number
}

/** Defaults of every topic's policy. */
const TOPIC_POLICY_DEFAULTS: Readonly<TopicPolicy> = {
  lanes: 1,
  partitionBy: 'edge',
  onFull: 'drop-oldest',
  keepAckedMs: DAY_MS,
  priority: 5,
  conflate: null,
  thin: null,
}

/** Defaults of every setting. */
export const EDGE_DEFAULTS: Readonly<EdgeConfig> = {
  id: null,
  data: './data/edge',
  hub: 'ws://127.0.0.1:7600',
  token: null,
  caPem: null,
  mqtt: {
    listen: '127.0.0.1:1883',
    tls: null,
    usersFile: null,
    allowAnonymous: false,
    maxPacketBytes: 256 * KIB,
    maxConnections: 10_000,
    maxInflight: 1_000,
    connectTimeoutMs: 10 * SECOND_MS,
    maxRetainedBytes: 16 * MIB,
    maxSessionStateBytes: 32 * MIB,
  },
  http: '127.0.0.1:7601',
  httpAllowAnonymous: false,
  logLevel: 'info',
  rules: [],
  topics: {},
  storage: {
    budgetBytes: null,
    segmentBytes: 16 * MIB,
    reservePercent: 5,
    commitMs: 10,
    journalBytes: 16 * MIB,
    tailCacheBytes: 1 * MIB,
    maxTopics: 256,
  },
  uplink: {
    windowBytes: 4 * MIB,
    maxBatchBytes: 256 * KIB,
    compression: 'zstd',
    heartbeatMs: HEARTBEAT_MS,
    deadMs: DEAD_MS,
    backoffMinMs: SECOND_MS,
    backoffMaxMs: MINUTE_MS,
    reportMs: 5 * SECOND_MS,
  },
}

/** What `defaultEdgeConfig` may be told apart from the defaults. */
export type EdgeOverrides = Partial<Omit<EdgeConfig, 'mqtt' | 'storage' | 'uplink'>> & {
  mqtt?: Partial<EdgeMqttConfig>
  storage?: Partial<EdgeStorageConfig>
  uplink?: Partial<UplinkConfig>
}

/** A config made by code instead of a file; not validated. */
export function defaultEdgeConfig(overrides: EdgeOverrides = {}): EdgeConfig {
  return {
    ...EDGE_DEFAULTS,
    ...overrides,
    mqtt: { ...EDGE_DEFAULTS.mqtt, ...overrides.mqtt },
    storage: { ...EDGE_DEFAULTS.storage, ...overrides.storage },
    uplink: { ...EDGE_DEFAULTS.uplink, ...overrides.uplink },
  }
}

/** The policy of a hub topic: its own settings over those of `*` over the defaults. */
export function topicPolicy(topics: EdgeConfig['topics'], topic: string): TopicPolicy {
  const own = Object.hasOwn(topics, topic) ? topics[topic] : undefined
  return { ...TOPIC_POLICY_DEFAULTS, ...topics['*'], ...own }
}

// ------------------------------------------------------------------------------------------------ schema

const edgeId = value.textOrOff(
  'an id of 1 to 128 letters, digits and ._-, starting with a letter or digit',
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/,
)

const mqttFilter = value.leaf(
  'an MQTT topic filter, where + stands for one level and # at the end for all below, such as plant/+/#',
  raw => (typeof raw === 'string' && isFilter(raw) ? raw : undefined),
)

function isFilter(text: string): boolean {
  // MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.3-1
  if (text === '' || text.includes('\0') || Buffer.byteLength(text) > 65_535) return false
  const levels = text.split('/')
  return levels.every((level, index) => {
    if (level === '#') return index === levels.length - 1
    return level === '+' || !/[+#]/.test(level)
  })
}

const template = value.leaf(
  'a template of text and {edge}, {topic}, {client}, {1} for the first level of the MQTT topic, {2}...',
  raw => (typeof raw === 'string' && isTemplate(raw) ? raw : undefined),
)

function isTemplate(text: string): boolean {
  return text !== '' && !/[{}]/.test(text.replace(/\{(?:edge|topic|client|[1-9]\d{0,2})\}/g, ''))
}

/** The fixed text of a hub topic's template must itself be allowed in a name (Kafka's rule). */
function isTopicTemplate(text: string): boolean {
  const fixed = text.replace(/\{\w+\}/g, '')
  return text.length <= MAX_TOPIC_NAME_LENGTH && /^[A-Za-z0-9._-]*$/.test(fixed) && !/^\.{1,2}$/.test(text)
}

const EVENT_TIME_PATH = /^\$(?:\.[^.[\]]+|\[\d+\])+$/

const eventTime = z.union(
  [
    z.literal('now'),
    z.strictObject({
      path: value.text('a path into a JSON payload such as $.ts or $.meta.times[0]', EVENT_TIME_PATH),
      unit: z.enum(['s', 'ms', 'us', 'iso']),
    }),
  ],
  { error: 'now, or { path: $.ts, unit: s | ms | us | iso } where path leads to the time in a JSON payload' },
)

const rule = z
  .strictObject({
    match: mqttFilter,
    topic: template.exactOptional(),
    key: template.exactOptional(),
    eventTime: eventTime.exactOptional(),
    contentType: value.text('a MIME type such as application/json', /^[\w.+-]+\/[\w.+-]+.*$/).exactOptional(),
    drop: z.literal(true, { error: 'true, or no such key' }).exactOptional(),
  })
  .superRefine((parsed, context) => {
    if (parsed.topic !== undefined && !isTopicTemplate(parsed.topic)) {
      context.addIssue({
        code: 'custom',
        path: ['topic'],
        message: `a name of at most ${MAX_TOPIC_NAME_LENGTH} letters, digits and ._-, with {edge}, {topic}, {client}, {1}... in it`,
      })
    }
    if (parsed.drop && (parsed.topic ?? parsed.key ?? parsed.eventTime ?? parsed.contentType) !== undefined) {
      context.addIssue({
        code: 'custom',
        path: ['drop'],
        message: 'no other key beside it and match, for no record is kept',
      })
    }
  })

/** A group of settings that `off` switches off as a whole. */
function sectionOrOff<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  const isOff = (raw: unknown) => raw === 'off' || raw === 'none'
  return z.preprocess(raw => (isOff(raw) ? null : raw), z.strictObject(shape).nullable())
}

/** Shorter ones would write more summaries than they save records. */
const MIN_WINDOW_MS = 100

const policy = z.strictObject({
  lanes: value.count({ min: 1, max: MAX_LANES }).exactOptional(),
  partitionBy: z.enum(['edge', 'key']).exactOptional(),
  onFull: z.enum(['reject', 'drop-oldest']).exactOptional(),
  keepAckedMs: value.duration({ min: 0, max: 3_650 * DAY_MS }).exactOptional(),
  priority: value.count({ min: 0, max: 9 }).exactOptional(),
  conflate: sectionOrOff({
    windowMs: value.duration({ min: MIN_WINDOW_MS, max: HOUR_MS }),
  }).exactOptional(),
  thin: sectionOrOff({ everyMs: value.duration({ min: MIN_WINDOW_MS, max: DAY_MS }) }).exactOptional(),
})

const topicName = z.string().regex(new RegExp(`^(\\*|[A-Za-z0-9._-]{1,${MAX_TOPIC_NAME_LENGTH}})$`), {
  error: 'the name of a hub topic (letters, digits and ._-), or * for every other one',
})

const { mqtt, storage, uplink } = EDGE_DEFAULTS
const anyTime = { min: 1, max: DAY_MS }

/** What a file's `edge:` section holds; `tokenFile` and `ca` are read by config.ts. */
export const edgeSchema = value
  .section({
    id: edgeId.default(EDGE_DEFAULTS.id),
    data: value.path.default(EDGE_DEFAULTS.data),
    hub: value.hubUrls.default(EDGE_DEFAULTS.hub),
    tokenFile: value.pathOrOff.default(null),
    ca: value.pathOrOff.default(null),
    mqtt: value.section({
      listen: value.listenOrOff.default(mqtt.listen),
      tls: z
        .strictObject({ listen: value.listen, certFile: value.path, keyFile: value.path })
        .nullable()
        .default(mqtt.tls),
      usersFile: value.pathOrOff.default(mqtt.usersFile),
      allowAnonymous: value.flag.default(mqtt.allowAnonymous),
      // MQTT's own limit is 256 MiB (MQTT-2.2.3).
      maxPacketBytes: value.size({ min: KIB, max: 256 * MIB }).default(mqtt.maxPacketBytes),
      maxConnections: value.count({ min: 1, max: 1_000_000 }).default(mqtt.maxConnections),
      // Packet identifiers are 16 bits.
      maxInflight: value.count({ min: 1, max: 65_535 }).default(mqtt.maxInflight),
      connectTimeoutMs: value.duration(anyTime).default(mqtt.connectTimeoutMs),
      maxRetainedBytes: value.size({ min: 0, max: 4 * GIB }).default(mqtt.maxRetainedBytes),
      maxSessionStateBytes: value.size({ min: 64 * KIB, max: 4 * GIB }).default(mqtt.maxSessionStateBytes),
    }),
    http: value.listenOrOff.default(EDGE_DEFAULTS.http),
    httpAllowAnonymous: value.flag.default(EDGE_DEFAULTS.httpAllowAnonymous),
    logLevel: value.logLevel.default(EDGE_DEFAULTS.logLevel),
    rules: z.array(rule).max(1_000).default([]),
    topics: z.record(topicName, policy).default({}),
    storage: value.section({
      budgetBytes: value.sizeOrOff({ min: MIB, max: 1_024 * 1_024 * GIB }).default(storage.budgetBytes),
      segmentBytes: value.size({ min: 64 * KIB, max: 2 * GIB }).default(storage.segmentBytes),
      reservePercent: value.count({ min: 1, max: 50 }).default(storage.reservePercent),
      commitMs: value.duration({ min: 0, max: MINUTE_MS }).default(storage.commitMs),
      journalBytes: value.size({ min: MIB, max: 4 * GIB }).default(storage.journalBytes),
      tailCacheBytes: value.size({ min: 0, max: 64 * GIB }).default(storage.tailCacheBytes),
      maxTopics: value.count({ min: 1, max: 100_000 }).default(storage.maxTopics),
    }),
    uplink: value.section({
      windowBytes: value.size({ min: 64 * KIB, max: GIB }).default(uplink.windowBytes),
      maxBatchBytes: value.size({ min: 4 * KIB, max: 8 * MIB }).default(uplink.maxBatchBytes),
      compression: z.enum(['zstd', 'none']).default(uplink.compression),
      heartbeatMs: value.duration(anyTime).default(uplink.heartbeatMs),
      deadMs: value.duration(anyTime).default(uplink.deadMs),
      backoffMinMs: value.duration(anyTime).default(uplink.backoffMinMs),
      backoffMaxMs: value.duration(anyTime).default(uplink.backoffMaxMs),
      reportMs: value.duration(anyTime).default(uplink.reportMs),
    }),
  })
  .superRefine((parsed, context) => {
    const wrong = (path: string, message: string) =>
      context.addIssue({ code: 'custom', path: path.split('.'), message })
    const { mqtt, http, httpAllowAnonymous, uplink } = parsed
    const beyondLoopback = (address: string | null) =>
      address !== null && !isLoopback(parseAddress(address)?.host ?? '')
    if (!mqtt.allowAnonymous && mqtt.usersFile === null) {
      const message =
        'a loopback address, unless mqtt.usersFile (--mqtt-users) names users or mqtt.allowAnonymous (--allow-anonymous) is true'
      if (beyondLoopback(mqtt.listen)) wrong('mqtt.listen', message)
      if (beyondLoopback(mqtt.tls?.listen ?? null)) wrong('mqtt.tls.listen', message)
    }
    if (!httpAllowAnonymous && beyondLoopback(http)) {
      wrong('http', 'a loopback address, unless httpAllowAnonymous (--allow-anonymous) is true')
    }
    if (uplink.deadMs <= uplink.heartbeatMs) wrong('uplink.deadMs', 'more than uplink.heartbeatMs')
    if (uplink.backoffMaxMs < uplink.backoffMinMs)
      wrong('uplink.backoffMaxMs', 'at least uplink.backoffMinMs')
    if (uplink.windowBytes < uplink.maxBatchBytes)
      wrong('uplink.windowBytes', 'at least uplink.maxBatchBytes')
    for (const topic of Object.keys(parsed.topics)) {
      const { lanes, partitionBy, conflate, thin } = topicPolicy(parsed.topics, topic)
      if (lanes > 1 && partitionBy === 'edge') {
        wrong(`topics.${topic}.lanes`, '1, unless partitionBy is key: an edge as a whole goes to one lane')
      }
      if (conflate !== null && thin !== null) {
        const set = parsed.topics[topic]?.thin === undefined ? 'conflate' : 'thin'
        const other = set === 'thin' ? 'conflate' : 'thin'
        wrong(`topics.${topic}.${set}`, `off, or ${other}: off beside it: a topic has one of the two`)
      }
    }
  })

import { isLoopback, parseAddress } from './address.ts'
import type { HubClusterConfig } from './config-cluster.ts'
import { CLUSTER_DEFAULTS, clusterIssue, clusterSection, MAX_NODE_ID } from './config-cluster.ts'
import type { LogLevel } from './config-values.ts'
import * as value from './config-values.ts'
import {
  DAY_MS,
  DEAD_MS,
  GIB,
  HEARTBEAT_MS,
  KIB,
  MAX_FRAME_BYTES,
  MAX_RECORD_BYTES,
  MIB,
  MINUTE_MS,
  SECOND_MS,
} from './limits.ts'
import type { FlushMode } from './log/types.ts'

/** Everything a hub node can be told; loaded by config.ts, explained in the README. */
export interface HubConfig {
  /** The data directory. */
  data: string
  /** The one port for edges, subscribers, REST and metrics. */
  http: string
  nodeId: number
  /** Any of them lets a client in; none where empty. Read from `tokenFile`, one a line. */
  tokens: string[]
  /** Whether clients without a token are let in on an address beyond loopback. */
  allowAnonymous: boolean
  logLevel: LogLevel
  /** Whether a topic that an edge or a producer writes to is made where it is not there; a deleted one is not. */
  autoCreateTopics: boolean
  defaultPartitions: number
  maxTopics: number
  /** All topics together. */
  maxPartitions: number
  /** The node's part in a cluster; a hub without peers is a cluster of one. */
  cluster: HubClusterConfig
  storage: HubStorageConfig
  limits: HubLimitsConfig
}

/** Settings of the data directory, and what new topics start with. */
export interface HubStorageConfig {
  commitMs: number
  /** `async`: records are acked before they are synced, see FlushMode. Metadata and state are synced either way. */
  flush: FlushMode
  /** Each of the two journal files; the largest batch (`limits.maxFrameBytes`) must fit one. */
  journalBytes: number
  /** Kept free on disk for metadata and gaps. */
  reserveBytes: number
  /** Memory for the newest batches. */
  tailCacheBytes: number
  /** Default of new topics. */
  segmentBytes: number
  /** Default of new topics, in hub time; null for ever. */
  retentionMs: number | null
  /** Default of new topics, per partition; null for no bound. */
  retentionBytes: number | null
  /** Default of new topics: the largest record, see TopicConfig in hub/ports.ts. */
  maxRecordBytes: number
  /** A client that sent nothing for so long, in hub time, is forgotten: what it sends again after that is new. As Kafka's producer.id.expiration.ms. */
  producerIdExpirationMs: number
}

export interface HubLimitsConfig {
  /** HTTP and WebSocket connections together. */
  maxConnections: number
  /** The largest WebSocket message. */
  maxFrameBytes: number
  /** The largest body of a REST request. */
  maxBodyBytes: number
  /** Appends of one connection taken and not yet committed; at the bound its socket is paused. */
  maxInflightBytesPerConnection: number
  /** Bytes read for one connection and not yet sent; at the bound its reads wait. */
  readBytesPerConnection: number
  heartbeatMs: number
  /** Silence after which a connection is given up. */
  deadMs: number
  /** From connection to `hello`. */
  helloTimeoutMs: number
}

/** Defaults of every setting. */
export const HUB_DEFAULTS: Readonly<HubConfig> = {
  data: './data/hub',
  http: '127.0.0.1:7600',
  nodeId: 1,
  tokens: [],
  allowAnonymous: false,
  logLevel: 'info',
  autoCreateTopics: true,
  defaultPartitions: 12,
  maxTopics: 10_000,
  maxPartitions: 100_000,
  cluster: CLUSTER_DEFAULTS,
  storage: {
    commitMs: 0,
    flush: 'commit',
    journalBytes: 64 * MIB,
    reserveBytes: 64 * MIB,
    tailCacheBytes: 64 * MIB,
    segmentBytes: 256 * MIB,
    retentionMs: 7 * DAY_MS,
    retentionBytes: null,
    maxRecordBytes: MAX_RECORD_BYTES,
    producerIdExpirationMs: 7 * DAY_MS,
  },
  limits: {
    maxConnections: 20_000,
    maxFrameBytes: MAX_FRAME_BYTES,
    maxBodyBytes: 16 * MIB,
    maxInflightBytesPerConnection: 8 * MIB,
    readBytesPerConnection: 4 * MIB,
    heartbeatMs: HEARTBEAT_MS,
    deadMs: DEAD_MS,
    helloTimeoutMs: 10 * SECOND_MS,
  },
}

/** What `defaultHubConfig` may be told apart from the defaults. */
export type HubOverrides = Partial<Omit<HubConfig, 'cluster' | 'storage' | 'limits'>> & {
  cluster?: Partial<HubClusterConfig>
  storage?: Partial<HubStorageConfig>
  limits?: Partial<HubLimitsConfig>
}

/** A config made by code instead of a file; not validated. */
export function defaultHubConfig(overrides: HubOverrides = {}): HubConfig {
  return {
    ...HUB_DEFAULTS,
    ...overrides,
    cluster: { ...HUB_DEFAULTS.cluster, ...overrides.cluster },
    storage: { ...HUB_DEFAULTS.storage, ...overrides.storage },
    limits: { ...HUB_DEFAULTS.limits, ...overrides.limits },
  }
}

const { storage, limits } = HUB_DEFAULTS
const anyTime = { min: 1, max: DAY_MS }

/** What a file's `hub:` section holds; `tokenFile` is read by config.ts. */
export const hubSchema = value
  .section({
    data: value.path.default(HUB_DEFAULTS.data),
    http: value.listen.default(HUB_DEFAULTS.http),
    nodeId: value.count({ min: 1, max: MAX_NODE_ID }).default(HUB_DEFAULTS.nodeId),
    tokenFile: value.pathOrOff.default(null),
    allowAnonymous: value.flag.default(HUB_DEFAULTS.allowAnonymous),
    logLevel: value.logLevel.default(HUB_DEFAULTS.logLevel),
    autoCreateTopics: value.flag.default(HUB_DEFAULTS.autoCreateTopics),
    defaultPartitions: value.count({ min: 1, max: 10_000 }).default(HUB_DEFAULTS.defaultPartitions),
    maxTopics: value.count({ min: 1, max: 1_000_000 }).default(HUB_DEFAULTS.maxTopics),
    maxPartitions: value.count({ min: 1, max: 10_000_000 }).default(HUB_DEFAULTS.maxPartitions),
    cluster: clusterSection,
    storage: value.section({
      commitMs: value.duration({ min: 0, max: MINUTE_MS }).default(storage.commitMs),
      flush: value.flushMode.default(storage.flush),
      journalBytes: value.size({ min: MIB, max: 16 * GIB }).default(storage.journalBytes),
      reserveBytes: value.size({ min: 0, max: 1_024 * GIB }).default(storage.reserveBytes),
      tailCacheBytes: value.size({ min: 0, max: 1_024 * GIB }).default(storage.tailCacheBytes),
      segmentBytes: value.size({ min: 64 * KIB, max: 2 * GIB }).default(storage.segmentBytes),
      retentionMs: value.durationOrOff({ min: SECOND_MS, max: 36_500 * DAY_MS }).default(storage.retentionMs),
      retentionBytes: value
        .sizeOrOff({ min: 64 * KIB, max: 1_024 * 1_024 * GIB })
        .default(storage.retentionBytes),
      maxRecordBytes: value.size({ min: KIB, max: 8 * MIB }).default(storage.maxRecordBytes),
      producerIdExpirationMs: value
        .duration({ min: MINUTE_MS, max: 36_500 * DAY_MS })
        .default(storage.producerIdExpirationMs),
    }),
    limits: value.section({
      maxConnections: value.count({ min: 1, max: 1_000_000 }).default(limits.maxConnections),
      maxFrameBytes: value.size({ min: 64 * KIB, max: 256 * MIB }).default(limits.maxFrameBytes),
      maxBodyBytes: value.size({ min: KIB, max: 256 * MIB }).default(limits.maxBodyBytes),
      maxInflightBytesPerConnection: value
        .size({ min: 64 * KIB, max: 4 * GIB })
        .default(limits.maxInflightBytesPerConnection),
      readBytesPerConnection: value
        .size({ min: 64 * KIB, max: 4 * GIB })
        .default(limits.readBytesPerConnection),
      heartbeatMs: value.duration(anyTime).default(limits.heartbeatMs),
      deadMs: value.duration(anyTime).default(limits.deadMs),
      helloTimeoutMs: value.duration(anyTime).default(limits.helloTimeoutMs),
    }),
  })
  .superRefine((parsed, context) => {
    const wrong = (path: string, message: string) =>
      context.addIssue({ code: 'custom', path: path.split('.'), message })
    const { http, tokenFile, allowAnonymous, storage, limits } = parsed
    if (!isLoopback(parseAddress(http)?.host ?? '') && tokenFile === null && !allowAnonymous) {
      const message =
        'a loopback address, unless tokenFile (--token-file) names tokens or allowAnonymous (--allow-anonymous) is true'
      wrong('http', message)
    }
    const unfit = clusterIssue(parsed.nodeId, parsed.cluster)
    if (unfit !== null) wrong(`cluster.${unfit[0]}`, unfit[1])
    if (limits.deadMs <= limits.heartbeatMs) wrong('limits.deadMs', 'more than limits.heartbeatMs')
    if (limits.maxFrameBytes < storage.maxRecordBytes * 2) {
      wrong(
        'limits.maxFrameBytes',
        'at least twice storage.maxRecordBytes, so that every record fits a frame',
      )
    }
    if (storage.journalBytes <= limits.maxFrameBytes) {
      wrong(
        'storage.journalBytes',
        'more than limits.maxFrameBytes, so that what came in one frame fits a commit',
      )
    }
    if (storage.segmentBytes < storage.maxRecordBytes) {
      wrong('storage.segmentBytes', 'at least storage.maxRecordBytes')
    }
  })

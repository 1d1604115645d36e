import type { EdgesAdmin, TopicsAdmin } from './client-admin.ts'
import { createEdgesAdmin, createTopicsAdmin } from './client-admin.ts'
import type { ClusterAdmin } from './client-cluster.ts'
import { createClusterAdmin } from './client-cluster.ts'
import type { ClientEnv } from './client-connection.ts'
import { createConnection } from './client-connection.ts'
import type { ConsumedRecord, ConsumeOptions } from './client-consume.ts'
import { consumeBatches } from './client-consume.ts'
import type { ProducedRecord, ProduceRecord, Producer, ProducerOptions } from './client-producer.ts'
import { createProducer } from './client-producer.ts'
import { TributaryError } from './errors.ts'

/** @public */
export type { EdgeSummary, TopicDescription, TopicSettings, TopicSummary } from './client-admin.ts'
/** @public */
export type { ClusterSummary, NodeSummary, PlacementSummary } from './client-cluster.ts'
export type { ConsumedGap, ConsumedRecord, ConsumeOptions } from './client-consume.ts'
/** @public */
export type { StartFrom } from './client-cursors.ts'
export type { ProducedRecord, ProduceRecord, Producer, ProducerOptions } from './client-producer.ts'

/**
 * The client of a hub, for consumers, producers and administration.
 *
 *   const client = connect({ hub: 'http://127.0.0.1:7600', env: nodeEnv() })
 *   await client.topics.create({ name: 'telemetry', partitions: 12 })
 *   await client.produce('telemetry', [{ key: 'pump-7', value: '{"celsius":41.5}' }])
 *   for await (const record of client.consume('telemetry', { from: 'earliest', follow: false })) {
 *     console.log(record.partition, record.offset, Buffer.from(record.value ?? []).toString())
 *   }
 *   await client.close()
 *
 * All failures are TributaryErrors (errors.ts): `code` says what happened, `retriable` whether trying again can help. The client
 * reconnects by itself, with backoff; reading goes on at the exact next offset, and producing repeats what was not acked without
 * storing it twice. It holds one WebSocket, opened when first needed.
 */

export interface ConnectOptions {
  /**
   * The hub: `http(s)://host:port`, `ws(s)://host:port` or `host:port`; nodes of one hub as a list or separated by commas. The others are
   * learned from the first that is reached.
   */
  hub: string | readonly string[]
  /** Sent as `Authorization: Bearer`. */
  token?: string
  /** PEM of the certificate authorities trusted for `https:` and `wss:`; the system's where absent. */
  caPem?: string
  /** `nodeEnv()` of env-node.ts, or a test's. */
  env: ClientEnv
}

export interface TributaryClient {
  topics: TopicsAdmin
  edges: EdgesAdmin
  cluster: ClusterAdmin
  /**
   * Reads a topic, merging its partitions; records of one partition come in order, each once. By default it starts at the end
   * and follows. The hub sends no more than `maxBufferedBytes` ahead, so a slow loop slows only itself.
   *
   *   for await (const record of client.consume('telemetry', { from: new Date('2026-01-31T12:00:00Z'), count: 100 })) ...
   *
   * Throws `unknown_topic`, `invalid_argument`, `offset_out_of_range` and `topic_deleted` (see `onReset`), `corrupt_batch`,
   * `not_available` (no hub for `unreachableMs`), `unauthorized`, `closed`.
   */
  consume(topic: string, options?: ConsumeOptions): AsyncGenerator<ConsumedRecord, void, void>
  /** `consume` in arrays of records as they come, for readers to whom a promise per record is too slow. */
  consumeBatches(topic: string, options?: ConsumeOptions): AsyncGenerator<ConsumedRecord[], void, void>
  /**
   * Writes records and resolves with their places, in the order given, once they are acked: durable, with the default
   * `acks: 'all'`. Each is stored once, whatever happens to the connection. See `Producer.send` for failures.
   *
   *   const [place] = await client.produce('telemetry', [{ key: 'pump-7', value: 'on' }])
   */
  produce(
    topic: string,
    records: ProduceRecord | readonly ProduceRecord[],
    options?: { acks?: 0 | 1 | 'all' },
  ): Promise<ProducedRecord[]>
  /**
   * A producer with options of its own, for many records: gathers them into batches and keeps several on the way.
   *
   *   const producer = client.producer('telemetry', { lingerMs: 20 })
   *   for (const reading of readings) void producer.send(reading).catch(report)
   *   await producer.close()
   */
  producer(topic: string, options?: ProducerOptions): Producer
  stats(): ClientStats
  /** Flushes what `produce` was given and closes the connection. Producers made by `producer` are closed by their owner before. */
  close(): Promise<void>
}

export interface ClientStats {
  /** Times that an established connection was lost. */
  connectionsLost: number
}

/** Topics that `produce` keeps a producer for; the one not used the longest goes first. */
const MAX_KEPT_PRODUCERS = 256

/** Makes a client; nothing is dialled yet. Throws `invalid_argument` where `hub` is no address. */
export function connect(options: ConnectOptions): TributaryClient {
  const { env } = options
  const urls = hubUrls(options.hub)
  const access = {
    ...(options.token === undefined ? {} : { token: options.token }),
    ...(options.caPem === undefined ? {} : { caPem: options.caPem }),
  }
  const rest = { httpUrls: urls.http, ...access }
  const configured = [...urls.http]
  const scheme = configured[0]?.startsWith('https:') === true ? 'https' : 'http'
  const connection = createConnection(env, {
    wsUrls: urls.ws,
    ...access,
    learned: nodes => {
      rest.httpUrls = [...new Set([...configured, ...nodes.map(node => `${scheme}://${node}`)])]
    },
  })
  const kept = new Map<string, Producer>()

  function keptProducer(topic: string, acks: 0 | 1 | 'all'): Producer {
    const key = `${acks} ${topic}`
    const producer = kept.get(key) ?? createProducer(connection, env, topic, { acks, lingerMs: 0 })
    kept.delete(key)
    kept.set(key, producer)
    for (const [oldest, idle] of kept) {
      if (kept.size <= MAX_KEPT_PRODUCERS) break
      kept.delete(oldest)
      void idle.close()
    }
    return producer
  }

  async function produce(
    topic: string,
    records: ProduceRecord | readonly ProduceRecord[],
    acks: 0 | 1 | 'all',
  ): Promise<ProducedRecord[]> {
    const producer = keptProducer(topic, acks)
    try {
      return await producer.send(records)
    } catch (error) {
      // A producer belongs to one topic id: after this the name may mean another topic.
      if (error instanceof TributaryError && error.code === 'topic_deleted') kept.delete(`${acks} ${topic}`)
      throw error
    }
  }

  async function* consume(topic: string, how: ConsumeOptions): AsyncGenerator<ConsumedRecord, void, void> {
    for await (const records of consumeBatches(connection, env, topic, how)) yield* records
  }

  return {
    topics: createTopicsAdmin(rest),
    edges: createEdgesAdmin(rest),
    cluster: createClusterAdmin(rest),
    consume: (topic, how = {}) => consume(topic, how),
    consumeBatches: (topic, how = {}) => consumeBatches(connection, env, topic, how),
    produce: (topic, records, how = {}) => produce(topic, records, how.acks ?? 'all'),
    producer: (topic, how = {}) => createProducer(connection, env, topic, how),
    stats: () => ({ connectionsLost: connection.lostCount() }),
    close: async () => {
      await Promise.all([...kept.values()].map(producer => producer.close()))
      connection.close()
    },
  }
}

/** The hub's addresses for REST and WebSocket from any form of its URLs; throws `invalid_argument`. */
export function hubUrls(hub: string | readonly string[]): { http: string[]; ws: string[] } {
  const texts = typeof hub === 'string' ? hub.split(',').map(text => text.trim()) : hub
  const urls = texts.length === 0 ? [urlsOf('')] : texts.map(urlsOf)
  return { http: urls.map(({ http }) => http), ws: urls.map(({ ws }) => ws) }
}

function urlsOf(hub: string): { http: string; ws: string } {
  const text = hub.includes('://') ? hub : `http://${hub}`
  const url = URL.canParse(text) ? new URL(text) : null
  const secure = url?.protocol === 'https:' || url?.protocol === 'wss:'
  const plain = url?.protocol === 'http:' || url?.protocol === 'ws:'
  if (url === null || !(secure || plain) || url.host === '') {
    throw new TributaryError(
      'invalid_argument',
      `the hub's address must look like http://127.0.0.1:7600 (or https:, ws:, wss:), but is ${JSON.stringify(hub)}`,
    )
  }
  return { http: `http${secure ? 's' : ''}://${url.host}`, ws: `ws${secure ? 's' : ''}://${url.host}` }
}

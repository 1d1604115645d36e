import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { afterEach, expect, test } from 'vitest'
import { buildBatch } from '../../../../common/batch-builder.ts'
import type { ConsumedGap } from '../../../../common/client.ts'
import { connect } from '../../../../common/client.ts'
import { defaultHubConfig } from '../../../../common/config-hub.ts'
import { nodeEnv } from '../../../../common/env-node.ts'
import { MAX_FRAME_BYTES } from '../../../../common/limits.ts'
import { UPLINK_PATH } from '../../../../common/wire.ts'
import { openClusterEngine } from '../../../../hub/engines/cluster/engine.ts'
import { serveEngine } from '../../../../hub/node.ts'
import { rawPeer, until } from '../../../raw-peer.ts'

/** The uplink and the client over real sockets, the real engine and a real disk. */

const log = pino({ level: 'silent' })
const cleanups: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'tributary-wire-'))
  cleanups.push(() => rm(path, { recursive: true, force: true }))
  return path
}

async function hubAt(data: string, port = 0) {
  const env = nodeEnv()
  const config = defaultHubConfig({ data, http: `127.0.0.1:${port}`, defaultPartitions: 2 })
  const engine = await openClusterEngine(config, env, log)
  const hub = await serveEngine(engine, config, env, log)
  cleanups.push(() => hub.close())
  const url = `ws://127.0.0.1:${hub.address.port}`
  return { hub, url, port: hub.address.port }
}

async function edgeAt(url: string, session: number) {
  const link = await nodeEnv().net.dial(`${url}${UPLINK_PATH}`, {
    maxFrameBytes: MAX_FRAME_BYTES,
    connectTimeoutMs: 5_000,
  })
  const edge = rawPeer(link, 'uplink-hub')
  edge.send({
    t: 'hello',
    min: 1,
    max: 1,
    software: 'test',
    edge: { id: 'e1', session, clusterId: null, nowMs: Date.now() },
  })
  const welcome = await edge.expect('welcome')
  const granted = welcome.edge?.session ?? -1
  edge.send({ t: 'start', session: granted })
  edge.send({ t: 'open', log: 1, topic: 'telemetry', topicId: null, lane: 0, lanes: 1, partitionBy: 'edge' })
  return { edge, granted, welcome, opened: await edge.expect('opened') }
}

const RUN = 2 ** 52 + 5

function append(sequence: number, count: number) {
  const records = Array.from({ length: count }, (_, index) => ({
    key: null,
    value: Buffer.from(String(sequence + index)),
    headers: [],
    timestampMs: Date.now(),
  }))
  const batches = buildBatch(records, { producerId: RUN, producerEpoch: 0, baseSequence: sequence })
  return { t: 'append', log: 1, batches } as const
}

async function acked(edge: Awaited<ReturnType<typeof edgeAt>>['edge'], committed: number): Promise<void> {
  for (let ack = await edge.expect('ack'); ack.committed !== committed; ) ack = await edge.expect('ack')
}

test('an edge resumes over a restart of the hub, declares a gap, and a client that follows sees it all once', async () => {
  const data = await directory()
  const first = await hubAt(data)
  const client = connect({ hub: first.url, env: nodeEnv() })
  cleanups.push(() => client.close())
  const before = await edgeAt(first.url, 0)
  expect(before.welcome.edge).toEqual({ session: 1, verdict: 'ok' })
  expect(before.opened.tip).toBeNull()

  const seen: string[] = []
  const gaps: ConsumedGap[] = []
  const stop = new AbortController()
  const reading = (async () => {
    const options = {
      from: 'earliest',
      signal: stop.signal,
      onGap: (gap: ConsumedGap) => gaps.push(gap),
    } as const
    for await (const record of client.consume('telemetry', options)) {
      seen.push(Buffer.from(record.value ?? []).toString())
    }
  })()
  before.edge.send({ t: 'run', log: 1, run: RUN, prev: null, reason: 'first' })
  for (let sequence = 0; sequence < 500; sequence += 50) before.edge.send(append(sequence, 50))
  await acked(before.edge, 500)
  await until(() => seen.length === 500, 'the records of the first hub')

  await first.hub.close()
  expect((await before.edge.whenClosed).code).toBe(1001)
  const second = await hubAt(data, first.port)
  const after = await edgeAt(second.url, before.granted)
  expect(after.welcome).toMatchObject({
    clusterId: before.welcome.clusterId,
    edge: { session: 2, verdict: 'ok' },
  })
  expect(after.opened).toMatchObject({
    topicId: before.opened.topicId,
    tip: { run: RUN, next: 500, committed: 500 },
  })
  // What the hub has, a straddling batch, then the cut, a loss and what follows it.
  after.edge.send(append(450, 50))
  after.edge.send(append(480, 40))
  const refused = await (async () => {
    for (;;) {
      const frame = await after.edge.next()
      if (frame.t === 'refused') return frame
    }
  })()
  expect(refused).toMatchObject({ code: 'out_of_order_sequence', run: RUN, next: 500 })
  after.edge.send(append(500, 20))
  const loss = {
    from: 520,
    to: 530,
    reason: 'disk-full',
    firstMs: null,
    lastMs: 9,
    localFrom: 520,
    localTo: 530,
  } as const
  after.edge.send({ t: 'gap', log: 1, run: RUN, ...loss })
  after.edge.send(append(530, 20))
  await acked(after.edge, 550)
  await until(() => seen.length === 540, 'the records of the second hub')
  const expected = Array.from({ length: 550 }, (_, sequence) => sequence).filter(n => n < 520 || n >= 530)
  expect(seen).toEqual(expected.map(String))
  expect(gaps).toMatchObject([{ edge: 'e1', run: RUN, from: 520, to: 530, count: 10, reason: 'disk-full' }])
  stop.abort()
  await reading
})

test('a producer and a reader over a restart of the hub: each record once, in order', async () => {
  const data = await directory()
  const first = await hubAt(data)
  const client = connect({ hub: first.url, env: nodeEnv() })
  cleanups.push(() => client.close())
  await client.topics.create({ name: 't', partitions: 1 })
  const producer = client.producer('t', { lingerMs: 1, maxBatchBytes: 2_000 })
  const numbers = Array.from({ length: 3_000 }, (_, index) => String(index))
  let acks = 0
  const sends = Promise.all(numbers.map(value => producer.send({ value }).then(() => acks++)))
  await until(() => acks > 300, 'the first acks')
  await first.hub.close()
  await hubAt(data, first.port)
  await sends
  const found: string[] = []
  for await (const record of client.consume('t', { from: 'earliest', follow: false })) {
    found.push(Buffer.from(record.value ?? []).toString())
  }
  expect(found).toEqual(numbers)
  expect((await client.topics.list()).map(topic => topic.name)).toContain('t')
  expect((await client.topics.describe('t')).partitions[0]?.highWatermark).toBe(3_000)
  expect((await client.topics.alter('t', { config: { retentionMs: null } })).config.retentionMs).toBeNull()
  await client.topics.delete('t')
  await expect(client.topics.describe('t')).rejects.toMatchObject({
    code: expect.stringMatching(/unknown_topic|topic_deleted/),
  })
  await expect(client.edges.remove('nobody')).rejects.toMatchObject({ code: 'not_found' })
  expect(await client.edges.list()).toEqual([])
}, 20_000)

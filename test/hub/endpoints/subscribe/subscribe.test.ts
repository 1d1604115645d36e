import { describe, expect, test } from 'vitest'
import { eachBatch } from '../../../../common/batch.ts'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { CLOSE } from '../../../../common/wire.ts'
import type { ClientStage } from '../../../client-stage.ts'
import { clientStage } from '../../../client-stage.ts'
import { rawPeer, until } from '../../../raw-peer.ts'

async function peer(stage: ClientStage) {
  const pair = stage.dialRaw({})
  const client = rawPeer(pair.left, 'client-hub')
  client.send({ t: 'hello', min: 1, max: 1, software: 'test' })
  await client.expect('welcome')
  return { client, pair, session: stage.sessions.at(-1) }
}

type Client = Awaited<ReturnType<typeof peer>>['client']

function batch(bytes: number): Uint8Array {
  return buildBatch([{ key: null, value: new Uint8Array(bytes), headers: [], timestampMs: 1 }])
}

async function filled(
  stage: ClientStage,
  partitions: number,
  batches: number,
  bytes: number,
): Promise<string> {
  const { topicId } = await stage.ports.topics.create({ name: 't', partitions })
  for (let partition = 0; partition < partitions; partition++) {
    for (let i = 0; i < batches; i++) await stage.ports.logs.append(topicId, partition, batch(bytes), 'all')
  }
  return topicId
}

const subscribe = (
  client: Client,
  topicId: string,
  sub: number,
  creditBytes: number,
  offset = 0,
  partition = 0,
) => client.send({ t: 'subscribe', sub, topicId, partition, offset, leaderEpoch: -1, creditBytes })

describe('requests', () => {
  test('a transcript', async () => {
    const stage = clientStage()
    const { client } = await peer(stage)
    const topicId = await filled(stage, 2, 3, 10)
    client.send({ t: 'request', id: 1, op: 'topic', topic: 't' })
    const bounds = { startOffset: 0, endOffset: 3, highWatermark: 3, leaderEpoch: 0 }
    expect(await client.next()).toEqual({
      t: 'response',
      id: 1,
      result: {
        topic: 't',
        topicId,
        partitions: [
          { partition: 0, ...bounds },
          { partition: 1, ...bounds },
        ],
        maxRecordBytes: 1_048_576,
      },
    })
    client.send({ t: 'request', id: 2, op: 'offset', topicId, partition: 1, at: 'latest' })
    expect(await client.next()).toEqual({ t: 'response', id: 2, result: { offset: 3, leaderEpoch: 0 } })
    client.send({ t: 'request', id: 3, op: 'offset', topicId, partition: 1, at: { timeMs: 0 } })
    expect(await client.next()).toEqual({ t: 'response', id: 3, result: { offset: 0, leaderEpoch: 0 } })
    client.send({ t: 'request', id: 4, op: 'producer' })
    expect(await client.next()).toEqual({ t: 'response', id: 4, result: { producerId: 1, producerEpoch: 0 } })
    client.send({ t: 'request', id: 5, op: 'produce', topicId, partition: 0, acks: 'all', batches: batch(5) })
    expect(await client.next()).toEqual({ t: 'response', id: 5, result: { baseOffset: 3 } })
    client.send({ t: 'request', id: 6, op: 'topic', topic: 'nowhere' })
    expect(await client.next()).toMatchObject({ t: 'response', id: 6, error: { code: 'unknown_topic' } })
    client.send({ t: 'request', id: 16, op: 'topic', topic: 'fresh', produce: true })
    expect(await client.next()).toMatchObject({ id: 16, result: { topic: 'fresh' } })
    client.send({ t: 'request', id: 7, op: 'offset', topicId, partition: 9, at: 'earliest' })
    expect(await client.next()).toMatchObject({ id: 7, error: { code: 'unknown_topic' } })
    client.send({
      t: 'request',
      id: 8,
      op: 'produce',
      topicId,
      partition: 0,
      acks: 1,
      batches: new Uint8Array(80),
    })
    expect(await client.next()).toMatchObject({ id: 8, error: { code: 'corrupt_batch' } })
    expect(stage.counters).toMatchObject({ requests: 9, requestErrors: 3 })
  })

  test('a client is sent away where another node may reach the leader that this one does not', async () => {
    const stage = clientStage()
    const { client } = await peer(stage)
    const topicId = await filled(stage, 1, 0, 0)
    const produce = async (id: number): Promise<void> => {
      const details = { leader: 3, elsewhere: true }
      stage.ports.failNext('append', new TributaryError('not_available', 'it is not reached', { details }))
      client.send({ t: 'request', id, op: 'produce', topicId, partition: 0, acks: 1, batches: batch(5) })
      expect(await client.next()).toMatchObject({ id, error: { code: 'not_available' } })
    }
    await produce(1)
    stage.ports.setAddresses(['ws://there'])
    await produce(2)
    expect(await client.expect('error')).toMatchObject({ code: 'not_available', fatal: true })
    await client.whenClosed
  })

  test('too many requests or bytes under way pause the connection until some are done', async () => {
    const stage = clientStage({ limits: { maxInflightBytesPerConnection: 10_000 } })
    const { client, pair } = await peer(stage)
    const topicId = await filled(stage, 1, 0, 0)
    stage.ports.hold()
    for (let id = 1; id <= 40; id++) {
      client.send({
        t: 'request',
        id,
        op: 'produce',
        topicId,
        partition: 0,
        acks: 'all',
        batches: batch(1_000),
      })
    }
    await until(() => stage.counters.paused === 1, 'the pause')
    await new Promise(resolve => setTimeout(resolve, 10))
    expect(pair.left.bufferedBytes()).toBeGreaterThan(20_000)
    expect(stage.counters.requests).toBeLessThan(15)
    stage.ports.release()
    for (let id = 1; id <= 40; id++) expect(await client.next()).toMatchObject({ t: 'response', id })
  })

  test('an edge on this path, a hub not ready, a sub used twice: each told and closed', async () => {
    const stage = clientStage()
    const edge = rawPeer(stage.dialRaw({}).left, 'client-hub')
    edge.send({
      t: 'hello',
      min: 1,
      max: 1,
      software: 't',
      edge: { id: 'e', session: 0, clusterId: null, nowMs: 1 },
    })
    expect(await edge.expect('error')).toMatchObject({ code: 'protocol_error', fatal: true })
    stage.ports.setNotReady('recovering')
    const early = rawPeer(stage.dialRaw({}).left, 'client-hub')
    early.send({ t: 'hello', min: 1, max: 1, software: 't' })
    expect(await early.expect('error')).toMatchObject({
      code: 'not_available',
      message: 'not ready: recovering',
    })
    stage.ports.setNotReady(null)
    const topicId = await filled(stage, 1, 0, 0)
    const { client } = await peer(stage)
    subscribe(client, topicId, 1, 10)
    subscribe(client, topicId, 1, 10)
    expect((await client.expect('error')).message).toContain('subscribe.sub 1 is in use')
    await until(() => stage.counters.open === 0, 'all closed')
    expect(stage.counters).toMatchObject({ subscriptions: 0, failed: 2 })
  })
})

describe('subscriptions', () => {
  test('no more is sent than there is credit for, but for one batch; credit goes on exactly there', async () => {
    const stage = clientStage()
    const topicId = await filled(stage, 1, 20, 1_000)
    const { client } = await peer(stage)
    subscribe(client, topicId, 7, 2_500)
    let bytes = 0
    let next = 0
    const take = async () => {
      const frame = await client.expect('records')
      expect(frame).toMatchObject({ sub: 7, highWatermark: 20, leaderEpoch: 0 })
      for (const { header } of eachBatch(frame.batches)) expect(header.baseOffset).toBe(next++)
      expect(frame.nextOffset).toBe(next)
      bytes += frame.batches.length
    }
    while (bytes < 2_500) await take()
    expect(bytes).toBeLessThan(2_500 + 1_100)
    await new Promise(resolve => setTimeout(resolve, 10))
    expect(client.waiting()).toEqual([])
    client.send({ t: 'credit', sub: 7, bytes: 100_000 })
    while (next < 20) await take()
    await stage.ports.logs.append(topicId, 0, batch(10), 'all')
    expect(await client.expect('records')).toMatchObject({ nextOffset: 21, highWatermark: 21 })
    client.send({ t: 'unsubscribe', sub: 7 })
    await until(() => stage.counters.subscriptions === 0, 'unsubscribed')
    expect(stage.ports.waiting()).toBe(0)
  })

  test('one connection serves its subscriptions in turn', async () => {
    const stage = clientStage()
    const topicId = await filled(stage, 6, 50, 200_000)
    const { client } = await peer(stage)
    for (let partition = 0; partition < 6; partition++)
      subscribe(client, topicId, partition, 100_000_000, 0, partition)
    const frames = new Array<number>(6).fill(0)
    for (let offsets = 0; offsets < 300; ) {
      const frame = await client.expect('records')
      frames[frame.sub] = (frames[frame.sub] ?? 0) + 1
      offsets += [...eachBatch(frame.batches)].length
      // All have the same to send. The first subscribed is up to three reads ahead before the last one is.
      expect(Math.max(...frames) - Math.min(...frames)).toBeLessThanOrEqual(4)
    }
    expect(Math.min(...frames)).toBeGreaterThanOrEqual(10)
  })

  test('a connection that does not read costs a bounded buffer, and others nothing', async () => {
    const stage = clientStage({ limits: { readBytesPerConnection: 200_000 } })
    const topicId = await filled(stage, 1, 200, 50_000)
    const slow = await peer(stage)
    slow.client.link.pause()
    subscribe(slow.client, topicId, 1, 1_000_000_000)
    const fast = await peer(stage)
    subscribe(fast.client, topicId, 1, 1_000_000_000)
    for (let next = 0; next < 200; ) next = (await fast.client.expect('records')).nextOffset
    expect(stage.counters.socketFull).toBeGreaterThan(0)
    // The mark of the link, and the reads that were under way at it.
    expect(slow.pair.right.bufferedBytes()).toBeLessThan(6_000_000)
    slow.client.link.resume()
    for (let next = 0; next < 200; ) next = (await slow.client.expect('records')).nextOffset
  })

  test('what ends a subscription is told with its bounds; the connection and others go on', async () => {
    const stage = clientStage()
    const topicId = await filled(stage, 2, 10, 10)
    const { client } = await peer(stage)
    subscribe(client, topicId, 1, 1_000, 0, 1)
    await client.expect('records')
    stage.ports.trim(topicId, 0, 5)
    subscribe(client, topicId, 2, 1_000, 2, 0)
    expect(await client.expect('ended')).toMatchObject({
      sub: 2,
      code: 'offset_out_of_range',
      startOffset: 5,
      highWatermark: 10,
    })
    subscribe(client, topicId, 2, 1_000, 99, 0)
    expect(await client.expect('ended')).toMatchObject({
      sub: 2,
      code: 'offset_out_of_range',
      highWatermark: 10,
    })
    subscribe(client, 'f'.repeat(32), 2, 1_000)
    expect(await client.expect('ended')).toMatchObject({ sub: 2, code: 'unknown_topic' })
    client.send({ t: 'credit', sub: 2, bytes: 5 })
    await stage.ports.topics.delete('t')
    expect(await client.expect('ended')).toMatchObject({ sub: 1, code: 'topic_deleted' })
    expect(stage.counters.subscriptions).toBe(0)
  })

  test('a graceful stop answers what was produced and goes', async () => {
    const stage = clientStage()
    const topicId = await filled(stage, 1, 1, 10)
    const { client, session } = await peer(stage)
    stage.ports.hold()
    client.send({ t: 'request', id: 1, op: 'produce', topicId, partition: 0, acks: 'all', batches: batch(5) })
    await until(() => stage.counters.requests === 1, 'the request')
    const closed = session?.close()
    stage.ports.release()
    expect(await client.expect('response')).toMatchObject({ id: 1, result: { baseOffset: 1 } })
    expect((await client.whenClosed).code).toBe(CLOSE.goingAway)
    await closed
  })
})

import { describe, expect, test } from 'vitest'
import type { Producer } from '../../common/client.ts'
import { TributaryError } from '../../common/errors.ts'
import { partitionForKey } from '../../common/murmur2.ts'
import type { ClientStage } from '../client-stage.ts'
import { clientStage } from '../client-stage.ts'
import { createFakePorts } from '../fake-ports.ts'
import { rawPeer, until } from '../raw-peer.ts'
import { seededRng } from '../rng.ts'

async function stored(stage: ClientStage, partition: number, name = 't'): Promise<string[]> {
  const found: string[] = []
  for await (const record of stage.client.consume(name, {
    from: 'earliest',
    follow: false,
    partitions: [partition],
  })) {
    found.push(Buffer.from(record.value ?? []).toString())
  }
  return found
}

const numbers = (from: number, count: number) =>
  Array.from({ length: count }, (_, index) => String(from + index))

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'none',
    (error: unknown) => (error instanceof TributaryError ? error.code : String(error)),
  )
}

/** Sends each of `values` alone, many at once. */
async function sendAll(producer: Producer, values: readonly string[], partition: number): Promise<number[]> {
  const sends = values.map(value => producer.send({ value, partition }))
  return (await Promise.all(sends)).map(([place]) => place?.offset ?? -1)
}

describe('produce', () => {
  test('resolves with the places; keys choose partitions as in Kafka, text is UTF-8', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 5 })
    const keys = ['pump-7', 'pump-8', 'ü', '']
    const places = await stage.client.produce(
      't',
      keys.map(key => ({ key, value: `of ${key}`, headers: { unit: 'C' }, timestampMs: 77 })),
    )
    expect(places.map(place => place.partition)).toEqual(
      keys.map(key => partitionForKey(Buffer.from(key), 5)),
    )
    for await (const record of stage.client.consume('t', { from: 'earliest', follow: false })) {
      expect(record.timestampMs).toBe(77)
      expect(Buffer.from(record.value ?? []).toString()).toBe(
        `of ${Buffer.from(record.key ?? []).toString()}`,
      )
      expect(record.headers).toEqual([{ key: 'unit', value: new Uint8Array([67]) }])
    }
    expect(await stage.client.produce('t', [])).toEqual([])
    expect(await stage.client.produce('t', { value: null, partition: 3 })).toMatchObject([{ partition: 3 }])
  })

  test('a topic that is not there is made, but not again by a producer that wrote to it', async () => {
    const stage = clientStage()
    await stage.client.produce('fresh', { value: 'x' })
    const producer = stage.client.producer('made')
    await producer.send({ value: 'x' })
    await stage.ports.topics.delete('made')
    expect(await codeOf(producer.send({ value: 'x' }))).toBe('topic_deleted')
    expect(stage.ports.topics.list().map(({ name }) => name)).toEqual(['fresh'])
    const closed = clientStage({ ports: createFakePorts({ autoCreateTopics: false }) })
    expect(await codeOf(closed.client.produce('nowhere', { value: 'x' }))).toBe('unknown_topic')
  })

  test('mistakes are refused before anything is sent', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 2, config: { maxRecordBytes: 1_000 } })
    const good = { value: 'x' }
    expect(await codeOf(stage.client.produce('t', [good, { value: 'x', partition: 2 }]))).toBe(
      'invalid_argument',
    )
    expect(await codeOf(stage.client.produce('t', [good, { value: 'x'.repeat(2_000) }]))).toBe(
      'record_too_large',
    )
    expect(await codeOf(stage.client.produce('t', [good, { value: 'x', timestampMs: 1.5 }]))).toBe(
      'invalid_argument',
    )
    expect([...(await stored(stage, 0)), ...(await stored(stage, 1))]).toEqual([])
    expect((await stage.client.produce('t', good)).length).toBe(1)
  })

  test('records without a key stay together in a batch and spread over partitions', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 4 })
    const used = new Set<number>()
    for (let i = 0; i < 60; i++) {
      const places = await stage.client.produce('t', [{ value: 'a' }, { value: 'b' }])
      expect(places[0]?.partition).toBe(places[1]?.partition)
      used.add(places[0]?.partition ?? -1)
    }
    expect(used.size).toBe(4)
  })

  test('many sends share batches', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    const producer = stage.client.producer('t')
    expect(await sendAll(producer, numbers(0, 1_000), 0)).toEqual(Array.from({ length: 1_000 }, (_, i) => i))
    expect(stage.counters.requests).toBeLessThan(10)
    expect(await stored(stage, 0)).toEqual(numbers(0, 1_000))
    await producer.close()
    expect(await codeOf(producer.send({ value: 'late' }))).toBe('closed')
  })

  test('what exceeds the buffer waits, in order', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    stage.ports.hold()
    const producer = stage.client.producer('t', { maxBufferedBytes: 10_000, lingerMs: 0 })
    let done = 0
    const sends = numbers(0, 500).map(value => producer.send({ value, partition: 0 }).then(() => done++))
    await until(() => stage.counters.producedBytes > 1_000, 'the first')
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(stage.counters.producedBytes).toBeLessThan(10_000)
    expect(done).toBe(0)
    stage.ports.release()
    await Promise.all(sends)
    expect(await stored(stage, 0)).toEqual(numbers(0, 500))
  })

  test('each record once and in order, whatever is cut whenever', async () => {
    const rng = seededRng(20_261_120)
    let cutting = true
    const stage = clientStage({
      link: {
        fate: () => {
          if (!cutting || rng.below(30) > 0) return 'deliver'
          return rng.below(2) === 0 ? 'cut-before' : 'cut-after'
        },
      },
    })
    await stage.ports.topics.create({ name: 't', partitions: 2 })
    const producer = stage.client.producer('t', { lingerMs: 0, maxBatchBytes: 300 })
    const [left, right] = await Promise.all([
      sendAll(producer, numbers(0, 2_000), 0),
      sendAll(producer, numbers(0, 2_000), 1),
    ])
    cutting = false
    expect(stage.client.stats().connectionsLost).toBeGreaterThan(5)
    for (const partition of [0, 1]) expect(await stored(stage, partition)).toEqual(numbers(0, 2_000))
    for (const offsets of [left, right]) expect(offsets).toEqual(Array.from({ length: 2_000 }, (_, i) => i))
  }, 30_000)

  test('failures that may pass are tried again, the order kept', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    const producer = stage.client.producer('t', { lingerMs: 0, maxBatchBytes: 1_000 })
    await producer.send({ value: '0' })
    stage.ports.failNext('append', new TributaryError('disk_full', 'for now'))
    await sendAll(producer, numbers(1, 300), 0)
    expect(await stored(stage, 0)).toEqual(numbers(0, 301))
  })

  test('a batch refused for good fails alone: those behind it go on under the next epoch', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    const producer = stage.client.producer('t', { lingerMs: 0, maxBatchBytes: 400 })
    await producer.send({ value: 'first', partition: 0 })
    stage.ports.failNext('append', new TributaryError('invalid_argument', 'no'))
    const results = await Promise.allSettled(
      numbers(0, 40).map(value => producer.send({ value, partition: 0 })),
    )
    const failed = results.findLastIndex(result => result.status === 'rejected') + 1
    expect(failed).toBeGreaterThan(0)
    expect(failed).toBeLessThan(20)
    expect(results.slice(failed).every(result => result.status === 'fulfilled')).toBe(true)
    expect(await stored(stage, 0)).toEqual(['first', ...numbers(failed, 40 - failed)])
  })

  test('what is not acked in time is given up with timeout, and later records go on', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    const producer = stage.client.producer('t', { lingerMs: 0, deliveryTimeoutMs: 600 })
    await producer.send({ value: 'a' })
    stage.setUp(false)
    stage.pairs.at(-1)?.cut()
    expect(await codeOf(producer.send({ value: 'b' }))).toBe('timeout')
    stage.setUp(true)
    await producer.send({ value: 'c' })
    expect(await stored(stage, 0)).toEqual(['a', 'c'])
  })

  test('what was given up and comes late is stored before what follows, or never', async () => {
    let copied: Uint8Array | null = null
    const stage = clientStage({
      link: {
        fate: (to, data) => {
          if (to !== 'right' || !Buffer.from(data).includes('stalled')) return 'deliver'
          copied ??= data
          return 'cut-before'
        },
      },
    })
    /** What a network does that held a message for longer than anybody waited for it. */
    const arrive = async () => {
      const { left } = stage.dialRaw({})
      const late = rawPeer(left, 'client-hub')
      late.send({ t: 'hello', min: 1, max: 1, software: 'test' })
      await late.expect('welcome')
      late.sendBytes(copied ?? new Uint8Array(0))
      return (await late.expect('response')).error?.code ?? 'stored'
    }
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    const producer = stage.client.producer('t', { lingerMs: 0, deliveryTimeoutMs: 400 })
    await producer.send({ value: 'a' })
    for (const value of ['stalled and early', 'stalled and late']) {
      copied = null
      expect(await codeOf(producer.send({ value }))).toBe('timeout')
      if (value.endsWith('early')) expect(await arrive()).toBe('stored')
      await producer.send({ value: `after ${value.length}` })
      expect(await arrive()).toBe('fenced')
    }
    expect(await stored(stage, 0)).toEqual(['a', 'stalled and early', 'after 17', 'after 16'])
  })

  test('a topic deleted and made again under a producer is told; the client itself goes on', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    await stage.client.produce('t', { value: 'old' })
    await stage.ports.topics.delete('t')
    expect(await codeOf(stage.client.produce('t', { value: 'x' }))).toBe('topic_deleted')
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    await stage.client.produce('t', { value: 'new' })
    expect(await stored(stage, 0)).toEqual(['new'])
  })

  test('closing the client flushes first, and fails what comes after', async () => {
    const stage = clientStage()
    await stage.ports.topics.create({ name: 't', partitions: 1 })
    const sends = numbers(0, 50).map(value => stage.client.produce('t', { value }))
    await stage.client.close()
    expect((await Promise.all(sends)).length).toBe(50)
    expect(await codeOf(stage.client.produce('t', { value: 'x' }))).toBe('closed')
  })
})

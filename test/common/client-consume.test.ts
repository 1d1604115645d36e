import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../common/batch-builder.ts'
import { buildControlBatch, CONTROL_GAP } from '../../common/batch-control.ts'
import { compressBatch } from '../../common/batch-join.ts'
import { encodeCbor } from '../../common/cbor.ts'
import type { ConsumedRecord, ConsumeOptions, TributaryClient } from '../../common/client.ts'
import { hubUrls } from '../../common/client.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { Clock } from '../../common/env.ts'
import { TributaryError } from '../../common/errors.ts'
import type { ClientStage } from '../client-stage.ts'
import { clientStage } from '../client-stage.ts'
import { liveClock } from '../live-clock.ts'
import { until } from '../raw-peer.ts'

function records(from: number, count: number, bytes = 10) {
  return Array.from({ length: count }, (_, index) => ({
    key: null,
    value: Buffer.from(`${from + index} `.padEnd(bytes, '.')),
    headers: [],
    timestampMs: 1_000 + from + index,
  }))
}

async function topic(stage: ClientStage, name = 't', partitions = 3): Promise<string> {
  return (await stage.ports.topics.create({ name, partitions })).topicId
}

const numberOf = (record: ConsumedRecord): number =>
  Number.parseInt(Buffer.from(record.value ?? []).toString(), 10)

async function all(client: TributaryClient, options: ConsumeOptions, name = 't'): Promise<ConsumedRecord[]> {
  const found: ConsumedRecord[] = []
  for await (const record of client.consume(name, options)) found.push(record)
  return found
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'none',
    (error: unknown) => (error instanceof TributaryError ? error.code : String(error)),
  )
}

describe('consume', () => {
  test('reads all partitions to the end as it stood at the start, in order', async () => {
    const stage = clientStage()
    const id = await topic(stage)
    for (let i = 0; i < 300; i += 10)
      await stage.ports.logs.append(id, (i / 10) % 3, buildBatch(records(i, 10)), 'all')
    const found = await all(stage.client, { from: 'earliest', follow: false })
    expect(found.length).toBe(300)
    for (const partition of [0, 1, 2]) {
      const mine = found.filter(record => record.partition === partition)
      expect(mine.map(record => record.offset)).toEqual(Array.from({ length: 100 }, (_, offset) => offset))
    }
    expect(new Set(found.map(numberOf)).size).toBe(300)
    expect(found[0]).toMatchObject({ topic: 't', key: null, headers: [] })
    await until(() => stage.counters.subscriptions === 0, 'unsubscribed')
  })

  test('starts at offsets, times and per partition, and stops at a count', async () => {
    const stage = clientStage()
    const id = await topic(stage)
    for (let i = 0; i < 100; i += 10) await stage.ports.logs.append(id, 0, buildBatch(records(i, 10)), 'all')
    const read = async (options: ConsumeOptions) =>
      (await all(stage.client, { follow: false, partitions: [0], ...options })).map(record => record.offset)
    expect(await read({ from: 95 })).toEqual([95, 96, 97, 98, 99])
    expect((await read({ from: new Date(1_090) }))[0]).toBe(90)
    expect(await read({ from: new Map([[0, 98]]) })).toEqual([98, 99])
    expect(await read({})).toEqual([])
    expect(await read({ from: 'earliest', count: 3 })).toEqual([0, 1, 2])
    expect(await codeOf(read({ partitions: [7] }))).toBe('invalid_argument')
    expect(await codeOf(read({ from: -1 }))).toBe('invalid_argument')
    expect(await codeOf(read({ from: 101 }))).toBe('offset_out_of_range')
    expect(await codeOf(all(stage.client, {}, 'nowhere'))).toBe('unknown_topic')
  })

  test('finds partitions that are added while it follows, without losing its connection', async () => {
    // Half a minute goes by in no time.
    const clock: Clock = {
      ...liveClock,
      setTimer: (callback, delayMs) => liveClock.setTimer(callback, delayMs === 30_000 ? 5 : delayMs),
    }
    const stage = clientStage({ clock })
    const id = await topic(stage, 't', 1)
    const stop = new AbortController()
    const found: number[] = []
    const reading = (async () => {
      for await (const { partition } of stage.client.consume('t', { signal: stop.signal }))
        found.push(partition)
    })()
    await until(() => stage.counters.subscriptions === 1, 'subscribed')
    await stage.ports.topics.alter('t', { partitions: 2 })
    await stage.ports.logs.append(id, 1, buildBatch(records(0, 1)), 'all')
    await until(() => found.length === 1, 'the record of the new partition')
    await stage.ports.logs.append(id, 0, buildBatch(records(1, 1)), 'all')
    await until(() => found.length === 2, 'the record of the old one')
    stop.abort()
    await reading
    expect(found).toEqual([1, 0])
    expect(stage.pairs.length).toBe(1)
  })

  test('follows, and a signal ends it without an error', async () => {
    const stage = clientStage()
    const id = await topic(stage)
    const stop = new AbortController()
    const found: number[] = []
    const reading = (async () => {
      for await (const record of stage.client.consume('t', { from: 'earliest', signal: stop.signal })) {
        found.push(numberOf(record))
      }
    })()
    for (let i = 0; i < 20; i++) {
      await stage.ports.logs.append(id, i % 3, buildBatch(records(i, 1)), 'all')
      await until(() => found.length === i + 1, `record ${i}`)
    }
    expect(found).toEqual(Array.from({ length: 20 }, (_, index) => index))
    stop.abort()
    await reading
    await until(() => stage.counters.subscriptions === 0, 'unsubscribed')
    expect(stage.ports.waiting()).toBe(0)
  })

  test('decodes zstd and gzip, skips control batches and tells gaps where they stand', async () => {
    const stage = clientStage()
    const id = await topic(stage, 't', 1)
    const codec = nodeCodec()
    await stage.ports.logs.append(
      id,
      0,
      await compressBatch(buildBatch(records(0, 50, 100)), 'zstd', codec),
      'all',
    )
    const gap = {
      edge: 'e1',
      lane: 0,
      run: 5,
      from: 50,
      to: 60,
      reason: 'disk-full',
      firstMs: null,
      lastMs: 9,
    }
    const control = buildControlBatch({
      type: CONTROL_GAP,
      value: encodeCbor(gap),
      producerId: 5,
      timestampMs: 1,
    })
    await stage.ports.logs.append(id, 0, control, 'all')
    await stage.ports.logs.append(
      id,
      0,
      await compressBatch(buildBatch(records(60, 50, 100)), 'gzip', codec),
      'all',
    )
    const seen: (number | object)[] = []
    const options: ConsumeOptions = { from: 'earliest', follow: false, onGap: told => seen.push(told) }
    for await (const record of stage.client.consume('t', options)) seen.push(numberOf(record))
    expect(seen.length).toBe(101)
    expect(seen[50]).toEqual({ topic: 't', partition: 0, offset: 50, count: 10, ...gap })
    expect(seen[51]).toBe(60)
  })

  describe.each(['in one connection', 'over connections'])(
    'records that were read and lost since, %s',
    how => {
      const follow = async (onReset: 'error' | 'earliest' | 'latest') => {
        const stage = clientStage()
        const id = await topic(stage, 't', 1)
        await stage.ports.logs.append(id, 0, buildBatch(records(0, 6)), 'all')
        await stage.ports.logs.append(id, 0, buildBatch(records(6, 4)), 'all')
        const seen: (number | object)[] = []
        const options: ConsumeOptions = {
          from: 'earliest',
          count: 15,
          onReset,
          onGap: told => seen.push(told),
        }
        const reading = (async () => {
          for await (const record of stage.client.consume('t', options)) {
            seen.push(record.offset)
            if (seen.length !== 10) continue
            stage.ports.cut(id, 0, 6)
            if (how === 'over connections') stage.pairs.at(-1)?.cut()
            await stage.ports.logs.append(id, 0, buildBatch(records(100, 5)), 'all')
          }
        })()
        return { seen, error: await reading.then(() => null).catch((error: unknown) => error) }
      }

      test('are told of, and what stands in their place is read', async () => {
        for (const policy of ['earliest', 'latest'] as const) {
          const { seen, error } = await follow(policy)
          expect(error).toBeNull()
          expect(seen.slice(0, 10)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
          expect(seen[10]).toMatchObject({
            partition: 0,
            offset: 6,
            from: 6,
            to: 10,
            count: 4,
            reason: 'truncated',
          })
          expect(seen.slice(11)).toEqual([6, 7, 8, 9, 10])
        }
      })

      test('are an error unless a policy says how to go on', async () => {
        const { seen, error } = await follow('error')
        expect(seen.length).toBe(10)
        expect(error).toMatchObject({ code: 'offset_out_of_range', details: { truncatedTo: 6, offset: 10 } })
      })
    },
  )

  test('the hub sends no more ahead than the reader has room for', async () => {
    const stage = clientStage()
    const id = await topic(stage, 't', 1)
    for (let i = 0; i < 1_000; i += 10)
      await stage.ports.logs.append(id, 0, buildBatch(records(i, 10, 1_000)), 'all')
    const reader = stage.client.consume('t', { from: 'earliest', follow: false, maxBufferedBytes: 100_000 })
    const first = await reader.next()
    expect(first.done).toBe(false)
    await new Promise(resolve => setTimeout(resolve, 30))
    expect(stage.counters.recordsBytes).toBeLessThan(100_000 + 20_000)
    expect(stage.counters.creditUsedUp).toBeGreaterThan(0)
    let count = 1
    for await (const record of reader) expect(numberOf(record)).toBe(count++)
    expect(count).toBe(1_000)
  })

  test('resumes at the exact next record however often the connection breaks', async () => {
    let passed = 0
    // Every 7th message towards the client breaks the connection, before or after it arrives.
    const stage = clientStage({
      link: {
        fate: to =>
          to === 'left' && ++passed % 7 === 0 ? (passed % 2 === 0 ? 'cut-before' : 'cut-after') : 'deliver',
      },
    })
    const id = await topic(stage)
    for (let i = 0; i < 3_000; i += 5)
      await stage.ports.logs.append(id, (i / 5) % 3, buildBatch(records(i, 5, 2_000)), 'all')
    const found = await all(stage.client, { from: 'earliest', follow: false, maxBufferedBytes: 200_000 })
    expect(found.length).toBe(3_000)
    for (const partition of [0, 1, 2]) {
      const mine = found.filter(record => record.partition === partition).map(record => record.offset)
      expect(mine).toEqual(Array.from({ length: 1_000 }, (_, offset) => offset))
    }
    expect(stage.client.stats().connectionsLost).toBeGreaterThan(5)
  }, 20_000)

  test('a batch read in part is not repeated after a cut', async () => {
    const stage = clientStage()
    const id = await topic(stage, 't', 1)
    await stage.ports.logs.append(id, 0, buildBatch(records(0, 100)), 'all')
    await stage.ports.logs.append(id, 0, buildBatch(records(100, 100)), 'all')
    const found: number[] = []
    for await (const record of stage.client.consume('t', { from: 'earliest', follow: false })) {
      found.push(numberOf(record))
      if (found.length === 50 || found.length === 150) stage.pairs.at(-1)?.cut()
    }
    expect(found).toEqual(Array.from({ length: 200 }, (_, index) => index))
  })

  test('a graceful stop of the hub is survived', async () => {
    const stage = clientStage()
    const id = await topic(stage, 't', 1)
    const found: number[] = []
    const stop = new AbortController()
    const reading = (async () => {
      const options = { from: 'earliest', signal: stop.signal } as const
      for await (const record of stage.client.consume('t', options)) found.push(numberOf(record))
    })()
    await stage.ports.logs.append(id, 0, buildBatch(records(0, 1)), 'all')
    await until(() => found.length === 1, 'the first')
    await stage.sessions.at(-1)?.close()
    await stage.ports.logs.append(id, 0, buildBatch(records(1, 1)), 'all')
    await until(() => found.length === 2, 'the second')
    stop.abort()
    await reading
  })

  test('records gone before they were read: an error that says so, or on from an end, as asked', async () => {
    const stage = clientStage()
    const id = await topic(stage, 't', 1)
    for (let i = 0; i < 100; i += 10) await stage.ports.logs.append(id, 0, buildBatch(records(i, 10)), 'all')
    stage.ports.trim(id, 0, 50)
    const read = (onReset: 'error' | 'earliest' | 'latest') =>
      all(stage.client, { from: 20, follow: false, onReset }).then(found =>
        found.map(record => record.offset),
      )
    const error = await read('error').catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({
      code: 'offset_out_of_range',
      message: expect.stringContaining('retention deleted the records before 50'),
      details: { offset: 20, startOffset: 50, highWatermark: 100 },
    })
    expect((await read('earliest'))[0]).toBe(50)
    expect(await read('latest')).toEqual([])
  })

  test('a topic deleted and made again: an error, or on with the new one', async () => {
    for (const onReset of ['error', 'earliest'] as const) {
      const stage = clientStage()
      const id = await topic(stage, 't', 1)
      await stage.ports.logs.append(id, 0, buildBatch(records(0, 1)), 'all')
      const found: number[] = []
      const reading = (async () => {
        for await (const record of stage.client.consume('t', { from: 'earliest', onReset, count: 2 })) {
          found.push(numberOf(record))
        }
      })()
      await until(() => found.length === 1, 'the first')
      await until(() => stage.ports.waiting() === 1, 'the tail')
      const deleted = stage.ports.topics.delete('t')
      const again = await topic(stage, 't', 1)
      await deleted
      await stage.ports.logs.append(again, 0, buildBatch(records(1, 1)), 'all')
      expect(await codeOf(reading)).toBe(onReset === 'error' ? 'topic_deleted' : 'none')
      expect(found).toEqual(onReset === 'error' ? [0] : [0, 1])
    }
  })

  test('a batch damaged on the way is an error, never a wrong record', async () => {
    const stage = clientStage({
      link: {
        fate: (to, data) => {
          if (to === 'left' && data.length > 500) data[data.length - 100] = 1 + (data[data.length - 100] ?? 0)
          return 'deliver'
        },
      },
    })
    const id = await topic(stage, 't', 1)
    await stage.ports.logs.append(id, 0, buildBatch(records(0, 1, 2_000)), 'all')
    expect(await codeOf(all(stage.client, { from: 'earliest', follow: false }))).toBe('corrupt_batch')
  })

  test('a hub that is away: waited for, then not_available saying where', async () => {
    const stage = clientStage()
    const id = await topic(stage, 't', 1)
    await stage.ports.logs.append(id, 0, buildBatch(records(0, 1)), 'all')
    stage.setUp(false)
    const error = await all(stage.client, { from: 'earliest', follow: false, unreachableMs: 200 }).catch(
      (thrown: unknown) => thrown,
    )
    expect(error).toMatchObject({
      code: 'not_available',
      message: expect.stringContaining('ws://127.0.0.1:7600'),
    })
    const reading = all(stage.client, { from: 'earliest', follow: false })
    setTimeout(() => stage.setUp(true), 100)
    expect((await reading).length).toBe(1)
    await stage.client.close()
    expect(await codeOf(all(stage.client, { follow: false }))).toBe('closed')
  })

  test('breaking out of the loop unsubscribes', async () => {
    const stage = clientStage()
    const id = await topic(stage)
    await stage.ports.logs.append(id, 0, buildBatch(records(0, 5)), 'all')
    for await (const record of stage.client.consume('t', { from: 'earliest' }))
      if (numberOf(record) === 2) break
    await until(() => stage.counters.subscriptions === 0, 'unsubscribed')
    expect(stage.ports.waiting()).toBe(0)
  })
})

test('the hub may be named in any form', () => {
  expect(hubUrls('127.0.0.1:7600')).toEqual({ http: ['http://127.0.0.1:7600'], ws: ['ws://127.0.0.1:7600'] })
  expect(hubUrls('wss://hub.example/')).toEqual({ http: ['https://hub.example'], ws: ['wss://hub.example'] })
  expect(hubUrls('http://[::1]:9')).toEqual({ http: ['http://[::1]:9'], ws: ['ws://[::1]:9'] })
  const two = { http: ['http://a:1', 'https://b:2'], ws: ['ws://a:1', 'wss://b:2'] }
  expect([hubUrls('a:1, https://b:2'), hubUrls(['a:1', 'wss://b:2'])]).toEqual([two, two])
  for (const bad of ['', 'ftp://x', 'http://', '://', 'a:1,', []])
    expect(() => hubUrls(bad)).toThrow(/must look like/)
})

import { afterEach, describe, expect, it } from 'vitest'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { buildControlBatch } from '../../../../common/batch-control.ts'
import { compressBatch } from '../../../../common/batch-join.ts'
import { utf8 } from '../../../../common/bytes.ts'
import { nodeCodec } from '../../../../common/compression.ts'
import { DEFAULT_READ_LIMIT, MAX_READ_BYTES, MAX_READ_LIMIT } from '../../../../hub/endpoints/http/read.ts'
import type { Served } from './serve.ts'
import { closeServed, serve } from './serve.ts'

afterEach(closeServed)

interface Page {
  offsets: number[]
  nextOffset: number
  highWatermark: number
}

async function page(hub: Served, query: string): Promise<Page> {
  const { json } = await hub.call('GET', `/v1/topics/t/records?${query}`)
  const offsets = json.records.map((record: { offset: number }) => record.offset)
  return { offsets, nextOffset: json.nextOffset, highWatermark: json.highWatermark }
}

function batchOf(count: number, timestampMs = 1_000, value = 'v'): Uint8Array {
  const record = { key: null, value: utf8(value), headers: [], timestampMs }
  return buildBatch(Array.from({ length: count }, () => record))
}

async function withBatches(...batches: Uint8Array[]): Promise<{ hub: Served; topicId: string }> {
  const hub = await serve()
  const { topicId } = await hub.fake.topics.create({ name: 't', partitions: 1 })
  for (const batch of batches) await hub.fake.logs.append(topicId, 0, batch, 'all')
  return { hub, topicId }
}

describe('reading a range over REST', () => {
  it('pages through by nextOffset, from the middle of batches too', async () => {
    const { hub } = await withBatches(batchOf(3), batchOf(3), batchOf(1))
    expect(await page(hub, 'limit=2')).toEqual({ offsets: [0, 1], nextOffset: 2, highWatermark: 7 })
    expect(await page(hub, 'offset=2&limit=3')).toEqual({
      offsets: [2, 3, 4],
      nextOffset: 5,
      highWatermark: 7,
    })
    expect(await page(hub, 'offset=5')).toEqual({ offsets: [5, 6], nextOffset: 7, highWatermark: 7 })
    expect(await page(hub, 'offset=7')).toEqual({ offsets: [], nextOffset: 7, highWatermark: 7 })
  })

  it('starts by time', async () => {
    const { hub } = await withBatches(batchOf(2, 1_000), batchOf(2, 2_000))
    expect((await page(hub, 'time=1500')).offsets).toEqual([2, 3])
    expect((await page(hub, 'time=1970-01-01T00:00:02Z')).offsets).toEqual([2, 3])
    expect(await page(hub, 'time=1970-01-01T00:00:03Z')).toMatchObject({ offsets: [], nextOffset: 4 })
  })

  it('passes over control batches and shows compressed ones', async () => {
    const zipped = await compressBatch(batchOf(50, 1_000, 'long and repeated'), 'zstd', nodeCodec())
    const control = buildControlBatch({ type: 1001, value: utf8('x'), producerId: 2 ** 52, timestampMs: 5 })
    const { hub } = await withBatches(control, zipped, control.slice())
    const result = await page(hub, 'offset=0')
    expect(result.offsets).toEqual(Array.from({ length: 50 }, (_, index) => index + 1))
    expect(result.nextOffset).toBe(52)
  })

  it('stops at the default and given limits, and gives one record however large', async () => {
    const { hub } = await withBatches(
      batchOf(DEFAULT_READ_LIMIT + 1),
      batchOf(1, 1_000, 'x'.repeat(300_000)),
      batchOf(1),
    )
    expect((await page(hub, '')).offsets).toHaveLength(DEFAULT_READ_LIMIT)
    const few = await page(hub, 'maxBytes=300&limit=1000')
    expect(few.offsets.length).toBeGreaterThan(1)
    expect(few.offsets.length).toBeLessThan(6)
    expect(few.nextOffset).toBe(few.offsets.length)
    expect((await page(hub, `offset=${DEFAULT_READ_LIMIT + 1}&maxBytes=10`)).offsets).toEqual([
      DEFAULT_READ_LIMIT + 1,
    ])
  })

  it('shows nothing above the high watermark', async () => {
    const { hub, topicId } = await withBatches(batchOf(2))
    hub.fake.hold()
    void hub.fake.logs.append(topicId, 0, batchOf(2), 'all')
    expect(await page(hub, 'offset=0')).toEqual({ offsets: [0, 1], nextOffset: 2, highWatermark: 2 })
    hub.fake.release()
  })

  it.each([
    ['/v1/topics/nowhere/records', 404, 'unknown_topic', '"nowhere"'],
    ['/v1/topics/t/records?partition=3&offset=0', 404, 'unknown_topic', 'it has 0 to 2'],
    ['/v1/topics/t/records', 400, 'invalid_argument', 'say which with partition=0 to 2'],
    [
      '/v1/topics/t/records?partition=0&offset=-1',
      400,
      'invalid_argument',
      'offset is "-1"; it must be a whole number',
    ],
    ['/v1/topics/t/records?partition=0&offset=1', 416, 'offset_out_of_range', 'offset 1'],
    ['/v1/topics/t/records?partition=0&offset=0&time=0', 400, 'invalid_argument', 'give one of them'],
    ['/v1/topics/t/records?partition=0&time=noon', 400, 'invalid_argument', 'time is "noon"; it must be'],
    ['/v1/topics/t/records?partition=0&limit=0', 400, 'invalid_argument', `from 1 to ${MAX_READ_LIMIT}`],
    [
      '/v1/topics/t/records?partition=0&maxBytes=99999999',
      400,
      'invalid_argument',
      `from 1 to ${MAX_READ_BYTES}`,
    ],
    ['/v1/topics/t/records?partition=0&partition=1', 400, 'invalid_argument', 'more than once'],
    ['/v1/topics/t/records?partition=0&ofset=1', 400, 'invalid_argument', 'did you mean "offset"?'],
  ])('GET %s is refused', async (path, status, code, message) => {
    const hub = await serve()
    await hub.fake.topics.create({ name: 't' })
    const answer = await hub.call('GET', path)
    expect(answer.json.error.message).toContain(message)
    expect([answer.status, answer.json.error.code]).toEqual([status, code])
  })

  it('tells the bounds with an offset that retention took', async () => {
    const { hub, topicId } = await withBatches(batchOf(2), batchOf(2))
    hub.fake.trim(topicId, 0, 2)
    const answer = await hub.call('GET', '/v1/topics/t/records?offset=0')
    expect(answer.json.error.details).toEqual({ startOffset: 2, highWatermark: 4 })
    expect((await page(hub, '')).offsets).toEqual([2, 3])
  })
})

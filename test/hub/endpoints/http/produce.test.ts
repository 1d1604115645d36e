import { afterEach, describe, expect, it } from 'vitest'
import { utf8 } from '../../../../common/bytes.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { partitionForKey } from '../../../../common/murmur2.ts'
import { MAX_RECORDS_PER_REQUEST } from '../../../../hub/endpoints/http/produce.ts'
import type { Served } from './serve.ts'
import { closeServed, serve, until } from './serve.ts'

afterEach(closeServed)

async function withTopic(options: { partitions?: number; maxRecordBytes?: number } = {}): Promise<Served> {
  const hub = await serve()
  const { partitions = 3, maxRecordBytes = 1_048_576 } = options
  await hub.call('POST', '/v1/topics', { name: 't', partitions, config: { maxRecordBytes } })
  return hub
}

async function valuesOf(hub: Served, partition: number): Promise<unknown[]> {
  const answer = await hub.call(
    'GET',
    `/v1/topics/t/records?partition=${partition}&limit=10000&offset=0&maxBytes=16777216`,
  )
  return answer.json.records.map((record: { value: unknown }) => record.value)
}

describe('producing over REST to a topic that is not there', () => {
  const one = { records: [{ value: 'v' }] }

  it('makes it, once for all who come at the same time', async () => {
    const hub = await serve()
    const answers = await Promise.all([1, 2, 3].map(() => hub.call('POST', '/v1/topics/fresh/records', one)))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    expect((await hub.call('GET', '/v1/topics/fresh')).json.partitions.length).toBe(3)
  })

  it('makes none where the request makes no sense, autoCreateTopics is off or it was deleted', async () => {
    const hub = await serve({ ports: { autoCreateTopics: false } })
    const refused = await hub.call('POST', '/v1/topics/nowhere/records', one)
    expect([refused.status, refused.json.error.code]).toEqual([404, 'unknown_topic'])
    const open = await serve()
    expect((await open.call('POST', '/v1/topics/nowhere/records', { records: [] })).status).toBe(400)
    await open.call('POST', '/v1/topics', { name: 'gone' })
    await open.call('DELETE', '/v1/topics/gone')
    const deleted = await open.call('POST', '/v1/topics/gone/records', one)
    expect([deleted.status, deleted.json.error.code]).toEqual([410, 'topic_deleted'])
    expect((await open.call('GET', '/v1/topics')).json.topics).toEqual([])
  })
})

describe('producing over REST', () => {
  it('writes JSON records with everything they have', async () => {
    const hub = await withTopic()
    const record = {
      key: 'k',
      value: { base64: '//8=' },
      headers: { unit: 'C', bin: { base64: '/w==' } },
      timestamp: 1_700_000_000_123,
      partition: 2,
    }
    const answer = await hub.call('POST', '/v1/topics/t/records', { records: [record] })
    expect(answer.status).toBe(200)
    expect(answer.json).toEqual({
      topic: 't',
      records: 1,
      ranges: [{ first: 0, count: 1, partition: 2, offset: 0 }],
    })
    const read = await hub.call('GET', '/v1/topics/t/records?partition=2')
    expect(read.json.records).toEqual([{ topic: 't', offset: 0, ...record }])
  })

  it('partitions by key as Kafka clients do, and answers where each record is', async () => {
    const hub = await withTopic()
    const keys = ['a', 'b', 'c', 'd', 'e', 'a']
    const records = keys.map((key, index) => ({ key, value: String(index) }))
    const { json } = await hub.call('POST', '/v1/topics/t/records', { records })
    const placed = new Map<number, { partition: number; offset: number }>()
    for (const { first, count, partition, offset } of json.ranges) {
      for (let i = 0; i < count; i++) placed.set(first + i, { partition, offset: offset + i })
    }
    for (const [index, key] of keys.entries()) {
      const { partition, offset } = placed.get(index) ?? { partition: -1, offset: -1 }
      expect(partition).toBe(partitionForKey(utf8(key), 3))
      expect((await valuesOf(hub, partition))[offset]).toBe(String(index))
    }
  })

  it('keeps records without key together and takes turns by request', async () => {
    const hub = await withTopic()
    const partitions = []
    for (let request = 0; request < 6; request++) {
      const { json } = await hub.call('POST', '/v1/topics/t/records', {
        records: [{ value: 'a' }, { value: 'b' }],
      })
      expect(json.ranges).toEqual([expect.objectContaining({ first: 0, count: 2 })])
      partitions.push(json.ranges[0]?.partition)
    }
    expect(partitions.toSorted()).toEqual([0, 0, 1, 1, 2, 2])
  })

  it('takes lines of text, bytes as they are', async () => {
    const hub = await withTopic()
    const response = await fetch(`${hub.url}/v1/topics/t/records?partition=1`, {
      method: 'POST',
      headers: { 'content-type': 'text/plain' },
      body: Buffer.concat([
        Buffer.from('one\r\n\ntwo é\n'),
        Buffer.from([0xff, 0x0d, 0x41]),
        Buffer.from('\nlast'),
      ]),
    })
    expect(response.status).toBe(200)
    expect(await valuesOf(hub, 1)).toEqual(['one', '', 'two é', { base64: '/w1B' }, 'last'])
  })

  it('spreads a large request over batches and keeps its order', async () => {
    const hub = await withTopic({ partitions: 1 })
    const values = Array.from({ length: 5_000 }, (_, index) => `${index}-${'x'.repeat(index % 400)}`)
    values[2_500] = 'y'.repeat(600_000)
    const { json } = await hub.call('POST', '/v1/topics/t/records', {
      records: values.map(value => ({ value })),
    })
    expect(json.ranges).toEqual([{ first: 0, count: 5_000, partition: 0, offset: 0 }])
    const read: unknown[] = []
    let next = 0
    while (next < 5_000) {
      const page = await hub.call('GET', `/v1/topics/t/records?offset=${next}&limit=10000&maxBytes=16777216`)
      read.push(...page.json.records.map((record: { value: unknown }) => record.value))
      next = page.json.nextOffset
    }
    expect(read).toEqual(values)
  })

  it('writes again what it does not know of whether it was written, and so once', async () => {
    const hub = await withTopic({ partitions: 1 })
    const { logs } = hub.fake
    const append = logs.append
    let calls = 0
    logs.append = async (topicId, partition, batches, acks) => {
      const done = append(topicId, partition, batches, acks)
      // Every other answer is lost, some before and some after the records are there.
      calls++
      if (calls % 4 === 1) throw new TributaryError('not_available', 'the leader changed: done or not done')
      await done
      if (calls % 4 === 2) throw new TributaryError('timeout', 'no answer')
      return done
    }
    const values = Array.from({ length: 3_000 }, (_, index) => `${index}-${'x'.repeat(1_000)}`)
    const send = async (part: string[]) =>
      hub.call('POST', '/v1/topics/t/records', { records: part.map(value => ({ value })) })
    for (let from = 0; from < 3_000; from += 1_500) {
      const { json } = await send(values.slice(from, from + 1_500))
      expect(json.ranges).toEqual([{ first: 0, count: 1_500, partition: 0, offset: from }])
    }
    expect(calls).toBeGreaterThan(4)
    expect(await valuesOf(hub, 0)).toEqual(values)
  })

  it('says that a partition has no leader only after a while, and keeps nobody from others', async () => {
    const hub = await withTopic({ partitions: 2 })
    const error = new TributaryError('not_available', 'no leader', { details: { leader: null } })
    for (let failure = 0; failure < 3; failure++) {
      hub.fake.failNext('append', error)
      const { status } = await hub.call('POST', '/v1/topics/t/records', {
        records: [
          { value: 'a', partition: 0 },
          { value: 'b', partition: 1 },
        ],
      })
      expect(status).toBe(200)
    }
    expect((await valuesOf(hub, 0)).length + (await valuesOf(hub, 1)).length).toBe(6)
    hub.fake.failNext('append', new TributaryError('disk_full', 'full'))
    const full = await hub.call('POST', '/v1/topics/t/records', { records: [{ value: 'c', partition: 0 }] })
    expect(full.status).toBe(507)
  })

  it('answers only when committed', async () => {
    const hub = await withTopic()
    hub.fake.hold()
    let answered = false
    const answer = hub
      .call('POST', '/v1/topics/t/records', { records: [{ value: 'v', partition: 0 }] })
      .finally(() => {
        answered = true
      })
    const { topicId } = hub.fake.topics.byName('t')
    await until(() => hub.fake.endOffset(topicId, 0) === 1)
    await hub.call('GET', '/healthz')
    expect(answered).toBe(false)
    hub.fake.release()
    expect((await answer).status).toBe(200)
  })

  it('takes the largest record there may be, and writes nothing where one is larger', async () => {
    const hub = await withTopic({ maxRecordBytes: 1_000 })
    // Beside the value a record has 7 bytes: attributes, two deltas, no key, the value's length (2), no headers.
    const fits = 'z'.repeat(993)
    const answer = await hub.call('POST', '/v1/topics/t/records', {
      records: [{ value: fits, partition: 0 }],
    })
    expect(answer.status).toBe(200)
    const records = [
      { value: 'fine', partition: 0 },
      { value: `${fits}z`, partition: 0 },
    ]
    const refused = await hub.call('POST', '/v1/topics/t/records', { records })
    expect(refused.status).toBe(413)
    expect(refused.json.error).toMatchObject({
      code: 'record_too_large',
      details: { index: 1, maxRecordBytes: 1_000 },
    })
    expect(await valuesOf(hub, 0)).toEqual([fits])
  })

  it('says what was written where one partition fails', async () => {
    const hub = await withTopic()
    hub.fake.failNext('append', new TributaryError('disk_full', 'the disk is full'))
    const records = [0, 1, 1].map(partition => ({ value: 'v', partition }))
    const answer = await hub.call('POST', '/v1/topics/t/records', { records })
    expect(answer.status).toBe(507)
    expect(answer.headers.get('retry-after')).toBe('1')
    expect(answer.json.error).toMatchObject({
      code: 'disk_full',
      details: { written: [{ first: 1, count: 2, partition: 1, offset: 0 }] },
    })
  })

  it.each([
    ['/v1/topics/t/records', {}, 400, 'invalid_argument', 'the body must be {"records":'],
    ['/v1/topics/t/records', undefined, 400, 'invalid_argument', 'the body must be {"records":'],
    ['/v1/topics/t/records', { records: [] }, 400, 'invalid_argument', 'has 0 records; it must have 1 to'],
    [
      '/v1/topics/t/records',
      { records: [{ value: 'v' }, {}] },
      400,
      'invalid_argument',
      'records[1].value is missing',
    ],
    [
      '/v1/topics/t/records',
      { records: [{ value: 'v', partition: 3 }] },
      404,
      'unknown_topic',
      'no partition 3: it has 0 to 2',
    ],
    [
      '/v1/topics/t/records?partition=x',
      { records: [{ value: 'v' }] },
      400,
      'invalid_argument',
      'partition is "x"; it must be a whole',
    ],
    ['/v1/topics/t/records?partion=1', { records: [] }, 400, 'invalid_argument', 'did you mean "partition"?'],
    [
      '/v1/topics/t/records?partition=7',
      { records: [{ value: 'v' }] },
      404,
      'unknown_topic',
      'no partition 7',
    ],
    ['/v1/topics/t/records', '{"records":', 400, 'invalid_argument', 'the body is no JSON'],
    [
      '/v1/topics/t/records',
      { records: Array.from({ length: MAX_RECORDS_PER_REQUEST + 1 }, () => ({ value: '' })) },
      400,
      'invalid_argument',
      `it must have 1 to ${MAX_RECORDS_PER_REQUEST}`,
    ],
  ])('POST %s is refused (case %#)', async (path, body, status, code, message) => {
    const hub = await withTopic()
    const answer = await hub.call('POST', path, body)
    expect(answer.json.error.message).toContain(message)
    expect(answer.status).toBe(status)
    expect(answer.json.error.code).toBe(code)
  })

  it('refuses other content types, bodies that are not UTF-8 and bodies over the limit', async () => {
    const hub = await serve({ limits: { maxBodyBytes: 1_000 } })
    await hub.call('POST', '/v1/topics', { name: 't' })
    const form = await hub.call('POST', '/v1/topics/t/records', 'v', {
      'content-type': 'application/x-www-form-urlencoded',
    })
    expect(form.status).toBe(415)
    expect(form.json.error.message).toContain('send application/json')
    const large = await hub.call('POST', '/v1/topics/t/records', { records: [{ value: 'x'.repeat(1_000) }] })
    expect(large.status).toBe(413)
    expect(large.json.error).toMatchObject({
      code: 'frame_too_large',
      message: expect.stringContaining('maxBodyBytes'),
    })
    const latin1 = await fetch(`${hub.url}/v1/topics/t/records`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: Buffer.from('{"records":[{"value":"caf\xe9"}]}', 'latin1'),
    })
    expect(await latin1.text()).toContain('not UTF-8')
    expect(latin1.status).toBe(400)
  })

  it('lets only so many bytes in at once', async () => {
    const hub = await serve({ limits: { maxBusyBytes: 1_000 } })
    await hub.call('POST', '/v1/topics', { name: 't' })
    hub.fake.hold()
    const body = { records: [{ value: 'x'.repeat(600) }] }
    const first = hub.call('POST', '/v1/topics/t/records', body)
    await until(() => hub.fake.topics.list().some(({ topicId }) => hub.fake.endOffset(topicId, 0) === 1))
    const second = await hub.call('POST', '/v1/topics/t/records', body)
    expect(second.status).toBe(429)
    expect(second.json.error).toMatchObject({
      code: 'throttled',
      message: expect.stringContaining('maxBusyBytes'),
    })
    hub.fake.release()
    expect((await first).status).toBe(200)
    // Given back when the answer is out, which this round trip outlasts.
    await hub.call('GET', '/healthz')
    expect((await hub.call('POST', '/v1/topics/t/records', body)).status).toBe(200)
    expect((await hub.call('GET', '/metrics')).text).toContain(
      'tributary_limit_hits_total{limit="maxBusyBytes"} 1',
    )
  })
})

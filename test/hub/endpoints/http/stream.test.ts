import net from 'node:net'
import * as fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { utf8 } from '../../../../common/bytes.ts'
import { MAX_STREAM_PARTITIONS } from '../../../../hub/endpoints/http/stream.ts'
import type { Served } from './serve.ts'
import { closeServed, serve, until } from './serve.ts'

const readers: Reader[] = []

afterEach(async () => {
  for (const reader of readers.splice(0)) reader.stop()
  await closeServed()
})

interface Event {
  event: string
  id: string
  data: { value: string; [field: string]: unknown }
}

/** A client of server-sent events as the standard has it: an id alone is remembered and makes no event. */
interface Reader {
  status: number
  events: Event[]
  lastId: string
  comments: number
  ended: boolean
  stop(): void
}

async function read(hub: Served, query = '', lastId?: string): Promise<Reader> {
  const abort = new AbortController()
  const headers: Record<string, string> = lastId === undefined ? {} : { 'last-event-id': lastId }
  const response = await fetch(`${hub.url}/v1/topics/t/stream${query}`, { headers, signal: abort.signal })
  const reader: Reader = {
    status: response.status,
    events: [],
    lastId: '',
    comments: 0,
    ended: false,
    stop: () => abort.abort(),
  }
  readers.push(reader)
  void follow(response, reader)
  return reader
}

async function follow(response: Response, reader: Reader): Promise<void> {
  const decoder = new TextDecoder()
  let text = ''
  try {
    for await (const chunk of response.body ?? []) {
      text += decoder.decode(chunk, { stream: true })
      const blocks = text.split('\n\n')
      text = blocks.pop() ?? ''
      for (const block of blocks) takeBlock(block, reader)
    }
  } catch {
    // Stopped by the test.
  }
  reader.ended = true
}

function takeBlock(block: string, reader: Reader): void {
  let [event, data] = ['message', '']
  for (const line of block.split('\n')) {
    const [name = '', value = ''] = [
      line.slice(0, line.indexOf(':')),
      line.slice(line.indexOf(':') + 1).trimStart(),
    ]
    if (name === '') reader.comments++
    if (name === 'id') reader.lastId = value
    if (name === 'event') event = value
    if (name === 'data') data = value
  }
  if (data !== '') reader.events.push({ event, id: reader.lastId, data: JSON.parse(data) })
}

async function append(hub: Served, partition: number, ...values: string[]): Promise<void> {
  const { topicId } = hub.fake.topics.byName('t')
  const records = values.map(value => ({ key: null, value: utf8(value), headers: [], timestampMs: 1_000 }))
  await hub.fake.logs.append(topicId, partition, buildBatch(records), 'all')
}

async function withTopic(limits = {}, partitions = 3): Promise<Served> {
  const hub = await serve({ limits })
  await hub.fake.topics.create({ name: 't', partitions })
  return hub
}

function values(reader: Reader): string[] {
  return reader.events.filter(({ event }) => event === 'message').map(({ data }) => data.value)
}

describe('server-sent events', () => {
  it('give all partitions from the start, and go on with what comes', async () => {
    const hub = await withTopic()
    await append(hub, 0, 'a', 'b')
    await append(hub, 2, 'c')
    const reader = await read(hub, '?from=earliest')
    await until(() => reader.events.length === 3)
    expect(reader.events[0]?.data).toEqual({
      topic: 't',
      partition: 0,
      offset: 0,
      timestamp: 1_000,
      key: null,
      value: 'a',
      headers: {},
    })
    await append(hub, 1, 'd')
    await until(() => reader.events.length === 4)
    expect(values(reader).toSorted()).toEqual(['a', 'b', 'c', 'd'])
    expect(reader.lastId).toMatch(/^[0-9a-f]{8};0:2,1:1,2:1$/)
  })

  it('start at latest, an offset, a time, in one partition or all', async () => {
    const hub = await withTopic()
    await append(hub, 0, 'a', 'b', 'c')
    await append(hub, 1, 'd')
    const latest = await read(hub)
    const offset = await read(hub, '?from=2')
    const one = await read(hub, '?from=1&partition=0')
    const time = await read(hub, '?from=1970-01-01T00:00:02Z')
    await until(() => values(offset).length === 1 && values(one).length === 2)
    await append(hub, 0, 'e')
    await until(() => [latest, offset, one, time].every(reader => values(reader).includes('e')))
    expect(values(latest)).toEqual(['e'])
    expect(values(offset)).toEqual(['c', 'e'])
    expect(values(one)).toEqual(['b', 'c', 'e'])
    expect(values(time)).toEqual(['e'])
  })

  it('show nothing that is not committed', async () => {
    const hub = await withTopic({ streamHeartbeatMs: 5 })
    const reader = await read(hub)
    hub.fake.hold()
    void append(hub, 0, 'later')
    await until(() => reader.comments > 1)
    expect(values(reader)).toEqual([])
    hub.fake.release()
    await until(() => values(reader).length === 1)
  })

  it('resume with Last-Event-ID without loss or repetition, wherever they are cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(2), fc.integer({ min: 1, max: 4 })), { minLength: 1, maxLength: 12 }),
        fc.array(fc.nat(6), { maxLength: 6 }),
        async (batches, cuts) => {
          const hub = await withTopic()
          const total = batches.reduce((sum, [, count]) => sum + count, 0)
          let serial = 0
          const seen: string[] = []
          let lastId: string | undefined
          const half = Math.ceil(batches.length / 2)
          const write = async (some: typeof batches) => {
            for (const [partition, count] of some) {
              await append(hub, partition, ...Array.from({ length: count }, () => String(serial++)))
            }
          }
          await write(batches.slice(0, half))
          for (const cut of cuts) {
            const reader = await read(hub, '?from=earliest', lastId)
            const wanted = Math.min(cut, serial - seen.length)
            await until(() => reader.events.length >= wanted && reader.lastId !== '')
            reader.stop()
            // What arrived after the cut was not seen by this client.
            seen.push(...values(reader).slice(0, wanted))
            lastId = wanted === 0 ? (lastId ?? undefined) : reader.events[wanted - 1]?.id
          }
          await write(batches.slice(half))
          const rest = await read(hub, '?from=earliest', lastId)
          await until(() => seen.length + rest.events.length >= total)
          expect([...seen, ...values(rest)].toSorted()).toEqual(
            Array.from({ length: total }, (_, i) => `${i}`).toSorted(),
          )
          await hub.close()
        },
      ),
      { numRuns: 25 },
    )
  })

  it('give an id before the first event, so that nothing is missed between two connections', async () => {
    const hub = await withTopic()
    await append(hub, 0, 'old')
    const first = await read(hub, '?from=latest')
    await until(() => first.lastId !== '')
    first.stop()
    await append(hub, 0, 'between')
    const second = await read(hub, '?from=latest', first.lastId)
    await until(() => values(second).length === 1)
    expect(values(second)).toEqual(['between'])
  })

  it('tell when retention has deleted what was to come', async () => {
    const hub = await withTopic()
    await append(hub, 0, 'a')
    await append(hub, 0, 'b')
    const first = await read(hub, '?from=earliest&partition=0')
    await until(() => first.events.length === 2)
    await append(hub, 0, 'c')
    await append(hub, 0, 'd')
    hub.fake.trim(hub.fake.topics.byName('t').topicId, 0, 3)
    const second = await read(hub, '?partition=0', first.events[0]?.id)
    await until(() => second.events.length === 2)
    expect(second.events[0]).toMatchObject({
      event: 'reset',
      data: { partition: 0, from: 1, to: 3, reason: 'retention' },
    })
    expect(values(second)).toEqual(['d'])
  })

  it('tell when the log ends before the place to resume at', async () => {
    const hub = await withTopic()
    await append(hub, 0, 'a')
    const id = `${hub.fake.topics.byName('t').topicId.slice(0, 8)};0:9`
    const reader = await read(hub, '', id)
    await until(() => reader.events.length > 0)
    await append(hub, 0, 'b')
    await until(() => reader.events.length > 1)
    expect(reader.events[0]).toMatchObject({
      event: 'reset',
      data: { partition: 0, from: 9, to: 1, reason: 'truncated' },
    })
    expect(values(reader)).toEqual(['b'])
  })

  it('take in partitions that are added', async () => {
    const hub = await withTopic({ streamHeartbeatMs: 5 })
    const reader = await read(hub)
    await hub.fake.topics.alter('t', { partitions: 4 })
    await append(hub, 3, 'new')
    await until(() => values(reader).length === 1)
    expect(reader.lastId).toMatch(/;3:1$/)
  })

  it('end with an error event when the topic is deleted', async () => {
    const hub = await withTopic()
    const reader = await read(hub)
    await hub.fake.topics.delete('t')
    await until(() => reader.ended)
    expect(reader.events).toEqual([
      expect.objectContaining({
        event: 'error',
        data: { error: expect.objectContaining({ code: 'topic_deleted' }) },
      }),
    ])
  })

  it('end when the hub closes, and let go of what they waited for when the client leaves', async () => {
    const hub = await withTopic()
    const staying = await read(hub)
    const leaving = await read(hub)
    await until(() => hub.fake.waiting() === 6)
    leaving.stop()
    await until(() => hub.fake.waiting() === 3)
    await hub.close()
    await until(() => staying.ended)
    expect(hub.fake.waiting()).toBe(0)
  })

  it('are limited in number', async () => {
    const hub = await withTopic({ maxStreams: 1 })
    const reader = await read(hub)
    const refused = await hub.call('GET', '/v1/topics/t/stream')
    expect([refused.status, refused.json.error.code]).toEqual([429, 'limit_exceeded'])
    reader.stop()
    await until(() => hub.fake.waiting() === 0)
    expect((await read(hub)).status).toBe(200)
  })

  it('need a partition where the topic has too many for one id', async () => {
    const hub = await withTopic({}, MAX_STREAM_PARTITIONS + 1)
    const refused = await hub.call('GET', '/v1/topics/t/stream')
    expect([refused.status, refused.json.error.code]).toEqual([429, 'limit_exceeded'])
    expect((await read(hub, `?partition=${MAX_STREAM_PARTITIONS}`)).status).toBe(200)
  })

  it.each([
    ['?from=noon', {}, 400, 'invalid_argument', 'from is "noon"; it must be earliest, latest'],
    ['?from=5&partition=0', {}, 416, 'offset_out_of_range', 'offsets 0 to 0'],
    ['?partition=3', {}, 404, 'unknown_topic', 'no partition 3'],
    ['?form=latest', {}, 400, 'invalid_argument', 'did you mean "from"?'],
    ['', { 'last-event-id': '17' }, 400, 'invalid_argument', 'Last-Event-ID is "17"'],
    ['', { 'last-event-id': '00000000;0:1' }, 410, 'topic_deleted', 'start anew'],
    ['', { 'last-event-id': 'TOPIC;9:1' }, 400, 'invalid_argument', 'names 9:1'],
    ['', { 'last-event-id': 'TOPIC;0:1,' }, 400, 'invalid_argument', 'no id of this hub'],
  ])('with %s %j are refused', async (query, headers, status, code, message) => {
    const hub = await withTopic()
    const topic = hub.fake.topics.byName('t').topicId.slice(0, 8)
    const filled = Object.entries(headers).map(([name, value]) => [name, value.replace('TOPIC', topic)])
    const answer = await hub.call('GET', `/v1/topics/t/stream${query}`, undefined, Object.fromEntries(filled))
    expect(answer.json.error.message).toContain(message)
    expect([answer.status, answer.json.error.code]).toEqual([status, code])
  })
})

describe('a slow reader of server-sent events', () => {
  /** Asks for the stream and then reads nothing. */
  function connectAndStop(hub: Served): net.Socket {
    const socket = net.connect(hub.port, '127.0.0.1')
    socket.pause()
    socket.write('GET /v1/topics/t/stream?from=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n')
    return socket
  }

  it('holds a bounded amount of memory and nobody else up', async () => {
    let readBytes = 0
    const hub = await serve({
      wrap: ports => ({
        ...ports,
        logs: {
          ...ports.logs,
          read: async (topicId, partition, offset, maxBytes) => {
            const result = await ports.logs.read(topicId, partition, offset, maxBytes)
            readBytes += result.batches.length
            return result
          },
        },
      }),
    })
    await hub.fake.topics.create({ name: 't', partitions: 1 })
    const count = 400
    for (let index = 0; index < count; index++) await append(hub, 0, 'x'.repeat(100_000))
    const slow = connectAndStop(hub)
    await until(() => readBytes > 100_000)
    const fast = await read(hub, '?from=earliest')
    const before = performance.now()
    await until(() => fast.events.length === count, 20_000)
    expect(performance.now() - before).toBeLessThan(20_000)
    const readByFast = count * 100_000
    // What the slow one read went into socket buffers (some MiB on Linux) and one portion.
    expect(readBytes - readByFast).toBeLessThan(16_000_000)
    slow.destroy()
  })

  it('is ended after a while, and the limit counted', async () => {
    const hub = await withTopic({ streamStallMs: 100 }, 1)
    for (let index = 0; index < 200; index++) await append(hub, 0, 'x'.repeat(100_000))
    const slow = connectAndStop(hub)
    const closed = new Promise<void>(resolve => slow.once('close', () => resolve()))
    await until(() => hub.fake.waiting() === 0)
    let metrics = ''
    while (!metrics.includes('tributary_limit_hits_total{limit="streamStallMs"} 1')) {
      metrics = (await hub.call('GET', '/metrics')).text
    }
    slow.on('error', () => {})
    slow.resume()
    await closed
  })
})

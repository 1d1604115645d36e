import { afterEach, describe, expect, it } from 'vitest'
import { closeServed, serve } from './serve.ts'

afterEach(closeServed)

describe('topics over REST', () => {
  it('are created, listed, described, altered and deleted', async () => {
    const hub = await serve()
    const created = await hub.call('POST', '/v1/topics', {
      name: 'readings',
      partitions: 2,
      replication: 3,
      config: { retentionMs: null, maxRecordBytes: 4096 },
    })
    expect(created.status).toBe(201)
    expect(created.headers.get('location')).toBe('/v1/topics/readings')
    expect(created.json).toMatchObject({
      name: 'readings',
      replication: 3,
      config: { retentionMs: null, maxRecordBytes: 4096 },
    })
    expect(created.json.partitions).toEqual([0, 1].map(partition => expect.objectContaining({ partition })))

    const list = await hub.call('GET', '/v1/topics')
    expect(list.json.topics).toEqual([expect.objectContaining({ name: 'readings', partitions: 2 })])

    await hub.call('POST', '/v1/topics/readings/records', { records: [{ value: 'a', partition: 1 }] })
    const described = await hub.call('GET', '/v1/topics/readings')
    expect(described.json.topicId).toBe(created.json.topicId)
    expect(described.json.partitions[1]).toMatchObject({ startOffset: 0, endOffset: 1, highWatermark: 1 })

    const altered = await hub.call('PATCH', '/v1/topics/readings', {
      partitions: 4,
      config: { retentionBytes: 1e6, minInsyncReplicas: 2, uncleanLeaderElection: true },
    })
    expect(altered.status).toBe(200)
    expect(altered.json.partitions).toHaveLength(4)
    expect(altered.json.config).toMatchObject({
      retentionBytes: 1e6,
      maxRecordBytes: 4096,
      minInsyncReplicas: 2,
      uncleanLeaderElection: true,
    })

    const deleted = await hub.call('DELETE', '/v1/topics/readings')
    expect(deleted.status).toBe(204)
    expect((await hub.call('GET', '/v1/topics/readings')).json.error.code).toBe('unknown_topic')
  })

  it('take names of the greatest length', async () => {
    const hub = await serve()
    const name = 'n'.repeat(249)
    await hub.call('POST', '/v1/topics', { name })
    expect((await hub.call('GET', `/v1/topics/${name}`)).json.name).toBe(name)
  })

  it.each([
    ['POST', '/v1/topics', { name: 'there' }, 409, 'topic_exists', '"there"'],
    ['POST', '/v1/topics', {}, 400, 'invalid_argument', 'body.name is missing: it must be text'],
    [
      'POST',
      '/v1/topics',
      undefined,
      400,
      'invalid_argument',
      'body is missing: it must be an object with name',
    ],
    ['POST', '/v1/topics', [], 400, 'invalid_argument', 'body is []: it must be an object'],
    ['POST', '/v1/topics', { name: 'a', partitions: 'b' }, 400, 'invalid_argument', 'body.partitions is "b"'],
    [
      'POST',
      '/v1/topics',
      { name: 'a', partitons: 2 },
      400,
      'invalid_argument',
      'known are name, partitions, replication, config',
    ],
    [
      'POST',
      '/v1/topics',
      { name: 'a', config: { retentionMs: 'forever' } },
      400,
      'invalid_argument',
      'body.config.retentionMs is "forever": it must be a whole number, or null for no bound',
    ],
    ['PATCH', '/v1/topics/there', { partitions: 1 }, 400, 'invalid_argument', 'may only grow'],
    ['PATCH', '/v1/topics/nowhere', { partitions: 9 }, 404, 'unknown_topic', '"nowhere"'],
    ['DELETE', '/v1/topics/nowhere', undefined, 404, 'unknown_topic', '"nowhere"'],
  ])('%s %s %j is refused with %i %s', async (method, path, body, status, code, message) => {
    const hub = await serve()
    await hub.call('POST', '/v1/topics', { name: 'there' })
    const answer = await hub.call(method, path, body)
    expect(answer.status).toBe(status)
    expect(answer.json.error.code).toBe(code)
    expect(answer.json.error.message).toContain(message)
    expect(answer.json.error.details).toBeTypeOf('object')
  })
})

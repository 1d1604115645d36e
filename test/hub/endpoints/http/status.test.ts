import net from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { isTributaryError } from '../../../../common/errors.ts'
import { dataDirReadings } from '../../../../common/metrics.ts'
import { MAX_METERED_EDGES } from '../../../../hub/endpoints/http/edges.ts'
import type { Served } from './serve.ts'
import { closeServed, serve } from './serve.ts'

afterEach(closeServed)

/** Sends raw bytes and returns what comes back until the connection ends. */
function raw(hub: Served, text: string): Promise<string> {
  return new Promise(resolve => {
    let answer = ''
    const socket = net.connect(hub.port, '127.0.0.1', () => socket.write(text))
    socket.on('data', chunk => {
      answer += String(chunk)
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(answer))
  })
}

describe('what the hub says of itself', () => {
  it('has a root with links that work', async () => {
    const hub = await serve()
    const { json } = await hub.call('GET', '/')
    expect(json).toMatchObject({ name: 'tributary', version: '0.0.0', clusterId: 'fake-cluster', nodeId: 1 })
    for (const link of Object.values<string>(json.links))
      expect((await hub.call('GET', link)).status).toBe(200)
  })

  it('is healthy while up, and ready when the engine is', async () => {
    const hub = await serve()
    expect((await hub.call('GET', '/healthz')).json).toEqual({ status: 'ok' })
    expect((await hub.call('GET', '/readyz')).json).toEqual({ status: 'ready' })
    hub.fake.setNotReady('recovering t-0')
    const answer = await hub.call('GET', '/readyz')
    expect(answer.status).toBe(503)
    expect(answer.json.error).toMatchObject({ code: 'not_available', message: 'not ready: recovering t-0' })
    expect((await hub.call('GET', '/healthz')).status).toBe(200)
  })

  it('has metrics of the process, its storage, connections and edges', async () => {
    const stats = {
      commits: 7,
      committedBytes: 8,
      commitFailures: 0,
      fdatasyncP50Ms: 2,
      fdatasyncP99Ms: 30,
      pendingAppends: 1,
      pendingBytes: 9,
      diskFullRejections: 3,
      throttledRejections: 0,
      checkpoints: 1,
      segmentWaits: 0,
      commitStuckMs: 0,
      backgroundFailures: 0,
      indexBytes: 0,
      indexesEvicted: 0,
    }
    const hub = await serve({ readings: dataDirReadings(() => stats) })
    const first = (await hub.call('GET', '/metrics')).text
    expect(first).toContain('process_resident_memory_bytes')
    expect(first).toContain('nodejs_eventloop_lag_p99_seconds')
    expect(first).toContain('tributary_storage_commits_total 7')
    expect(first).toContain('tributary_storage_fdatasync_seconds{quantile="0.99"} 0.03')
    stats.commits = 9
    expect((await hub.call('GET', '/metrics')).text).toContain('tributary_storage_commits_total 9')
  })

  it('keeps the metrics of many edges few: those that lag most, and the rest together', async () => {
    const hub = await serve()
    for (let index = 0; index < MAX_METERED_EDGES + 5; index++) await report(hub, `edge-${index}`, index)
    const { text } = await hub.call('GET', '/metrics')
    const lines = text.split('\n').filter(line => line.startsWith('tributary_edge_lag_bytes{'))
    expect(lines).toHaveLength(MAX_METERED_EDGES + 1)
    expect(lines).toContain(`tributary_edge_lag_bytes{edge="(others)"} ${0 + 1 + 2 + 3 + 4}`)
    expect(lines).toContain(`tributary_edge_lag_bytes{edge="edge-${MAX_METERED_EDGES}"} ${MAX_METERED_EDGES}`)
  })
})

async function report(hub: Served, id: string, lagBytes: number): Promise<void> {
  const { fleet } = hub.fake
  const software = 'tributary/0'
  const { session } = await fleet.connect({
    id,
    session: 0,
    address: 'a',
    software,
    nowMs: 5,
    isWanted: () => true,
    fence: () => {},
  })
  const lane = { topic: 't', lane: 0, lagRecords: 2, lagBytes, oldestMs: 4, droppedRecords: 0 }
  fleet.report(
    id,
    session,
    { atMs: 6, diskBytes: 1, diskBudgetBytes: 2, lanes: [lane, { ...lane, lagBytes: 0 }] },
    0,
  )
}

describe('edges over REST', () => {
  it('are listed with their lag and removed when away', async () => {
    const hub = await serve()
    await report(hub, 'plant/1 é', 100)
    const list = await hub.call('GET', '/v1/edges')
    expect(list.json.edges).toEqual([
      expect.objectContaining({
        id: 'plant/1 é',
        connected: true,
        lag: { records: 4, bytes: 100, oldestMs: 4 },
      }),
    ])
    const path = `/v1/edges/${encodeURIComponent('plant/1 é')}`
    expect((await hub.call('DELETE', path)).json.error.code).toBe('invalid_argument')
    hub.fake.fleet.disconnect('plant/1 é', 1)
    expect((await hub.call('DELETE', path)).status).toBe(204)
    const again = await hub.call('DELETE', path)
    expect([again.status, again.json.error.code]).toEqual([404, 'not_found'])
  })

  it('have no lag before their first report', async () => {
    const hub = await serve()
    await hub.fake.fleet.connect({
      id: 'e',
      session: 0,
      address: 'a',
      software: 's',
      nowMs: 5,
      isWanted: () => true,
      fence: () => {},
    })
    expect((await hub.call('GET', '/v1/edges')).json.edges[0]?.lag).toBeNull()
  })
})

describe('requests that no route takes', () => {
  it.each([
    ['GET', '/nowhere', 404, 'not_found', 'GET / lists what there is'],
    ['GET', '/v1/topics/a/b/c', 404, 'not_found', 'GET /v1/topics/a/b/c'],
    ['PUT', '/v1/topics', 405, 'invalid_argument', 'it takes OPTIONS, GET, HEAD, POST'],
    ['DELETE', '/v1/topics/t/records', 405, 'invalid_argument', 'POST'],
    ['HEAD', '/v1/topics/t/stream', 405, null, ''],
    ['GET', '/v1/uplink', 426, 'protocol_error', 'is a WebSocket'],
    ['GET', '/%zz', 400, 'invalid_argument', ''],
  ])('%s %s is %i', async (method, path, status, code, message) => {
    const hub = await serve()
    const answer = await hub.call(method, path)
    expect(answer.status).toBe(status)
    if (code !== null) expect(answer.json.error.code).toBe(code)
    expect(answer.text).toContain(message)
  })

  it('answers OPTIONS with what is allowed, and no cross-origin headers', async () => {
    const hub = await serve()
    const answer = await hub.call('OPTIONS', '/v1/topics/t')
    expect(answer.status).toBe(204)
    expect(answer.headers.get('allow')).toBe('OPTIONS, GET, HEAD, PATCH, DELETE')
    expect([...answer.headers.keys()].filter(name => name.startsWith('access-control'))).toEqual([])
  })

  it('answers HEAD as GET without the body', async () => {
    const hub = await serve()
    const answer = await hub.call('HEAD', '/v1/topics')
    expect([answer.status, answer.text]).toEqual([200, ''])
  })

  it('answers what is no HTTP with 400 and a body like any other', async () => {
    const hub = await serve()
    const answer = await raw(hub, 'GARBAGE\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1.1 400 /)
    expect(JSON.parse(answer.split('\r\n\r\n')[1] ?? '').error.code).toBe('protocol_error')
    expect((await hub.call('GET', '/healthz')).status).toBe(200)
  })

  it('answers a client that offers HTTP/2 in HTTP/1.1', async () => {
    const hub = await serve()
    const answer = await raw(
      hub,
      'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n',
    )
    expect(answer).toMatch(/^HTTP\/1.1 200 /)
  })

  it('answers a failure of its own without saying more than that', async () => {
    const hub = await serve({
      wrap: ports => ({ ...ports, topics: { ...ports.topics, list: () => fail('secret') } }),
    })
    const answer = await hub.call('GET', '/v1/topics')
    expect(answer.status).toBe(500)
    expect(answer.text).not.toContain('secret')
    expect(answer.json.error.code).toBe('internal')
  })
})

function fail(message: string): never {
  throw new Error(message)
}

describe('starting and stopping', () => {
  it('says which flag changes a port in use', async () => {
    const hub = await serve()
    const error = await serve({ port: hub.port }).catch((failure: unknown) => failure)
    expect(isTributaryError(error, 'port_in_use') && error.message).toContain('--http HOST:PORT')
  })

  it('says so where the address is not this machine’s', async () => {
    const error = await serve({ host: '192.0.2.1', tokens: ['t'] }).catch((failure: unknown) => failure)
    expect(isTributaryError(error, 'invalid_argument') && error.message).toContain(
      "can't listen on 192.0.2.1:0",
    )
  })

  it('finishes requests in progress, and is not held up by idle connections', async () => {
    const hub = await serve({ limits: { closeGraceMs: 60_000 } })
    await hub.fake.topics.create({ name: 't', partitions: 1 })
    const idle = net.connect(hub.port, '127.0.0.1')
    idle.on('error', () => {})
    await new Promise<void>(resolve => idle.once('connect', () => resolve()))
    hub.fake.hold()
    const answer = hub.call('POST', '/v1/topics/t/records', { records: [{ value: 'v' }] })
    const { topicId } = hub.fake.topics.byName('t')
    while (hub.fake.endOffset(topicId, 0) === 0) await new Promise(setImmediate)
    const closed = hub.close()
    await expect(fetch(`${hub.url}/healthz`)).rejects.toThrow()
    hub.fake.release()
    expect((await answer).status).toBe(200)
    await closed
  })

  it('cuts what is not finished in time', async () => {
    const hub = await serve({ limits: { closeGraceMs: 20 } })
    await hub.fake.topics.create({ name: 't', partitions: 1 })
    hub.fake.hold()
    const answer = hub.call('POST', '/v1/topics/t/records', { records: [{ value: 'v' }] })
    const { topicId } = hub.fake.topics.byName('t')
    while (hub.fake.endOffset(topicId, 0) === 0) await new Promise(setImmediate)
    await Promise.all([expect(answer).rejects.toThrow(), hub.close()])
  })
})

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { connect } from '../../common/client.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { HubOverrides } from '../../common/config-hub.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import { nodeDisk } from '../../common/disk-node.ts'
import type { Env, Link } from '../../common/env.ts'
import { isTributaryError } from '../../common/errors.ts'
import { nodeNet } from '../../common/net-node.ts'
import { PROTOCOL_MAX, PROTOCOL_MIN, SUBSCRIBE_PATH, UPLINK_PATH } from '../../common/wire.ts'
import type { Hub } from '../../hub/node.ts'
import { startHub } from '../../hub/node.ts'
import { FakeDisk } from '../fake-disk.ts'
import { liveClock } from '../live-clock.ts'
import { rawPeer, until } from '../raw-peer.ts'
import { seededRng } from '../rng.ts'

let directory = ''
const hubs: Hub[] = []
let seed = 0
/** Small files, quickly made. */
const STORAGE = { journalBytes: 1 << 20, reserveBytes: 1 << 16 }

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tributary-node-'))
})

afterEach(async () => {
  await Promise.all(hubs.splice(0).map(hub => hub.close().catch(() => {})))
  rmSync(directory, { recursive: true, force: true })
})

function env(overrides: Partial<Env> = {}): Env {
  return {
    clock: liveClock,
    rng: seededRng(++seed),
    disk: nodeDisk(),
    net: nodeNet(),
    codec: nodeCodec(),
    ...overrides,
  }
}

async function start(overrides: HubOverrides = {}, world: Env = env()): Promise<Hub> {
  const config = defaultHubConfig({
    data: join(directory, 'hub'),
    http: '127.0.0.1:0',
    storage: STORAGE,
    ...overrides,
  })
  const hub = await startHub(config, world, pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' }))
  hubs.push(hub)
  return hub
}

function refusal(starting: Promise<Hub>): Promise<{ code: string; message: string }> {
  return starting.then(
    () => ({ code: 'started', message: '' }),
    (error: unknown) => {
      if (!isTributaryError(error)) throw error
      return { code: error.code, message: error.message }
    },
  )
}

const urlOf = (hub: Hub): string => `http://127.0.0.1:${hub.address.port}`

async function post(hub: Hub, path: string, body: unknown): Promise<Response> {
  return fetch(urlOf(hub) + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
}

async function json(response: Response | Promise<Response>): Promise<unknown> {
  return (await response).json()
}

/** Streams from the start until so many records came; gives their values. */
async function streamValues(hub: Hub, topic: string, count: number): Promise<unknown[]> {
  const abort = new AbortController()
  const response = await fetch(`${urlOf(hub)}/v1/topics/${topic}/stream?from=earliest`, {
    signal: abort.signal,
  })
  const decoder = new TextDecoder()
  const values: unknown[] = []
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true })
    const blocks = text.split('\n\n')
    text = blocks.pop() ?? ''
    for (const block of blocks) {
      const data = block.split('\n').find(line => line.startsWith('data: '))
      if (data !== undefined) values.push(JSON.parse(data.slice(6)).value)
    }
    if (values.length >= count) break
  }
  abort.abort()
  return values
}

describe('a hub node', () => {
  it('keeps what was produced, for REST, streams and clients, over a restart', async () => {
    const values = Array.from({ length: 50 }, (_, index) => `v${index}`)
    const first = await start()
    const created = await post(first, '/v1/topics', { name: 't', partitions: 2 })
    expect(created.status).toBe(201)
    const topic = await json(created)
    const produced = await post(first, '/v1/topics/t/records', {
      records: values.map(value => ({
        value,
        key: 'k',
        headers: { unit: 'C' },
        timestamp: 1_700_000_000_000,
      })),
    })
    expect(produced.status).toBe(200)
    const bounds = await json(fetch(`${urlOf(first)}/v1/topics/t`))
    expect(await streamValues(first, 't', 50)).toEqual(values)
    await first.close()

    const second = await start()
    // Each start leads anew.
    const timeless = (value: unknown): unknown =>
      JSON.parse(JSON.stringify(value), (key, inner) => (key === 'leaderEpoch' ? 0 : inner))
    expect(timeless(await json(fetch(`${urlOf(second)}/v1/topics/t`)))).toEqual(timeless(bounds))
    expect(bounds).toMatchObject({ topicId: expect.any(String), name: 't' })
    expect(topic).toMatchObject({ name: 't' })
    expect(await streamValues(second, 't', 50)).toEqual(values)
    const client = connect({ hub: urlOf(second), env: env() })
    const consumed: string[] = []
    for await (const record of client.consume('t', { from: 'earliest', count: 50 })) {
      consumed.push(new TextDecoder().decode(record.value ?? new Uint8Array(0)))
    }
    expect(consumed).toEqual(values)
    await client.close()
  })

  it('tells the offset of every record of a request, whatever partitions they go to', async () => {
    const hub = await start()
    await post(hub, '/v1/topics', { name: 't', partitions: 3 })
    const records = Array.from({ length: 300 }, (_, index) => ({ key: `k${index % 7}`, value: `${index}` }))
    const answer = await json(post(hub, '/v1/topics/t/records', { records }))
    expect(answer).toMatchObject({ topic: 't', records: 300 })
    const ranges = Reflect.get(Object(answer), 'ranges')
    for (const { first, count, partition, offset } of ranges) {
      const path = `/v1/topics/t/records?partition=${partition}&offset=${offset}&limit=${count}`
      const read = await json(fetch(urlOf(hub) + path))
      expect(read).toMatchObject({
        records: records.slice(first, first + count).map(({ key, value }) => ({ key, value })),
      })
    }
  })

  it('lets edges and clients in by WebSocket, and sends them away with 1001 when it stops', async () => {
    const hub = await start({ tokens: ['secret'] })
    const options = { maxFrameBytes: 1 << 20, connectTimeoutMs: 5_000 }
    const dial = (path: string, token: string): Promise<Link> =>
      nodeNet().dial(`ws://127.0.0.1:${hub.address.port}${path}`, { ...options, token })
    await expect(dial(UPLINK_PATH, 'wrong')).rejects.toMatchObject({ code: 'unauthorized' })

    const hello = { t: 'hello', min: PROTOCOL_MIN, max: PROTOCOL_MAX, software: 'test' } as const
    const edge = rawPeer(await dial(UPLINK_PATH, 'secret'), 'uplink-hub')
    edge.send({ ...hello, edge: { id: 'e1', session: 0, clusterId: null, nowMs: Date.now() } })
    expect(await edge.expect('welcome')).toMatchObject({
      clusterId: hub.ports.clusterId,
      edge: { verdict: 'ok' },
    })
    const client = rawPeer(await dial(SUBSCRIBE_PATH, 'secret'), 'client-hub')
    client.send(hello)
    await client.expect('welcome')
    const headers = { authorization: 'Bearer secret' }
    const edges = await json(fetch(`${urlOf(hub)}/v1/edges`, { headers }))
    expect(edges).toMatchObject({ edges: [{ id: 'e1', connected: true }] })

    const broken = rawPeer(await dial(UPLINK_PATH, 'secret'), 'uplink-hub')
    broken.sendBytes(Uint8Array.of(0xff, 0xff))
    await broken.whenClosed
    await hub.close()
    expect((await edge.whenClosed).code).toBe(1001)
    expect((await client.whenClosed).code).toBe(1001)
  })

  it('has metrics of all its parts', async () => {
    const hub = await start()
    await post(hub, '/v1/topics', { name: 't', partitions: 1 })
    await post(hub, '/v1/topics/t/records', { records: [{ value: 'v' }, { value: 'w' }] })
    await fetch(`${urlOf(hub)}/v1/topics/t/records`)
    const text = await (await fetch(`${urlOf(hub)}/metrics`)).text()
    expect(text).toContain('tributary_topic_records_in_total{topic="t"} 2')
    expect(text).toContain('tributary_topic_records_out_total{topic="t"} 2')
    expect(text).toMatch(/tributary_storage_commits_total [1-9]/)
    expect(text).toMatch(/tributary_storage_fdatasync_seconds\{quantile="0.99"\} \d/)
    expect(text).toContain('tributary_uplink_connections_total 0')
    expect(text).toContain('tributary_subscribe_open 0')
    expect(text).toContain('nodejs_eventloop_lag_p99_seconds')
  })
})

describe('a hub that is refused its start', () => {
  it('says that the data directory is in use, and harms its holder nothing', async () => {
    const holder = await start()
    const { code, message } = await refusal(start())
    expect(code).toBe('directory_in_use')
    expect(message).toContain(join(directory, 'hub'))
    expect((await post(holder, '/v1/topics', { name: 't' })).status).toBe(201)
  })

  it('says that the data directory is of a newer format, and leaves it as it was', async () => {
    await (await start()).close()
    const path = join(directory, 'hub', 'meta.json')
    const meta = { ...JSON.parse(readFileSync(path, 'utf8')), formatVersion: 99 }
    writeFileSync(path, JSON.stringify(meta))
    const { code, message } = await refusal(start())
    expect(code).toBe('directory_newer_format')
    expect(message).toContain('99')
    expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual(meta)
  })

  it('says which flag changes a port in use, and lets go of the data directory', async () => {
    const other = await start()
    const data = join(directory, 'another')
    const { code, message } = await refusal(start({ data, http: `127.0.0.1:${other.address.port}` }))
    expect(code).toBe('port_in_use')
    expect(message).toContain('--http')
    expect((await start({ data })).address.port).not.toBe(other.address.port)
  })

  it('is not to be open to a network by mistake, and touches nothing before', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { code, message } = await refusal(start({ http: '0.0.0.0:0' }, env({ disk })))
    expect(code).toBe('config_invalid')
    expect(message).toContain('--allow-anonymous')
    expect(disk.syncs).toBe(0)
    expect((await start({ http: '0.0.0.0:0', allowAnonymous: true })).address.port).toBeGreaterThan(0)
  })
})

describe('a hub on a disk that misbehaves', () => {
  it('answers only what fdatasync has made durable, and finishes it when it stops', async () => {
    const disk = new FakeDisk({ rng: seededRng(2) })
    const hub = await start({}, env({ disk }))
    await post(hub, '/v1/topics', { name: 't', partitions: 1 })
    await post(hub, '/v1/topics/t/records', { records: [{ value: 'before' }] })
    const release = disk.holdSyncs()
    let answered = false
    const answer = post(hub, '/v1/topics/t/records', { records: [{ value: 'v' }] }).finally(() => {
      answered = true
    })
    await until(() => disk.heldSyncs > 0, 'the append at the disk')
    expect(await json(fetch(`${urlOf(hub)}/v1/topics/t/records`))).toMatchObject({ highWatermark: 1 })
    const closed = hub.close()
    await expect(fetch(`${urlOf(hub)}/healthz`)).rejects.toThrow()
    expect(answered).toBe(false)
    release()
    expect((await answer).status).toBe(200)
    await closed

    const again = await start({}, env({ disk }))
    const read = await json(fetch(`${urlOf(again)}/v1/topics/t/records`))
    expect(read).toMatchObject({ records: [{ value: 'before' }, { value: 'v' }] })
  })

  it('fails when fdatasync does: nothing is answered as written, and whoever runs it is told', async () => {
    const disk = new FakeDisk({ rng: seededRng(3) })
    const hub = await start({}, env({ disk }))
    await post(hub, '/v1/topics', { name: 't', partitions: 1 })
    disk.failSyncs(1)
    const answer = await post(hub, '/v1/topics/t/records', { records: [{ value: 'v' }] })
    expect(answer.status).toBe(503)
    expect(await json(answer)).toMatchObject({ error: { code: 'disk_failed' } })
    expect((await hub.failed).code).toBe('disk_failed')
    const ready = await fetch(`${urlOf(hub)}/readyz`)
    expect(ready.status).toBe(503)
    expect((await fetch(`${urlOf(hub)}/healthz`)).status).toBe(200)
    expect((await post(hub, '/v1/topics/t/records', { records: [{ value: 'w' }] })).status).toBe(503)
  })

  it('refuses appends on a full disk and goes on when there is room', async () => {
    const disk = new FakeDisk({ rng: seededRng(4) })
    const hub = await start({ storage: { ...STORAGE, reserveBytes: 0 } }, env({ disk }))
    await post(hub, '/v1/topics', { name: 't', partitions: 1 })
    const large = { records: [{ value: 'x'.repeat(500_000) }] }
    disk.setCapacity(disk.usedBytes() + 100_000)
    let refused = await post(hub, '/v1/topics/t/records', large)
    for (let tries = 0; refused.status === 200 && tries < 20; tries++) {
      refused = await post(hub, '/v1/topics/t/records', large)
    }
    expect(refused.status).toBe(507)
    expect(await json(refused)).toMatchObject({ error: { code: 'disk_full' } })
    disk.setCapacity(Number.POSITIVE_INFINITY)
    expect((await post(hub, '/v1/topics/t/records', large)).status).toBe(200)
  })
})

import { describe, expect, it } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { encodeCbor } from '../../../common/cbor.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { METADATA_LOG } from '../../../hub/engines/cluster/quorum/storage.ts'
import type { Gap } from '../../../hub/ports.ts'
import { smallDisk } from '../../fake-disk.ts'
import { plainOf, runOf, testRun } from '../replica/batches.ts'
import { codeOf } from '../replica/harness.ts'
import { attach, environment, hello, restart, start, storage, values } from './stage.ts'

const P = testRun(1)
const Q = testRun(2)
const FIRST = { prev: null, reason: 'first' } as const

const gap: Gap = {
  run: P,
  from: 2,
  to: 7,
  reason: 'retention',
  firstMs: 10,
  lastMs: 20,
  localFrom: 102,
  localTo: 107,
}

describe('the cluster engine', () => {
  it('takes an edge from connect to committed records and keeps it all over a restart', async () => {
    for (const how of ['close', 'kill', 'crash'] as const) {
      let hub = await start()
      const { topic, lane } = await attach(hub, 'e1')
      expect(hub.logs.tip(lane)).toBeNull()
      expect((await hub.logs.bounds(topic.topicId, lane.partition)).endOffset).toBe(0)
      // Pipelined before the partition's log exists, and in order all the same.
      const [, tip] = await Promise.all([
        hub.logs.startRun(lane, { run: P, ...FIRST }),
        hub.logs.appendLane(lane, runOf(P, 0, 2)),
      ])
      expect(tip).toEqual({ run: P, next: 2, committed: 2 })
      await hub.logs.declareGap(lane, gap)
      const before = { clusterId: hub.clusterId, topics: hub.topics.list(), edges: hub.fleet.local() }
      hub = await restart(hub, how)
      expect(hub.clusterId).toBe(before.clusterId)
      expect(hub.topics.list()).toEqual(before.topics)
      expect(hub.fleet.local()).toEqual(
        before.edges.map(edge => ({ ...edge, connected: false, nodeId: null, clockOffsetMs: 0 })),
      )
      expect(hub.logs.tip(lane)).toEqual({ run: P, next: 7, committed: 7 })
      const again = await attach(hub, 'e1', 't', 1)
      expect(again.lane).toEqual(lane)
      expect(await hub.logs.appendLane(lane, runOf(P, 7, 1))).toMatchObject({ next: 8 })
      expect(await values(hub, 't')).toEqual([`${P}:0`, `${P}:1`, `${P}:7`])
      const [notice] = (await values(hub, '_gaps')).map(text => JSON.parse(text))
      const { run, from, to, reason, firstMs, lastMs } = gap
      const where = { topic: 't', topicId: topic.topicId, partition: lane.partition, edge: 'e1', lane: 0 }
      expect(notice).toEqual({
        ...where,
        offset: 3,
        run,
        from,
        to,
        count: 5,
        keys: null,
        reason,
        firstMs,
        lastMs,
        declaredMs: hub.env.clock.nowMs(),
      })
      await hub.engine.close()
    }
  })

  it('has a gap and its notice in one commit: after a crash both are there or none', async () => {
    let both = 0
    for (let round = 0; round < 60; round++) {
      let hub = await start()
      const { lane } = await attach(hub, 'e1')
      await hub.logs.startRun(lane, { run: P, ...FIRST })
      await hub.logs.appendLane(lane, runOf(P, 0, 2))
      hub.logs.declareGap(lane, gap).catch(() => {})
      for (let turn = 0; turn < round % 6; turn++) await new Promise(resolve => setImmediate(resolve))
      hub = await restart(hub, 'crash')
      const declared = hub.logs.tip(lane)?.next === 7
      expect(await values(hub, '_gaps')).toHaveLength(declared ? 1 : 0)
      if (declared) both++
      await hub.engine.close()
    }
    expect(both).toBeGreaterThan(0)
    expect(both).toBeLessThan(60)
  })

  it('acks nothing while fdatasync is held: no session, no topic, no record', async () => {
    const hub = await start()
    const topic = await hub.topics.create({ name: 'a', partitions: 1 })
    await hub.logs.append(topic.topicId, 0, plainOf(['x']), 'all')
    const release = hub.env.disk.holdSyncs()
    const done: string[] = []
    const all = [
      hub.fleet.connect(hello('e1')).then(() => done.push('connect')),
      hub.topics.create({ name: 'b' }).then(() => done.push('create')),
      hub.logs.append(topic.topicId, 0, plainOf(['y']), 'all').then(() => done.push('append')),
      hub.logs.allocateProducerId().then(() => done.push('producer')),
    ]
    for (let turn = 0; turn < 30; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(done).toEqual([])
    release()
    await Promise.all(all)
    expect(done).toHaveLength(4)
    await hub.engine.close()
  })

  it('tells once that fdatasync failed, and is not ready from then on', async () => {
    const hub = await start()
    const topic = await hub.topics.create({ name: 'a', partitions: 1 })
    const failures: string[] = []
    hub.engine.onFailed(error => failures.push(error.code))
    expect(hub.notReadyReason()).toBeNull()
    hub.env.disk.failSyncs(1)
    expect(await codeOf(hub.logs.append(topic.topicId, 0, plainOf(['y']), 'all'))).toBe('disk_failed')
    expect(failures).toEqual(['disk_failed'])
    expect(hub.notReadyReason()).toContain('fdatasync')
    expect(await codeOf(hub.topics.create({ name: 'b' }))).toBe('disk_failed')
  })

  it('goes on after a full disk, metadata included', async () => {
    const hub = await start(environment(smallDisk()))
    const topic = await hub.topics.create({ name: 'a', partitions: 1 })
    await hub.logs.append(topic.topicId, 0, plainOf(['x']), 'all')
    hub.env.disk.setCapacity(hub.env.disk.usedBytes() + 10)
    expect(await codeOf(hub.logs.append(topic.topicId, 0, plainOf(['y'.repeat(5_000)]), 'all'))).toBe(
      'disk_full',
    )
    expect(await codeOf(hub.fleet.connect(hello('e1')))).toBe('none')
    hub.env.disk.setCapacity(Number.POSITIVE_INFINITY)
    expect(await codeOf(hub.logs.append(topic.topicId, 0, plainOf(['z']), 'all'))).toBe('none')
    expect(await values(hub, 'a')).toEqual(['x', 'z'])
    await hub.engine.close()
  })

  it('stops with a clear message at metadata of a newer version', async () => {
    const hub = await start()
    await hub.engine.close()
    const dataDir = await openDataDir('/hub', storage, hub.env)
    const unbounded = Number.POSITIVE_INFINITY
    const options = { segmentMs: unbounded, retentionBytes: unbounded, retentionMs: unbounded }
    const log = await dataDir.openLog(METADATA_LOG, { segmentBytes: 1024, maxBatchBytes: 1024, ...options })
    const value = encodeCbor({ type: 'quota_set', v: 1 })
    await log.append(buildBatch([{ key: null, value, headers: [], timestampMs: 1 }]), { leaderEpoch: 9 })
    await dataDir.close()
    expect(await codeOf(start(environment(hub.env.disk)))).toBe('directory_newer_format')
    expect(await codeOf(start(environment(hub.env.disk)))).toBe('directory_newer_format')
  })

  it('starts with what is left of damaged metadata', async () => {
    let hub = await start()
    for (const name of ['a', 'b', 'c']) await hub.topics.create({ name })
    await attach(hub, 'e1', 'b')
    await hub.engine.close()
    const path = hub.env.disk.paths().find(name => name.includes(METADATA_LOG) && name.endsWith('.log')) ?? ''
    const content = Buffer.from(hub.env.disk.contentOf(path))
    hub.env.disk.flipBit(path, content.indexOf('edge_registered'), 1)
    hub = await start(environment(hub.env.disk, hub.env.clock))
    expect(hub.topics.list().map(({ name }) => name)).toEqual(['_gaps', '_dead', 'a', 'b', 'c'])
    expect(hub.fleet.local()).toEqual([])
    expect(await hub.fleet.connect(hello('e1', 1))).toEqual({ session: 2, verdict: 'hub-rollback' })
    await hub.engine.close()
  })

  it('keeps its metadata log short', async () => {
    let hub = await start()
    await hub.topics.create({ name: 'a', partitions: 3 })
    let session = 0
    const software = 'x'.repeat(200)
    for (let round = 0; round < 300; round++) {
      const connects = Array.from({ length: 100 }, (_, edge) =>
        hub.fleet.connect({ ...hello(`e${edge}`, session), software }),
      )
      session = (await Promise.all(connects))[0]?.session ?? 0
    }
    const { logBytes } = hub.engine.stats().metadata
    expect(logBytes).toBeLessThan(9 * 1024 * 1024)
    const edges = hub.fleet.local()
    hub = await restart(hub, 'kill')
    expect(hub.fleet.local().map(({ id, session }) => ({ id, session }))).toEqual(
      edges.map(({ id, session }) => ({ id, session })),
    )
    expect(hub.topics.byName('a').partitions).toBe(3)
    await hub.engine.close()
  })
})

describe('metrics', () => {
  it('tell what came, what was refused and where things stand', async () => {
    const hub = await start()
    const { topic, lane } = await attach(hub, 'e1')
    await hub.logs.startRun(lane, { run: P, ...FIRST })
    await hub.logs.appendLane(lane, runOf(P, 0, 2))
    await hub.logs.declareGap(lane, gap)
    expect(await codeOf(hub.logs.appendLane(lane, runOf(P, 9, 2)))).toBe('out_of_order_sequence')
    await hub.logs.read(topic.topicId, lane.partition, 0, 10_000)
    const found = new Map(hub.engine.readings.map(reading => [reading.name, reading.read()]))
    expect(found.get('tributary_topic_records_in_total')).toContainEqual({ labels: { topic: 't' }, value: 2 })
    expect(found.get('tributary_topic_records_in_total')).toContainEqual({
      labels: { topic: '_gaps' },
      value: 1,
    })
    expect(found.get('tributary_topic_gap_records_total')).toContainEqual({
      labels: { topic: 't' },
      value: 5,
    })
    expect(found.get('tributary_topic_records_out_total')).toContainEqual({
      labels: { topic: 't' },
      value: 4,
    })
    expect(found.get('tributary_topic_refused_total')).toEqual([
      { labels: { code: 'out_of_order_sequence' }, value: 1 },
    ])
    expect(found.get('tributary_edges_connected')).toBe(1)
    expect(found.get('tributary_lanes')).toBe(1)
    await hub.engine.close()
  })
})

describe('topics', () => {
  it('deleted and made again are other topics, their records gone', async () => {
    let hub = await start()
    const { topic, lane } = await attach(hub, 'e1')
    await hub.logs.startRun(lane, { run: P, ...FIRST })
    await hub.logs.appendLane(lane, runOf(P, 0, 2))
    let woken = 0
    hub.logs.whenPast(topic.topicId, lane.partition, 3, () => woken++)
    hub.logs.whenPast(topic.topicId, (lane.partition + 1) % 12, 0, () => woken++)
    await hub.topics.delete('t')
    await new Promise(resolve => setImmediate(resolve))
    expect(woken).toBe(2)
    expect(await codeOf(hub.logs.appendLane(lane, runOf(P, 2, 1)))).toBe('topic_deleted')
    expect(await codeOf(hub.logs.read(topic.topicId, lane.partition, 0, 10))).toBe('topic_deleted')
    const request = {
      edgeId: 'e1',
      topic: 't',
      topicId: null,
      lane: 0,
      lanes: 1,
      partitionBy: 'edge',
    } as const
    expect(await codeOf(hub.fleet.bindLane(request))).toBe('topic_deleted')
    const fresh = await hub.topics.create({ name: 't' })
    expect(fresh.topicId).not.toBe(topic.topicId)
    hub = await restart(hub)
    expect(await codeOf(hub.fleet.bindLane({ ...request, topicId: topic.topicId }))).toBe('topic_deleted')
    expect((await hub.fleet.bindLane(request)).topic).toEqual(fresh)
    expect(await values(hub, 't')).toEqual([])
    expect(hub.env.disk.paths().filter(path => path.includes(topic.topicId))).toEqual([])
    await hub.engine.close()
  })

  it('deleted in a crash are gone after the next start', async () => {
    for (let round = 0; round < 12; round++) {
      let hub = await start()
      const topic = await hub.topics.create({ name: 'a', partitions: 3 })
      for (const partition of [0, 1, 2])
        await hub.logs.append(topic.topicId, partition, plainOf(['x']), 'all')
      hub.topics.delete('a').catch(() => {})
      for (let turn = 0; turn < round; turn++) await new Promise(resolve => setImmediate(resolve))
      hub = await restart(hub, 'kill')
      const there = hub.topics.list().some(({ name }) => name === 'a')
      if (there) expect(await values(hub, 'a')).toEqual(['x', 'x', 'x'])
      else
        expect(
          hub.env.disk.paths().filter(path => path.endsWith('.log') && path.includes(topic.topicId)),
        ).toEqual([])
      await hub.engine.close()
    }
  })

  it('altered apply to what follows', async () => {
    const hub = await start()
    const topic = await hub.topics.create({ name: 'a', partitions: 1, config: { maxRecordBytes: 2_000 } })
    const large = plainOf(['x'.repeat(3_000)])
    expect(await codeOf(hub.logs.append(topic.topicId, 0, large.slice(), 'all'))).toBe('record_too_large')
    expect(await codeOf(hub.logs.append(topic.topicId, 1, plainOf(['x']), 'all'))).toBe('unknown_topic')
    await hub.topics.alter('a', { partitions: 2, config: { maxRecordBytes: 4_000 } })
    expect(await codeOf(hub.logs.append(topic.topicId, 0, large.slice(), 'all'))).toBe('none')
    expect(await codeOf(hub.logs.append(topic.topicId, 1, plainOf(['x']), 'all'))).toBe('none')
    await hub.engine.close()
  })

  it('without records have bounds, reads and waiters, and no files', async () => {
    const hub = await start()
    const { topicId } = await hub.topics.create({ name: 'a', partitions: 50 })
    expect(await hub.logs.bounds(topicId, 49)).toMatchObject({ startOffset: 0, highWatermark: 0 })
    expect((await hub.logs.read(topicId, 49, 0, 100)).nextOffset).toBe(0)
    expect(await codeOf(hub.logs.read(topicId, 49, 1, 100))).toBe('offset_out_of_range')
    expect(await hub.logs.offsetForTime(topicId, 49, 5)).toBe(0)
    expect(hub.env.disk.paths().filter(path => path.includes(topicId))).toEqual([])
    const woken: number[] = []
    hub.logs.whenPast(topicId, 49, 0, () => woken.push(1))
    const cancel = hub.logs.whenPast(topicId, 49, 0, () => woken.push(2))
    cancel()
    await hub.logs.append(topicId, 49, plainOf(['x']), 'all')
    await new Promise(resolve => setImmediate(resolve))
    expect(woken).toEqual([1])
    await hub.engine.close()
  })

  it('of the hub itself are written by it alone', async () => {
    const hub = await start()
    const { topicId } = hub.topics.byName('_gaps')
    expect(await codeOf(hub.logs.append(topicId, 0, plainOf(['x']), 'all'))).toBe('invalid_argument')
    expect(await codeOf(hub.topics.delete('_gaps'))).toBe('invalid_argument')
    await hub.engine.close()
  })
})

describe('edges', () => {
  it('fence their older connection and are disconnected by their own session alone', async () => {
    const hub = await start()
    const fenced: string[] = []
    const first = await hub.fleet.connect(hello('e1', 0, () => fenced.push('first')))
    const second = await hub.fleet.connect(hello('e1', 0, () => fenced.push('second')))
    expect(await codeOf(hub.fleet.start('e1', first.session))).toBe('fenced')
    expect(fenced).toEqual([])
    await hub.fleet.start('e1', second.session)
    expect(fenced).toEqual(['first'])
    hub.fleet.disconnect('e1', first.session)
    expect(hub.fleet.local()[0]?.connected).toBe(true)
    hub.fleet.report('e1', second.session, { atMs: 5, diskBytes: 1, diskBudgetBytes: 2, lanes: [] }, 42)
    expect(hub.fleet.local()[0]).toMatchObject({ clockOffsetMs: 42, report: { diskBytes: 1 } })
    hub.fleet.disconnect('e1', second.session)
    expect(hub.fleet.local()[0]?.connected).toBe(false)
    await hub.engine.close()
  })

  it('removed start anew, without a trace of their tips', async () => {
    let hub = await start()
    const { lane } = await attach(hub, 'e1')
    await hub.logs.startRun(lane, { run: P, ...FIRST })
    await hub.logs.appendLane(lane, runOf(P, 0, 2))
    expect(await codeOf(hub.fleet.remove('e1'))).toBe('invalid_argument')
    expect(await codeOf(hub.fleet.remove('e2'))).toBe('not_found')
    hub.fleet.disconnect('e1', 1)
    await hub.fleet.remove('e1')
    expect(hub.fleet.local()).toEqual([])
    hub = await restart(hub, 'kill')
    const again = await attach(hub, 'e1')
    expect(hub.logs.tip(again.lane)).toBeNull()
    expect(await hub.logs.startRun(again.lane, { run: Q, ...FIRST })).toEqual({
      run: Q,
      next: 0,
      committed: 0,
    })
    expect(await values(hub, '_gaps')).toEqual([])
    await hub.engine.close()
  })

  it('get each producer id once, over restarts and at once', async () => {
    let hub = await start()
    const ids = new Set<number>()
    for (const how of ['close', 'kill', 'crash'] as const) {
      for (const id of await Promise.all(
        Array.from({ length: 1_500 }, () => hub.logs.allocateProducerId()),
      )) {
        expect(ids.has(id)).toBe(false)
        ids.add(id)
      }
      hub = await restart(hub, how)
    }
    expect(ids.size).toBe(4_500)
    await hub.engine.close()
  })
})

describe('a hub that went back', () => {
  it('says so, and takes again what the edge still keeps', async () => {
    let hub = await start()
    const { lane } = await attach(hub, 'e1')
    await hub.logs.startRun(lane, { run: P, ...FIRST })
    await hub.logs.appendLane(lane, runOf(P, 0, 2))
    await hub.engine.close()
    const older = hub.env.disk.copy()
    hub = await start(environment(hub.env.disk, hub.env.clock))
    await attach(hub, 'e1', 't', 1)
    await attach(hub, 'e1', 't', 2)
    await hub.logs.appendLane(lane, runOf(P, 2, 3))
    await hub.logs.startRun(lane, { run: Q, prev: { run: P, end: 5 }, reason: 'next' })
    await hub.engine.close()

    hub = await start(environment(older, hub.env.clock))
    const back = await hub.fleet.connect(hello('e1', 3))
    expect(back).toMatchObject({ verdict: 'hub-rollback', session: 4 })
    await hub.fleet.start('e1', back.session)
    expect(hub.fleet.local()[0]?.alarms).toMatchObject([{ kind: 'hub-rollback' }])
    expect(hub.logs.tip(lane)).toMatchObject({ run: P, next: 2 })
    await hub.logs.declareGap(lane, {
      ...gap,
      from: 2,
      to: 4,
      localFrom: 2,
      localTo: 4,
      reason: 'hub-rollback',
    })
    await hub.logs.appendLane(lane, runOf(P, 4, 1))
    await hub.logs.startRun(lane, { run: Q, prev: { run: P, end: 5 }, reason: 'next' })
    expect(await hub.logs.appendLane(lane, runOf(Q, 0, 1))).toMatchObject({ committed: 1 })
    expect(await values(hub, 't')).toEqual([`${P}:0`, `${P}:1`, `${P}:4`, `${Q}:0`])
    await hub.engine.close()
  })
})

import { afterEach, describe, expect, test } from 'vitest'
import { encodeHeaders } from '../../common/batch-builder.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { utf8, utf8Text } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { EdgeOverrides } from '../../common/config-edge.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { Clock, Env } from '../../common/env.ts'
import { TributaryError } from '../../common/errors.ts'
import { DAY_MS, KIB, MIB } from '../../common/limits.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import type { StateEntry } from '../../common/log/types.ts'
import { createAlarms } from '../../edge/alarms.ts'
import { adopt, applyChange, storedSession } from '../../edge/changes.ts'
import { skipGaps } from '../../edge/gaps.ts'
import type { Lane } from '../../edge/lane.ts'
import { Store } from '../../edge/store.ts'
import { FakeDisk } from '../fake-disk.ts'
import { liveClock } from '../live-clock.ts'
import { seededRng } from '../rng.ts'
import { until } from './edge-stage.ts'

/** The local logs on a disk that can hold, fail, fill up and crash. */

const codec = nodeCodec()
const HEADERS = encodeHeaders([{ key: 'edge', value: utf8('e1') }])
const closing: (() => Promise<void>)[] = []

afterEach(async () => {
  for (const close of closing.splice(0)) await close().catch(() => {})
})

interface Opened {
  store: Store
  append(
    id: string,
    options?: { topic?: string; bytes?: number; session?: StateEntry[] },
  ): Promise<TributaryError | undefined>
  close(): Promise<void>
}

async function open(
  disk: FakeDisk,
  overrides: EdgeOverrides = {},
  clock: Clock = liveClock,
): Promise<Opened> {
  const net = { dial: () => Promise.reject(new Error('no hub')) }
  const env: Env = { clock, rng: seededRng(7), disk, codec, net }
  const storage = { journalBytes: 256 * KIB, commitMs: 0, budgetBytes: 64 * MIB, ...overrides.storage }
  const config = defaultEdgeConfig({ ...overrides, data: '/edge', storage })
  const options = { ...config.storage, reserveBytes: 64 * KIB }
  const directory = await openDataDir('/edge', options, env)
  const alarms = createAlarms(clock.nowMs, () => {})
  const store = await Store.open(env, config, directory, alarms)
  const close = async () => {
    await store.close()
    await directory.close()
  }
  closing.push(close)
  return {
    store,
    close: async () => {
      closing.splice(closing.indexOf(close), 1)
      await close()
    },
    append: (id, { topic = 'telemetry', bytes = 0, session = [] } = {}) =>
      new Promise(resolve => {
        const value = utf8(id.padEnd(bytes))
        const record = { topic, lane: 0, key: null, value, timestampMs: 1, headers: HEADERS, headerCount: 1 }
        store.append(record, session, resolve)
      }),
  }
}

const newDisk = (seed = 1, capacityBytes = Number.POSITIVE_INFINITY): FakeDisk =>
  new FakeDisk({ rng: seededRng(seed), capacityBytes })

const laneOf = (store: Store, key = 'telemetry/0'): Lane => {
  const lane = store.lanes.get(key)
  if (lane === undefined) throw new Error(`no lane ${key}`)
  return lane
}

/** Everything a lane can still be read of. */
async function readLane(lane: Lane): Promise<{ id: string; offset: number; edgeMs: number }[]> {
  const found: { id: string; offset: number; edgeMs: number }[] = []
  const { startOffset, durableEnd } = lane.ledger
  for (let at = startOffset; at < durableEnd; ) {
    const { batches, base, nextOffset } = await lane.read(at, 1)
    for (const record of batches.length === 0 ? [] : await decodeRecords(batches, 0, codec, MIB)) {
      const offset = base + record.offset
      const edgeTime = record.headers.find(({ key }) => key === 'edge.time')?.value
      const id = utf8Text(record.value ?? new Uint8Array(0)).trimEnd()
      if (offset >= at) found.push({ id, offset, edgeMs: Number(utf8Text(edgeTime ?? new Uint8Array(0))) })
    }
    at = base + nextOffset
  }
  return found
}

describe('durable before done', () => {
  test('no done while fdatasync is held; then all, in order of arrival over all topics', async () => {
    const disk = newDisk()
    const { store, append } = await open(disk)
    await append('first')
    await append('first', { topic: 'other' })
    const release = disk.holdSyncs()
    const order: string[] = []
    const all = Promise.all(
      ['a', 'b', 'c', 'd'].map(async (id, index) => {
        const error = await append(id, { topic: index % 2 === 0 ? 'telemetry' : 'other' })
        order.push(`${id} ${error?.code ?? 'ok'}`)
      }),
    )
    await until('the commit waits', () => disk.heldSyncs > 0)
    await new Promise(resolve => setTimeout(resolve, 30))
    expect(order).toEqual([])
    expect(laneOf(store).ledger.durableEnd).toBe(1)
    release()
    await all
    expect(order).toEqual(['a ok', 'b ok', 'c ok', 'd ok'])
    expect(laneOf(store).ledger.durableEnd).toBe(3)
  })

  test('a failed fdatasync fails all that waits and all that comes, for good', async () => {
    const disk = newDisk()
    const { store, append } = await open(disk)
    await append('first')
    disk.failSyncs(1)
    const errors = await Promise.all([append('a'), append('b', { topic: 'new' }), append('c')])
    expect(errors.map(error => error?.code)).toEqual(['disk_failed', 'disk_failed', 'disk_failed'])
    expect((await store.failed).code).toBe('disk_failed')
    expect((await append('later'))?.code).toBe('disk_failed')
    expect(store.notReadyReason()).not.toBeNull()
  })
})

describe('crashes', () => {
  test.each([1, 2, 3, 4, 5, 6])(
    'seed %i: a record and its session change come back together or not at all',
    async seed => {
      const rng = seededRng(seed)
      let disk = newDisk(seed)
      const acked = new Set<string>()
      let next = 0
      for (let life = 0; life < 6; life++) {
        const { store, append } = await open(disk)
        const ids = (await Promise.all([...store.lanes.values()].map(readLane))).flat().map(({ id }) => id)
        const sessions = store.sessionEntries('open/').map(([key]) => key.slice('open/'.length))
        expect(new Set(ids)).toEqual(new Set(sessions))
        expect(ids.length).toBe(new Set(ids).size)
        for (const id of acked) expect(ids).toContain(id)
        for (const lane of store.lanes.values()) {
          const numbers = (await readLane(lane)).map(({ id }) => Number(id))
          expect(numbers).toEqual([...numbers].sort((left, right) => left - right))
        }
        const wanted = 5 + rng.below(30)
        const pending: Promise<unknown>[] = []
        for (let index = 0; index < wanted; index++) {
          const id = String(next++)
          const session = [{ key: `open/${id}`, value: utf8('x') }]
          const topic = rng.float() < 0.6 ? 'telemetry' : 'other'
          pending.push(append(id, { topic, session }).then(error => error ?? acked.add(id)))
          expect(store.sessionEntry(`open/${id}`)).toBeDefined()
          if (rng.float() < 0.2) await new Promise(resolve => setImmediate(resolve))
        }
        closing.length = 0
        disk = disk.crash()
      }
      expect(acked.size).toBeGreaterThan(0)
    },
  )

  test('each start opens a run that names the one before and its end; a start without records none', async () => {
    const disk = newDisk()
    for (const count of [2, 0, 3]) {
      const { append, close } = await open(disk)
      for (let index = 0; index < count; index++) await append(String(index))
      await close()
    }
    const { store } = await open(disk)
    const { runs } = laneOf(store).ledger
    expect(runs.map(({ start, end, reason }) => ({ start, end, reason }))).toEqual([
      { start: 0, end: 2, reason: 'first' },
      { start: 2, end: 5, reason: 'next' },
    ])
    expect(runs[1]?.prev).toEqual({ run: runs[0]?.run, end: 2 })
    expect(runs[0]?.run).toBeGreaterThanOrEqual(2 ** 52)
  })

  test('edge times never fall, though the clock does, over a restart', async () => {
    const disk = newDisk()
    let shiftMs = 0
    const clock: Clock = { ...liveClock, nowMs: () => Date.now() + shiftMs }
    const first = await open(disk, {}, clock)
    await first.append('a')
    shiftMs = DAY_MS
    await first.append('b')
    shiftMs = 0
    await first.append('c')
    closing.length = 0
    const { store, append } = await open(disk.crash(), {}, clock)
    await append('d')
    const times = (await readLane(laneOf(store))).map(({ edgeMs }) => edgeMs)
    expect(times.length).toBe(4)
    expect(times).toEqual([...times].sort((left, right) => left - right))
    expect(times[3]).toBeGreaterThan(Date.now() + DAY_MS / 2)
  })

  test('damage is a gap for what the hub lacks, and the rest can be read', async () => {
    const disk = newDisk()
    const first = await open(disk, { storage: { journalBytes: 64 * KIB, segmentBytes: 64 * KIB } })
    for (let index = 0; index < 300; index++) await first.append(String(index), { bytes: 1_000 })
    await first.close()
    const folder = '/edge/logs/topics/telemetry/1/0'
    const [segment] = (await disk.list(folder)).filter(name => name.endsWith('.log'))
    disk.flipBit(`${folder}/${segment}`, 5_000, 3)
    const { store } = await open(disk, { storage: { journalBytes: 64 * KIB, segmentBytes: 64 * KIB } })
    const lane = laneOf(store)
    const { from } = await firstHole(lane)
    const lost = await applyChange(store, lane, { kind: 'lose', from, to: from + 1, reason: 'damage' })
    expect(lost).toBe(true)
    expect(lane.ledger.gaps).toMatchObject([{ from, to: from + 1, reason: 'damage' }])
    const ids = (await readLane(lane)).map(({ id }) => Number(id))
    expect(ids.length).toBe(299)
    expect(ids).not.toContain(from)
  })

  test('damage among what becomes dead letters is a gap of its own, and the rest are dead letters', async () => {
    const disk = newDisk()
    const settings = { storage: { journalBytes: 64 * KIB, segmentBytes: 64 * KIB } }
    const first = await open(disk, settings)
    for (let index = 0; index < 20; index++) await first.append(String(index), { bytes: 1_000 })
    await first.close()
    const folder = '/edge/logs/topics/telemetry/1/0'
    const [segment] = (await disk.list(folder)).filter(name => name.endsWith('.log'))
    disk.flipBit(`${folder}/${segment}`, 5_000, 3)
    const { store } = await open(disk, settings)
    const lane = laneOf(store)
    const { ledger } = lane
    for (let from = 0; from < 20; from = skipGaps(ledger.gaps, from)) {
      expect(await applyChange(store, lane, { kind: 'bury', from, to: 20, why: 'topic_deleted' })).toBe(true)
    }
    expect(ledger.gaps.map(({ reason }) => reason)).toEqual(['refused', 'damage', 'refused'])
    const { from = 0, to = 0 } = ledger.gaps[1] ?? {}
    const dead = await readLane(laneOf(store, '_dead/0'))
    expect(dead.map(({ id }) => Number(id))).toEqual(
      Array.from({ length: 20 }, (_, id) => id).filter(id => id < from || id >= to),
    )
  })
})

/** Reads until damage stops it. */
async function firstHole(lane: Lane): Promise<{ from: number }> {
  for (let at = 0; ; at++) {
    try {
      await lane.read(at, 1)
    } catch {
      return { from: at }
    }
  }
}

describe('budget', () => {
  const small = { budgetBytes: MIB, segmentBytes: 64 * KIB }

  test('drop-oldest: what is dropped is a gap, one for all, and the budget holds', async () => {
    const { store, append } = await open(newDisk(), { storage: small })
    const records = 3_000
    for (let batch = 0; batch < records; batch += 50) {
      const ids = Array.from({ length: 50 }, (_, index) => append(String(batch + index), { bytes: 1_000 }))
      expect((await Promise.all(ids)).filter(error => error !== undefined)).toEqual([])
      expect(store.space.usedBytes()).toBeLessThanOrEqual(MIB)
    }
    const lane = laneOf(store)
    const { gaps, startOffset, endOffset } = lane.ledger
    expect(endOffset).toBe(records)
    expect(gaps).toMatchObject([{ from: 0, to: startOffset, reason: 'disk-full' }])
    expect(gaps[0]?.firstMs).not.toBeNull()
    expect((await readLane(lane)).length).toBe(records - startOffset)
    expect(lane.droppedRecords).toBe(startOffset)
    expect(startOffset).toBeGreaterThan(0)
  })

  test.each([1, 2, 3, 4])('seed %i: a gap is durable before what it covers is deleted', async seed => {
    let disk = newDisk(seed)
    const rng = seededRng(seed)
    let appended = 0
    for (let life = 0; life < 4; life++) {
      const { store, append } = await open(disk, { storage: small })
      for (const lane of store.lanes.values()) {
        const { gaps, startOffset } = lane.ledger
        if (startOffset > 0) expect(gaps[0]).toMatchObject({ from: 0, reason: 'disk-full' })
        expect(gaps[0]?.to ?? 0).toBeGreaterThanOrEqual(startOffset)
      }
      const pending: Promise<unknown>[] = []
      for (let index = 0; index < 600 + rng.below(600); index++) {
        pending.push(append(String(appended++), { bytes: 1_000 }))
        if (index % 40 === 39) await Promise.all(pending.splice(0))
      }
      closing.length = 0
      disk = disk.crash()
    }
  })

  test('reject: the topic’s records are refused, session changes and other topics are not', async () => {
    const topics = { strict: { onFull: 'reject' as const } }
    const { store, append } = await open(newDisk(), { storage: small, topics })
    let refused = 0
    for (let index = 0; index < 1_500; index++) {
      const error = await append(String(index), { topic: 'strict', bytes: 1_000 })
      if (error !== undefined) {
        expect(error.code).toBe('disk_full')
        refused++
      }
    }
    expect(refused).toBeGreaterThan(300)
    expect(laneOf(store, 'strict/0').ledger.gaps).toEqual([])
    const session = [{ key: 'open/1', value: utf8('x') }]
    const done = await new Promise(resolve => store.append(null, session, resolve))
    expect(done).toBeUndefined()
    // What the hub has makes room.
    const lane = laneOf(store, 'strict/0')
    store.space.committed(lane, lane.ledger.durableEnd)
    expect(await append('again', { topic: 'strict', bytes: 1_000 })).toBeUndefined()
  })

  test('a record of a new topic for which there is no room is refused, and the edge goes on', async () => {
    const { append } = await open(new FakeDisk({ rng: seededRng(1) }), {
      topics: { '*': { onFull: 'reject' } },
      storage: { budgetBytes: 256 * KIB, segmentBytes: 64 * KIB },
    })
    let error: TributaryError | undefined
    for (let at = 0; error === undefined; at++) error = await append(`a ${at}`, { bytes: 8 * KIB })
    expect(error.code).toBe('disk_full')
    expect((await append('b', { topic: 'other', bytes: 16 * KIB }))?.code).toBe('disk_full')
  })

  test('what the hub has is kept for keepAckedMs, to within a twentieth and never less', async () => {
    const { store, append } = await open(newDisk())
    for (let index = 0; index < 10; index++) await append(String(index))
    const lane = laneOf(store)
    const spacingMs = DAY_MS / 20
    for (let index = 1; index <= 10; index++) lane.noteCommitted(index, index * 100, spacingMs)
    // All in one short stretch: told by its end.
    expect(lane.agedEnd(DAY_MS + 100, DAY_MS)).toBe(1)
    expect(lane.agedEnd(DAY_MS + 999, DAY_MS)).toBe(1)
    expect(lane.agedEnd(DAY_MS + 1_000, DAY_MS)).toBe(10)
    expect(lane.agedEnd(0, 0)).toBe(10)
    for (let hour = 1; hour < 24 * 7; hour++) lane.noteCommitted(10 + hour, hour * 3_600_000, spacingMs)
    const nowMs = 24 * 7 * 3_600_000
    const aged = lane.agedEnd(nowMs, DAY_MS)
    expect(aged).toBeLessThanOrEqual(10 + 24 * 6)
    expect(aged).toBeGreaterThanOrEqual(10 + 24 * 6 - 3)
  })

  test('sent data goes before unsent data', async () => {
    const { store, append } = await open(newDisk(), { storage: small })
    for (let index = 0; index < 400; index++) await append(String(index), { bytes: 1_000, topic: 'sent' })
    const sent = laneOf(store, 'sent/0')
    store.space.committed(sent, sent.ledger.durableEnd)
    for (let index = 0; index < 800; index++) await append(String(index), { bytes: 1_000 })
    expect(laneOf(store).ledger.gaps).toEqual([])
    expect(sent.ledger.startOffset).toBeGreaterThan(0)
  })

  test('a full disk fails the append and nothing else; with room again it goes on', async () => {
    const disk = newDisk(1, 4 * MIB)
    const topics = { '*': { onFull: 'reject' as const } }
    const { store, append } = await open(disk, { topics, storage: { segmentBytes: 64 * KIB } })
    await append('first')
    const acked: string[] = ['first']
    let failed = 0
    for (let index = 0; index < 6_000 && failed < 20; index++) {
      const error = await append(String(index), { bytes: 1_000 })
      if (error === undefined) acked.push(String(index))
      else {
        // The first by the disk, the others by the budget, which it brought down.
        expect(error.code).toBe(failed === 0 ? 'not_available' : 'disk_full')
        failed++
      }
    }
    expect(failed).toBe(20)
    // Gaps and session state still find room.
    expect(await adopt(store, { session: 3, clusterId: 'c' }, 'fork')).toBe(true)
    expect(storedSession(store)).toEqual({ session: 3, clusterId: 'c' })
    disk.setCapacity(64 * MIB)
    await store.space.measure()
    expect(await append('after')).toBeUndefined()
    acked.push('after')
    const ids = (await readLane(laneOf(store))).map(({ id }) => id)
    expect(ids).toEqual(acked)
  })

  test('logs of a topic that could not all be made are made later', async () => {
    const disk = newDisk()
    const topics = { '*': { lanes: 2, partitionBy: 'key' as const } }
    const { store, append, close } = await open(disk, { topics })
    const mkdir = disk.mkdir.bind(disk)
    disk.mkdir = path => {
      if (path.endsWith('/telemetry/1/1')) return Promise.reject(new Error('ENOSPC: no space left on device'))
      return mkdir(path)
    }
    const refused = await Promise.all([
      append('a'),
      store.openTopic('telemetry').catch(() => null),
      append('b'),
    ])
    expect(refused.map(error => error instanceof TributaryError && error.code)).toEqual([
      'not_available',
      false,
      'not_available',
    ])
    disk.mkdir = mkdir
    expect(await append('c')).toBeUndefined()
    expect(laneOf(store).ledger.durableEnd).toBe(1)
    await close()
    const again = await open(disk, { topics })
    expect(await readLane(laneOf(again.store))).toMatchObject([{ id: 'c', offset: 0 }])
  })
})

describe('limits', () => {
  test('a topic over maxTopics and a record over the largest batch are refused, others are not', async () => {
    const { append } = await open(newDisk(), { storage: { maxTopics: 2 } })
    const results = await Promise.all([
      append('a', { topic: 'one' }),
      append('b', { topic: 'two' }),
      append('c', { topic: 'three' }),
      append('d', { topic: 'one', bytes: 256 * KIB }),
      append('e', { topic: 'two' }),
    ])
    expect(results.map(error => error?.code)).toEqual([
      undefined,
      undefined,
      'limit_exceeded',
      'record_too_large',
      undefined,
    ])
  })

  test('appends that wait are bounded, and end in order when the disk goes on', async () => {
    const disk = newDisk()
    const { store, append } = await open(disk)
    await append('first')
    const release = disk.holdSyncs()
    let done = 0
    const results = Array.from({ length: 1_000 }, (_, index) =>
      append(String(index), { bytes: 50_000 }).then(error => ({ index, code: error?.code, at: done++ })),
    )
    await until('some wait', () => store.stats().waitingBytes > 30 * MIB)
    release()
    const ended = await Promise.all(results)
    expect(ended.map(({ at }) => at)).toEqual(ended.map(({ index }) => index))
    const refused = ended.filter(({ code }) => code !== undefined)
    expect(refused.length).toBeGreaterThan(0)
    expect(new Set(refused.map(({ code }) => code))).toEqual(new Set(['throttled']))
    expect((await readLane(laneOf(store))).length).toBe(1 + ended.length - refused.length)
  })

  test('session entries are seen at once, also of appends that wait', async () => {
    const disk = newDisk()
    const { store, append } = await open(disk)
    await append('first', { session: [{ key: 'a/1', value: utf8('old') }] })
    const release = disk.holdSyncs()
    const all = [
      append('x', {
        session: [
          { key: 'a/1', value: utf8('new') },
          { key: 'a/2', value: utf8('two') },
        ],
      }),
      append('y', {
        topic: 'not-open-yet',
        session: [
          { key: 'a/2', value: null },
          { key: 'a/3', value: utf8('3') },
        ],
      }),
    ]
    expect(utf8Text(store.sessionEntry('a/1') ?? new Uint8Array(0))).toBe('new')
    expect(store.sessionEntry('a/2')).toBeUndefined()
    expect(store.sessionEntries('a/').map(([key]) => key)).toEqual(['a/1', 'a/3'])
    release()
    await Promise.all(all)
    expect(store.sessionEntries('a/').map(([key]) => key)).toEqual(['a/1', 'a/3'])
  })
})

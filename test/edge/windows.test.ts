import { describe, expect, test } from 'vitest'
import { utf8 } from '../../common/bytes.ts'
import { KIB, MIB } from '../../common/limits.ts'
import { partitionForKey } from '../../common/murmur2.ts'
import { freeableEnd } from '../../edge/ledger.ts'
import { MAX_CONFLATED_KEYS, MAX_HELD_BYTES, MAX_THINNED_KEYS } from '../../edge/windows.ts'
import { SMALL_DISK_BYTES } from '../fake-disk.ts'
import { seededRng } from '../rng.ts'
import type { PolicyStage } from './policy-stage.ts'
import { createPolicyStage } from './policy-stage.ts'

/** `conflate` and `thin` at the store: what becomes a record, what is acked when, and that the rest is summarised. */

const THIN = { topics: { telemetry: { thin: { everyMs: 1_000 } } } }
const CONFLATE = { topics: { telemetry: { conflate: { windowMs: 1_000 } } } }

const newStage = () => createPolicyStage(seededRng(1))
const ids = async (stage: PolicyStage, key?: string) => (await stage.read(key)).records.map(({ id }) => id)
const counted = async (stage: PolicyStage) =>
  (await stage.read()).summaries.map(({ offset, summary: { reason, count, keys } }) => [
    offset,
    reason,
    count,
    keys,
  ])

async function appendAll(stage: PolicyStage, readings: readonly string[]): Promise<void> {
  const errors = readings.map(id => stage.append(id, id.slice(0, 1)))
  for (const error of await stage.during(Promise.all(errors))) expect(error).toBeUndefined()
}

describe('thin', () => {
  test('the first reading of a key in an interval passes, the others are counted in their place', async () => {
    const stage = newStage()
    await stage.open(THIN)
    const startMs = stage.clock.nowMs()
    await appendAll(stage, ['a1', 'b1', 'a2', 'a3'])
    stage.clock.advance(999)
    await appendAll(stage, ['a4', 'b2', 'c1'])
    expect(await ids(stage)).toEqual(['a1', 'b1', 'c1'])
    stage.clock.advance(1)
    await stage.turns(10)
    await appendAll(stage, ['a5', 'b3', 'c2'])
    expect(await ids(stage)).toEqual(['a1', 'b1', 'c1', 'a5', 'b3'])
    expect(await counted(stage)).toEqual([[3, 'thinned', 4, 2]])
    const [placed] = (await stage.read()).summaries
    expect(placed?.summary).toMatchObject({ firstMs: startMs, lastMs: startMs + 999 })
    expect(stage.store.windows.counts(stage.lane())).toMatchObject({ thinnedReadings: 5, heldReadings: 0 })
    await stage.close()
  })

  test('a dropped reading is acked once its count is durable, and a crash loses no count', async () => {
    const stage = newStage()
    await stage.open(THIN)
    await appendAll(stage, ['a1'])
    const release = stage.disk.holdSyncs()
    let acked = 0
    const drops = ['a2', 'a3'].map(id => stage.append(id, 'a').then(() => acked++))
    await stage.turns(20)
    expect(acked).toBe(0)
    release()
    await stage.during(Promise.all(drops))
    stage.end(true)
    await stage.open(THIN)
    expect(await ids(stage)).toEqual(['a1'])
    expect(await counted(stage)).toEqual([[1, 'thinned', 2, 1]])
    // It is told once: another start finds nothing left of the window.
    stage.end(true)
    await stage.open()
    expect(await counted(stage)).toEqual([[1, 'thinned', 2, 1]])
    await stage.close()
  })

  test('a reading whose commit failed does not count as the one that passed', async () => {
    const stage = newStage()
    stage.disk.setCapacity(SMALL_DISK_BYTES)
    await stage.open(THIN)
    await appendAll(stage, ['b1'])
    stage.disk.setCapacity(stage.disk.usedBytes())
    expect((await stage.during(stage.append('a1', 'a', { bytes: 20 * KIB })))?.code).toBe('not_available')
    stage.disk.setCapacity(Number.POSITIVE_INFINITY)
    await stage.during(stage.store.space.measure())
    await appendAll(stage, ['a2', 'a3'])
    expect(await ids(stage)).toEqual(['b1', 'a2'])
    await stage.close()
  })

  test('readings of more keys than are remembered pass, and are counted', async () => {
    const stage = newStage()
    await stage.open(THIN)
    const offer = (from: number, to: number) =>
      stage.during(
        Promise.all(Array.from({ length: to - from }, (_, at) => stage.append('x', `key ${from + at}`))),
      )
    for (let at = 0; at < MAX_THINNED_KEYS; at += 10_000) await offer(at, at + 10_000)
    await offer(MAX_THINNED_KEYS - 3, MAX_THINNED_KEYS + 4)
    await offer(MAX_THINNED_KEYS, MAX_THINNED_KEYS + 4)
    expect(stage.store.windows.stats()).toMatchObject({ unthinned: 8, thinnedKeys: MAX_THINNED_KEYS })
    expect(stage.lane().ledger.endOffset).toBe(MAX_THINNED_KEYS + 8)
    // Time makes room.
    stage.clock.advance(1_000)
    await stage.turns(10)
    await offer(0, 1)
    expect(stage.store.windows.stats().thinnedKeys).toBe(1)
    await stage.close()
  })

  test('a budget that is used up drops records, and no summary with them', async () => {
    const stage = newStage()
    const storage = { budgetBytes: 384 * KIB, segmentBytes: 64 * KIB }
    await stage.open({ ...THIN, storage })
    let dropped = 0
    let stored = 0
    for (let second = 0; second < 80; second++) {
      const readings = ['a', 'b', 'a', 'a', 'b']
      await stage.during(
        Promise.all(readings.map((key, at) => stage.append(`${second}-${at}`, key, { bytes: 8 * KIB }))),
      )
      stored += 2
      dropped += 3
      stage.clock.advance(1_000)
      await stage.turns(10)
    }
    const { ledger } = stage.lane()
    const { records, summaries } = await stage.read()
    expect(ledger.startOffset).toBeGreaterThan(0)
    let lost = 0
    let summarised = summaries.reduce((sum, { summary }) => sum + summary.count, 0)
    for (const { from, to, reason, count } of ledger.gaps) {
      if (reason === 'disk-full') lost += to - from
      else summarised += count ?? 0
    }
    expect([records.length + lost, summarised]).toEqual([stored, dropped])
    expect(freeableEnd(ledger)).toBe(ledger.startOffset)
    expect(stage.lane().droppedRecords).toBe(lost)
    await stage.close()
  })
})

describe('conflate', () => {
  test('readings are acked at once; the newest of each key are records when the window ends, in order', async () => {
    const stage = newStage()
    await stage.open(CONFLATE)
    const startMs = stage.clock.nowMs()
    await appendAll(stage, ['a1', 'b1', 'c1'])
    stage.clock.advance(400)
    await appendAll(stage, ['a2', 'c2', 'a3'])
    expect(await ids(stage)).toEqual([])
    expect(stage.store.windows.counts(stage.lane())).toEqual({
      heldReadings: 3,
      conflatedReadings: 3,
      thinnedReadings: 0,
    })
    stage.clock.advance(600)
    await stage.turns(20)
    const { records, summaries } = await stage.read()
    expect(records.map(({ id, edgeMs }) => [id, edgeMs - startMs])).toEqual([
      ['b1', 0],
      ['c2', 400],
      ['a3', 400],
    ])
    expect(summaries).toMatchObject([{ offset: 3, summary: { reason: 'conflated', count: 3, keys: 2 } }])
    await appendAll(stage, ['a4'])
    stage.clock.advance(1_000)
    await stage.turns(20)
    expect(await ids(stage)).toEqual(['b1', 'c2', 'a3', 'a4'])
    expect(stage.store.windows.stats().heldBytes).toBe(0)
    await stage.close()
  })

  test('no ack leaves before fdatasync, and what was acked outlives a power cut', async () => {
    const stage = newStage()
    await stage.open(CONFLATE)
    await appendAll(stage, ['a1', 'b1'])
    const release = stage.disk.holdSyncs()
    let acked = 0
    const more = ['a2', 'a3'].map(id => stage.append(id, 'a').then(() => acked++))
    await stage.turns(20)
    expect(acked).toBe(0)
    release()
    await stage.during(Promise.all(more))
    stage.end(true)
    await stage.open(CONFLATE)
    expect(await ids(stage)).toEqual(['b1', 'a3'])
    expect(await counted(stage)).toEqual([[2, 'conflated', 2, 1]])
    stage.end(true)
    await stage.open(CONFLATE)
    expect(await ids(stage)).toEqual(['b1', 'a3'])
    await stage.close()
  })

  test('a clean stop ends the window', async () => {
    const stage = newStage()
    await stage.open(CONFLATE)
    await appendAll(stage, ['a1', 'a2'])
    await stage.close()
    await stage.open()
    expect(await ids(stage)).toEqual(['a2'])
    expect(await counted(stage)).toEqual([[1, 'conflated', 1, 1]])
    await stage.close()
  })

  test('more keys than a window takes end it early; order stays', async () => {
    const stage = newStage()
    await stage.open(CONFLATE)
    const appends: Promise<unknown>[] = []
    for (let at = 0; at < MAX_CONFLATED_KEYS + 5; at++) appends.push(stage.append(`${at}`, `key ${at}`))
    await stage.during(Promise.all(appends))
    expect(stage.store.windows.stats().endedEarly).toBe(1)
    await appendAll(stage, ['x1'])
    stage.clock.advance(1_000)
    for (let turns = 0; stage.store.windows.heldBytes() > 0 && turns < 2_000; turns++) await stage.turn()
    const stored = await ids(stage)
    expect(stored.length).toBe(MAX_CONFLATED_KEYS + 6)
    expect(stored.slice(0, -1)).toEqual(stored.slice(0, -1).toSorted((left, right) => +left - +right))
    expect(await counted(stage)).toEqual([])
    await stage.close()
  })

  test('what all windows hold is bounded: the fullest ends early, and the others go on', async () => {
    const stage = newStage()
    const conflate = { windowMs: 60_000 }
    await stage.open({ topics: { '*': { conflate } }, storage: { journalBytes: 8 * MIB } })
    let most = 0
    for (let at = 0; at < 90; at++) {
      const options = { topic: `t${at % 10}`, bytes: 400 * KIB }
      expect(await stage.during(stage.append(`${at}`, `key ${at}`, options))).toBeUndefined()
      most = Math.max(most, stage.store.windows.heldBytes())
    }
    expect(most).toBeGreaterThan(MAX_HELD_BYTES / 2)
    expect(most).toBeLessThanOrEqual(MAX_HELD_BYTES)
    expect(stage.store.windows.stats().endedEarly).toBeGreaterThan(0)
    await stage.close()
    await stage.open()
    for (let topic = 0; topic < 10; topic++) {
      const own = Array.from({ length: 9 }, (_, at) => `${at * 10 + topic}`)
      expect(await ids(stage, `t${topic}/0`)).toEqual(own)
    }
    await stage.close()
  })

  test('what was held when the lanes or the policy change comes first, in the lane of its key', async () => {
    const stage = newStage()
    await stage.open(CONFLATE)
    const keys = ['a', 'b', 'c', 'd', 'e', 'f']
    await appendAll(stage, [...keys.map(key => `${key}1`), ...keys.map(key => `${key}2`)])
    stage.end(true)
    const byKey = { lanes: 3, partitionBy: 'key' as const }
    await stage.open({ topics: { telemetry: byKey } })
    await stage.during(
      Promise.all(
        keys.map(key => stage.append(`${key}3`, key, { lane: partitionForKey(utf8(key), byKey.lanes) })),
      ),
    )
    const lanes = await Promise.all([0, 1, 2].map(lane => ids(stage, `telemetry/${lane}`)))
    expect(lanes.flat().toSorted()).toEqual(keys.flatMap(key => [`${key}2`, `${key}3`]))
    for (const [lane, stored] of lanes.entries()) {
      const own = keys.filter(key => partitionForKey(utf8(key), byKey.lanes) === lane)
      expect(stored).toEqual([...own.map(key => `${key}2`), ...own.map(key => `${key}3`)])
    }
    expect(await counted(stage)).toMatchObject([[expect.any(Number), 'conflated', 6, 6]])
    await stage.close()
  })

  test('a window that ends on a full disk waits for room, and is appended once', async () => {
    const stage = newStage()
    stage.disk.setCapacity(SMALL_DISK_BYTES)
    await stage.open(CONFLATE)
    const readings = Array.from({ length: 40 }, (_, at) => `k${at}`)
    await stage.during(Promise.all(readings.map(id => stage.append(id, id, { bytes: 2 * KIB }))))
    stage.disk.setCapacity(stage.disk.usedBytes())
    stage.clock.advance(1_000)
    await stage.turns(50, 50)
    expect(await ids(stage)).toEqual([])
    stage.disk.setCapacity(Number.POSITIVE_INFINITY)
    await stage.turns(60, 50)
    expect(await ids(stage)).toEqual(readings)
    await stage.close()
  })

  test('a reading that fits no batch is refused at once', async () => {
    const stage = newStage()
    await stage.open(CONFLATE)
    const error = await stage.during(stage.append('large', 'a', { bytes: 70 * KIB }))
    expect(error?.code).toBe('record_too_large')
    await stage.close()
  })
})

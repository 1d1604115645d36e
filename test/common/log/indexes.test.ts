import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { concat, utf8 } from '../../../common/bytes.ts'
import { nodeEnv } from '../../../common/env-node.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { IndexCache } from '../../../common/log/index-cache.ts'
import { SegmentIndex } from '../../../common/log/indexes.ts'
import { newSegment, SegmentedLog, saveMeta } from '../../../common/log/segmented-log.ts'
import type { DataDir, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS, readAll } from './model.ts'

/** Indexes and sidecars: bounded in memory, never believed of a segment they are not of. */

function batch(text: string, timestampMs = 1): Uint8Array {
  return buildBatch([{ key: null, value: utf8(text), headers: [], timestampMs }])
}

async function open(disk: FakeDisk): Promise<{ dir: DataDir; log: Log }> {
  const dir = await openDataDir(
    DIRECTORY,
    { ...DIR_OPTIONS, tailCacheBytes: 0 },
    { clock: new FakeClock(), rng: seededRng(2), disk },
  )
  return { dir, log: await dir.openLog('a', LOG_OPTIONS) }
}

describe('the memory of indexes', () => {
  test('is bounded: the longest unread go first, and one being written stays', () => {
    const log = new SegmentedLog(1, 'a', 'a', LOG_OPTIONS)
    log.segments = Array.from({ length: 5 }, (_, at) => newSegment('a', at))
    const cache = new IndexCache(3 * new SegmentIndex().memoryBytes())
    const use = (at: number): void => {
      const segment = log.segments[at]
      if (segment === undefined) return
      segment.readyIndex ??= new SegmentIndex()
      cache.used(log, segment, segment.readyIndex)
    }
    for (const at of [4, 0, 1, 2, 0, 3]) use(at)
    const held = log.segments.map(segment => segment.readyIndex !== undefined)
    expect(held).toEqual([true, false, true, true, true])
    expect([cache.evicted(), cache.sizeBytes()]).toEqual([1, 3 * new SegmentIndex().memoryBytes()])
    for (const segment of log.segments) cache.forget(segment)
    expect(cache.sizeBytes()).toBe(0)
  })

  test('is counted while a directory is read and given back with segments and logs', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    for (let at = 0; at < 20; at++) await log.append(batch('x'.repeat(3_000)))
    const all = dir.stats().indexBytes
    expect(all).toBeGreaterThan(0)
    await log.truncateBefore(10)
    expect(dir.stats().indexBytes).toBeLessThan(all)
    await dir.deleteLog('a')
    expect(dir.stats().indexBytes).toBe(0)
  })

  test('is taken by entries alone where files are loaded', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    await disk.mkdir('a')
    const index = new SegmentIndex()
    for (let at = 0; at < 1_000; at++) index.add(at, at * 5_000, 5_000, at)
    await index.save(disk, 'a/0')
    const loaded = await SegmentIndex.load(disk, 'a/0', 5_000_000)
    expect([loaded.entryCount(), loaded.memoryBytes()]).toEqual([1_000, 16_000])
  })
})

describe('an index', () => {
  test('whose files could not be written is written whole the next time', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    await disk.mkdir('a')
    const index = new SegmentIndex()
    for (let at = 0; at < 10; at++) index.add(at, at * 5_000, 5_000, at)
    disk.setCapacity(30)
    await expect(index.save(disk, 'a/0')).rejects.toMatchObject({ code: 'ENOSPC' })
    disk.setCapacity(Number.POSITIVE_INFINITY)
    index.add(10, 50_000, 5_000, 10)
    await index.save(disk, 'a/0')
    expect((await SegmentIndex.load(disk, 'a/0', 55_000)).entryCount()).toBe(11)
  })

  test('is rebuilt in steps that let other work go on', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-index-'))
    const options = { ...DIR_OPTIONS, journalBytes: 16 << 20, tailCacheBytes: 0 }
    try {
      const path = join(folder, 'dir')
      const dir = await openDataDir(path, options, nodeEnv())
      const log = await dir.openLog('a', { ...LOG_OPTIONS, segmentBytes: 1 << 30 })
      const run = concat(Array.from({ length: 10_000 }, () => batch('x'.repeat(300))))
      for (let at = 0; at < 4; at++) await log.append(run.slice())
      await dir.close()
      for (const suffix of ['index', 'timeindex', 'meta'])
        await rm(join(path, 'logs', 'a', `${'0'.repeat(20)}.${suffix}`), { force: true })
      const again = await openDataDir(path, options, nodeEnv())
      const reopened = await again.openLog('a', LOG_OPTIONS)
      let turns = 0
      let reading = true
      const count = (): void => {
        turns++
        if (reading) setImmediate(count)
      }
      setImmediate(count)
      await reopened.read(39_999, 1_000)
      reading = false
      // At least one for each mebibyte of the 15.
      expect(turns).toBeGreaterThan(14)
      await again.close()
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })
})

describe('a sidecar', () => {
  test('of a segment that has grown since is not believed', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const first = await open(disk)
    await first.log.append(batch('old', 100), { appendTimeMs: 1_000 })
    const sizeBytes = first.log.sizeBytes()
    await first.dir.close()
    const second = await open(disk)
    await second.log.append(batch('new', 900), { appendTimeMs: 9_000 })
    // Looked for by time only after it has grown, and with no index in memory.
    expect(await second.log.offsetForEventTime(500)).toBe(1)
    await second.log.append(batch('x'.repeat(5_900), 901), { appendTimeMs: 9_001 })
    // The machine stops before the closed segment's own sidecar is on the disk.
    const after = disk.crash()
    const stale = { sizeBytes, firstTimeMs: 1_000, lastTimeMs: 1_000, maxEventTimeMs: 100 }
    await saveMeta({ ...newSegment(`${DIRECTORY}/logs/a`, 0), ...stale }, after)
    const third = await open(after)
    third.log.configure({ ...LOG_OPTIONS, retentionMs: 3_000 })
    expect(await third.log.applyRetention(10_000, 10)).toBe(0)
    expect(await third.log.offsetForEventTime(500)).toBe(1)
  })

  test('read at once follows what is appended after it', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const first = await open(disk)
    await first.log.append(batch('old', 100))
    await first.dir.close()
    const second = await open(disk)
    await second.log.applyRetention(1, 0)
    await second.log.append(batch('new', 900))
    expect(await second.log.offsetForEventTime(500)).toBe(1)
  })
})

describe('a search by event time', () => {
  test('finds the first batch that reaches the time, however out of order the times are', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    const rng = seededRng(7)
    const times = Array.from({ length: 60 }, () => rng.below(1_000))
    for (const time of times) await log.append(batch('x'.repeat(1_500), time))
    const expected = Array.from({ length: 11 }, (_, at) => {
      const found = times.findIndex(time => time >= at * 100)
      return found < 0 ? times.length : found
    })
    const search = (from: Log): Promise<number[]> =>
      Promise.all(expected.map((_, at) => from.offsetForEventTime(at * 100)))
    expect(await search(log)).toEqual(expected)
    await dir.close()
    const again = await open(disk)
    expect(await search(again.log)).toEqual(expected)
    await again.dir.close()
    for (const path of disk.paths()) if (/\.(index|timeindex|meta)$/.test(path)) await disk.remove(path)
    expect(await search((await open(disk)).log)).toEqual(expected)
  })

  test('stops before damage that may hide it', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    for (const time of [1, 2, 900, 3]) await log.append(batch('x'.repeat(1_000), time))
    await dir.close()
    const path = `${DIRECTORY}/logs/a/${'0'.repeat(20)}.log`
    // The magic byte of the second batch.
    disk.flipBit(path, disk.contentOf(path).length / 4 + 16, 3)
    for (const index of disk.paths()) if (/index$/.test(index)) await disk.remove(index)
    const again = await open(disk)
    expect(await again.log.offsetForEventTime(500)).toBe(1)
  })
})

describe('a read', () => {
  test('that races retention or deletion says so and leaves no file behind', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    for (let at = 0; at < 20; at++) await log.append(batch('x'.repeat(3_000)))
    await dir.close()
    const again = await open(disk)
    const outcomes = async (reads: Promise<unknown>[]): Promise<unknown[]> => {
      const settled = await Promise.allSettled(reads)
      return settled.map(result => (result.status === 'rejected' ? result.reason.code : 'read'))
    }
    const early = Array.from({ length: 10 }, (_, at) => again.log.read(at, 100))
    await again.log.truncateBefore(10)
    for (const outcome of await outcomes(early)) expect(['read', 'offset_out_of_range']).toContain(outcome)
    expect(again.log.damage()).toEqual([])
    const late = Array.from({ length: 10 }, (_, at) => again.log.read(10 + at, 100))
    await again.dir.deleteLog('a')
    for (const outcome of await outcomes(late)) expect(['read', 'closed']).toContain(outcome)
    expect(disk.paths().filter(path => path.includes('/logs/'))).toEqual([])
  })

  test.each([0, 2])('of a segment whose file is gone calls it damage (%i)', async gone => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    for (let at = 0; at < 6; at++) await log.append(batch('x'.repeat(4_000)))
    await dir.close()
    await disk.remove(`${DIRECTORY}/logs/a/${String(gone).padStart(20, '0')}.log`)
    const again = await open(disk)
    if (gone > 0) await expect(again.log.read(2, 100)).rejects.toMatchObject({ code: 'corrupt_log' })
    expect(again.log.damage()).toMatchObject([{ fromOffset: gone, toOffset: gone + 1 }])
    for (const damage of again.log.damage()) again.log.isolate(damage)
    expect((await readAll(again.log)).map(({ baseOffset }) => baseOffset)).toEqual(
      [0, 1, 2, 3, 4, 5].filter(offset => offset !== gone),
    )
  })
})

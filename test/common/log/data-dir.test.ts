import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { buildControlBatch } from '../../../common/batch-control.ts'
import { utf8, utf8Text, writeI64 } from '../../../common/bytes.ts'
import { nodeEnv } from '../../../common/env-node.ts'
import type { TributaryError } from '../../../common/errors.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, DataDirOptions, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk, smallDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS, readAll } from './model.ts'

/** The sentences of DESIGN.md, "The log", one by one. */

function batch(text: string, records = 1, timestampMs = 1): Uint8Array {
  const one = { key: null, value: utf8(text), headers: [], timestampMs }
  return buildBatch(Array.from({ length: records }, () => one))
}

interface World {
  disk: FakeDisk
  clock: FakeClock
  dir: DataDir
  log: Log
}

async function world(
  options: Partial<DataDirOptions> = {},
  disk = new FakeDisk({ rng: seededRng(1) }),
): Promise<World> {
  const clock = new FakeClock()
  const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, ...options }, { clock, rng: seededRng(2), disk })
  return { disk, clock, dir, log: await dir.openLog('a/0', LOG_OPTIONS) }
}

function turns(count: number): Promise<void> {
  return new Promise(resolve => {
    const next = (left: number): void => {
      if (left === 0) resolve()
      else setImmediate(() => next(left - 1))
    }
    next(count)
  })
}

async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false
  const mark = (): void => {
    done = true
  }
  promise.then(mark, mark)
  await turns(20)
  return done
}

describe('a commit', () => {
  test('is acked only after fdatasync returned', async () => {
    const { disk, log } = await world()
    const release = disk.holdSyncs()
    const append = log.append(batch('held'))
    expect(await settled(append)).toBe(false)
    expect(disk.heldSyncs).toBe(1)
    expect([log.endOffset(), log.durableEndOffset()]).toEqual([1, 0])
    expect((await log.read(0, 1000)).batches.length).toBe(0)
    release()
    expect(await append).toEqual({ baseOffset: 0, lastOffset: 0 })
    expect(log.durableEndOffset()).toBe(1)
  })

  test('is shared by all that arrive while one is in flight, with one fdatasync however many logs', async () => {
    const { disk, dir, log } = await world()
    const other = await dir.openLog('b', LOG_OPTIONS)
    const before = dir.stats().commits
    const release = disk.holdSyncs()
    const first = log.append(batch('first'))
    await turns(5)
    const later: Promise<unknown>[] = []
    for (let at = 0; at < 10; at++) {
      later.push(log.append(batch('x')), other.append(batch('y')))
      await turns(1)
    }
    const syncs = disk.syncs
    release()
    await Promise.all([first, ...later])
    expect(dir.stats().commits - before).toBe(2)
    expect(disk.syncs - syncs).toBe(2)
  })

  test('waits commitMs for company, and flush ends the wait', async () => {
    const { clock, log, dir } = await world({ commitMs: 10 })
    const append = log.append(batch('waits'))
    expect(await settled(append)).toBe(false)
    clock.advance(10)
    await append
    const second = log.append(batch('hurried'))
    await dir.flush()
    await second
  })

  test('waits no longer once it is worth a write to the disk', async () => {
    const { log } = await world({ commitMs: 10 })
    const small = log.append(batch('waits'))
    expect(await settled(small)).toBe(false)
    const large = Array.from({ length: 35 }, () => log.append(batch('x'.repeat(1_000))))
    await Promise.all([small, ...large])
  })

  test('takes what collectors append right before it gathers', async () => {
    const { dir, log } = await world()
    const collected: Promise<unknown>[] = []
    dir.collectAtNextCommit(() => collected.push(log.append(batch('collected'))))
    expect(collected.length).toBe(0)
    await dir.flush()
    expect(collected.length).toBe(1)
    expect(log.durableEndOffset()).toBe(1)
  })

  test('resolves appends in order, then tells the listener', async () => {
    const { log } = await world()
    const order: string[] = []
    log.onDurable(end => order.push(`durable ${end}`))
    await Promise.all([
      log.append(batch('1')).then(() => order.push('1')),
      log.append(batch('2')).then(() => order.push('2')),
    ])
    expect(order.filter(what => what.length === 1)).toEqual(['1', '2'])
    expect(order).toContain('durable 2')
  })

  test('that fails to sync is final: all pending and later appends reject, told once', async () => {
    const { disk, dir, log } = await world()
    const told: TributaryError[] = []
    dir.onFailed(error => told.push(error))
    const release = disk.holdSyncs()
    disk.failSyncs(1)
    const first = log.append(batch('in flight'))
    await turns(5)
    const second = log.append(batch('pending'))
    release()
    await expect(first).rejects.toMatchObject({ code: 'disk_failed' })
    await expect(second).rejects.toMatchObject({ code: 'disk_failed' })
    await expect(log.append(batch('later'))).rejects.toMatchObject({ code: 'disk_failed' })
    await expect(dir.flush()).rejects.toMatchObject({ code: 'disk_failed' })
    expect(told.length).toBe(1)
    expect(log.durableEndOffset()).toBe(0)
    await dir.close()
  })
})

describe('append', () => {
  test('stamps base offset and leader epoch, keeps the jump of a control batch', async () => {
    const { log } = await world()
    await log.append(batch('x', 3), { leaderEpoch: 7 })
    const gap = buildControlBatch({ type: 1001, value: utf8('gap'), producerId: 1, timestampMs: 1 })
    writeI64(gap, 0, 100)
    expect(await log.append(gap)).toEqual({ baseOffset: 100, lastOffset: 100 })
    await log.append(batch('y'))
    const { batches, nextOffset } = await log.read(0, 10_000)
    const headers = [...eachBatch(batches)].map(({ header }) => [header.baseOffset, header.leaderEpoch])
    expect(headers).toEqual([
      [0, 7],
      [100, 0],
      [101, 0],
    ])
    expect(nextOffset).toBe(102)
    expect((await log.read(50, 1)).nextOffset).toBe(101)
  })

  test('refuses what is no whole batch, or too large, and changes nothing', async () => {
    const { log } = await world()
    await expect(log.append(batch('x').subarray(0, 40))).rejects.toMatchObject({ code: 'corrupt_batch' })
    await expect(log.append(batch('x'.repeat(70_000)))).rejects.toMatchObject({ code: 'record_too_large' })
    expect(log.endOffset()).toBe(0)
  })

  test('rejects with throttled when too much waits', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const clock = new FakeClock()
    const dir = await openDataDir(
      DIRECTORY,
      { ...DIR_OPTIONS, journalBytes: 4 << 20 },
      { clock, rng: seededRng(2), disk },
    )
    const log = await dir.openLog('a', { ...LOG_OPTIONS, maxBatchBytes: 2 << 20 })
    disk.holdSyncs()
    const big = batch('x'.repeat((1 << 20) - 100))
    const refused: unknown[] = []
    for (let at = 0; at < 130; at++) {
      log.append(big).catch(error => refused.push(error))
      await Promise.resolve()
    }
    await turns(2)
    expect(refused.length).toBeGreaterThan(0)
    expect(refused[0]).toMatchObject({ code: 'throttled' })
    expect(dir.stats().throttledRejections).toBe(refused.length)
  })
})

describe('a full disk', () => {
  test('fails the append and cuts it; the log goes on when there is room', async () => {
    const { disk, log } = await world({ reserveBytes: 0 }, smallDisk())
    await log.append(batch('before'))
    const size = log.sizeBytes()
    disk.setCapacity(disk.usedBytes() + 100)
    await expect(log.append(batch('x'.repeat(500)))).rejects.toMatchObject({ code: 'disk_full' })
    expect(disk.contentOf(`${DIRECTORY}/logs/a/0/00000000000000000000.log`).length).toBe(size)
    expect(log.endOffset()).toBe(1)
    disk.setCapacity(Number.POSITIVE_INFINITY)
    expect(await log.append(batch('after'))).toEqual({ baseOffset: 1, lastOffset: 1 })
  })

  test('leaves the reserve to appends that may use it', async () => {
    const { disk, dir, log } = await world({}, smallDisk())
    const state = await dir.openState('state', 1 << 20)
    await turns(20)
    disk.setCapacity(disk.usedBytes())
    await expect(log.append(batch('data'.repeat(50)))).rejects.toMatchObject({ code: 'disk_full' })
    await log.append(batch('gap'), { useReserve: true })
    await state.put([{ key: 'k', value: utf8('v') }])
    expect(dir.stats().diskFullRejections).toBe(1)
    expect(disk.paths()).not.toContain(`${DIRECTORY}/reserve`)
    expect(log.durableEndOffset()).toBe(1)
  })
})

describe('opening', () => {
  test('refuses a newer format and a directory in use', async () => {
    const { disk, dir } = await world()
    const env = { clock: new FakeClock(), rng: seededRng(1), disk }
    await expect(openDataDir(DIRECTORY, DIR_OPTIONS, env)).rejects.toMatchObject({ code: 'directory_in_use' })
    await dir.close()
    const meta = utf8Text(await disk.readFile(`${DIRECTORY}/meta.json`)).replace(
      '"formatVersion": 1',
      '"formatVersion": 2',
    )
    await disk.replaceFile(`${DIRECTORY}/meta.json`, utf8(meta))
    await expect(openDataDir(DIRECTORY, DIR_OPTIONS, env)).rejects.toMatchObject({
      code: 'directory_newer_format',
    })
  })

  test('cuts a torn tail, keeps it aside and tells', async () => {
    const { disk, log } = await world({}, smallDisk())
    await log.append(batch('acked'))
    disk.holdSyncs()
    log.append(batch('torn'.repeat(100))).catch(() => {})
    await turns(10)
    // The journal record did not reach the disk; the segment's bytes did.
    const next = disk.kill()
    const journal = await next.open(`${DIRECTORY}/journal-0`, 'write')
    await journal.writev([new Uint8Array(4096)], 2 * 4096)
    const again = await world({}, next)
    expect(again.log.endOffset()).toBe(1)
    const [tail] = again.dir.recovery.tornTails
    expect(tail).toMatchObject({ log: 'a/0', fromOffset: 1 })
    expect(next.contentOf(tail?.keptAs ?? '').length).toBe(tail?.cutBytes)
    expect(again.dir.recovery.damage).toEqual([])
  })

  test('tells when the directory came back below its durable end, and never assigns those offsets again', async () => {
    const { disk, dir, log } = await world()
    await log.append(batch('one', 5))
    await dir.close()
    const file = await disk.open(`${DIRECTORY}/logs/a/0/00000000000000000000.log`, 'write')
    await file.truncate(10)
    const again = await world({}, disk)
    expect(again.dir.recovery.belowDurableEnd).toBe(true)
    expect(again.dir.recovery.damage).toMatchObject([{ log: 'a/0', fromOffset: 0, toOffset: 5 }])
    expect((await again.log.read(0, 100)).nextOffset).toBe(5)
    expect(await again.log.append(batch('on'))).toEqual({ baseOffset: 5, lastOffset: 5 })
    await again.dir.recoveryHandled()
    await again.dir.close()
    const third = await world({}, disk)
    expect(third.dir.recovery.belowDurableEnd).toBe(false)
    expect((await readAll(third.log)).map(({ baseOffset }) => baseOffset)).toEqual([5])
  })

  test('reads no more of a large log than its end, after a crash too', async () => {
    const { disk, log } = await world({ journalBytes: 64 * 1024 })
    for (let at = 0; at < 300; at++) await log.append(batch('x'.repeat(5000)))
    const next = disk.crash()
    const again = await world({}, next)
    expect(again.log.endOffset()).toBe(300)
    // Both halves of the journal, read to find commits, to check and to copy them, and what they hold.
    expect(next.readBytes).toBeLessThan(6 * 2 * 64 * 1024)
    expect(log.sizeBytes()).toBeGreaterThan(1_500_000)
  })

  test('finds a deleted log gone and one made again under its name empty', async () => {
    const { disk, dir, log } = await world()
    await log.append(batch('old'))
    await dir.deleteLog('a/0')
    await expect(log.append(batch('late'))).rejects.toMatchObject({ code: 'closed' })
    expect(dir.logNames()).toEqual([])
    const made = await dir.openLog('a/0', LOG_OPTIONS)
    expect(made.endOffset()).toBe(0)
    await made.append(batch('new'))
    const again = await world({}, disk.crash())
    expect(again.log.endOffset()).toBe(1)
    expect((await readAll(again.log)).length).toBe(1)
  })
})

describe('segments', () => {
  test('roll by size and age, and go by retention with their newest hub time', async () => {
    const { disk, log, dir, clock } = await world()
    for (let at = 0; at < 10; at++) await log.append(batch('x'.repeat(3000)), { appendTimeMs: 1000 * at })
    clock.advance(100)
    await turns(20)
    const names = await disk.list(`${DIRECTORY}/logs/a/0`)
    expect(names.filter(name => name.endsWith('.log')).length).toBeGreaterThan(4)
    log.configure({ ...LOG_OPTIONS, retentionMs: 4000 })
    // A log end that no snapshot covers yet keeps its segments.
    expect(await log.applyRetention(100_000, 2)).toBe(2)
    const start = await log.applyRetention(9000, 1000)
    expect(start).toBe(4)
    await expect(log.read(start - 1, 100)).rejects.toMatchObject({ code: 'offset_out_of_range' })
    log.configure({ ...LOG_OPTIONS, segmentMs: 500 })
    await log.append(batch('old enough'), { appendTimeMs: 20_000 })
    await log.append(batch('a new one'), { appendTimeMs: 20_600 })
    await dir.close()
    const again = await world({}, disk)
    expect([again.log.startOffset(), again.log.endOffset()]).toEqual([4, 12])
    expect(await disk.list(`${DIRECTORY}/logs/a/0`)).toContain('00000000000000000011.log')
  })

  test('without their sidecar are kept', async () => {
    const { disk, log, dir } = await world()
    for (let at = 0; at < 6; at++) await log.append(batch('x'.repeat(3000)), { appendTimeMs: 1000 * at })
    await dir.close()
    for (const path of disk.paths()) if (path.endsWith('.meta')) await disk.remove(path)
    const again = await world({}, disk)
    again.log.configure({ ...LOG_OPTIONS, retentionMs: 1 })
    expect(await again.log.applyRetention(10_000_000, 1000)).toBe(0)
  })

  test('give their space back when all in them is truncated, the active one too', async () => {
    const { disk, log, dir } = await world()
    for (let at = 0; at < 20; at++) await log.append(batch('x'.repeat(3000)))
    expect(log.bytesBefore(20)).toBeGreaterThan(50_000)
    await log.truncateBefore(20)
    expect(log.sizeBytes()).toBeLessThan(10_000)
    await log.append(batch('more'))
    await dir.close()
    expect(
      disk.paths().filter(path => path.includes('/logs/a/') && path.endsWith('.log')).length,
    ).toBeLessThanOrEqual(2)
    const again = await world({}, disk)
    expect([again.log.startOffset(), again.log.endOffset()]).toEqual([20, 21])
  })

  test('are cut after an offset, also in memory', async () => {
    const { log } = await world({ tailCacheBytes: 1 << 20 })
    for (let at = 0; at < 10; at++) await log.append(batch(`old ${at}`.repeat(300), 2))
    await log.truncateAfter(7)
    expect([log.endOffset(), log.durableEndOffset()]).toEqual([6, 6])
    await log.append(batch('new'))
    const found = await readAll(log)
    expect(found.map(({ baseOffset }) => baseOffset)).toEqual([0, 2, 4, 6])
  })
})

describe('reading', () => {
  test('gives the same from memory and from disk, bounded by bytes and limit', async () => {
    const { disk, log, dir } = await world({ tailCacheBytes: 1 << 20 })
    for (let at = 0; at < 30; at++) await log.append(batch(`v${at}`.repeat(100), 1 + (at % 3), at * 10))
    const walk = async (from: Log, limit?: number): Promise<string[]> => {
      const found: string[] = []
      for (let offset = 0; offset < (limit ?? from.durableEndOffset()); ) {
        const { batches, nextOffset } = await from.read(offset, 1500, limit)
        if (nextOffset === offset) break
        expect(batches.length).toBeLessThanOrEqual(1500)
        for (const { at, header } of eachBatch(batches))
          found.push(`${header.baseOffset}:${header.crc}:${batches[at + 30]}`)
        offset = nextOffset
      }
      return found
    }
    const warm = await walk(log)
    const limited = await walk(log, 11)
    const times = await Promise.all([0, 5, 100, 290, 291].map(time => log.offsetForEventTime(time)))
    await dir.close()
    const again = await world({}, disk)
    expect(await walk(again.log)).toEqual(warm)
    expect(await walk(again.log, 11)).toEqual(limited)
    expect(limited.length).toBeLessThan(warm.length)
    expect(await Promise.all([0, 5, 100, 290, 291].map(time => again.log.offsetForEventTime(time)))).toEqual(
      times,
    )
    expect(times).toEqual([0, 1, 19, 57, 60])
    // One batch however large.
    expect((await again.log.read(0, 1)).batches.length).toBeGreaterThan(100)
  })

  test('refuses damage with its place until it is isolated', async () => {
    const { disk, log, dir } = await world()
    for (let at = 0; at < 3; at++) await log.append(batch(`v${at}`.repeat(100)))
    await dir.close()
    disk.flipBit(`${DIRECTORY}/logs/a/0/00000000000000000000.log`, Math.floor(log.sizeBytes() / 2), 3)
    const again = await world({}, disk)
    expect((await again.log.read(0, 10_000)).nextOffset).toBe(1)
    await expect(again.log.read(1, 100)).rejects.toMatchObject({
      code: 'corrupt_log',
      details: { fromOffset: 1, toOffset: 2 },
    })
    const [damage] = again.log.damage()
    if (damage !== undefined) again.log.isolate(damage)
    expect((await again.log.read(1, 100)).nextOffset).toBe(2)
    expect((await again.log.read(2, 100)).nextOffset).toBe(3)
    await again.dir.close()
    const third = await world({}, disk)
    expect((await third.log.read(1, 100)).nextOffset).toBe(2)
  })
})

describe('a StateLog', () => {
  test('keeps live entries over restarts, bounded, and shrinks', async () => {
    const { disk, dir } = await world({ journalBytes: 1 << 20 })
    const state = await dir.openState('state', 40_000)
    for (let at = 0; at < 400; at++) {
      await state.put([
        { key: `k${at % 10}`, value: utf8(`${at}`.repeat(1000)) },
        { key: 'gone', value: at % 2 === 0 ? utf8('x') : null },
      ])
    }
    await expect(state.put([{ key: 'big', value: new Uint8Array(40_000) }])).rejects.toMatchObject({
      code: 'limit_exceeded',
    })
    await dir.close()
    const stored = disk.paths().filter(path => path.includes('/logs/state/') && path.endsWith('.log'))
    expect(stored.reduce((sum, path) => sum + disk.contentOf(path).length, 0)).toBeLessThan(1_100_000)
    const again = await world({}, disk)
    const reopened = await again.dir.openState('state', 40_000)
    expect(reopened.entries('k').map(([key, value]) => [key, utf8Text(value).slice(0, 3)])).toEqual(
      Array.from({ length: 10 }, (_, at) => [`k${at}`, `39${at}`]),
    )
    expect(reopened.get('gone')).toBeUndefined()
    expect(reopened.liveBytes()).toBe(state.liveBytes())
  })

  test('takes back a put that was not made durable', async () => {
    const { disk, dir } = await world({ reserveBytes: 0 }, smallDisk())
    const state = await dir.openState('state', 40_000)
    await state.put([{ key: 'k', value: utf8('kept') }])
    disk.setCapacity(disk.usedBytes())
    const put = state.put([{ key: 'k', value: utf8('refused') }])
    expect(utf8Text(state.get('k') ?? utf8(''))).toBe('refused')
    await expect(put).rejects.toMatchObject({ code: 'disk_full' })
    expect(utf8Text(state.get('k') ?? utf8(''))).toBe('kept')
  })
})

describe('on a real disk', () => {
  const folders: string[] = []
  afterEach(async () => {
    for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
  })

  test('a directory copied at any moment opens with every batch acked before', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-log-'))
    folders.push(folder)
    const path = join(folder, 'dir')
    const dir = await openDataDir(path, { ...DIR_OPTIONS, journalBytes: 256 * 1024 }, nodeEnv())
    await expect(openDataDir(path, DIR_OPTIONS, nodeEnv())).rejects.toMatchObject({
      code: 'directory_in_use',
    })
    const logs = await Promise.all(['x', 'y/1', 'y/2'].map(name => dir.openLog(name, LOG_OPTIONS)))
    for (let round = 0; round < 5; round++) {
      const acked: number[] = []
      const under: Promise<unknown>[] = []
      for (let at = 0; at < 60; at++) {
        for (const log of logs) under.push(log.append(batch(`${round}/${at}`.repeat(50), 2)))
        if (at === 40) {
          await Promise.all(under)
          for (const log of logs) acked.push(log.durableEndOffset())
        }
      }
      // Journal first and checkpoint before it: the order in which they become durable, the other way round.
      const copy = join(folder, `copy-${round}`)
      for (const part of ['meta.json', 'checkpoint', 'journal-0', 'journal-1', 'logs']) {
        await cp(join(path, part), join(copy, part), { recursive: true }).catch(() => {})
      }
      await Promise.all(under)
      const again = await openDataDir(copy, { ...DIR_OPTIONS, journalBytes: 256 * 1024 }, nodeEnv())
      expect(again.recovery.damage).toEqual([])
      for (const [at, log] of logs.entries()) {
        const copied = await again.openLog(log.name, LOG_OPTIONS)
        expect(copied.endOffset()).toBeGreaterThanOrEqual(acked[at] ?? 0)
        const found = await readAll(copied)
        expect(found.length * 2).toBe(copied.endOffset())
      }
      await again.close()
    }
    await dir.close()
  }, 30_000)
})

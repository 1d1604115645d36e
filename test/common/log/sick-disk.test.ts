import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import type { DiskFile, OpenMode } from '../../../common/env.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, DataDirOptions, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk, SMALL_DISK_BYTES } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS, readAll } from './model.ts'

/** What a disk may do beside losing what was not synced: refuse late, refuse by quota, refuse what nobody waits for. */

/** Lets a test say what a file does instead. */
class SickDisk extends FakeDisk {
  sickness: (path: string, file: DiskFile) => Partial<DiskFile> = () => ({})

  override async open(path: string, mode: OpenMode): Promise<DiskFile> {
    const file = await super.open(path, mode)
    return { ...file, ...this.sickness(path, file) }
  }
}

function systemError(code: string): Error {
  return Object.assign(new Error(code), { code })
}

function batch(text: string): Uint8Array {
  return buildBatch([{ key: null, value: utf8(text), headers: [], timestampMs: 1 }])
}

async function open(
  disk: FakeDisk,
  options: Partial<DataDirOptions> = {},
): Promise<{ disk: FakeDisk; dir: DataDir; log: Log }> {
  const env = { clock: new FakeClock(), rng: seededRng(2), disk }
  const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, ...options }, env)
  return { disk, dir, log: await dir.openLog('a', LOG_OPTIONS) }
}

describe('a sick disk', () => {
  test('that says only when syncing a segment that it is full has failed for good', async () => {
    const disk = new SickDisk({ rng: seededRng(1) })
    disk.sickness = path =>
      path.endsWith('.log') ? { datasync: () => Promise.reject(systemError('ENOSPC')) } : {}
    const { dir, log } = await open(disk)
    const outcome = (async () => {
      for (let at = 0; at < 100; at++) await log.append(batch('x'.repeat(3_000)))
    })()
    await expect(outcome).rejects.toMatchObject({ code: 'disk_failed' })
    const acked = log.durableEndOffset()
    const checkpoints = dir.stats().checkpoints
    await dir.close()
    expect(dir.stats().checkpoints).toBe(checkpoints)
    const again = await open(disk.crash())
    expect(again.log.endOffset()).toBeGreaterThanOrEqual(acked)
    expect(again.dir.recovery.damage).toEqual([])
  })

  test('that is over a quota is full, and no more', async () => {
    const disk = new SickDisk({ rng: seededRng(1), capacityBytes: SMALL_DISK_BYTES })
    let over = false
    disk.sickness = (path, file) => ({
      writev: (buffers, position) =>
        over && path.endsWith('.log')
          ? Promise.reject(systemError('EDQUOT'))
          : file.writev(buffers, position),
    })
    const { log } = await open(disk, { reserveBytes: 0 })
    over = true
    await expect(log.append(batch('refused'))).rejects.toMatchObject({ code: 'disk_full' })
    over = false
    expect(await log.append(batch('taken'))).toEqual({ baseOffset: 0, lastOffset: 0 })
  })

  test('that can’t write index files is told of by a counter, and costs nothing else', async () => {
    const disk = new SickDisk({ rng: seededRng(1) })
    disk.sickness = path =>
      path.endsWith('index') ? { writev: () => Promise.reject(systemError('EIO')) } : {}
    const { dir, log } = await open(disk)
    for (let at = 0; at < 10; at++) await log.append(batch('x'.repeat(3_000)))
    await dir.close()
    expect(dir.stats().backgroundFailures).toBeGreaterThan(0)
    const again = await open(disk, { tailCacheBytes: 0 })
    expect((await again.log.read(9, 100)).nextOffset).toBe(10)
  })
})

describe('what a full disk took back', () => {
  /** One batch, a second that is refused half written, and nothing synced of its removal. */
  async function refused(seed: number): Promise<{ disk: FakeDisk; log: Log }> {
    const disk = new FakeDisk({ rng: seededRng(seed), tearing: 'none', capacityBytes: SMALL_DISK_BYTES })
    const first = await open(disk, { reserveBytes: 0 })
    await first.log.append(batch('first'))
    await first.dir.close()
    const { log } = await open(disk, { reserveBytes: 0 })
    disk.setCapacity(disk.usedBytes() + 1_500)
    const refusals = [1, 2].map(at => log.append(batch(`${at}`.repeat(1_000))))
    for (const outcome of await Promise.allSettled(refusals)) expect(outcome.status).toBe('rejected')
    disk.setCapacity(Number.POSITIVE_INFINITY)
    return { disk, log }
  }

  test.each(['by a new segment', 'by a new segment after a kill', 'by a checkpoint after a kill'])(
    'does not come back after two stops when it was followed %s',
    async how => {
      for (let seed = 1; seed <= 40; seed++) {
        const { disk, log } = await refused(seed)
        if (how === 'by a new segment') await log.append(batch('x'.repeat(6_100)))
        const second = await open(disk.kill(), { reserveBytes: 0 })
        const after = how === 'by a checkpoint after a kill' ? 20 : how === 'by a new segment' ? 0 : 1
        for (let at = 0; at < after; at++) await second.log.append(batch('x'.repeat(6_100)))
        const expected = await readAll(second.log)
        const third = await open(second.disk.crash(), { reserveBytes: 0 })
        expect(await readAll(third.log)).toEqual(expected)
        expect(third.dir.recovery.damage).toEqual([])
      }
    },
  )
})

describe('a directory below its durable end', () => {
  test('tells at every start that it came back below its durable end, until that was handled', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    await log.append(batch('one'))
    await dir.close()
    const file = await disk.open(`${DIRECTORY}/logs/a/${'0'.repeat(20)}.log`, 'write')
    await file.truncate(10)
    // A crash before whoever opened it has written down what follows from it, then an orderly stop, as of a repair.
    const second = await open(disk)
    expect(second.dir.recovery.belowDurableEnd).toBe(true)
    const third = await open(second.disk.crash())
    expect(third.dir.recovery.belowDurableEnd).toBe(true)
    await third.dir.close()
    const fourth = await open(third.disk)
    expect(fourth.dir.recovery.belowDurableEnd).toBe(true)
    await fourth.dir.recoveryHandled()
    const fifth = await open(fourth.disk.crash())
    expect(fifth.dir.recovery.belowDurableEnd).toBe(false)
  })
})

describe('a log', () => {
  test('all of which was truncated away is not below its durable end after a crash', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const first = await open(disk)
    for (let at = 0; at < 3; at++) await first.log.append(batch('x'.repeat(7_000)))
    await first.dir.close()
    const second = await open(disk)
    await second.log.truncateBefore(3)
    // The removals are done in the background.
    await second.dir.deleteLog((await second.dir.openLog('other', LOG_OPTIONS)).name)
    expect(disk.paths().some(path => path.includes('/logs/a/'))).toBe(false)
    const third = await open(disk.kill())
    expect([third.log.startOffset(), third.log.endOffset()]).toEqual([3, 3])
    expect(third.dir.recovery).toMatchObject({ belowDurableEnd: false, damage: [] })
  })

  test('deleted right after it rolled leaves no index files to one of its name', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir, log } = await open(disk)
    await dir.openLog('a/below', LOG_OPTIONS)
    for (let at = 0; at < 12; at++) void log.append(batch('x'.repeat(4_000)))
    await dir.deleteLog('a')
    expect(disk.paths().filter(path => /\/logs\/a\/\d/.test(path))).toEqual([])
  })

  test('forgets damage that lies below its start, over restarts too', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const first = await open(disk)
    for (let at = 0; at < 4; at++) await first.log.append(batch('x'.repeat(5_000)))
    await first.dir.close()
    disk.flipBit(`${DIRECTORY}/logs/a/${'0'.repeat(20)}.log`, 1_000, 1)
    const second = await open(disk, { tailCacheBytes: 0 })
    await expect(second.log.read(0, 100)).rejects.toMatchObject({ code: 'corrupt_log' })
    for (const damage of second.log.damage()) second.log.isolate(damage)
    await second.dir.close()
    const third = await open(disk)
    expect(third.log.damage().length).toBe(1)
    await third.log.truncateBefore(1)
    expect(third.log.damage()).toEqual([])
    const fourth = await open(disk.crash())
    expect([fourth.log.damage(), fourth.dir.recovery.damage]).toEqual([[], []])
  })

  test('has a directory with an id that is its own and stays', async () => {
    const disk = new FakeDisk({ rng: seededRng(1) })
    const { dir } = await open(disk)
    expect(dir.directoryId).toMatch(/^[0-9a-f]{32}$/)
    await dir.close()
    const env = { clock: new FakeClock(), rng: seededRng(99), disk }
    const again = await openDataDir(DIRECTORY, DIR_OPTIONS, env)
    const other = await openDataDir('data/other', DIR_OPTIONS, env)
    expect(again.directoryId).toBe(dir.directoryId)
    expect(other.directoryId).not.toBe(dir.directoryId)
  })
})

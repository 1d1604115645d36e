import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { buildControlBatch } from '../../../common/batch-control.ts'
import { utf8, writeI64 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, DataDirOptions, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS, readAll } from './model.ts'

/** What is acked is in the journal and reaches its segment later: nobody may tell, on a disk that fills up neither. */

const SEGMENT = `${DIRECTORY}/logs/a/00000000000000000000.log`

function batch(text: string, timestampMs = 1): Uint8Array {
  return buildBatch([{ key: null, value: utf8(text), headers: [], timestampMs }])
}

interface World {
  disk: FakeDisk
  clock: FakeClock
  dir: DataDir
  log: Log
}

async function open(disk: FakeDisk, options: Partial<DataDirOptions> = {}): Promise<World> {
  const clock = new FakeClock()
  const env = { clock, rng: seededRng(2), disk }
  // Nothing from the tail cache, which would hide what the segments lack.
  const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, tailCacheBytes: 0, ...options }, env)
  const log = await dir.openLog('a', LOG_OPTIONS)
  // The first commits found out that there is room.
  await turns(10)
  return { disk, clock, dir, log }
}

const world = (options: Partial<DataDirOptions> = {}): Promise<World> =>
  open(new FakeDisk({ rng: seededRng(1) }), options)

async function turns(count: number): Promise<void> {
  for (let at = 0; at < count; at++) await new Promise(resolve => setImmediate(resolve))
}

/** Bytes that the segments hold. */
function inFiles(disk: FakeDisk): number {
  const paths = disk.paths().filter(path => /\/logs\/a\/\d+\.log$/.test(path))
  return paths.reduce((total, path) => total + disk.contentOf(path).length, 0)
}

async function texts(log: Log): Promise<number[]> {
  return (await readAll(log)).map(({ baseOffset }) => baseOffset)
}

describe('what is acked and not in its segment yet', () => {
  test('is read from memory, alone or behind what the segment has', async () => {
    const { disk, clock, log } = await world()
    await log.append(batch('one', 1_000))
    expect(disk.paths()).not.toContain(SEGMENT)
    expect(await texts(log)).toEqual([0])
    expect(log.sizeBytes()).toBe(batch('one').length)
    clock.advance(60)
    await turns(20)
    const written = disk.contentOf(SEGMENT).length
    expect(written).toBe(log.sizeBytes())
    await log.append(batch('two', 5_000))
    const jump = buildControlBatch({ type: 1001, value: utf8('gap'), producerId: 1, timestampMs: 3_000 })
    writeI64(jump, 0, 100)
    await log.append(jump)
    await log.append(batch('three', 7_000))
    expect(disk.contentOf(SEGMENT).length).toBe(written)
    expect(await texts(log)).toEqual([0, 1, 100, 101])
    expect((await log.read(50, 1)).nextOffset).toBe(101)
    expect(await log.offsetForEventTime(1_001)).toBe(1)
    expect(await log.offsetForEventTime(5_001)).toBe(101)
    expect(await log.offsetForEventTime(7_001)).toBe(102)
    clock.advance(60)
    await turns(20)
    expect(disk.contentOf(SEGMENT).length).toBe(log.sizeBytes())
    expect(await texts(log)).toEqual([0, 1, 100, 101])
  })

  test('is written together, and when there is much of it without waiting', async () => {
    const { disk, log } = await world()
    for (let at = 0; at < 3; at++) await log.append(batch('x'.repeat(500)))
    expect(disk.paths()).not.toContain(SEGMENT)
    for (let at = 0; at < 6; at++) await log.append(batch('x'.repeat(500)))
    await turns(20)
    expect(disk.contentOf(SEGMENT).length).toBeGreaterThan(4_000)
  })

  test('may be cut, its log started over or deleted', async () => {
    const { disk, clock, dir, log } = await world()
    for (let at = 0; at < 4; at++) await log.append(batch(`${at}`))
    await log.truncateAfter(2)
    expect(await texts(log)).toEqual([0, 1])
    await log.append(batch('again'))
    await log.restartAt(50)
    expect(await texts(log)).toEqual([])
    await log.append(batch('new'))
    const other = await dir.openLog('b', LOG_OPTIONS)
    await other.append(batch('gone'))
    await dir.deleteLog('b')
    clock.advance(60)
    await turns(20)
    expect(disk.paths().filter(path => path.includes('/logs/b'))).toEqual([])
    expect(await texts(log)).toEqual([50])
    const again = await open(disk.crash())
    expect(await texts(again.log)).toEqual([50])
  })

  test('counts for retention by size', async () => {
    const { log } = await world()
    log.configure({ ...LOG_OPTIONS, segmentBytes: 300, retentionBytes: 1 })
    for (let at = 0; at < 4; at++) await log.append(batch('x'.repeat(200)))
    expect(await log.applyRetention(1, 100)).toBe(3)
    expect(await texts(log)).toEqual([3])
  })

  test('is written when the directory is closed', async () => {
    const { disk, dir, log } = await world()
    await log.append(batch('last'))
    await dir.close()
    expect(disk.contentOf(SEGMENT).length).toBe(log.sizeBytes())
    const again = await open(disk)
    expect(again.dir.recovery.cleanShutdown).toBe(true)
    expect(await texts(again.log)).toEqual([0])
  })
})

describe('a disk that is full all of a sudden', () => {
  async function filled(options: Partial<DataDirOptions>): Promise<World & { acked: number }> {
    const found = await world(options)
    const { disk, clock, log } = found
    // Another process took the last block: the room that was known of is gone.
    disk.setCapacity(disk.usedBytes())
    await log.append(batch('x'.repeat(500)))
    clock.advance(60)
    await turns(20)
    let acked = 1
    for (; acked < 1_000; acked++) {
      const taken = await log.append(batch('x'.repeat(500))).catch((error: { code: string }) => error.code)
      if (taken === 'disk_full') break
    }
    expect(acked).toBeLessThan(1_000)
    return { ...found, acked }
  }

  test('takes what was acked into the reserve, and leaves the rest of the reserve to those that may use it', async () => {
    const { disk, log, acked, dir } = await filled({ reserveBytes: 1024 * 1024 })
    const reserve = disk.contentOf(`${DIRECTORY}/reserve`).length
    expect(reserve).toBeGreaterThan(512 * 1024)
    expect(reserve).toBeLessThan(1024 * 1024)
    expect(inFiles(disk)).toBe(log.sizeBytes())
    await log.append(batch('gap'), { useReserve: true })
    expect((await texts(log)).length).toBe(acked + 1)
    disk.setCapacity(Number.POSITIVE_INFINITY)
    await log.append(batch('after'))
    await dir.close()
    expect(dir.stats().checkpoints).toBeGreaterThan(0)
  })

  test('without a reserve keeps what was acked in memory and in the journal, until there is room', async () => {
    const { disk, clock, log, acked, dir } = await filled({ reserveBytes: 0 })
    expect(await texts(log)).toEqual(Array.from({ length: acked }, (_, at) => at))
    await expect(log.truncateAfter(0)).rejects.toMatchObject({ code: 'disk_full' })
    await log.truncateBefore(1)
    expect((await texts(log))[0]).toBe(acked > 1 ? 1 : undefined)
    const crashed = await open(disk.copy().crash(), { reserveBytes: 0 })
    expect([crashed.log.startOffset(), crashed.log.endOffset()]).toEqual([1, acked])
    disk.setCapacity(Number.POSITIVE_INFINITY)
    clock.advance(2_000)
    await turns(20)
    expect(inFiles(disk)).toBe(log.sizeBytes())
    expect(await log.append(batch('after'))).toEqual({ baseOffset: acked, lastOffset: acked })
    await dir.close()
  })

  test('is no clean stop where what was acked finds no room, and nothing is lost by it', async () => {
    const { disk, dir, acked } = await filled({ reserveBytes: 0 })
    await dir.close()
    disk.setCapacity(Number.POSITIVE_INFINITY)
    const again = await open(disk)
    expect(again.dir.recovery.cleanShutdown).toBe(false)
    expect((await texts(again.log)).length).toBe(acked)
  })
})

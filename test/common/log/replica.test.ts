import { describe, expect, test } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { buildControlBatch } from '../../../common/batch-control.ts'
import { concat, utf8, writeI64 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, DataDirOptions, Log, LogOptions } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk, smallDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS } from './model.ts'
import { batchesOf } from './replica-stage.ts'

/** What a follower does with its log: batches as the leader stamped them, and starting over. */

function batch(text: string, records = 1): Uint8Array {
  const one = { key: null, value: utf8(text), headers: [], timestampMs: 1 }
  return buildBatch(Array.from({ length: records }, () => one))
}

function gapAt(baseOffset: number): Uint8Array {
  const gap = buildControlBatch({ type: 1001, value: utf8('gap'), producerId: 1, timestampMs: 1 })
  writeI64(gap, 0, baseOffset)
  return gap
}

interface World {
  disk: FakeDisk
  clock: FakeClock
  dir: DataDir
  log: Log
}

async function world(
  disk = new FakeDisk({ rng: seededRng(1) }),
  options: Partial<LogOptions> = {},
  dirOptions: Partial<DataDirOptions> = {},
): Promise<World> {
  const clock = new FakeClock()
  const env = { clock, rng: seededRng(2), disk }
  const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, ...dirOptions }, env)
  return { disk, clock, dir, log: await dir.openLog('a/0', { ...LOG_OPTIONS, ...options }) }
}

async function bytesOf(log: Log): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
    const { batches, nextOffset } = await log.read(offset, 3000)
    parts.push(Uint8Array.from(batches))
    offset = nextOffset
  }
  return concat(parts)
}

/** What a leader has after several epochs, with a jump. */
async function leaderBytes(): Promise<Uint8Array> {
  const { log } = await world()
  await log.append(batch('one', 3), { leaderEpoch: 2 })
  await log.append(concat([batch('two'), batch('three', 2)]), { leaderEpoch: 5 })
  await log.append(gapAt(100), { leaderEpoch: 5 })
  await log.append(batch('four'.repeat(100)), { leaderEpoch: 9 })
  return bytesOf(log)
}

function segmentFiles(disk: FakeDisk): string[] {
  const folder = `${DIRECTORY}/logs/a/0/`
  return disk
    .paths()
    .filter(path => path.startsWith(folder) && path.endsWith('.log'))
    .map(path => path.slice(folder.length))
    .sort()
}

function segmentName(offset: number): string {
  return `${String(offset).padStart(20, '0')}.log`
}

describe('appendReplica', () => {
  test('keeps offsets, epochs and jumps, in one append and over any stop', async () => {
    const bytes = await leaderBytes()
    for (const stop of ['close', 'kill', 'crash'] as const) {
      const { disk, dir, log } = await world()
      expect(await log.appendReplica(Uint8Array.from(bytes))).toEqual({ baseOffset: 0, lastOffset: 101 })
      expect(Buffer.compare(await bytesOf(log), bytes)).toBe(0)
      if (stop === 'close') await dir.close()
      const again = await world(stop === 'close' ? disk : disk[stop]())
      expect(again.dir.recovery.damage).toEqual([])
      expect(again.log.endOffset()).toBe(102)
      expect(Buffer.compare(await bytesOf(again.log), bytes)).toBe(0)
      expect(await again.log.append(batch('goes on'))).toEqual({ baseOffset: 102, lastOffset: 102 })
    }
  })

  test('refuses holes, what lies below the end and half batches, and changes nothing', async () => {
    const bytes = await leaderBytes()
    const { log } = await world()
    const [first] = [...eachBatch(bytes)]
    const rest = bytes.subarray(first?.header.sizeBytes)
    await expect(log.appendReplica(rest)).rejects.toMatchObject({ code: 'corrupt_batch' })
    await expect(log.appendReplica(bytes.subarray(0, 40))).rejects.toMatchObject({ code: 'corrupt_batch' })
    await log.appendReplica(Uint8Array.from(bytes))
    await expect(log.appendReplica(bytes)).rejects.toMatchObject({ code: 'corrupt_batch' })
    await expect(log.appendReplica(gapAt(101))).rejects.toMatchObject({ code: 'corrupt_batch' })
    expect(log.endOffset()).toBe(102)
    expect(Buffer.compare(await bytesOf(log), bytes)).toBe(0)
  })

  test('takes what the leader took, however large', async () => {
    const { log } = await world(undefined, { maxBatchBytes: 100 })
    const large = batch('x'.repeat(5000))
    await expect(log.append(large)).rejects.toMatchObject({ code: 'record_too_large' })
    await log.appendReplica(large)
    expect(log.durableEndOffset()).toBe(1)
  })

  test('refused on a full disk it leaves the bytes to be appended again', async () => {
    const bytes = await leaderBytes()
    const { disk, dir, log } = await world(smallDisk())
    const state = await dir.openState('state', 1 << 20)
    disk.setCapacity(disk.usedBytes())
    const mine = Uint8Array.from(bytes)
    const appended = log.appendReplica(mine)
    await Promise.resolve()
    const put = state.put([{ key: 'k', value: utf8('kept') }])
    await expect(appended).rejects.toMatchObject({ code: 'disk_full' })
    await put
    expect(log.endOffset()).toBe(0)
    disk.setCapacity(Number.POSITIVE_INFINITY)
    await log.appendReplica(mine)
    expect(Buffer.compare(await bytesOf(log), bytes)).toBe(0)
  })
})

describe('restartAt', () => {
  async function filled(): Promise<World> {
    const made = await world()
    for (let at = 0; at < 20; at++) await made.log.append(batch(`${at}`.repeat(400), 2))
    expect(segmentFiles(made.disk).length).toBeGreaterThan(2)
    return made
  }

  for (const offset of [0, 7, 16, 40, 1000]) {
    test(`empties the log and goes on at ${offset}, over any stop`, async () => {
      for (const stop of ['close', 'kill', 'crash'] as const) {
        const { disk, dir, log } = await filled()
        await log.restartAt(offset)
        expect([log.startOffset(), log.endOffset(), log.durableEndOffset()]).toEqual([offset, offset, offset])
        expect(log.sizeBytes()).toBe(0)
        expect(segmentFiles(disk)).toEqual([])
        expect((await log.read(offset, 1000)).batches.length).toBe(0)
        if (offset > 0) {
          await expect(log.read(offset - 1, 1000)).rejects.toMatchObject({ code: 'offset_out_of_range' })
        }
        if (stop === 'close') await dir.close()
        const again = await world(stop === 'close' ? disk : disk[stop]())
        expect(again.dir.recovery).toMatchObject({ damage: [], tornTails: [], belowDurableEnd: false })
        expect([again.log.startOffset(), again.log.endOffset()]).toEqual([offset, offset])
        await again.log.append(batch('after', 3))
        expect(segmentFiles(again.disk)).toEqual([segmentName(offset)])
        const third = await world(again.disk.crash())
        expect(third.dir.recovery.damage).toEqual([])
        expect([third.log.startOffset(), third.log.endOffset()]).toEqual([offset, offset + 3])
        expect([...eachBatch(await bytesOf(third.log))].length).toBe(1)
      }
    })
  }

  test('takes along what was appended before it, and no append comes meanwhile', async () => {
    const { log } = await filled()
    const before = log.append(batch('before'))
    const restarted = log.restartAt(5)
    await expect(log.append(batch('meanwhile'))).rejects.toThrow('truncated')
    expect(await before).toEqual({ baseOffset: 40, lastOffset: 40 })
    await restarted
    expect(log.endOffset()).toBe(5)
  })

  test('moving the start waits for it', async () => {
    const { log } = await filled()
    const restarted = log.restartAt(5)
    await Promise.all([restarted, log.truncateBefore(40), log.applyRetention(1, 40)])
    expect([log.startOffset(), log.endOffset()]).toEqual([5, 5])
    await log.restartAt(3)
    expect([log.startOffset(), log.endOffset()]).toEqual([3, 3])
  })

  test('leaves no damage of before', async () => {
    const { disk, dir, log } = await filled()
    await dir.close()
    disk.flipBit(`${DIRECTORY}/logs/a/0/${segmentName(0)}`, 100, 3)
    const again = await world(disk)
    await expect(again.log.read(0, 100)).rejects.toMatchObject({ code: 'corrupt_log' })
    await again.log.restartAt(log.endOffset())
    expect(again.log.damage()).toEqual([])
    const third = await world(again.disk.crash())
    expect(third.log.damage()).toEqual([])
  })

  test('of a deleted log is refused', async () => {
    const { dir, log } = await filled()
    await dir.deleteLog('a/0')
    await expect(log.restartAt(3)).rejects.toMatchObject({ code: 'closed' })
    await expect(log.truncateAfter(3)).rejects.toMatchObject({ code: 'closed' })
  })
})

test('truncateAfter at a jump that begins an index entry ends where the batch before it ended', async () => {
  const { log } = await world()
  await log.append(batch('x'.repeat(4100)))
  await log.append(gapAt(100))
  await log.truncateAfter(100)
  expect(log.endOffset()).toBe(1)
  await log.append(batch('goes on'))
  expect([...eachBatch(await bytesOf(log))].map(({ header }) => header.baseOffset)).toEqual([0, 1])
})

describe('a log that starts inside a batch', () => {
  test('is a follower that restarted there, with that batch', async () => {
    const leader = await world()
    for (let at = 0; at < 5; at++) await leader.log.append(batch(`${at}`, 4))
    await leader.log.truncateBefore(10)
    const { disk, log } = await world()
    await log.append(batch('old'))
    await log.restartAt(10)
    const { batches } = await leader.log.read(10, 10_000)
    expect(await log.appendReplica(Uint8Array.from(batches))).toEqual({ baseOffset: 8, lastOffset: 19 })
    expect((await log.read(10, 10_000)).batches).toEqual(batches)
    await expect(log.appendReplica(gapAt(19))).rejects.toMatchObject({ code: 'corrupt_batch' })
    const again = await world(disk.crash())
    expect(again.dir.recovery.damage).toEqual([])
    expect([again.log.startOffset(), again.log.endOffset()]).toEqual([10, 20])
    expect(Buffer.compare((await again.log.read(10, 10_000)).batches, batches)).toBe(0)
    await expect(again.log.read(9, 1)).rejects.toMatchObject({ code: 'offset_out_of_range' })
    const empty = await world()
    await empty.log.restartAt(10)
    await expect(empty.log.appendReplica(batch('before'))).rejects.toMatchObject({ code: 'corrupt_batch' })
  })

  test('is empty where it is cut in that batch, and goes on at its start', async () => {
    const { disk, log } = await world()
    for (let at = 0; at < 5; at++) await log.append(batch(`${at}`, 4))
    await log.truncateBefore(10)
    await log.truncateAfter(11)
    expect([log.startOffset(), log.endOffset()]).toEqual([10, 10])
    expect(await log.append(batch('goes on'))).toEqual({ baseOffset: 10, lastOffset: 10 })
    const again = await world(disk.crash())
    expect(again.dir.recovery.damage).toEqual([])
    expect([again.log.startOffset(), again.log.endOffset()]).toEqual([10, 11])
    expect((await batchesOf(again.log)).map(({ baseOffset }) => baseOffset)).toEqual([10])
  })
})

describe('what the leader has lost', () => {
  for (const stop of ['close', 'kill', 'crash'] as const) {
    for (const before of [0, 3]) {
      test(`is damage at its followers too, passed over, after ${before} batches and ${stop}`, async () => {
        const { disk, dir, log } = await world()
        for (let at = 0; at < before; at++) await log.append(batch(`${at}`.repeat(800)))
        await expect(log.appendReplica(stamped(batch('hole'), 10))).rejects.toMatchObject({
          code: 'corrupt_batch',
        })
        await log.appendReplica(stamped(batch('behind', 2), 10), { lostBefore: 10 })
        await log.appendReplica(stamped(batch('next'), 12))
        const lost = [{ fromOffset: before, toOffset: 10 }]
        const expectLost = async (found: Log): Promise<void> => {
          expect(found.damage()).toMatchObject(lost)
          expect((await found.read(before, 10_000)).nextOffset).toBe(10)
          const bases = (await batchesOf(found)).map(({ baseOffset }) => baseOffset)
          expect(bases).toEqual([...Array(before).keys(), 10, 12])
        }
        await expectLost(log)
        if (stop === 'close') await dir.close()
        const again = await world(stop === 'close' ? disk : disk[stop]())
        await expectLost(again.log)
        expect(again.log.endOffset()).toBe(13)
        // Someone had it after all.
        const found = Array.from({ length: 10 - before }, (_, at) => stamped(batch('found'), before + at))
        const [damage] = again.log.damage()
        if (damage === undefined) throw new Error('no damage')
        expect(await again.log.repairStretch(damage, concat(found))).toBe(undefined)
        const third = await world(again.disk.crash())
        expect(third.log.damage()).toEqual([])
        expect((await batchesOf(third.log)).length).toBe(12)
      })
    }
  }
})

describe('hubTimeAt', () => {
  test('is the newest of the segment that holds the offset, also after a restart', async () => {
    const { disk, dir, log } = await world()
    expect(await log.hubTimeAt(0)).toBe(null)
    for (let at = 0; at < 6; at++) {
      await log.appendReplica(stamped(batch(`${at}`.repeat(2500)), at), { appendTimeMs: 1000 + at })
    }
    const times = await Promise.all([0, 1, 2, 3, 4, 5, 6].map(offset => log.hubTimeAt(offset)))
    expect(times).toEqual([1001, 1001, 1003, 1003, 1005, 1005, 1005])
    await dir.close()
    const again = await world(disk)
    expect(await Promise.all([0, 1, 2, 3, 4, 5, 6].map(offset => again.log.hubTimeAt(offset)))).toEqual(times)
    await again.log.restartAt(3)
    expect(await again.log.hubTimeAt(3)).toBe(null)
  })
})

function stamped(bytes: Uint8Array, baseOffset: number): Uint8Array {
  writeI64(bytes, 0, baseOffset)
  return bytes
}

import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { concat, utf8 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { verifyDirectory } from '../../../common/log/inspect.ts'
import type { Damage, DataDir, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS } from './model.ts'
import type { ReplicaBatch } from './replica-stage.ts'
import { batchesOf, stretchOf } from './replica-stage.ts'

/** Damage made good with another replica's batches. */

const FOLDER = `${DIRECTORY}/logs/a/0`

function batch(text: string, records = 2): Uint8Array {
  const one = { key: null, value: utf8(text), headers: [], timestampMs: 1 }
  return buildBatch(Array.from({ length: records }, () => one))
}

interface World {
  disk: FakeDisk
  dir: DataDir
  log: Log
}

async function world(disk = new FakeDisk({ rng: seededRng(1) })): Promise<World> {
  const env = { clock: new FakeClock(), rng: seededRng(2), disk }
  const dir = await openDataDir(DIRECTORY, DIR_OPTIONS, env)
  return { disk, dir, log: await dir.openLog('a/0', LOG_OPTIONS) }
}

/** A log of 30 batches in several segments, closed, and what it held. */
async function closed(): Promise<{ disk: FakeDisk; whole: ReplicaBatch[]; segments: string[] }> {
  const { disk, dir, log } = await world()
  for (let at = 0; at < 30; at++) await log.append(batch(`${at}`.repeat(300)), { leaderEpoch: at })
  const whole = await batchesOf(log)
  await dir.close()
  const segments = disk
    .paths()
    .filter(path => path.startsWith(FOLDER) && path.endsWith('.log'))
    .sort()
  expect(segments.length).toBeGreaterThan(4)
  return { disk, whole, segments }
}

async function shorten(disk: FakeDisk, path: string, sizeBytes: number): Promise<void> {
  const file = await disk.open(path, 'update')
  await file.truncate(sizeBytes)
  await file.datasync()
}

/** Reads through all of it, and gives what is known then to be damaged. */
async function look(log: Log): Promise<readonly Damage[]> {
  for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
    try {
      offset = (await log.read(offset, 4000)).nextOffset
    } catch {
      const damage = log.damage().find(known => offset >= known.fromOffset && offset < known.toOffset)
      offset = damage?.toOffset ?? offset + 1
    }
  }
  return log.damage()
}

/** Repairs all, `count` batches at a time. */
async function repairAll(log: Log, whole: readonly ReplicaBatch[], count: number): Promise<void> {
  for (const damage of [...(await look(log))]) {
    let left: Damage | undefined = damage
    while (left !== undefined) left = await log.repairStretch(left, stretchOf(whole, left, count))
  }
}

async function expectWhole(log: Log, whole: readonly ReplicaBatch[]): Promise<void> {
  expect(log.damage()).toEqual([])
  expect(
    Buffer.compare(
      concat((await batchesOf(log)).map(found => found.bytes)),
      concat(whole.map(({ bytes }) => bytes)),
    ),
  ).toBe(0)
}

type Harm = (disk: FakeDisk, segments: string[]) => Promise<void> | void

function nth(paths: readonly string[], at: number): string {
  const path = paths.at(at)
  if (path === undefined) throw new Error('too few segments')
  return path
}

const harms: [string, Harm][] = [
  ['a flipped bit', (disk, segments) => disk.flipBit(nth(segments, 2), 1000, 3)],
  [
    'flipped bits of several batches',
    (disk, segments) => {
      for (const at of [700, 1400, 2100]) disk.flipBit(nth(segments, 1), at, 3)
    },
  ],
  ['a flipped bit in the last segment', (disk, segments) => disk.flipBit(nth(segments, -1), 100, 3)],
  ['a segment that lost its end', (disk, segments) => shorten(disk, nth(segments, 1), 1000)],
  ['the last segment without its end', (disk, segments) => shorten(disk, nth(segments, -1), 100)],
  ['an empty segment', (disk, segments) => shorten(disk, nth(segments, 2), 0)],
  ['the first segment missing', (disk, segments) => disk.remove(nth(segments, 0))],
  [
    'segments missing between others',
    async (disk, segments) => {
      await disk.remove(nth(segments, 1))
      await disk.remove(nth(segments, 2))
    },
  ],
  [
    'the last segments missing',
    async (disk, segments) => {
      await disk.remove(nth(segments, -1))
      await disk.remove(nth(segments, -2))
    },
  ],
  [
    'all segments missing',
    async (disk, segments) => {
      for (const path of segments) await disk.remove(path)
    },
  ],
]

describe('repairStretch', () => {
  for (const [name, harm] of harms) {
    test(`makes good ${name}, at once or bit by bit, for good`, async () => {
      for (const count of [1, 2, 1000]) {
        for (const unclean of [false, true]) {
          const { disk, whole, segments } = await closed()
          await harm(disk, segments)
          const first = await world(disk)
          expect((await look(first.log)).length).toBeGreaterThan(0)
          await repairAll(first.log, whole, count)
          await expectWhole(first.log, whole)
          await first.log.append(batch('goes on'), { leaderEpoch: 99 })
          const all = await batchesOf(first.log)
          expect(all.length).toBe(31)
          if (!unclean) await first.dir.close()
          const again = await world(unclean ? first.disk.crash() : disk)
          await look(again.log)
          await expectWhole(again.log, all)
          await again.dir.close()
          const report = await verifyDirectory(again.disk, DIRECTORY)
          expect(report.findings.filter(({ kind }) => kind === 'damage')).toEqual([])
        }
      }
    })
  }

  test('keeps what was there aside, and goes on while others append', async () => {
    const { disk, whole, segments } = await closed()
    disk.flipBit(nth(segments, -1), 100, 3)
    const { log } = await world(disk)
    const damage = (await look(log))[0]
    if (damage === undefined) throw new Error('no damage')
    const bad = disk.contentOf(damage.segment).slice(damage.bytePosition, damage.resumePosition)
    const repaired = log.repairStretch(damage, stretchOf(whole, damage))
    const appended = log.append(batch('meanwhile'), { leaderEpoch: 99 })
    expect(await repaired).toBe(undefined)
    expect((await appended).baseOffset).toBe(60)
    await expectWhole(log, [...whole, ...(await batchesOf(log)).slice(-1)])
    const aside = disk.paths().filter(path => path.startsWith(`${DIRECTORY}/aside/`))
    expect(aside.map(path => Buffer.compare(disk.contentOf(path), bad))).toEqual([0])
  })

  test('refuses what does not belong there, and changes nothing', async () => {
    const { disk, whole, segments } = await closed()
    disk.flipBit(nth(segments, 1), 700, 3)
    const { log } = await world(disk)
    const [damage] = await look(log)
    if (damage === undefined) throw new Error('no damage')
    const before = disk.contentOf(damage.segment)
    const good = stretchOf(whole, damage)
    const beyond = stretchOf(whole, { ...damage, toOffset: damage.toOffset + 1 })
    const early = stretchOf(whole, { ...damage, fromOffset: damage.fromOffset - 1 })
    const flipped = Uint8Array.from(good)
    flipped[good.length - 1] = (flipped.at(-1) ?? 0) ^ 1
    const longer = batch('x'.repeat(900), damage.toOffset - damage.fromOffset)
    longer.set(good.subarray(0, 16 - 8), 0)
    for (const bytes of [beyond, early, flipped, good.subarray(0, 70), new Uint8Array(0)]) {
      await expect(log.repairStretch(damage, bytes)).rejects.toMatchObject({ code: 'corrupt_batch' })
    }
    await expect(log.repairStretch(damage, longer)).rejects.toMatchObject({ code: 'corrupt_log' })
    expect(Buffer.compare(disk.contentOf(damage.segment), before)).toBe(0)
    expect(log.damage()).toEqual([damage])
    await log.repairStretch(damage, good)
    await expect(log.repairStretch(damage, good)).rejects.toMatchObject({ code: 'not_found' })
  })

  test('a repair that did not sync is final for the directory', async () => {
    const { disk, whole, segments } = await closed()
    disk.flipBit(nth(segments, 1), 700, 3)
    const { dir, log } = await world(disk)
    const [damage] = await look(log)
    if (damage === undefined) throw new Error('no damage')
    const told: unknown[] = []
    dir.onFailed(error => told.push(error))
    disk.failSyncs(1)
    await expect(log.repairStretch(damage, stretchOf(whole, damage))).rejects.toMatchObject({
      code: 'disk_failed',
    })
    expect(told.length).toBe(1)
  })
})

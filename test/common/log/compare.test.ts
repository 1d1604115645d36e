import { expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { concat, utf8 } from '../../../common/bytes.ts'
import { compareDirectories } from '../../../common/log/compare.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { DataDir, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, LOG_OPTIONS } from './model.ts'
import { batchesOf } from './replica-stage.ts'

function batch(text: string): Uint8Array {
  const one = { key: null, value: utf8(text), headers: [], timestampMs: 1 }
  return buildBatch([one, one])
}

async function open(disk: FakeDisk, path: string): Promise<DataDir> {
  return openDataDir(path, DIR_OPTIONS, { clock: new FakeClock(), rng: seededRng(path.length), disk })
}

interface Stage {
  disk: FakeDisk
  dirs: string[]
  logs: Log[]
  close(): Promise<void>
}

/** Three replicas of 60 offsets. */
async function replicas(): Promise<Stage> {
  const disk = new FakeDisk({ rng: seededRng(1) })
  const dirs = ['data/1', 'data/22', 'data/333']
  const open3 = await Promise.all(dirs.map(path => open(disk, path)))
  const logs = await Promise.all(open3.map(dir => dir.openLog('t/topic/0', LOG_OPTIONS)))
  const [leader, ...followers] = logs
  for (let at = 0; at < 30; at++) await leader?.append(batch(`${at}`.repeat(300)), { leaderEpoch: at >> 3 })
  const all = leader === undefined ? [] : await batchesOf(leader)
  for (const log of followers) for (const { bytes } of all) await log.appendReplica(Uint8Array.from(bytes))
  for (const [at, dir] of open3.entries()) {
    const own = await dir.openLog('__own', LOG_OPTIONS)
    await own.append(batch(`own ${at}`))
  }
  const close = async (): Promise<void> => {
    for (const dir of open3) await dir.close()
  }
  return { disk, dirs, logs, close }
}

test('equal replicas are equal over what all of them have', async () => {
  const { disk, dirs, logs, close } = await replicas()
  await logs[0]?.append(batch('alone'))
  await logs[1]?.truncateBefore(9)
  await logs[2]?.truncateAfter(51)
  await close()
  const report = await compareDirectories(disk, dirs)
  expect(report.directories.map(({ directory, findings }) => [directory, findings])).toEqual(
    dirs.map(directory => [directory, []]),
  )
  expect(report.comparisons).toEqual([
    {
      name: 't/topic/0',
      replicas: [
        { directory: dirs[0], startOffset: 0, endOffset: 62 },
        { directory: dirs[1], startOffset: 9, endOffset: 60 },
        { directory: dirs[2], startOffset: 0, endOffset: 50 },
      ],
      fromOffset: 9,
      toOffset: 50,
      batches: 21,
      skipped: 0,
      difference: null,
    },
  ])
})

test('the first difference is told, leader epochs count, and batches that lie otherwise', async () => {
  for (const kind of ['bytes', 'epoch', 'batches'] as const) {
    const { disk, dirs, logs, close } = await replicas()
    const [first, second] = logs
    if (first === undefined || second === undefined) throw new Error('no logs')
    await second.truncateAfter(20)
    const rest = (await batchesOf(first)).filter(({ baseOffset }) => baseOffset >= 20)
    if (kind === 'bytes') await second.append(batch('other'), { leaderEpoch: 1 })
    if (kind === 'epoch') await second.append(Uint8Array.from(rest[0]?.bytes ?? []), { leaderEpoch: 9 })
    if (kind === 'batches') {
      const one = { key: null, value: utf8('x'), headers: [], timestampMs: 1 }
      await second.append(concat([buildBatch([one]), buildBatch([one, one, one])]))
    }
    await close()
    const { comparisons } = await compareDirectories(disk, dirs)
    const [compared] = comparisons
    expect(compared?.batches).toBe(10)
    expect(compared?.difference?.offset).toBe(20)
    const [one, two, three] = compared?.difference?.batches ?? []
    expect(one).toEqual(three)
    expect(two).toMatchObject({
      baseOffset: 20,
      lastOffset: kind === 'batches' ? 20 : 21,
      leaderEpoch: { bytes: 1, epoch: 9, batches: 0 }[kind],
    })
    expect(two?.crc === one?.crc).toBe(kind === 'epoch')
  }
})

test('damage is a finding, not a difference, and what lies behind it is compared', async () => {
  const { disk, dirs, close } = await replicas()
  await close()
  const paths = disk.paths().filter(path => path.startsWith('data/22/logs/t/') && path.endsWith('.log'))
  const [first, second, third] = paths.sort()
  if (first === undefined || second === undefined || third === undefined) throw new Error('too few segments')
  disk.flipBit(first, 300, 3)
  await disk.remove(third)
  const { directories, comparisons } = await compareDirectories(disk, dirs)
  expect(directories.map(({ findings }) => findings.some(({ kind }) => kind === 'damage'))).toEqual([
    false,
    true,
    false,
  ])
  const [compared] = comparisons
  expect(compared?.difference).toBe(null)
  expect(compared?.batches).toBeGreaterThan(15)
  expect(compared?.skipped).toBe(60 - 2 * (compared?.batches ?? 0))
  expect(compared?.skipped).toBeGreaterThan(2)
})

test('a process that was killed leaves replicas to compare, a live one does not', async () => {
  const { disk, dirs } = await replicas()
  await expect(compareDirectories(disk, dirs)).rejects.toMatchObject({ code: 'directory_in_use' })
  const killed = disk.kill()
  const { comparisons } = await compareDirectories(killed, dirs)
  expect(comparisons.map(({ batches, difference }) => [batches, difference])).toEqual([[30, null]])
  await expect(compareDirectories(killed, [dirs[0] ?? '', 'elsewhere'])).rejects.toMatchObject({
    code: 'not_found',
  })
})

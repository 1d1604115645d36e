import { expect, test } from 'vitest'
import { utf8, utf8Text } from '../../../common/bytes.ts'
import { openSnapshots, SNAPSHOTS_KEPT } from '../../../common/log/snapshots.ts'
import { seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'

async function textAt(disk: FakeDisk, offset: number): Promise<string | undefined> {
  const found = await (await openSnapshots(disk, 'd/s')).loadAtOrBelow(offset)
  return found === undefined ? undefined : `${found.offset}:${utf8Text(found.bytes)}`
}

test('the newest at or below an offset is found, a few are kept, all durable', async () => {
  const disk = new FakeDisk({ rng: seededRng(3) })
  const snapshots = await openSnapshots(disk, 'd/s')
  for (const offset of [5, 10, 20, 30]) await snapshots.save(offset, utf8(`s${offset}`))
  expect(snapshots.newestOffset()).toBe(30)
  expect(await snapshots.loadAtOrBelow(9)).toBeUndefined()
  expect((await disk.list('d/s')).length).toBe(SNAPSHOTS_KEPT)
  const after = disk.crash()
  expect(await textAt(after, 29)).toBe('20:s20')
  expect(await textAt(after, 30)).toBe('30:s30')
})

test('a damaged one is passed over, those past a cut are dropped', async () => {
  const disk = new FakeDisk({ rng: seededRng(3) })
  const snapshots = await openSnapshots(disk, 'd/s')
  for (const offset of [10, 20, 30]) await snapshots.save(offset, utf8(`s${offset}`))
  disk.flipBit('d/s/00000000000000000030.snapshot', 17, 1)
  expect(await textAt(disk, 100)).toBe('20:s20')
  await snapshots.dropAfter(15)
  expect(await textAt(disk.crash(), 100)).toBe('10:s10')
})

test('the newest counts only where it is whole and its name durable', async () => {
  const disk = new FakeDisk({ rng: seededRng(3) })
  const first = await openSnapshots(disk, 'd/s')
  for (const offset of [10, 20]) await first.save(offset, utf8(`s${offset}`))
  disk.flipBit('d/s/00000000000000000020.snapshot', 17, 1)
  const second = await openSnapshots(disk, 'd/s')
  await second.loadAtOrBelow(100)
  expect(second.newestOffset()).toBe(10)
  // What a process leaves that is killed between the rename and the sync of the folder.
  const bytes = await disk.readFile('d/s/00000000000000000010.snapshot')
  await disk.replaceFile('d/s/draft', bytes)
  await disk.remove('d/s/00000000000000000010.snapshot')
  await disk.syncDir('d/s')
  await disk.rename('d/s/draft', 'd/s/00000000000000000010.snapshot')
  const third = await openSnapshots(disk, 'd/s')
  expect(third.newestOffset()).toBe(20)
  for (let round = 0; round < 5; round++) expect(await textAt(disk.crash(), 15)).toBe('10:s10')
})

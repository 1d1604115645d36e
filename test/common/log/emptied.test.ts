import { expect, test, vi } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { verifyDirectory } from '../../../common/log/inspect.ts'
import type { DataDir, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS } from './model.ts'

function batch(text: string): Uint8Array {
  return buildBatch([{ key: null, value: utf8(text), headers: [], timestampMs: 1 }])
}

async function open(disk: FakeDisk): Promise<{ dir: DataDir; log: Log }> {
  const env = { clock: new FakeClock(), rng: seededRng(2), disk }
  const dir = await openDataDir(DIRECTORY, DIR_OPTIONS, env)
  return { dir, log: await dir.openLog('a', { ...LOG_OPTIONS, segmentBytes: 3_000 }) }
}

test('a log truncated to its end is empty after a crash that brought an old segment back', async () => {
  const disk = new FakeDisk({ rng: seededRng(1) })
  const { dir, log } = await open(disk)
  for (let at = 0; at < 8; at++) await log.append(batch('x'.repeat(1_700)))
  await log.append(batch('x'.repeat(4_000)))
  await dir.close()
  const again = await open(disk)
  const paths = disk.paths().filter(path => path.includes('/logs/a/') && path.endsWith('.log'))
  const [, second] = paths.sort()
  if (second === undefined) throw new Error('too few segments')
  const content = disk.contentOf(second)
  await again.log.truncateBefore(9)
  await vi.waitFor(() => {
    expect(disk.paths().filter(path => path.includes('/logs/a/') && path.endsWith('.log'))).toEqual([])
  })
  const killed = disk.kill()
  const file = await killed.open(second, 'write')
  await file.writev([content], 0)
  const third = await open(killed)
  expect(third.dir.recovery.damage).toEqual([])
  expect([third.log.startOffset(), third.log.endOffset()]).toEqual([9, 9])
  await third.log.append(batch('goes on'))
  await third.dir.close()
  expect((await verifyDirectory(killed, DIRECTORY)).findings).toEqual([])
  const fourth = await open(killed)
  expect((await fourth.log.read(9, 1_000)).nextOffset).toBe(10)
  expect(fourth.log.damage()).toEqual([])
})

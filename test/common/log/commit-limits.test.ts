import { expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS } from './model.ts'

function batch(sizeBytes: number): Uint8Array {
  return buildBatch([{ key: null, value: utf8('x'.repeat(sizeBytes)), headers: [], timestampMs: 1 }])
}

async function code(promise: Promise<unknown>): Promise<unknown> {
  const [outcome] = await Promise.allSettled([promise])
  return outcome?.status === 'rejected' ? [outcome.reason.code, outcome.reason.retriable] : 'taken'
}

test('what one turn appends beyond a commit may come again, what fits no commit may not', async () => {
  const env = { clock: new FakeClock(), rng: seededRng(2), disk: new FakeDisk({ rng: seededRng(1) }) }
  const dir = await openDataDir(DIRECTORY, DIR_OPTIONS, env)
  const log = await dir.openLog('a', LOG_OPTIONS)
  const outcomes = [30_000, 30_000, 20_000].map(sizeBytes => code(log.append(batch(sizeBytes))))
  expect(await Promise.all(outcomes)).toEqual(['taken', ['throttled', true], 'taken'])
  expect(await code(log.append(batch(30_000)))).toBe('taken')
  expect(await code(log.append(batch(60_000)))).toEqual(['limit_exceeded', false])
  expect([log.endOffset(), log.durableEndOffset()]).toEqual([3, 3])
  await dir.close()
})

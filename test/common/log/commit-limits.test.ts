import { expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { Log } from '../../../common/log/types.ts'
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

/** Logs `a`, and `m` that goes first, whose appends note here when they are durable. */
async function twoLogs(journalBytes: number) {
  const disk = new FakeDisk({ rng: seededRng(1) })
  const env = { clock: new FakeClock(), rng: seededRng(2), disk }
  const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, journalBytes }, env)
  const bulk = await dir.openLog('a', { ...LOG_OPTIONS, maxBatchBytes: 1_000_000 })
  const first = await dir.openLog('m', { ...LOG_OPTIONS, maxBatchBytes: 1_000_000 }, 'first')
  const done: string[] = []
  const append = (log: Log, name: string, sizeBytes: number): Promise<void> =>
    log.append(batch(sizeBytes)).then(() => void done.push(name))
  return { disk, dir, bulk, first, done, append }
}

const nextTurn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

test('what goes first waits for the commit under way alone, whatever else waits', async () => {
  const { disk, dir, bulk, first, done, append } = await twoLogs(1024 * 1024)
  const release = disk.holdSyncs()
  const all: Promise<void>[] = []
  for (let at = 0; at < 6; at++) {
    all.push(append(bulk, `a${at}`, 400_000))
    await nextTurn()
  }
  all.push(append(first, 'm0', 100), append(first, 'm1', 100))
  await nextTurn()
  release()
  await Promise.all(all)
  expect(done).toEqual(['a0', 'm0', 'm1', 'a1', 'a2', 'a3', 'a4', 'a5'])
  await dir.close()
})

test('what goes first holds nobody up for ever', async () => {
  const { dir, bulk, first, done, append } = await twoLogs(1024 * 1024)
  const all: Promise<void>[] = []
  for (let at = 0; at < 3; at++) {
    all.push(append(bulk, `a${at}`, 400_000))
    await nextTurn()
  }
  let firsts = 0
  while (!done.includes('a2')) {
    // One waits whenever a commit begins.
    all.push(append(first, 'm', 100))
    firsts++
    if (firsts > 1_000) throw new Error('the others never had their turn')
    await nextTurn()
  }
  await Promise.all(all)
  expect(done.filter(name => name !== 'm')).toEqual(['a0', 'a1', 'a2'])
  await dir.close()
})

test('what goes first is taken where others are throttled', async () => {
  const { disk, dir, bulk, first, append } = await twoLogs(64 * 1024 * 1024)
  const release = disk.holdSyncs()
  const outcomes: Promise<unknown>[] = []
  for (let at = 0; at < 150; at++) {
    outcomes.push(code(append(bulk, 'a', 999_000)))
    await nextTurn()
  }
  const mine = append(first, 'm', 100)
  release()
  expect(await Promise.all(outcomes)).toContainEqual(['throttled', true])
  await mine
  await dir.close()
})

import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { ASYNC_FLUSH_MS } from '../../../common/log/journal.ts'
import { JOURNAL_BLOCK_BYTES } from '../../../common/log/journal-format.ts'
import type { DataDir, FlushMode, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS, readAll } from './model.ts'

/** `flush: async`: acked once written, durable a little later, and an unclean stop is told. */

function batch(text: string): Uint8Array {
  return buildBatch([{ key: null, value: utf8(text), headers: [], timestampMs: 1 }])
}

interface World {
  disk: FakeDisk
  clock: FakeClock
  dir: DataDir
  log: Log
}

async function open(disk: FakeDisk, flush: FlushMode = 'async'): Promise<World> {
  const clock = new FakeClock()
  const env = { clock, rng: seededRng(2), disk }
  const dir = await openDataDir(DIRECTORY, { ...DIR_OPTIONS, flush }, env)
  return { disk, clock, dir, log: await dir.openLog('a', LOG_OPTIONS) }
}

const newDisk = (): FakeDisk => new FakeDisk({ rng: seededRng(1), tearing: 'none' })

async function turns(count = 20): Promise<void> {
  for (let at = 0; at < count; at++) await new Promise(resolve => setImmediate(resolve))
}

async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false
  const mark = (): void => {
    done = true
  }
  promise.then(mark, mark)
  await turns()
  return done
}

describe('an append', () => {
  test('resolves once written, and is durable after a while', async () => {
    const { disk, clock, log, dir } = await open(newDisk())
    const before = disk.syncs
    for (let at = 0; at < 5; at++) await log.append(batch(`${at}`))
    expect([log.durableEndOffset(), disk.syncs]).toEqual([5, before])
    clock.advance(ASYNC_FLUSH_MS - 1)
    await turns()
    expect(disk.syncs).toBe(before)
    clock.advance(1)
    await turns()
    expect(disk.syncs).toBe(before + 1)
    expect((await open(disk.copy().crash())).log.endOffset()).toBe(5)
    clock.advance(10 * ASYNC_FLUSH_MS)
    await turns()
    expect(disk.syncs).toBe(before + 1)
    await dir.close()
  })

  test('that must be durable waits for the disk, and so do state, flush and what moves a log’s start', async () => {
    const { disk, dir, log } = await open(newDisk())
    const state = await dir.openState('state', 1_000)
    await log.append(batch('first'))
    const release = disk.holdSyncs()
    const waiting = [
      log.append(batch('vote'), { durable: true }),
      state.put([{ key: 'k', value: utf8('v') }]),
      dir.flush(),
      log.truncateBefore(1),
    ]
    const done = await Promise.all(waiting.map(settled))
    expect(done).toEqual([false, false, false, false])
    release()
    await Promise.all(waiting)
    const again = await open(disk.crash())
    expect([again.log.startOffset(), again.log.endOffset()]).toEqual([1, 2])
    expect((await again.dir.openState('state', 1_000)).get('k')).toEqual(utf8('v'))
  })

  test('survives a kill of the process without any sync', async () => {
    const { disk, log } = await open(newDisk())
    for (let at = 0; at < 5; at++) await log.append(batch(`${at}`))
    const again = await open(disk.kill())
    expect((await readAll(again.log)).length).toBe(5)
    expect(again.dir.recovery).toMatchObject({ uncleanAsync: true, damage: [], tornTails: [] })
  })
})

describe('a sync that fails', () => {
  test.each(['in the background', 'that is waited for'])('%s is final', async which => {
    const { disk, clock, dir, log } = await open(newDisk())
    const failures: string[] = []
    dir.onFailed(error => failures.push(error.code))
    await log.append(batch('acked'))
    disk.failSyncs(1)
    if (which === 'in the background') clock.advance(ASYNC_FLUSH_MS)
    else await expect(dir.flush()).rejects.toMatchObject({ code: 'disk_failed' })
    await turns()
    expect(failures).toEqual(['disk_failed'])
    await expect(log.append(batch('late'))).rejects.toMatchObject({ code: 'disk_failed' })
    await dir.close()
    const again = await open(disk.kill())
    expect(again.dir.recovery.cleanShutdown).toBe(false)
  })
})

describe('an unclean stop', () => {
  test('is told by each start, in either mode, until it was handled', async () => {
    const first = await open(newDisk())
    expect(first.dir.recovery.uncleanAsync).toBe(false)
    const second = await open(first.disk.crash(), 'commit')
    expect(second.dir.recovery.uncleanAsync).toBe(true)
    await second.log.append(batch('durable'))
    await second.dir.close()
    const third = await open(second.disk, 'commit')
    expect(third.dir.recovery).toMatchObject({ cleanShutdown: true, uncleanAsync: true })
    const fourth = await open(third.disk.crash(), 'commit')
    expect(fourth.dir.recovery.uncleanAsync).toBe(true)
    await fourth.dir.recoveryHandled()
    const fifth = await open(fourth.disk.crash(), 'commit')
    expect(fifth.dir.recovery).toMatchObject({ cleanShutdown: false, uncleanAsync: false })
    expect(fifth.log.endOffset()).toBe(1)
  })

  test('is none after a close, nor where every commit was synced', async () => {
    const first = await open(newDisk())
    await first.log.append(batch('x'))
    await first.dir.close()
    const second = await open(first.disk, 'commit')
    expect(second.dir.recovery.uncleanAsync).toBe(false)
    const third = await open(second.disk.crash())
    expect(third.dir.recovery.uncleanAsync).toBe(false)
    expect(third.log.endOffset()).toBe(1)
  })

  test('is told without a checkpoint to tell by', async () => {
    const { disk, log } = await open(newDisk())
    await log.append(batch('x'))
    disk.flipBit(`${DIRECTORY}/checkpoint`, 20, 3)
    const again = await open(disk.kill(), 'commit')
    expect(again.dir.recovery).toMatchObject({ uncleanAsync: true, belowDurableEnd: true })
  })
})

describe('a tail of which not all reached the disk', () => {
  /** Three commits of which the second is lost from the journal; `synced`: they were known to be durable by a fourth. */
  async function withHole(synced: boolean): Promise<World> {
    const { disk, dir, log } = await open(newDisk())
    await log.append(batch('one'))
    const hole = usedBlocks(disk)
    await log.append(batch('two'))
    await log.append(batch('three'))
    if (synced) {
      await dir.flush()
      await log.append(batch('four'))
    }
    const next = disk.kill()
    const journal = await next.open(`${DIRECTORY}/journal-0`, 'write')
    await journal.writev([new Uint8Array(JOURNAL_BLOCK_BYTES)], hole * JOURNAL_BLOCK_BYTES)
    return open(next)
  }

  function usedBlocks(disk: FakeDisk): number {
    const content = disk.contentOf(`${DIRECTORY}/journal-0`)
    let blocks = 0
    while (content[blocks * JOURNAL_BLOCK_BYTES] !== 0) blocks++
    return blocks
  }

  test('is cut where it begins to lack, kept aside and told', async () => {
    const { disk, dir, log } = await withHole(false)
    expect(log.endOffset()).toBe(1)
    const { damage, belowDurableEnd, tornTails } = dir.recovery
    expect([damage, belowDurableEnd]).toEqual([[], false])
    const [torn] = tornTails
    expect(torn).toMatchObject({ log: 'a', fromOffset: 2, cutBytes: batch('three').length })
    expect(Buffer.from(disk.contentOf(torn?.keptAs ?? '')).includes('three')).toBe(true)
    expect(await log.append(batch('again'))).toEqual({ baseOffset: 1, lastOffset: 1 })
  })

  test('is damage where a later commit knows that it was durable', async () => {
    const { dir } = await withHole(true)
    expect(dir.recovery.belowDurableEnd).toBe(true)
    expect(dir.recovery.damage.length).toBeGreaterThan(0)
  })
})

import { strict as assert } from 'node:assert'
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { JOURNAL_BLOCK_BYTES, peekRecord } from '../../../common/log/journal-format.ts'
import type { Log } from '../../../common/log/types.ts'
import type { FakeDisk } from '../../fake-disk.ts'
import { DIRECTORY, Model, tailOf } from './model.ts'

/** Bits that flip in what was durable: told as damage, never served, never taken for a torn tail. */

const RUNS = Number(process.env.LOG_RUNS ?? 300)

interface Stretch {
  fromOffset: number
  toOffset: number
}

/** Reads a whole log, going on past what it is told is damaged. */
async function readPastDamage(log: Log, told: Stretch[]): Promise<Map<number, string>> {
  const found = new Map<number, string>()
  let offset = log.startOffset()
  while (offset < log.durableEndOffset()) {
    try {
      const read = await log.read(offset, 3000)
      for (const { at, header } of eachBatch(read.batches)) {
        found.set(header.baseOffset, tailOf(read.batches.subarray(at, at + header.sizeBytes)))
      }
      assert.ok(read.nextOffset > offset)
      offset = read.nextOffset
    } catch (error) {
      if (!isTributaryError(error, 'corrupt_log')) throw error
      const { fromOffset, toOffset } = error.details
      assert.ok(typeof fromOffset === 'number' && typeof toOffset === 'number' && toOffset > offset)
      told.push({ fromOffset, toOffset })
      offset = toOffset
    }
  }
  return found
}

interface Range {
  path: string
  from: number
  to: number
}

/**
 * Bytes where damage can't be told (decision 001): leader epochs, and the journal's last commit, which nothing else
 * vouches for where the segments do not have it yet, or lost it.
 */
function blindSpots(disk: FakeDisk, stop: 'clean' | 'kill' | 'crash'): Range[] {
  const spots: Range[] = []
  for (const path of disk.paths().filter(name => name.endsWith('.log'))) {
    try {
      for (const { at } of eachBatch(disk.contentOf(path))) spots.push({ path, from: at + 12, to: at + 16 })
    } catch {
      // A segment that the crash tore.
    }
  }
  if (stop === 'clean') return spots
  const meta = Buffer.from(disk.contentOf(`${DIRECTORY}/meta.json`)).toString()
  const journalId = Buffer.from(/"journalId":\s*"([0-9a-f]+)"/.exec(meta)?.[1] ?? '', 'hex')
  let last = { path: '', number: -1, from: 0, to: 0 }
  for (const path of [`${DIRECTORY}/journal-0`, `${DIRECTORY}/journal-1`]) {
    const content = disk.contentOf(path)
    for (let at = 0; at < content.length; at += JOURNAL_BLOCK_BYTES) {
      const info = peekRecord(content.subarray(at), journalId, content.length - at)
      if (info === undefined || info.number <= last.number) continue
      last = {
        path,
        number: info.number,
        from: at,
        to: at + info.tableBytes + info.payloadBytes,
      }
    }
  }
  return [...spots, last]
}

describe('flipped bits', () => {
  test(
    'are reported as damage and never served',
    async () => {
      let damaged = 0
      await fc.assert(
        fc.asyncProperty(
          fc.nat(0x7fffffff),
          fc.integer({ min: 1, max: 40 }),
          fc.constantFrom('clean' as const, 'kill' as const, 'crash' as const),
          fc.nat(),
          fc.array(fc.record({ position: fc.nat(), bit: fc.nat(7) }), { minLength: 1, maxLength: 3 }),
          async (seed, appends, stop, file, flips) => {
            const model = new Model(seed, 'sector')
            await model.open()
            for (let at = 0; at < appends; at++) {
              model.appendTurn([at, at * 7], seed % 2900, [at])
              if (at % 4 === 3) await model.settle()
            }
            await model.settle()
            const clean = stop === 'clean'
            if (clean) await model.close()
            else await model.crash(stop)
            const { disk } = model
            const paths = disk
              .paths()
              .filter(path => !path.endsWith('meta.json') && disk.contentOf(path).length > 0)
            const blind = blindSpots(disk, stop)
            // In one file: with both copies of the last commit hit, nothing is left to tell by.
            for (const { position, bit } of flips) {
              const path = paths[file % paths.length]
              if (path === undefined) continue
              const at = position % disk.contentOf(path).length
              if (!blind.some(spot => spot.path === path && at >= spot.from && at < spot.to))
                disk.flipBit(path, at, bit)
            }
            await model.open(false)
            for (const { name, log, entries } of model.logs) {
              assert.ok(log !== undefined)
              const damage = model.dir?.recovery.damage ?? []
              const told: Stretch[] = damage.filter(found => found.log === name)
              // A commit lost from the journal is told as such: nobody knows what it held if the segments lack it too.
              const lostCommit = damage.some(found => found.log === '')
              if (lostCommit) told.push({ fromOffset: 0, toOffset: Number.MAX_SAFE_INTEGER })
              const found = await readPastDamage(log, told)
              damaged += told.length
              for (const entry of entries) {
                const tail = found.get(entry.baseOffset)
                found.delete(entry.baseOffset)
                if (tail === entry.tail) continue
                assert.equal(tail, undefined, `${name} serves something else at ${entry.baseOffset}`)
                const excused = told.some(
                  ({ fromOffset, toOffset }) => fromOffset <= entry.baseOffset && toOffset > entry.baseOffset,
                )
                assert.ok(excused, `${name} lost ${entry.baseOffset} silently`)
              }
              assert.deepEqual([...found.keys()], [], `${name} serves what was never appended`)
            }
            await model.close()
          },
        ),
        { numRuns: RUNS },
      )
      // The test means nothing unless some flips hit.
      assert.ok(damaged > RUNS / 20)
    },
    60_000 + RUNS * 60,
  )
})

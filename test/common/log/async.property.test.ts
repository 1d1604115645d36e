import { strict as assert } from 'node:assert'
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { isTributaryError } from '../../../common/errors.ts'
import { ASYNC_FLUSH_MS } from '../../../common/log/journal.ts'
import type { FlushMode } from '../../../common/log/types.ts'
import type { FakeDisk } from '../../fake-disk.ts'
import type { Entry, Found } from './async-machine.ts'
import { addRecords, LOGS, Machine } from './async-machine.ts'

/**
 * Random schedules under `flush: async`: whatever happens, the directory holds what was appended up to some turn, in order and
 * nothing else, and never less than a completed sync covered; an unclean stop is told, damage below a synced point is damage.
 */

const RUNS = Number(process.env.LOG_RUNS ?? 400)
const which = fc.uniqueArray(fc.nat(2), { minLength: 1, maxLength: 3 })
const how = fc.constantFrom(
  'plain' as const,
  'plain' as const,
  'plain' as const,
  'plain' as const,
  'durable' as const,
  'state' as const,
)
const mode = fc.constantFrom('async' as const, 'async' as const, 'async' as const, 'commit' as const)
const fraction = fc.double({ min: 0, max: 1, noNaN: true })

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ op: fc.constant('append' as const), which, size: fc.nat(6_000), how }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constant('burst' as const), count: fc.nat(40), size: fc.nat(3_000) }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('flush' as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('pass' as const),
      turns: fc.nat(4),
      ms: fc.constantFrom(0, 60, ASYNC_FLUSH_MS),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('check' as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('before' as const), log: fc.nat(2), fraction }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('after' as const), log: fc.nat(2), fraction }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('failSync' as const),
      how: fc.constantFrom('crash' as const, 'kill' as const),
      mode,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('stop' as const),
      how: fc.constantFrom('crash' as const, 'crash' as const, 'kill' as const),
      hops: fc.nat(200),
      during: fc.boolean(),
      mode,
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('reopen' as const), mode }) },
)

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

async function hops(count: number): Promise<void> {
  for (let at = 0; at < count; at++) await undefined
}

async function restart(
  machine: Machine,
  how: 'crash' | 'kill',
  during: number,
  flush: FlushMode,
): Promise<void> {
  await machine.stop(how)
  if (during > 0) {
    // The machine fails again while recovery is at it.
    const opening = machine.open(flush).catch(() => {})
    await hops(during)
    await machine.pass(during % 3)
    const next = machine.disk.crash()
    await opening
    machine.disk = next
  }
  await machine.open(flush)
  await machine.compare()
}

async function run(machine: Machine, next: Step): Promise<void> {
  switch (next.op) {
    case 'append':
      machine.append(next.which, next.size, next.how)
      break
    case 'burst':
      for (let at = 0; at < next.count; at++) {
        machine.append([at % 3], next.size, 'plain')
        if (at % 3 === 0) await machine.pass(1)
      }
      break
    case 'flush':
      machine.flush()
      break
    case 'pass':
      machine.clock.advance(next.ms)
      await machine.pass(next.turns)
      break
    case 'check':
      await machine.check()
      break
    case 'before':
      await machine.truncateBefore(next.log, next.fraction)
      break
    case 'after':
      await machine.truncateAfter(next.log, next.fraction)
      break
    case 'failSync':
      await machine.settle()
      machine.append([0, 1], 500, 'plain')
      await machine.settle()
      machine.disk.failSyncs(1)
      machine.flush()
      await machine.settle()
      await restart(machine, next.how, 0, next.mode)
      break
    case 'stop':
      await hops(next.hops)
      // What a kill leaves in the page cache, a power cut right after may take.
      await restart(machine, next.during ? 'crash' : next.how, next.during ? next.hops * 3 : 0, next.mode)
      break
    case 'reopen':
      await machine.close()
      await machine.open(next.mode)
      await machine.compare()
      break
  }
}

const tearing = fc.constantFrom('none' as const, 'sector' as const, 'byte' as const)

describe('under flush: async', () => {
  test(
    'what comes back is what was appended up to some turn, and at least what was synced',
    async () => {
      let lost = 0
      await fc.assert(
        fc.asyncProperty(
          fc.nat(0x7fffffff),
          tearing,
          fc.array(step, { minLength: 3, maxLength: 14 }),
          async (seed, torn, steps) => {
            const machine = new Machine(seed, torn)
            await machine.open('async')
            for (const next of steps) await run(machine, next)
            await machine.settle()
            const before = machine.entries.length
            await restart(machine, 'crash', 0, 'async')
            if (machine.entries.length < before) lost++
            await machine.close()
          },
        ),
        { numRuns: RUNS },
      )
      // The test means nothing unless crashes take something.
      assert.ok(lost > RUNS / 20)
    },
    60_000 + RUNS * 60,
  )

  test(
    'what is damaged below a synced point is told as damage, and never served',
    async () => {
      let told = 0
      await fc.assert(
        fc.asyncProperty(
          fc.nat(0x7fffffff),
          fc.integer({ min: 1, max: 25 }),
          fc.nat(),
          fc.array(fc.record({ position: fc.nat(), bit: fc.nat(7) }), { minLength: 1, maxLength: 3 }),
          async (seed, appends, file, flips) => {
            const machine = new Machine(seed, 'sector')
            await machine.open('async')
            for (let at = 0; at < appends; at++) {
              machine.append([at % 3], seed % 2_900, 'plain')
              if (at % 4 === 0) await machine.pass(1)
            }
            machine.flush()
            await machine.settle()
            const covered = [...machine.entries]
            // Commits that know of the sync, more than flips can hit, and are on the disk themselves.
            for (let at = 0; at < 6; at++) {
              machine.append([at % 3], 10, 'plain')
              await machine.settle()
            }
            machine.flush()
            await machine.settle()
            await machine.stop('crash')
            flipBits(machine.disk, file, flips)
            await machine.open('commit')
            told += await judge(machine, covered)
            await machine.dir.close()
          },
        ),
        { numRuns: RUNS },
      )
      assert.ok(told > RUNS / 20)
    },
    60_000 + RUNS * 60,
  )
})

/** In one file of those that hold data; not in offsets and leader epochs of segments: no sum covers them, and two flips may fit. */
function flipBits(disk: FakeDisk, file: number, flips: readonly { position: number; bit: number }[]): void {
  const isData = (path: string): boolean => path.endsWith('.log') || path.includes('/journal-')
  const paths = disk.paths().filter(path => isData(path) && disk.contentOf(path).some(byte => byte !== 0))
  const path = paths[file % paths.length]
  if (path === undefined) return
  const content = disk.contentOf(path)
  const used = content.findLastIndex(byte => byte !== 0) + 1
  const unsummed = new Set<number>()
  if (path.endsWith('.log')) {
    for (let at = 0; at + 61 <= content.length; at++) {
      if (content[at + 16] === 2) for (let byte = 0; byte < 16; byte++) unsummed.add(at + byte)
    }
  }
  for (const { position, bit } of flips)
    if (!unsummed.has(position % used)) disk.flipBit(path, position % used, bit)
}

/** Each record that a sync covered is there, or in a stretch that was told; returns how many were told. */
async function judge(machine: Machine, covered: readonly Entry[]): Promise<number> {
  const { damage } = machine.dir.recovery
  // A commit lost from the journal is told as such: nobody knows what it held.
  const lostCommit = damage.some(found => found.log === '')
  let told = 0
  for (const [at, log] of machine.logs.entries()) {
    const stretches = damage
      .filter(found => found.log === LOGS[at])
      .map(({ fromOffset, toOffset }) => [fromOffset, toOffset] as const)
    const found: Found = new Map()
    for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
      try {
        const { batches, nextOffset } = await log.read(offset, 4_000)
        addRecords(found, batches)
        offset = nextOffset
      } catch (error) {
        if (!isTributaryError(error, 'corrupt_log')) throw error
        const to = Number(error.details.toOffset)
        assert.ok(to > offset)
        stretches.push([offset, to])
        offset = to
      }
    }
    for (const entry of covered) {
      if (entry.log !== at || found.get(entry.offset) === entry.text) continue
      assert.ok(!found.has(entry.offset), `${LOGS[at]} serves something else at ${entry.offset}`)
      const excused = lostCommit || stretches.some(([from, to]) => entry.offset >= from && entry.offset < to)
      assert.ok(excused, `${LOGS[at]} lost ${entry.offset} silently`)
      told++
    }
  }
  return told + damage.length
}

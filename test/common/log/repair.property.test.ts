import { strict as assert } from 'node:assert'
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { buildControlBatch } from '../../../common/batch-control.ts'
import { utf8, writeI64 } from '../../../common/bytes.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { verifyDirectory } from '../../../common/log/inspect.ts'
import type { DataDir, Log } from '../../../common/log/types.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { DIR_OPTIONS, DIRECTORY, LOG_OPTIONS } from './model.ts'
import type { ReplicaBatch } from './replica-stage.ts'
import { batchesOf, stretchOf } from './replica-stage.ts'

/** Damage of any kind, repaired from another replica in pieces, with crashes in between: the log is whole again. */

const RUNS = Number(process.env.LOG_RUNS ?? 300)
const FOLDER = `${DIRECTORY}/logs/a/0`

interface Harm {
  kind: 'flip' | 'zero' | 'shorten' | 'remove'
  segment: number
  percent: number
  length: number
}

interface Step {
  /** Batches of a piece. */
  count: number
  which: number
  appends: number
  /** Time passes, so that segments are written. */
  ms: number
  stop: 'none' | 'crash' | 'kill' | 'close'
  hops: number
}

const harms = fc.array(
  fc.record({
    kind: fc.constantFrom(
      'flip' as const,
      'flip' as const,
      'zero' as const,
      'shorten' as const,
      'remove' as const,
    ),
    segment: fc.nat(20),
    percent: fc.nat(99),
    length: fc.nat(1500),
  }),
  { minLength: 1, maxLength: 4 },
)
const steps = fc.array(
  fc.record({
    count: fc.constantFrom(1, 2, 3, 1000),
    which: fc.nat(5),
    appends: fc.nat(4),
    ms: fc.constantFrom(0, 0, 100),
    stop: fc.constantFrom(
      'none' as const,
      'crash' as const,
      'crash' as const,
      'kill' as const,
      'close' as const,
    ),
    hops: fc.nat(150),
  }),
  { maxLength: 12 },
)

class Replica {
  disk: FakeDisk
  clock = new FakeClock()
  readonly #seed: number
  #opens = 0
  whole: ReplicaBatch[] = []
  #next = 0
  #dir: DataDir | undefined
  #log: Log | undefined

  constructor(seed: number) {
    this.#seed = seed
    this.disk = new FakeDisk({ rng: seededRng(seed) })
  }

  get log(): Log {
    assert.ok(this.#log !== undefined)
    return this.#log
  }

  async open(): Promise<void> {
    this.clock = new FakeClock()
    const env = { clock: this.clock, rng: seededRng(this.#seed + ++this.#opens), disk: this.disk }
    this.#dir = await openDataDir(DIRECTORY, DIR_OPTIONS, env)
    this.#log = await this.#dir.openLog('a/0', LOG_OPTIONS)
  }

  async close(): Promise<void> {
    await this.#dir?.close()
  }

  /** A batch, or at times a gap that jumps. */
  batch(): Uint8Array {
    const id = this.#next++
    if (id % 7 === 5) {
      const gap = buildControlBatch({ type: 1001, value: utf8(`${id}`), producerId: 1, timestampMs: 1 })
      if (id % 2 === 0) writeI64(gap, 0, this.log.endOffset() + 3)
      return gap
    }
    const value = utf8(`${id}`.padEnd(1 + ((id * 379) % 1900), 'x'))
    const one = { key: null, value, headers: [], timestampMs: 1 }
    return buildBatch(Array.from({ length: 1 + (id % 3) }, () => one))
  }

  async append(): Promise<void> {
    const bytes = this.batch()
    const { baseOffset, lastOffset } = await this.log.append(bytes, { leaderEpoch: this.#next })
    this.whole.push({ baseOffset, lastOffset, bytes: Uint8Array.from(bytes) })
  }

  segments(): string[] {
    const isSegment = (path: string): boolean => path.startsWith(FOLDER) && path.endsWith('.log')
    return this.disk.paths().filter(isSegment).sort()
  }
}

async function harm(disk: FakeDisk, paths: readonly string[], next: Harm): Promise<void> {
  const path = paths[next.segment % paths.length]
  if (path === undefined || !disk.paths().includes(path)) return
  const content = disk.contentOf(path)
  const at = Math.floor((content.length * next.percent) / 100)
  if (next.kind === 'remove') {
    await disk.remove(path)
    await disk.syncDir(FOLDER)
    return
  }
  if (next.kind === 'flip') {
    if (!isEpoch(content, at)) disk.flipBit(path, at, next.length % 8)
    return
  }
  const file = await disk.open(path, 'update')
  if (next.kind === 'shorten') await file.truncate(at)
  else await file.writev([new Uint8Array(Math.min(next.length, content.length - at))], at)
  await file.datasync()
}

/** A leader epoch lies outside the CRC: damage there is not seen. */
function isEpoch(content: Uint8Array, position: number): boolean {
  try {
    for (const { at } of eachBatch(content)) if (position >= at + 12 && position < at + 16) return true
    return false
  } catch {
    return true
  }
}

async function look(log: Log): Promise<void> {
  for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
    try {
      offset = (await log.read(offset, 4000)).nextOffset
    } catch (error) {
      if (!isTributaryError(error, 'corrupt_log')) throw error
      const to = error.details.toOffset
      assert.ok(typeof to === 'number' && to > offset)
      offset = to
    }
  }
}

async function repairOne(replica: Replica, step: Step): Promise<void> {
  const { log } = replica
  await look(log)
  const damages = log.damage()
  const damage = damages[step.which % Math.max(1, damages.length)]
  const under: Promise<unknown>[] = []
  if (damage !== undefined)
    under.push(log.repairStretch(damage, stretchOf(replica.whole, damage, step.count)))
  for (let at = 0; at < step.appends; at++) under.push(replica.append())
  replica.clock.advance(step.ms)
  if (step.stop === 'crash' || step.stop === 'kill') {
    const settled = Promise.allSettled(under)
    for (let at = 0; at < step.hops; at++) await undefined
    const next = replica.disk[step.stop]()
    await settled
    replica.disk = next
    await replica.open()
    return
  }
  await Promise.all(under)
  if (step.stop === 'close') {
    await replica.close()
    await replica.open()
  }
}

async function repairAll(replica: Replica): Promise<void> {
  for (let round = 0; round < 200; round++) {
    await look(replica.log)
    if (replica.log.damage().length === 0) return
    await repairOne(replica, { count: 4, which: 0, appends: 0, ms: 0, stop: 'none', hops: 0 })
  }
}

async function expectWhole(replica: Replica): Promise<void> {
  const { log } = replica
  assert.deepEqual(log.damage(), [])
  const found = new Map((await batchesOf(log)).map(batch => [batch.baseOffset, batch]))
  for (const { baseOffset, bytes } of replica.whole) {
    const there = found.get(baseOffset)
    assert.ok(there !== undefined && Buffer.compare(there.bytes, bytes) === 0, `offset ${baseOffset}`)
  }
}

describe('a damaged log', () => {
  test(
    'is whole again once every stretch is repaired, whatever happened meanwhile',
    async () => {
      let damaged = 0
      await fc.assert(
        fc.asyncProperty(
          fc.nat(0x7fffffff),
          fc.integer({ min: 3, max: 40 }),
          harms,
          steps,
          async (seed, appends, wrongs, list) => {
            const replica = new Replica(seed)
            await replica.open()
            for (let at = 0; at < appends; at++) await replica.append()
            await replica.close()
            const paths = replica.segments()
            for (const next of wrongs) await harm(replica.disk, paths, next)
            await replica.open()
            await look(replica.log)
            if (replica.log.damage().length > 0) damaged++
            for (const step of list) await repairOne(replica, step)
            await repairAll(replica)
            await expectWhole(replica)
            const next = replica.disk.crash()
            await replica.close().catch(() => {})
            replica.disk = next
            await replica.open()
            await look(replica.log)
            // What a killed process wrote and did not sync looked whole, until the power went.
            if (list.some(({ stop }) => stop === 'kill')) await repairAll(replica)
            await expectWhole(replica)
            await replica.close()
            const report = await verifyDirectory(replica.disk, DIRECTORY)
            assert.deepEqual(
              report.findings.filter(({ kind }) => kind === 'damage'),
              [],
            )
          },
        ),
        { numRuns: RUNS },
      )
      assert.ok(damaged > RUNS / 2)
    },
    60_000 + RUNS * 60,
  )
})

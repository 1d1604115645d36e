import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { utf8Text } from '../../../common/bytes.ts'
import { isDiskFull, isTributaryError, systemErrorCode } from '../../../common/errors.ts'
import type { LogOptions } from '../../../common/log/types.ts'
import type { LaneTip } from '../../../common/wire.ts'
import { readEdgeControl } from '../../../hub/replica/control.ts'
import { createGapPlaces } from '../../../hub/replica/gap-places.ts'
import { createLeaderEpochs } from '../../../hub/replica/leader-epochs.ts'
import { decodeSnapshot, encodeSnapshot } from '../../../hub/replica/producer-snapshot.ts'
import { Producers } from '../../../hub/replica/producers.ts'
import { replayBatches } from '../../../hub/replica/replay.ts'
import { seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'
import { runOf, testRun } from './batches.ts'
import type { Opened } from './harness.ts'
import { openOn } from './harness.ts'

/** More with LOG_RUNS, for a long search. */
const RUNS = Number(process.env.LOG_RUNS ?? 300)

type Step =
  | { kind: 'append'; lane: number; count: number; back: number }
  | { kind: 'gap'; lane: number; count: number; back: number }
  | { kind: 'run'; lane: number; chained: boolean }
  | { kind: 'client'; client: number; count: number; repeat: boolean }
  | { kind: 'remove'; lane: number }
  | { kind: 'wait' | 'snapshot' | 'retain' | 'crash' | 'kill' | 'reopen' | 'full' }

const lane = fc.nat(2)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('append' as const),
      lane,
      count: fc.integer({ min: 1, max: 5 }),
      back: fc.nat(3),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('gap' as const),
      lane,
      count: fc.integer({ min: 1, max: 5 }),
      back: fc.nat(3),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('run' as const), lane, chained: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('client' as const),
      client: fc.nat(2),
      count: fc.integer({ min: 1, max: 3 }),
      repeat: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const), lane }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom<'wait' | 'snapshot' | 'retain' | 'crash' | 'kill' | 'reopen' | 'full'>(
        'wait',
        'wait',
        'snapshot',
        'retain',
        'retain',
        'crash',
        'kill',
        'reopen',
        'full',
      ),
    }),
  },
)

const idOf = (number: number) => ({ edge: `e${number}`, lane: number })

/** Everything in the log, and producers made from it alone. */
async function fromLog({
  log,
}: Opened): Promise<{ producers: Producers; records: string[]; batches: Uint8Array[] }> {
  const producers = new Producers()
  const epochs = createLeaderEpochs()
  const gaps = createGapPlaces()
  const records: string[] = []
  const batches: Uint8Array[] = []
  for (let offset = log.startOffset(); offset < log.durableEndOffset(); ) {
    const read = await log.read(offset, 8192)
    replayBatches({ producers, epochs, gaps }, read.batches, offset, 0)
    batches.push(Uint8Array.from(read.batches))
    for (const { at, header } of eachBatch(read.batches)) {
      if (header.isControl) continue
      for (const { value } of decodePlain(read.batches, at))
        records.push(utf8Text(value ?? new Uint8Array(0)))
    }
    offset = read.nextOffset
  }
  return { producers, records, batches }
}

/** Runs as they stand in the log: each begins at 0 or where its last batch or gap ended, and no sequence comes twice. */
function checkSequences(batches: readonly Uint8Array[]): void {
  const next = new Map<number, number>()
  for (const bytes of batches) {
    for (const { at, header } of eachBatch(bytes)) {
      if (header.producerId < 2 ** 52) continue
      if (!header.isControl) {
        expect(header.baseSequence).toBe(next.get(header.producerId))
        next.set(header.producerId, header.baseSequence + header.recordCount)
        continue
      }
      const control = readEdgeControl(bytes, at)
      if (control?.type === 'run' && control.run.reason !== 'removed') next.set(control.run.run, 0)
      if (control?.type === 'gap' && control.gap.count !== null) {
        expect(control.gap.from).toBe(next.get(control.gap.run))
        next.set(control.gap.run, control.gap.to)
      }
    }
  }
}

class World {
  opened: Opened
  disk: FakeDisk
  acked: { lane: number; tip: LaneTip }[] = []
  runs = 1
  waiting: Promise<unknown>[] = []
  clientNext = [0, 0, 0]
  log: Partial<LogOptions>

  constructor(opened: Opened, disk: FakeDisk, log: Partial<LogOptions> = {}) {
    this.opened = opened
    this.disk = disk
    this.log = log
  }

  /** Takes a step, whatever it is; nothing is awaited but restarts and full disks. */
  async take(next: Step, check: () => Promise<void>): Promise<void> {
    const { partition } = this.opened
    if (next.kind === 'wait') await check()
    else if (next.kind === 'snapshot')
      this.start(
        partition.snapshot(0).then(() => undefined),
        -1,
      )
    else if (next.kind === 'retain') this.start(this.retain(), -1)
    else if (next.kind === 'full') await this.fill()
    else if (next.kind === 'crash' || next.kind === 'kill' || next.kind === 'reopen') {
      await this.reopen(next.kind)
      await check()
    } else this.perform(next)
  }

  /** Awaits nothing: the next step comes while this one is in flight. */
  start(promise: Promise<LaneTip | undefined>, lane: number): void {
    this.waiting.push(
      promise.then(
        tip => {
          if (tip !== undefined) this.acked.push({ lane, tip })
        },
        error => {
          // A snapshot under way when the machine goes down or the disk is full gets the disk's own error.
          const isDisks = systemErrorCode(error) === 'EIO' || isDiskFull(error)
          if (!isTributaryError(error) && !isDisks) throw error
        },
      ),
    )
  }

  perform(step: Step): void {
    const { partition } = this.opened
    if (step.kind === 'append' || step.kind === 'gap') {
      const tip = partition.tip(idOf(step.lane))
      if (tip === null) return
      const from = Math.max(0, tip.next - step.back)
      if (step.kind === 'append') {
        this.start(partition.appendLane(idOf(step.lane), runOf(tip.run, from, step.count)), step.lane)
        return
      }
      const range = { run: tip.run, from, to: from + step.count, localFrom: from, localTo: from + step.count }
      this.start(
        partition.declareGap(idOf(step.lane), { ...range, reason: 'retention', firstMs: null, lastMs: null }),
        step.lane,
      )
    } else if (step.kind === 'run') {
      const tip = partition.tip(idOf(step.lane))
      const prev = step.chained && tip !== null ? { run: tip.run, end: tip.next } : null
      const run = testRun(this.runs++)
      this.start(
        partition.startRun(idOf(step.lane), { run, prev, reason: prev === null ? 'first' : 'next' }),
        step.lane,
      )
    } else if (step.kind === 'client') this.client(step.client, step.count, step.repeat)
    else if (step.kind === 'remove') this.remove(step.lane)
  }

  client(client: number, count: number, repeat: boolean): void {
    const next = this.clientNext[client] ?? 0
    const from = repeat ? Math.max(0, next - count) : next
    if (!repeat) this.clientNext[client] = next + count
    this.start(
      this.opened.partition.append(runOf(client, from, count), 'all').then(() => undefined),
      -1,
    )
  }

  remove(lane: number): void {
    const removed = this.opened.partition.removeLane(idOf(lane)).then(() => {
      this.acked = this.acked.filter(ack => ack.lane !== lane)
      return undefined
    })
    this.start(removed, lane)
  }

  async settle(): Promise<void> {
    await Promise.all(this.waiting.splice(0))
  }

  async reopen(how: 'crash' | 'kill' | 'reopen'): Promise<void> {
    if (how === 'reopen') {
      await this.settle()
      await this.opened.dataDir.close()
    } else this.disk = how === 'crash' ? this.disk.crash() : this.disk.kill()
    await this.settle()
    this.opened = await openOn({ disk: this.disk, log: this.log })
  }

  async fill(): Promise<void> {
    this.disk.setCapacity(this.disk.usedBytes() + 200)
    for (let number = 0; number < 3; number++) {
      this.perform({ kind: 'append', lane: number, count: 5, back: 0 })
      this.perform({ kind: 'gap', lane: number, count: 2, back: 1 })
      this.perform({ kind: 'append', lane: number, count: 3, back: 0 })
    }
    await this.settle()
    this.disk.setCapacity(Number.POSITIVE_INFINITY)
  }

  /** A snapshot, and retention once it is said to be durable. */
  async retain(): Promise<undefined> {
    const { partition, clock } = this.opened
    await partition.snapshot(0)
    await partition.maintain(clock.nowMs())
  }

  /** Several batches on each lane. */
  async work(): Promise<void> {
    for (let round = 0; round < 5; round++) {
      for (const number of [0, 1, 2]) {
        if (this.opened.partition.tip(idOf(number)) === null)
          this.perform({ kind: 'run', lane: number, chained: false })
        this.perform({ kind: 'append', lane: number, count: 5, back: 0 })
      }
      await new Promise(resolve => setImmediate(resolve))
    }
  }

  /** What was acked is known, though the records may be gone. */
  async checkTips(): Promise<void> {
    await this.settle()
    const newest = new Map<number, LaneTip>()
    for (const { lane, tip } of this.acked) if (lane >= 0) newest.set(lane, tip)
    for (const [number, ack] of newest) {
      const live = this.opened.partition.tip(idOf(number))
      expect(live).not.toBeNull()
      if (live?.run === ack.run) expect(live.next).toBeGreaterThanOrEqual(ack.committed)
    }
    this.acked = []
  }

  /** What was acked is there, the log is without holes, and producers are what the log says. */
  async check(): Promise<void> {
    await this.settle()
    const { producers, batches } = await fromLog(this.opened)
    checkSequences(batches)
    const newest = new Map<number, LaneTip>()
    for (const { lane, tip } of this.acked) newest.set(lane, tip)
    for (let number = 0; number < 3; number++) {
      const live = this.opened.partition.tip(idOf(number))
      const rebuilt = producers.lane(idOf(number))
      expect(live === null ? null : { run: live.run, next: live.next }).toEqual(
        rebuilt === undefined ? null : { run: rebuilt.run, next: rebuilt.next },
      )
      expect(live?.committed).toBe(live?.next)
      const ack = newest.get(number)
      if (ack !== undefined && live !== null && ack.run === live.run) {
        expect(live.next).toBeGreaterThanOrEqual(ack.committed)
      }
    }
    expect(this.opened.partition.producerStats()).toEqual(producers.stats())
    this.acked = []
  }
}

describe('producers', () => {
  it(
    'are what the log says, after whatever appends, gaps, runs, full disks and crashes',
    async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(), async (steps, seed) => {
          const disk = new FakeDisk({ rng: seededRng(seed) })
          const world = new World(await openOn({ disk, seed }), disk)
          for (const number of [0, 1, 2]) world.perform({ kind: 'run', lane: number, chained: false })
          for (const next of steps) await world.take(next, () => world.check())
          await world.check()
          await world.opened.dataDir.close()
        }),
        { numRuns: RUNS },
      )
    },
    60_000 + RUNS * 60,
  )

  it(
    'outlive retention: no segment goes before a durable snapshot covers it',
    async () => {
      // A segment holds a few batches, and all but the last may go.
      const log = { segmentBytes: 400, retentionBytes: 1 }
      let deleted = 0
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), fc.nat(), async (steps, seed) => {
          const disk = new FakeDisk({ rng: seededRng(seed) })
          const world = new World(await openOn({ disk, seed, log }), disk, log)
          for (const number of [0, 1, 2]) world.perform({ kind: 'run', lane: number, chained: false })
          for (const next of steps) {
            if (next.kind === 'remove') continue
            await world.take(next, () => world.checkTips())
            if (next.kind === 'snapshot') await world.take({ kind: 'retain' }, () => world.checkTips())
          }
          await world.reopen('crash')
          await world.checkTips()
          if (world.opened.log.startOffset() > 0) deleted++
          await world.opened.dataDir.close()
        }),
        { numRuns: Math.ceil(RUNS / 3) },
      )
      expect(deleted).toBeGreaterThan(RUNS / 60)
    },
    60_000 + RUNS * 60,
  )

  it('come back from a snapshot at any offset and the batches behind it', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), fc.nat(), async (steps, cut) => {
        const disk = new FakeDisk({ rng: seededRng(cut) })
        const world = new World(await openOn({ disk }), disk)
        for (const number of [0, 1, 2]) world.perform({ kind: 'run', lane: number, chained: false })
        for (const next of steps) world.perform(next)
        await world.settle()
        const { producers, batches } = await fromLog(world.opened)
        const half = { producers: new Producers(), epochs: createLeaderEpochs(), gaps: createGapPlaces() }
        const end = world.opened.log.endOffset()
        const at = end === 0 ? 0 : cut % (end + 1)
        for (const bytes of batches) {
          for (const { at: position, header } of eachBatch(bytes)) {
            if (header.lastOffset < at)
              replayBatches(half, bytes.subarray(position, position + header.sizeBytes), 0, 0)
          }
        }
        const restored = decodeSnapshot(encodeSnapshot(half))
        for (const bytes of batches) {
          for (const { at: position, header } of eachBatch(bytes)) {
            if (header.lastOffset >= at) {
              replayBatches(restored, bytes.subarray(position, position + header.sizeBytes), 0, 0)
            }
          }
        }
        expect([...restored.producers.lanes()].toSorted(byEdge)).toEqual(
          [...producers.lanes()].toSorted(byEdge),
        )
        expect([...restored.producers.clients()]).toEqual([...producers.clients()])
        await world.opened.dataDir.close()
      }),
      { numRuns: 60 },
    )
  })
})

function byEdge(left: { edge: string }, right: { edge: string }): number {
  return left.edge < right.edge ? -1 : 1
}

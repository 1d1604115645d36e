import { describe, expect, it } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { compressBatch } from '../../../common/batch-join.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { concat, utf8Text } from '../../../common/bytes.ts'
import { nodeCodec } from '../../../common/compression.ts'
import { TributaryError } from '../../../common/errors.ts'
import { DAY_MS } from '../../../common/limits.ts'
import { createGapPlaces } from '../../../hub/replica/gap-places.ts'
import { createHubTime } from '../../../hub/replica/hub-time.ts'
import type { GapRange } from '../../../hub/replica/lanes.ts'
import { createLeaderEpochs } from '../../../hub/replica/leader-epochs.ts'
import { restoreHistory } from '../../../hub/replica/log-access.ts'
import type { Partition } from '../../../hub/replica/partition.ts'
import { encodeSnapshot } from '../../../hub/replica/producer-snapshot.ts'
import { Producers } from '../../../hub/replica/producers.ts'
import { FakeClock } from '../../fake-clock.ts'
import { smallDisk } from '../../fake-disk.ts'
import { plainOf, runOf, testRun } from './batches.ts'
import { codeOf, openOn } from './harness.ts'

const id = { edge: 'e1', lane: 0 }
const P = testRun(1)
const Q = testRun(2)

function gap(run: number, from: number, to: number): GapRange {
  return { run, from, to, reason: 'disk-full', firstMs: 1, lastMs: 2, localFrom: from, localTo: to }
}

async function values(partition: Partition): Promise<string[]> {
  const found: string[] = []
  for (let offset = partition.bounds().startOffset; ; ) {
    const { batches, nextOffset } = await partition.read(offset, 4096)
    if (nextOffset === offset) return found
    for (const { at, header } of eachBatch(batches)) {
      if (header.isControl) continue
      for (const { value } of decodePlain(batches, at)) found.push(utf8Text(value ?? new Uint8Array(0)))
    }
    offset = nextOffset
  }
}

/** Lets what can go on without a held sync go on. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
}

describe('appends', () => {
  it('are acked and served when committed, duplicates too', async () => {
    const { disk, partition, counters } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    const release = disk.holdSyncs()
    const acks: string[] = []
    const first = partition.appendLane(id, runOf(P, 0, 3)).then(tip => acks.push(`first ${tip.committed}`))
    const again = partition.appendLane(id, runOf(P, 0, 3)).then(tip => acks.push(`again ${tip.committed}`))
    await settle()
    expect(acks).toEqual([])
    expect(partition.tip(id)).toEqual({ run: P, next: 3, committed: 0 })
    expect(await values(partition)).toEqual([])
    release()
    await Promise.all([first, again])
    expect(acks).toEqual(['first 3', 'again 3'])
    expect(await values(partition)).toEqual([`${P}:0`, `${P}:1`, `${P}:2`])
    expect(counters).toMatchObject({ recordsIn: 3, batchesIn: 1, duplicateBatches: 1, runs: 1 })
  })

  it('of several batches skip what is held and keep the rest, or change nothing', async () => {
    const { partition } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.appendLane(id, runOf(P, 0, 2))
    const tip = await partition.appendLane(id, concat([runOf(P, 0, 2), runOf(P, 2, 2), runOf(P, 4, 1)]))
    expect(tip).toEqual({ run: P, next: 5, committed: 5 })
    const holed = partition.appendLane(id, concat([runOf(P, 5, 1), runOf(P, 7, 1)]))
    await expect(holed).rejects.toMatchObject({ code: 'out_of_order_sequence', details: { next: 6 } })
    expect(partition.tip(id)?.next).toBe(5)
    expect(await values(partition)).toHaveLength(5)
  })

  it('of clients resolve with their offset, a repeat with its original one', async () => {
    const { partition } = await openOn()
    expect(await partition.append(plainOf(['a', 'b']), 'all')).toEqual({ baseOffset: 0 })
    expect(await partition.append(runOf(7, 0, 2), 1)).toEqual({ baseOffset: 2 })
    expect(await partition.append(runOf(7, 2, 2), 0)).toEqual({ baseOffset: 4 })
    expect(await partition.append(runOf(7, 0, 2), 'all')).toEqual({ baseOffset: 2 })
    expect(partition.bounds()).toMatchObject({ endOffset: 6, highWatermark: 6 })
  })

  it('of a client under an older epoch are fenced, also after a restart, with a snapshot and without', async () => {
    const before = await openOn()
    await before.partition.append(runOf(7, 0, 2), 'all')
    await before.partition.append(runOf(7, 0, 1, { epoch: 1 }), 'all')
    const late = runOf(7, 2, 2)
    expect(await codeOf(before.partition.append(late, 'all'))).toBe('fenced')
    await before.dataDir.close()
    const again = await openOn({ disk: before.disk })
    expect(await codeOf(again.partition.append(late, 'all'))).toBe('fenced')
    await again.partition.snapshot(0)
    expect(again.snapshots.newestOffset()).toBe(3)
    await again.dataDir.close()
    const { partition } = await openOn({ disk: before.disk })
    expect(await codeOf(partition.append(late, 'all'))).toBe('fenced')
    expect(await partition.append(runOf(7, 1, 1, { epoch: 1 }), 'all')).toEqual({ baseOffset: 3 })
  })

  it('that are garbage, too large or not a producer’s are refused, and harm nothing', async () => {
    const { partition, counters } = await openOn({ maxRecordBytes: 2_000 })
    const bent = runOf(7, 0, 2)
    bent[70] = (bent[70] ?? 0) ^ 1
    expect(await codeOf(partition.append(bent, 'all'))).toBe('corrupt_batch')
    expect(await codeOf(partition.append(new Uint8Array(0), 'all'))).toBe('corrupt_batch')
    expect(await codeOf(partition.append(runOf(7, 0, 2).subarray(0, 65), 'all'))).toBe('corrupt_batch')
    const control = buildBatch([{ key: null, value: null, headers: [], timestampMs: 1 }], { isControl: true })
    expect(await codeOf(partition.append(control, 'all'))).toBe('invalid_argument')
    const large = { key: null, value: new Uint8Array(3_000), headers: [], timestampMs: 1 }
    const small = { ...large, value: new Uint8Array(1_500) }
    const mixed = buildBatch([small, small, large], { producerId: 7, baseSequence: 10 })
    await expect(partition.append(mixed, 'all')).rejects.toMatchObject({
      code: 'record_too_large',
      details: { sequence: 12 },
    })
    for (const kind of ['gzip', 'zstd'] as const) {
      const packed = await compressBatch(buildBatch([large]), kind, nodeCodec())
      expect(packed.length).toBeLessThan(200)
      expect(await codeOf(partition.append(packed, 'all'))).toBe('record_too_large')
      const fits = await compressBatch(buildBatch([small]), kind, nodeCodec())
      expect(await codeOf(partition.append(fits, 'all'))).toBe('none')
    }
    expect(await codeOf(partition.append(buildBatch([small, small]), 'all'))).toBe('none')
    // As Kafka: several that come compressed are held to what their batch may have as it was sent.
    const several = await compressBatch(buildBatch([large, small]), 'zstd', nodeCodec())
    expect(await codeOf(partition.append(several, 'all'))).toBe('none')
    expect(counters.refused).toEqual({ corrupt_batch: 3, invalid_argument: 1, record_too_large: 3 })
  })

  it('on a full disk fail, leave no trace and go on when there is room', async () => {
    const { disk, partition, log } = await openOn({ disk: smallDisk() })
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.appendLane(id, runOf(P, 0, 2))
    disk.setCapacity(disk.usedBytes() + 100)
    const failing = [runOf(P, 2, 50), runOf(P, 52, 50)].map(batch => codeOf(partition.appendLane(id, batch)))
    const client = codeOf(partition.append(runOf(7, 0, 50), 'all'))
    expect(await Promise.all([...failing, client])).toEqual(['disk_full', 'disk_full', 'disk_full'])
    expect(partition.tip(id)).toEqual({ run: P, next: 2, committed: 2 })
    expect(log.endOffset()).toBe(3)
    disk.setCapacity(Number.POSITIVE_INFINITY)
    expect(await partition.appendLane(id, runOf(P, 2, 50))).toEqual({ run: P, next: 52, committed: 52 })
    expect(await partition.append(runOf(7, 0, 1), 'all')).toEqual({ baseOffset: 53 })
  })

  it('on a full disk let a gap through by the reserve, judged after what failed before it', async () => {
    const { disk, partition, gaps } = await openOn({ disk: smallDisk() })
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    disk.setCapacity(disk.usedBytes() + 100)
    const data = codeOf(partition.appendLane(id, runOf(P, 0, 50)))
    const declared = codeOf(partition.declareGap(id, gap(P, 50, 60)))
    expect(await data).toBe('disk_full')
    expect(await declared).toBe('out_of_order_sequence')
    expect(await partition.declareGap(id, gap(P, 0, 60))).toEqual({ run: P, next: 60, committed: 60 })
    expect(gaps).toMatchObject([{ gap: { from: 0, to: 60, count: 60 }, offset: 1 }])
  })

  it('fail for good once fdatasync failed', async () => {
    const { disk, partition } = await openOn()
    await partition.append(plainOf(['a']), 'all')
    disk.failSyncs(1)
    expect(await codeOf(partition.append(plainOf(['b']), 'all'))).toBe('disk_failed')
    expect(await codeOf(partition.append(plainOf(['c']), 'all'))).toBe('disk_failed')
    expect(await values(partition)).toEqual(['a'])
  })
})

describe('gaps and runs', () => {
  it('wait for data in flight and are told of in their commit', async () => {
    const { partition, gaps, counters } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    const all = await Promise.all([
      partition.appendLane(id, runOf(P, 0, 2)),
      partition.declareGap(id, gap(P, 2, 9)),
      partition.appendLane(id, runOf(P, 9, 1)),
      partition.startRun(id, { run: Q, prev: { run: P, end: 10 }, reason: 'next' }),
      partition.appendLane(id, runOf(Q, 0, 1)),
    ])
    expect(all.map(tip => tip.committed)).toEqual([2, 9, 10, 0, 1])
    expect(gaps).toMatchObject([{ gap: { edge: 'e1', run: P, from: 2, to: 9 }, offset: 3 }])
    await partition.declareGap(id, gap(P, 2, 9))
    expect(counters).toMatchObject({ gaps: 1, gapRecords: 7, runs: 2 })
  })

  it('of a run that the lane has left are refused, however late they are said again', async () => {
    const { partition } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.appendLane(id, runOf(P, 0, 2))
    await partition.startRun(id, { run: Q, prev: { run: P, end: 2 }, reason: 'next' })
    const late = partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await expect(late).rejects.toMatchObject({ code: 'unknown_run', details: { run: Q, next: 0 } })
    expect(partition.tip(id)).toEqual({ run: Q, next: 0, committed: 0 })
  })

  it('say to who opens a lane what runs came before, newest first, without those that have no records; also after a restart', async () => {
    const first = await openOn()
    const run = (offset: number) => ({ run: P + offset, prev: null, reason: 'fork' as const })
    for (let offset = 0; offset < 12; offset++) {
      await first.partition.startRun(id, run(offset))
      if (offset % 4 === 1) continue
      await first.partition.appendLane(id, runOf(P + offset, 0, offset + 1))
    }
    const past = [10, 8, 7, 6, 4, 3, 2, 0].map(offset => ({ run: P + offset, next: offset + 1 }))
    const tip = { run: P + 11, next: 12, committed: 12 }
    expect(await first.partition.startRun(id, run(11))).toEqual({ ...tip, past })
    expect(first.partition.tip(id)).toEqual(tip)
    await first.dataDir.close()
    const { partition } = await openOn({ disk: first.disk })
    expect(await partition.startRun(id, run(11))).toEqual({ ...tip, past })
  })

  it('that are summaries take one sequence and count the readings they stand for, once', async () => {
    const { partition, gaps, counters } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.appendLane(id, runOf(P, 0, 2))
    const summary = { ...gap(P, 2, 3), reason: 'thinned' as const, count: 40, keys: 3 }
    for (let time = 0; time < 2; time++) {
      expect(await partition.declareGap(id, summary)).toEqual({ run: P, next: 3, committed: 3 })
    }
    expect(await partition.appendLane(id, runOf(P, 3, 1))).toMatchObject({ committed: 4 })
    expect(gaps).toMatchObject([
      { gap: { reason: 'thinned', from: 2, to: 3, count: 40, keys: 3 }, offset: 3 },
    ])
    expect(counters).toMatchObject({ gaps: 0, gapRecords: 0, summarised: 40 })
  })

  it('of unknown count are declared with the run', async () => {
    const { partition, gaps } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.startRun(id, { run: Q, prev: null, reason: 'wiped' })
    expect(gaps).toMatchObject([{ gap: { run: Q, reason: 'wiped', count: null }, offset: 2 }])
    expect(await partition.appendLane(id, runOf(Q, 0, 1))).toMatchObject({ committed: 1 })
  })

  it('outlive a restart; a removed lane does not', async () => {
    const before = await openOn()
    const other = { edge: 'e2', lane: 0 }
    await before.partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await before.partition.appendLane(id, runOf(P, 0, 2))
    await before.partition.declareGap(id, gap(P, 2, 5))
    await before.partition.startRun(other, { run: Q, prev: null, reason: 'first' })
    await before.partition.removeLane(other)
    await before.dataDir.close()
    const { partition } = await openOn({ disk: before.disk })
    expect(partition.tip(id)).toEqual({ run: P, next: 5, committed: 5 })
    expect(partition.tip(other)).toBeNull()
  })
})

describe('a snapshot that waits to be committed', () => {
  it('is written when its replica leads anew, alone in sync', async () => {
    const { partition, snapshots } = await openOn()
    const seats = { replicas: [1, 2], isr: [1, 2], leaderEpoch: 1, partitionEpoch: 1 }
    const leader = { kind: 'leader', self: 1, required: 1 } as const
    partition.assign({ ...leader, seats })
    await partition.append(plainOf(['a']), 1)
    await partition.snapshot(0)
    expect(snapshots.newestOffset()).toBeLessThan(1)
    partition.assign({ ...leader, seats: { ...seats, isr: [1], leaderEpoch: 2, partitionEpoch: 2 } })
    await partition.snapshot(0)
    expect(snapshots.newestOffset()).toBe(1)
  })
})

describe('start', () => {
  it('does not believe a snapshot from beyond the end of the log, then or later', async () => {
    const { partition, log, snapshots } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.appendLane(id, runOf(P, 0, 2))
    const ahead = new Producers()
    ahead.applyRun(id, { run: P, prev: null, reason: 'first' })
    ahead.applyGap(P, 9)
    const restored = async () => (await restoreHistory(log, snapshots, 0, () => {})).producers.lane(id)?.next
    const bytes = encodeSnapshot({
      producers: ahead,
      epochs: createLeaderEpochs(),
      gaps: createGapPlaces(),
    })
    await snapshots.save(3, bytes)
    expect(await restored()).toBe(9)
    await snapshots.dropAfter(2)
    await snapshots.save(4, bytes)
    expect(await restored()).toBe(2)
    await partition.appendLane(id, runOf(P, 2, 2))
    expect(await restored()).toBe(4)
  })
})

describe('reads', () => {
  it('outside the log say where it is', async () => {
    const { partition } = await openOn()
    await partition.append(plainOf(['a']), 'all')
    for (const offset of [-1, 2]) {
      await expect(partition.read(offset, 100)).rejects.toMatchObject({
        code: 'offset_out_of_range',
        details: { startOffset: 0, highWatermark: 1 },
      })
    }
    expect((await partition.read(1, 100)).batches).toHaveLength(0)
  })

  it('by time find the very record, whatever control batches and compression', async () => {
    const { partition } = await openOn()
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.append(plainOf(['a', 'b', 'c'], [100, 300, 200]), 'all')
    await partition.startRun(id, { run: Q, prev: null, reason: 'wiped' })
    const packed = plainOf(
      Array.from({ length: 50 }, () => 'same'),
      Array.from({ length: 50 }, (_, at) => 400 + at),
    )
    await partition.append(await compressBatch(packed, 'zstd', nodeCodec()), 'all')
    const found = await Promise.all(
      [0, 100, 101, 300, 301, 425, 450].map(time => partition.offsetForTime(time)),
    )
    expect(found).toEqual([1, 1, 2, 2, 6, 31, 56])
  })

  it('wake waiters once the watermark is past them, or the partition goes', async () => {
    const { partition } = await openOn()
    const woken: string[] = []
    partition.whenPast(0, () => woken.push('zero'))
    partition.whenPast(1, () => woken.push('one'))
    const cancel = partition.whenPast(0, () => woken.push('cancelled'))
    cancel()
    await partition.append(plainOf(['a']), 'all')
    await settle()
    expect(woken).toEqual(['zero'])
    partition.whenPast(0, () => woken.push('at once'))
    await settle()
    partition.shut(new TributaryError('topic_deleted', 'gone'))
    await settle()
    expect(woken).toEqual(['zero', 'at once', 'one'])
    expect(await codeOf(partition.read(0, 10))).toBe('topic_deleted')
    expect(await codeOf(partition.append(plainOf(['a']), 'all'))).toBe('topic_deleted')
  })

  it('pass over damage and tell of it', async () => {
    const before = await openOn()
    for (let index = 0; index < 20; index++) await before.partition.append(plainOf([`v${index}`]), 'all')
    await before.dataDir.close()
    const path = before.disk.paths().find(name => name.includes('/p/') && name.endsWith('.log')) ?? ''
    before.disk.flipBit(path, Buffer.from(before.disk.contentOf(path)).indexOf('v5'), 1)
    const { partition, damage } = await openOn({ disk: before.disk })
    const left = await values(partition)
    expect(left).not.toContain('v5')
    expect(left).toContain('v4')
    expect(left).toContain('v19')
    const lost = damage.reduce((total, { fromOffset, toOffset }) => total + toOffset - fromOffset, 0)
    expect(lost).toBe(20 - left.length)
    expect(await partition.append(plainOf(['next']), 'all')).toEqual({ baseOffset: 20 })
  })
})

describe('retention', () => {
  const hourMs = DAY_MS / 24

  async function withHours(hours: number) {
    const clock = new FakeClock()
    const time = createHubTime(clock.nowMs(), clock.monotonicMs())
    const opened = await openOn({
      clock,
      log: { retentionMs: DAY_MS, segmentMs: hourMs },
      hubTimeMs: () => time.appendTimeMs(clock.nowMs(), clock.monotonicMs()),
    })
    const maintain = () => opened.partition.maintain(time.retentionTimeMs(clock.nowMs(), clock.monotonicMs()))
    for (let hour = 0; hour < hours; hour++) {
      // Years old by event time: only hub time counts.
      await opened.partition.append(plainOf(['x'], [1]), 'all')
      clock.advance(hourMs)
      await maintain()
    }
    return { ...opened, clock, time, maintain }
  }

  it('runs on hub time, not on the age of events', async () => {
    const { partition, maintain, clock } = await withHours(24)
    expect(partition.bounds().startOffset).toBe(0)
    clock.advance(6 * hourMs)
    await maintain()
    expect(partition.bounds().startOffset).toBeGreaterThanOrEqual(5)
    expect(partition.bounds().startOffset).toBeLessThanOrEqual(7)
  })

  it('deletes nothing when the wall clock jumps a day forward and back', async () => {
    const { partition, maintain, clock, time } = await withHours(12)
    clock.jumpWall(DAY_MS)
    await maintain()
    expect(time.jumpMs()).toBe(DAY_MS)
    await partition.append(plainOf(['y'], [1]), 'all')
    clock.advance(hourMs)
    await maintain()
    clock.jumpWall(-DAY_MS)
    await maintain()
    expect(time.jumpMs()).toBeNull()
    clock.jumpWall(-DAY_MS)
    await partition.append(plainOf(['z'], [1]), 'all')
    await maintain()
    clock.jumpWall(DAY_MS)
    await maintain()
    expect(partition.bounds().startOffset).toBe(0)
    clock.advance(20 * hourMs)
    await maintain()
    expect(partition.bounds().startOffset).toBeGreaterThan(0)
    expect((await values(partition)).slice(-2)).toEqual(['y', 'z'])
  })

  it('waits for the snapshot that covers a segment to be durable', async () => {
    const { partition, maintain, clock, snapshots, disk } = await withHours(4)
    let [full, asked] = [true, 0]
    const { save } = snapshots
    snapshots.save = async (offset, bytes) => {
      asked++
      if (full) throw new Error('no room for a snapshot')
      await save(offset, bytes)
    }
    for (let hour = 0; hour < 40; hour++) {
      await partition.append(plainOf(['x'], [1]), 'all')
      clock.advance(hourMs)
      await maintain().catch(() => {})
    }
    const covered = snapshots.newestOffset()
    expect(asked).toBeGreaterThan(0)
    expect(partition.bounds().startOffset).toBeLessThanOrEqual(covered)
    full = false
    for (let round = 0; round < 8; round++) {
      await maintain()
      clock.advance(hourMs)
    }
    expect(snapshots.newestOffset()).toBe(44)
    expect(partition.bounds().startOffset).toBeGreaterThan(covered)
    expect(disk.paths().filter(path => path.endsWith('.log')).length).toBeLessThan(40)
  })

  it('takes no repeat of a client for new because the wall clock jumped', async () => {
    const { partition, maintain, clock } = await withHours(1)
    const { baseOffset } = await partition.append(runOf(5, 0, 2), 'all')
    clock.jumpWall(30 * DAY_MS)
    await maintain()
    expect(await partition.append(runOf(5, 0, 2), 'all')).toEqual({ baseOffset })
    clock.jumpWall(-30 * DAY_MS)
    clock.advance(8 * DAY_MS)
    await maintain()
    expect(partition.producerStats().clients).toBe(0)
  })

  it('forgets clients that were silent for as long as it was told to wait', async () => {
    const { partition, clock } = await openOn({ producerIdExpirationMs: 2 * DAY_MS })
    await partition.append(runOf(5, 0, 2), 'all')
    clock.advance(DAY_MS)
    await partition.maintain(clock.nowMs())
    expect(partition.producerStats().clients).toBe(1)
    clock.advance(1.5 * DAY_MS)
    await partition.maintain(clock.nowMs())
    expect(partition.producerStats().clients).toBe(0)
  })

  it('keeps producers whose records are gone', async () => {
    const { partition, maintain, clock, disk, dataDir } = await withHours(1)
    await partition.startRun(id, { run: P, prev: null, reason: 'first' })
    await partition.appendLane(id, runOf(P, 0, 5))
    for (let hour = 0; hour < 30; hour++) {
      clock.advance(hourMs)
      await partition.append(plainOf(['x'], [1]), 'all')
      await maintain()
    }
    expect(partition.bounds().startOffset).toBeGreaterThan(6)
    await dataDir.close()
    const again = await openOn({ disk, clock })
    expect(again.partition.tip(id)).toEqual({ run: P, next: 5, committed: 5 })
  })
})

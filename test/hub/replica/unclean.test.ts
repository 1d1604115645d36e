import { expect, it } from 'vitest'
import { createGapPlaces } from '../../../hub/replica/gap-places.ts'
import { createLeaderEpochs } from '../../../hub/replica/leader-epochs.ts'
import { encodeSnapshot } from '../../../hub/replica/producer-snapshot.ts'
import { Producers } from '../../../hub/replica/producers.ts'
import type { Role } from '../../../hub/replica/role.ts'
import { plainOf, runOf, testRun } from './batches.ts'
import { openOn } from './harness.ts'

const lane = { edge: 'e1', lane: 0 }
const P = testRun(1)

/** What a leader tells of its producers at `offset`: the lane's run is held to 30 there. */
function snapshotAt(offset: number) {
  const producers = new Producers()
  producers.applyRun(lane, { run: P, prev: null, reason: 'first' })
  producers.applyGap(P, 30)
  const epochs = createLeaderEpochs([{ epoch: 1, startOffset: 0 }])
  return { offset, bytes: encodeSnapshot({ producers, epochs, gaps: createGapPlaces() }) }
}

function leaderUnder(leaderEpoch: number): Role {
  const seats = { replicas: [1, 2], isr: [1], leaderEpoch, partitionEpoch: leaderEpoch }
  return { kind: 'leader', self: 1, seats, required: 1 }
}

it('a replica whose newest snapshot is damaged knows that it lacks what lay before its log, and asks for it', async () => {
  const { partition, log, disk, dataDir, clock } = await openOn()
  const big = () => plainOf(['x'.repeat(30_000)])
  await partition.startRun(lane, { run: P, prev: null, reason: 'first' })
  await partition.appendLane(lane, runOf(P, 0, 2))
  await partition.snapshot(0)
  await partition.appendLane(lane, runOf(P, 2, 3))
  for (let at = 0; at < 10; at++) await partition.append(big(), 'all')
  await partition.snapshot(0)
  const end = log.endOffset()
  for (let at = 0; at < 5; at++) await partition.append(big(), 'all')
  await log.truncateBefore(end)
  expect(log.startOffset()).toBeGreaterThan(6)
  await dataDir.close()
  const folder = '/data/producers/p'
  await disk.replaceFile(`${folder}/${(await disk.list(folder)).at(-1)}`, new Uint8Array(20))
  const again = await openOn({ disk, clock, follows: true })
  expect(again.partition.following.isComplete()).toBe(false)
})

it('a leader that nobody else could be says of producers what its log holds, not what it had yet to fetch', async () => {
  const { partition, log, snapshots } = await openOn()
  partition.assign({ kind: 'follower', leader: 2, leaderEpoch: 1, adding: false })
  await partition.following.restartAt(1, 10, snapshotAt(40))
  expect(log.endOffset()).toBe(10)
  expect(partition.producerStats().lanes).toBe(1)
  partition.assign(leaderUnder(2))
  expect(await partition.openLane(lane)).toBeNull()
  expect(snapshots.newestOffset()).toBeLessThanOrEqual(10)
  // It goes on from there as any leader, with snapshots of its own.
  await partition.startRun(lane, { run: testRun(2), prev: null, reason: 'wiped' })
  expect(await partition.appendLane(lane, runOf(testRun(2), 0, 2))).toMatchObject({ next: 2, committed: 2 })
  await partition.snapshot(0)
  expect(snapshots.newestOffset()).toBe(log.endOffset())
})

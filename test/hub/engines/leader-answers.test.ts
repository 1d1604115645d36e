import { expect, it } from 'vitest'
import { stampBatch } from '../../../common/batch.ts'
import { readHere, settledTip } from '../../../hub/engines/cluster/logs.ts'
import { runBatch, runControl } from '../../../hub/replica/control.ts'
import { plainOf, runOf, testRun } from '../replica/batches.ts'
import { openOn } from '../replica/harness.ts'

/** Batches as a leader stamped them. */
function replicated(leaderEpoch: number, offset: number, values: readonly string[]): Uint8Array {
  const batch = plainOf(values)
  stampBatch(batch, 0, offset, leaderEpoch)
  return batch
}

const id = { edge: 'e1', lane: 0 }
const [P, Q] = [testRun(1), testRun(2)]

it('opening a lane while its next run waits for its turn leaves the lane at that run', async () => {
  const { disk, partition } = await openOn()
  await partition.startRun(id, { run: P, prev: null, reason: 'first' })
  await partition.appendLane(id, runOf(P, 0, 3))
  const release = disk.holdSyncs()
  const others = partition.append(plainOf(['of another producer']), 'all')
  // A connection announced the next run and broke; the edge comes again.
  const next = partition.startRun(id, { run: Q, prev: { run: P, end: 3 }, reason: 'next' })
  const opened = settledTip(partition, id)
  release()
  await Promise.all([others, next])
  expect(await opened).toEqual({ run: Q, next: 0, committed: 0, past: [{ run: P, next: 3 }] })
  expect(partition.tip(id)).toMatchObject({ run: Q, next: 0 })
})

it('a read that ends when its leader leads no more tells nothing, rather than that nothing is committed', async () => {
  const { partition } = await openOn({ leaderEpoch: 3 })
  await partition.append(plainOf(['a', 'b']), 'all')
  const request = { offset: 0, maxBytes: 1_000, lastEpoch: -1 }
  expect(await readHere(partition, 3, request)).toMatchObject({ nextOffset: 2, bounds: { highWatermark: 2 } })
  const late = readHere(partition, 3, request)
  partition.assign({ kind: 'follower', leader: 2, leaderEpoch: 4, adding: false })
  await expect(late).rejects.toMatchObject({ code: 'not_available' })
})

it('a new leader serves what it knows to be committed, and says that there may be more', async () => {
  const { partition } = await openOn({ leaderEpoch: 3 })
  await partition.append(plainOf(['a', 'b']), 'all')
  partition.assign({ kind: 'follower', leader: 2, leaderEpoch: 4, adding: false })
  await partition.following.append(4, replicated(4, 2, ['c']), { hubTimeMs: 1 })
  const seats = { replicas: [1, 2, 3], isr: [1, 3], leaderEpoch: 5, partitionEpoch: 9 }
  partition.assign({ kind: 'leader', self: 1, seats, required: 2 })
  const reading = (offset: number, lastEpoch = -1) =>
    readHere(partition, 5, { offset, maxBytes: 1_000, lastEpoch })
  expect(await reading(0)).toMatchObject({ nextOffset: 2, bounds: { highWatermark: 2 }, isSettled: false })
  // What is wrong with these is not for it to say yet: its own records may be those that are behind.
  await expect(reading(3)).rejects.toMatchObject({ code: 'not_available' })
  await expect(reading(9, 4)).rejects.toMatchObject({ code: 'not_available' })
  partition.inSync()?.reported(3, 1, 3)
  expect(await reading(0)).toMatchObject({ nextOffset: 3, bounds: { highWatermark: 3 }, isSettled: true })
  await expect(reading(9, 4)).rejects.toMatchObject({ code: 'offset_out_of_range' })
})

it('a leader that has not heard of the next one does not call lost what its reader has of that', async () => {
  const { partition } = await openOn({ leaderEpoch: 3 })
  await partition.append(plainOf(['a', 'b']), 'all')
  const ahead = { offset: 5, maxBytes: 1_000, lastEpoch: 4 }
  await expect(readHere(partition, 3, ahead)).rejects.toMatchObject({ code: 'not_available' })
  await expect(readHere(null, 3, ahead)).rejects.toMatchObject({ code: 'not_available' })
})

it('a follower whose disk took back what it had no room for takes nothing that was asked for behind it', async () => {
  const { partition } = await openOn({ leaderEpoch: 3 })
  await partition.append(plainOf(['a', 'b']), 'all')
  partition.assign({ kind: 'follower', leader: 2, leaderEpoch: 4, adding: false })
  const start = { run: testRun(1), prev: null, reason: 'first' } as const
  const jumping = runBatch(runControl({ edge: 'e', lane: 0 }, start))
  stampBatch(jumping, 0, 5, 4)
  const late = partition.following.append(4, jumping, { hubTimeMs: 1, from: 5 })
  await expect(late).rejects.toMatchObject({ code: 'not_available' })
  expect(partition.following.position().offset).toBe(2)
})

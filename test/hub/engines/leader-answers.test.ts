import { expect, it } from 'vitest'
import { readHere, settledTip } from '../../../hub/engines/cluster/logs.ts'
import { plainOf, runOf, testRun } from '../replica/batches.ts'
import { openOn } from '../replica/harness.ts'

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

it('a leader that has not heard of the next one does not call lost what its reader has of that', async () => {
  const { partition } = await openOn({ leaderEpoch: 3 })
  await partition.append(plainOf(['a', 'b']), 'all')
  const ahead = { offset: 5, maxBytes: 1_000, lastEpoch: 4 }
  await expect(readHere(partition, 3, ahead)).rejects.toMatchObject({ code: 'not_available' })
  await expect(readHere(null, 3, ahead)).rejects.toMatchObject({ code: 'not_available' })
})

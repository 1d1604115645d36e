import { describe, expect, it } from 'vitest'
import type { InSync, Seats } from '../../../hub/replica/in-sync.ts'
import { createInSync } from '../../../hub/replica/in-sync.ts'

const SEATS: Seats = { replicas: [1, 2, 3], isr: [1, 2, 3], leaderEpoch: 5, partitionEpoch: 10 }

/** Node 1 leads; its log ends at `end` when it begins, all of it durable. */
function leads(end = 0, seats: Partial<Seats> = {}, required = 2, highWatermark = 0): InSync {
  return createInSync(1, { ...SEATS, ...seats }, required, { endOffset: end, durableEnd: end, highWatermark })
}

const anyone = (): boolean => true

describe('the watermark', () => {
  it('is the least durable end of the in-sync set, the leader’s own included', () => {
    const inSync = leads()
    expect(inSync.own(10)).toBe(false)
    expect(inSync.reported(2, 1, 8)).toBe(false)
    expect(inSync.reported(3, 1, 4)).toBe(true)
    expect(inSync.highWatermark()).toBe(4)
    inSync.reported(3, 1, 30)
    expect(inSync.highWatermark()).toBe(8)
    inSync.reported(2, 1, 30)
    expect(inSync.highWatermark()).toBe(10)
  })

  it('of the only replica is its own durable end', () => {
    const inSync = leads(7, { replicas: [1], isr: [1] }, 1)
    expect(inSync.highWatermark()).toBe(7)
    expect(inSync.settled()).toBe(true)
    expect(inSync.alone()).toBe(true)
    expect(inSync.own(9)).toBe(true)
  })

  it('does not count who is not in sync', () => {
    const inSync = leads(0, { isr: [1, 2] })
    inSync.own(10)
    inSync.reported(3, 1, 2)
    inSync.reported(2, 1, 9)
    expect(inSync.highWatermark()).toBe(9)
  })

  it('stands still while fewer are in sync than are needed', () => {
    const inSync = leads(0, { isr: [1] })
    expect(inSync.own(10)).toBe(false)
    expect(inSync.mayCommit()).toBe(false)
    expect(inSync.update({ ...SEATS, isr: [1, 2], partitionEpoch: 11 }, 2)).toBe(false)
    expect(inSync.reported(2, 1, 10)).toBe(true)
  })

  it('never goes back, whatever a replica reports that lost its data', () => {
    const inSync = leads()
    inSync.own(10)
    inSync.reported(2, 1, 10)
    inSync.reported(3, 1, 10)
    inSync.reported(3, 2, 0)
    inSync.own(12)
    expect(inSync.highWatermark()).toBe(10)
  })

  it('begins with what the leader knew as a follower, no further than it is durable', () => {
    expect(leads(20, {}, 2, 15).highWatermark()).toBe(15)
    const start = { endOffset: 20, durableEnd: 12, highWatermark: 15 }
    expect(createInSync(1, SEATS, 2, start).highWatermark()).toBe(12)
  })

  it('settles where the log ended when the leader began', () => {
    const inSync = leads(20, {}, 2, 15)
    expect(inSync.settled()).toBe(false)
    inSync.own(30)
    inSync.reported(2, 1, 30)
    inSync.reported(3, 1, 19)
    expect(inSync.settled()).toBe(false)
    inSync.reported(3, 1, 20)
    expect(inSync.settled()).toBe(true)
  })

  it('waits for who is proposed until the proposal is resolved', () => {
    const inSync = leads(0, { isr: [1, 2] })
    inSync.own(10)
    inSync.reported(2, 1, 10)
    inSync.reported(3, 4, 10)
    expect(inSync.propose(anyone)?.isr).toEqual([1, 2, 3])
    inSync.own(20)
    expect(inSync.reported(2, 1, 20)).toBe(false)
    expect(inSync.highWatermark()).toBe(10)
    // Refused, but it may have been made twice: only another state of the partition rules out that it is taken yet.
    inSync.withdraw()
    expect(inSync.outstanding()).toMatchObject({ partitionEpoch: 10, isr: [1, 2] })
    inSync.own(21)
    expect(inSync.highWatermark()).toBe(10)
    expect(inSync.update({ ...SEATS, isr: [1, 2], partitionEpoch: 11 }, 2)).toBe(true)
    expect(inSync.highWatermark()).toBe(20)
  })

  it('does not wait for who left, once the controller took them out', () => {
    const inSync = leads()
    inSync.own(10)
    inSync.reported(2, 1, 10)
    expect(inSync.update({ ...SEATS, isr: [1, 2], partitionEpoch: 11 }, 2)).toBe(true)
    expect(inSync.highWatermark()).toBe(10)
  })
})

describe('a replica joins', () => {
  it('that has all that is committed and all that was there when the epoch began', () => {
    const inSync = leads(20, { isr: [1, 2] }, 2, 5)
    inSync.reported(3, 4, 8)
    // Past the watermark, but not where the epoch began.
    expect(inSync.hasCandidate()).toBe(false)
    expect(inSync.propose(anyone)).toBeNull()
    inSync.reported(3, 4, 20)
    expect(inSync.hasCandidate()).toBe(true)
    inSync.own(30)
    inSync.reported(2, 1, 30)
    expect(inSync.hasCandidate()).toBe(false)
    inSync.reported(3, 4, 30)
    const proposal = inSync.propose(anyone)
    expect(proposal).toMatchObject({ leaderEpoch: 5, partitionEpoch: 10, isr: [1, 2, 3] })
    expect([...(proposal?.joining ?? [])]).toEqual([[3, 4]])
  })

  it('only while it fetches, where it is one of the replicas, and may', () => {
    const inSync = leads(0, { isr: [1, 2] })
    expect(inSync.reported(9, 1, 0)).toBe(false)
    inSync.reported(3, 4, 0)
    inSync.gone(3)
    expect(inSync.propose(anyone)).toBeNull()
    inSync.reported(3, 5, 0)
    expect(inSync.propose((nodeId, incarnation) => !(nodeId === 3 && incarnation === 5))).toBeNull()
    expect(inSync.propose(anyone)?.isr).toEqual([1, 2, 3])
  })

  it('by one proposal at a time, said again until its fate is known', () => {
    const inSync = leads(0, { isr: [1] }, 1)
    inSync.reported(2, 1, 0)
    const first = inSync.propose(anyone)
    inSync.reported(3, 1, 0)
    expect(inSync.propose(anyone)).toBeNull()
    expect(inSync.outstanding()).toBe(first)
    // A change that is not newer than what was proposed upon resolves nothing.
    inSync.update({ ...SEATS, isr: [1] }, 1)
    expect(inSync.outstanding()).toBe(first)
    inSync.update({ ...SEATS, isr: [1, 2], partitionEpoch: 11 }, 1)
    expect(inSync.outstanding()).toBeNull()
    expect(inSync.propose(anyone)).toMatchObject({ partitionEpoch: 11, isr: [1, 2, 3] })
  })
})

describe('a member leaves', () => {
  it('that has not got in time to where the leader was', () => {
    const inSync = leads()
    inSync.own(10)
    inSync.reported(2, 1, 10)
    expect(inSync.sweep(1_000, 500)).toBe(true)
    inSync.own(20)
    inSync.reported(2, 1, 20)
    expect(inSync.sweep(1_400, 500)).toBe(true)
    expect(inSync.propose(anyone)).toBeNull()
    expect(inSync.sweep(1_501, 500)).toBe(true)
    expect(inSync.propose(anyone)?.isr).toEqual([1, 2])
  })

  it('but not who keeps up a little behind', () => {
    const inSync = leads()
    for (let atMs = 0; atMs < 10_000; atMs += 100) {
      inSync.own(atMs + 300)
      for (const id of [2, 3]) inSync.reported(id, 1, atMs)
      expect(inSync.sweep(atMs, 500)).toBe(true)
      expect(inSync.propose(anyone)).toBeNull()
    }
    for (const id of [2, 3]) inSync.reported(id, 1, 10_200)
    expect(inSync.sweep(20_000, 500)).toBe(false)
  })

  it('not, if it catches up before the proposal is made', () => {
    const inSync = leads()
    inSync.own(10)
    inSync.reported(2, 1, 10)
    inSync.sweep(0, 500)
    inSync.sweep(600, 500)
    inSync.reported(3, 1, 10)
    expect(inSync.propose(anyone)).toBeNull()
  })

  it('and goes on counting until the controller agrees', () => {
    const inSync = leads()
    inSync.own(10)
    inSync.reported(2, 1, 10)
    inSync.sweep(0, 500)
    inSync.sweep(600, 500)
    expect(inSync.propose(anyone)?.isr).toEqual([1, 2])
    expect(inSync.highWatermark()).toBe(0)
  })

  it('and is looked at anew once it is back, though it is not yet where it should have been', () => {
    const inSync = leads(0, { isr: [1, 3] })
    inSync.own(10)
    inSync.sweep(0, 500)
    inSync.sweep(600, 500)
    expect(inSync.propose(anyone)?.isr).toEqual([1])
    inSync.update({ ...SEATS, isr: [1], partitionEpoch: 11 }, 2)
    inSync.reported(3, 1, 5)
    expect(inSync.propose(anyone)?.isr).toEqual([1, 3])
    inSync.update({ ...SEATS, isr: [1, 3], partitionEpoch: 12 }, 2)
    expect(inSync.propose(anyone)).toBeNull()
  })
})

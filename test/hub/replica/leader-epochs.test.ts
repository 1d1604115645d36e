import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EpochStart, LeaderEpochs } from '../../../hub/replica/leader-epochs.ts'
import { createLeaderEpochs, divergence, parting } from '../../../hub/replica/leader-epochs.ts'

function history(...starts: [number, number][]): LeaderEpochs {
  return createLeaderEpochs(starts.map(([epoch, startOffset]) => ({ epoch, startOffset })))
}

const pairs = (epochs: LeaderEpochs) => epochs.entries().map(({ epoch, startOffset }) => [epoch, startOffset])

describe('leader epochs', () => {
  it('begin where the first batch of a leader lies', () => {
    const epochs = history()
    expect(epochs.last()).toBe(-1)
    epochs.assign(0, 0)
    epochs.assign(0, 7)
    epochs.assign(3, 10)
    expect(epochs.last()).toBe(3)
    expect(pairs(epochs)).toEqual([
      [0, 0],
      [3, 10],
    ])
  })

  it('without batches give way to the next that begins there', () => {
    const epochs = history([1, 0], [2, 10])
    epochs.assign(4, 10)
    expect(pairs(epochs)).toEqual([
      [1, 0],
      [4, 10],
    ])
  })

  it('that a damaged header told are forgotten with the next batch', () => {
    const epochs = history([1, 0], [2, 10])
    epochs.assign(1 << 29, 12)
    epochs.assign(2, 13)
    expect(pairs(epochs)).toEqual([
      [1, 0],
      [2, 10],
    ])
  })

  it('end where the next one begins, the last one with the log', () => {
    const epochs = history([1, 0], [3, 10], [5, 20])
    expect(epochs.endOf(5, 30)).toEqual({ epoch: 5, endOffset: 30 })
    expect(epochs.endOf(3, 30)).toEqual({ epoch: 3, endOffset: 20 })
    // KIP-279: of one that the leader never had, the largest below it.
    expect(epochs.endOf(4, 30)).toEqual({ epoch: 3, endOffset: 20 })
    expect(epochs.endOf(2, 30)).toEqual({ epoch: 1, endOffset: 10 })
    expect(epochs.endOf(0, 30)).toEqual({ epoch: 0, endOffset: 0 })
    expect(epochs.endOf(9, 30)).toEqual({ epoch: 5, endOffset: 30 })
    expect(history().endOf(1, 30)).toBeNull()
  })

  it('go with what is cut off the log at either end', () => {
    const epochs = history([1, 0], [3, 10], [5, 20])
    epochs.cutBefore(12)
    expect(pairs(epochs)).toEqual([
      [3, 10],
      [5, 20],
    ])
    epochs.cutAfter(20)
    expect(pairs(epochs)).toEqual([[3, 10]])
    epochs.cutAfter(15)
    expect(epochs.last()).toBe(3)
    epochs.cutAfter(10)
    expect(epochs.last()).toBe(-1)
  })

  it('are remembered in a number', () => {
    const epochs = history()
    for (let epoch = 0; epoch < 10_000; epoch++) epochs.assign(epoch, epoch * 10)
    expect(epochs.entries()).toHaveLength(4_096)
    expect(epochs.last()).toBe(9_999)
  })
})

describe('a follower', () => {
  it('whose last batch the leader has goes on', () => {
    const leader = history([1, 0], [3, 10])
    expect(parting(leader, 20, 3, 20)).toBeNull()
    expect(parting(leader, 20, 3, 12)).toBeNull()
    expect(parting(leader, 20, 1, 10)).toBeNull()
    expect(parting(leader, 20, -1, 0)).toBeNull()
  })

  it('that has more of an epoch than its leader cuts there, whatever its watermark was (KIP-101)', () => {
    const leader = history([1, 0], [2, 10])
    const told = parting(leader, 20, 1, 15)
    expect(told).toEqual({ epoch: 1, endOffset: 10 })
    expect(told && divergence(history([1, 0]), 15, told)).toBe(10)
  })

  it('with an epoch that its leader never had cuts back to the end of an older one, step by step (KIP-279)', () => {
    const leader = history([1, 0], [4, 10])
    const follower = history([1, 0], [2, 5], [3, 12])
    const first = parting(leader, 20, 3, 15)
    expect(first).toEqual({ epoch: 1, endOffset: 10 })
    expect(first && divergence(follower, 15, first)).toBe(5)
    follower.cutAfter(5)
    expect(parting(leader, 20, follower.last(), 5)).toBeNull()
  })

  it('all of whose epochs are newer than what the leader tells cuts all of it', () => {
    expect(divergence(history([7, 40]), 60, { epoch: 3, endOffset: 50 })).toBe(40)
    expect(divergence(history([7, 40]), 60, { epoch: 3, endOffset: 20 })).toBe(20)
  })

  it('beyond an empty leader cuts all of it', () => {
    const told = parting(history([5, 0]), 0, 4, 30)
    expect(told && divergence(history([4, 0]), 30, told)).toBe(0)
    expect(parting(history(), 0, -1, 30)).toEqual({ epoch: -1, endOffset: 0 })
  })
})

describe('two logs with a common past', () => {
  /** A log as the epoch of each offset. */
  const epochsOf = (log: readonly number[]): LeaderEpochs => {
    const starts: EpochStart[] = []
    for (const [offset, epoch] of log.entries()) {
      if (starts.at(-1)?.epoch !== epoch) starts.push({ epoch, startOffset: offset })
    }
    return createLeaderEpochs(starts)
  }
  const epochs = fc.array(fc.nat(20), { maxLength: 30 }).map(list => list.toSorted((a, b) => a - b))

  it('meet at the last batch that both have, in as many rounds as there are epochs', () => {
    // Batches of one epoch at one offset are the same: who wrote the common part, and what each then wrote alone.
    fc.assert(
      fc.property(epochs, epochs, epochs, (past, left, right) => {
        const from = past.at(-1) ?? 0
        // An epoch has one leader, so the two never share one beyond their common past.
        const leader = [...past, ...left.map(epoch => from + epoch * 2 + 2)]
        const follower = [...past, ...right.map(epoch => from + epoch * 2 + 1)]
        let end = follower.length
        for (let round = 0; ; round++) {
          expect(round).toBeLessThanOrEqual(50)
          const own = epochsOf(follower.slice(0, end))
          const told = parting(epochsOf(leader), leader.length, own.last(), end)
          if (told === null) break
          const cut = divergence(own, end, told)
          expect(cut).toBeLessThan(end)
          end = cut
        }
        expect(end).toBe(past.length)
      }),
    )
  })
})

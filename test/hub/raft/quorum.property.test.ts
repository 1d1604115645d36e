import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { majority, majorityActive, majorityIndex, voteResult } from '../../../hub/raft/quorum.ts'

const members = fc
  .integer({ min: 1, max: 9 })
  .map(count => Array.from({ length: count }, (_, at) => `${at}/d`))

/** Members with one value each. */
function withEach<T>(value: fc.Arbitrary<T>): fc.Arbitrary<{ voters: string[]; values: T[] }> {
  return members.chain(voters =>
    fc
      .array(value, { minLength: voters.length, maxLength: voters.length })
      .map(values => ({ voters, values })),
  )
}

describe('the arithmetic of majorities', () => {
  it('any two majorities share a member, also over a change by one voter', () => {
    for (let voters = 1; voters < 20; voters++) {
      expect(2 * majority(voters)).toBeGreaterThan(voters)
      // Of n and of n + 1 voters, within the n + 1.
      expect(majority(voters) + majority(voters + 1)).toBeGreaterThan(voters + 1)
      // No larger than needed: half of an odd number may be gone.
      expect(2 * (majority(voters) - 1)).toBeLessThanOrEqual(voters)
    }
  })

  it('the index of a majority is held by one, and no larger index is', () => {
    fc.assert(
      fc.property(withEach(fc.integer({ min: -1, max: 20 })), ({ voters, values }) => {
        const index = majorityIndex(voters, voter => values[voters.indexOf(voter)] ?? -1)
        const holding = (least: number): number => values.filter(value => value >= least).length
        expect(holding(index)).toBeGreaterThanOrEqual(majority(voters.length))
        expect(holding(index + 1)).toBeLessThan(majority(voters.length))
      }),
    )
    expect(majorityIndex([], () => 5)).toBe(Number.NEGATIVE_INFINITY)
  })

  it('votes elect with a majority of grants, lose when none can come, and stay open else', () => {
    fc.assert(
      fc.property(
        withEach(fc.constantFrom(true, false, undefined)),
        fc.boolean(),
        ({ voters, values }, other) => {
          const votes = new Map<string, boolean>([['stranger/d', other]])
          voters.forEach((voter, at) => {
            const value = values[at]
            if (value !== undefined) votes.set(voter, value)
          })
          const count = (wanted: boolean | undefined): number =>
            values.filter(value => value === wanted).length
          const needed = majority(voters.length)
          const possible = count(true) + count(undefined) >= needed
          expect(voteResult(voters, votes)).toBe(count(true) >= needed ? 'won' : possible ? 'open' : 'lost')
        },
      ),
    )
  })

  it('a majority is active when as many are', () => {
    fc.assert(
      fc.property(withEach(fc.boolean()), ({ voters, values }) => {
        const active = majorityActive(voters, voter => values[voters.indexOf(voter)] ?? false)
        expect(active).toBe(values.filter(value => value).length * 2 > voters.length)
      }),
    )
  })
})

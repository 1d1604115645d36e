import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { runSchedule } from './schedule.ts'

const SCHEDULES = 1_000

describe('members under faults', () => {
  it('keep every promise of Raft, and agree once all is well', () => {
    const total = { elections: 0, commits: 0, truncations: 0, installs: 0, changes: 0, transfers: 0 }
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), seed => {
        const seen = runSchedule(seed)
        total.elections += seen.elections
        total.commits += seen.commits
        total.truncations += seen.truncations
        total.installs += seen.installs
        total.changes += seen.changes
        total.transfers += seen.transfers
      }),
      // A seed is no smaller for being a smaller number.
      { numRuns: SCHEDULES, endOnFailure: true },
    )
    // Each hard case came up often enough to have been tried.
    for (const times of Object.values(total)) expect(times).toBeGreaterThan(SCHEDULES / 20)
  })
})

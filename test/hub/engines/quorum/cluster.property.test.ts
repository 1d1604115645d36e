import { expect, it } from 'vitest'
import { runQuorumSchedule } from './schedule.ts'

it('keeps what it answered, whatever crashes, is cut off or full', async () => {
  const sums: Record<string, number> = {}
  for (let seed = 1; seed <= 25; seed++) {
    const seen = await runQuorumSchedule(seed).catch(error => {
      throw new Error(`seed ${seed}`, { cause: error })
    })
    for (const [what, count] of Object.entries(seen)) sums[what] = (sums[what] ?? 0) + count
  }
  for (const [what, count] of Object.entries(sums)) expect(count, what).toBeGreaterThan(10)
})

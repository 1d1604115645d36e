import { expect, test } from 'vitest'
import { FAULTS, runSchedule } from './spine/schedule.ts'

/**
 * The production edge against the production hub, on disks, links and clocks that fail as a seed says: what was acked is stored once and
 * in order, or declared missing. More with SPINE_RUNS, others with SPINE_SEED (the first one).
 */

const RUNS = Number(process.env.SPINE_RUNS ?? 150)
const FIRST_SEED = Number(process.env.SPINE_SEED ?? 1)

/** Seeds that found something once, and what. */
const FOUND: Readonly<Record<number, string>> = {
  172: 'a clone and a hub that went back: the second of two directories was told that it is the older one, and no more',
  324: 'lanes changed thrice: the hub held a run without records, and the edge could not tell that the one before was settled',
  2135: 'dead letters drained a generation of local logs, and the next one was not told',
  7049: 'a topic deleted behind the last frame of a lane, whose ack never came',
  7664: 'a clone, a crash and a hub that went back: a run was announced again under its old id',
}

const seeds = [
  ...Array.from({ length: RUNS }, (_, index) => FIRST_SEED + index),
  ...(process.env.SPINE_RUNS === undefined ? Object.keys(FOUND).map(Number) : []),
]

test(`${seeds.length} schedules from seed ${FIRST_SEED}: acked is stored once and in order, or declared missing`, async () => {
  const faults = new Map<string, number>()
  for (const seed of seeds) {
    try {
      for (const [fault, count] of await runSchedule(seed))
        faults.set(fault, (faults.get(fault) ?? 0) + count)
    } catch (error) {
      const again = `SPINE_SEED=${seed} SPINE_RUNS=1 npx vitest run test/spine.property.test.ts`
      throw new Error(`seed ${seed} failed; run it again with: ${again}`, { cause: error })
    }
  }
  if (RUNS < 100) return
  const missing = FAULTS.filter(fault => !faults.has(fault))
  expect(missing, 'faults that never happened').toEqual([])
}, 3_600_000)

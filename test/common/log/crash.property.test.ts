import fc from 'fast-check'
import { describe, test } from 'vitest'
import { Model } from './model.ts'

/** Random schedules against the fake disk: whatever happens, what was acked is there, in order, and nothing else. */

/** More with LOG_RUNS, for a long search. */
const RUNS = Number(process.env.LOG_RUNS ?? 1000)

const which = fc.array(fc.nat(2), { maxLength: 4 })
const keys = fc.array(fc.nat(12), { maxLength: 3 })

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ op: fc.constant('append' as const), which, size: fc.nat(6000), keys }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('pass' as const), turns: fc.nat(4) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('settle' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('burst' as const), count: fc.nat(30), size: fc.nat(3000) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('before' as const),
      log: fc.nat(2),
      fraction: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('after' as const),
      log: fc.nat(2),
      fraction: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('crash' as const),
      kill: fc.boolean(),
      hops: fc.nat(200),
      during: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('failSync' as const), size: fc.nat(3000), kill: fc.boolean() }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('full' as const),
      room: fc.nat(6000),
      size: fc.nat(3000),
      count: fc.nat(6),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('reopen' as const) }) },
)

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

async function hops(count: number): Promise<void> {
  for (let at = 0; at < count; at++) await undefined
}

async function reopen(model: Model, kind: 'crash' | 'kill', during: number): Promise<void> {
  await model.crash(kind)
  if (during > 0) {
    // The machine fails again while recovery is at it.
    const opening = model.open(false).catch(() => {})
    await hops(during)
    await model.pass(during % 3)
    const next = model.disk.crash()
    await opening
    await model.settle()
    model.disk = next
  }
  await model.open()
}

async function run(model: Model, next: Step): Promise<void> {
  switch (next.op) {
    case 'append':
      model.appendTurn(next.which, next.size, next.keys)
      break
    case 'burst':
      for (let at = 0; at < next.count; at++) {
        model.appendTurn([at, at + 1], next.size, at % 3 === 0 ? [at] : [])
        if (at % 5 === 0) await model.pass(1)
      }
      break
    case 'pass':
      await model.pass(next.turns)
      break
    case 'settle':
      await model.settle()
      break
    case 'before':
      model.truncateBefore(next.log, next.fraction)
      break
    case 'after':
      await model.truncateAfter(next.log, next.fraction)
      await model.settle()
      break
    case 'crash':
      await hops(next.hops)
      await reopen(model, next.kill ? 'kill' : 'crash', next.during ? next.hops * 3 : 0)
      break
    case 'failSync':
      model.disk.failSyncs(1)
      model.appendTurn([0, 1], next.size, [3])
      await model.settle()
      await reopen(model, next.kill ? 'kill' : 'crash', 0)
      break
    case 'full':
      await model.settle()
      model.disk.setCapacity(model.disk.usedBytes() + next.room)
      for (let at = 0; at < next.count; at++) model.appendTurn([at], next.size, at % 2 === 0 ? [at] : [])
      model.appendTurn([1], next.size, [], true)
      await model.settle()
      model.disk.setCapacity(Number.POSITIVE_INFINITY)
      break
    case 'reopen':
      await model.close()
      await model.open()
      break
  }
}

describe('after any crash', () => {
  test(
    'a log holds every acked batch, in order, and nothing that was never appended',
    async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.nat(0x7fffffff),
          fc.constantFrom('none' as const, 'sector' as const, 'byte' as const),
          fc.array(step, { minLength: 3, maxLength: 14 }),
          async (seed, tearing, steps) => {
            const model = new Model(seed, tearing)
            await model.open()
            for (const next of steps) await run(model, next)
            await reopen(model, 'crash', 0)
            await model.close()
          },
        ),
        { numRuns: RUNS },
      )
    },
    60_000 + RUNS * 60,
  )
})

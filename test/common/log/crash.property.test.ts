import fc from 'fast-check'
import { describe, test } from 'vitest'
import { Model } from './model.ts'

/** Random schedules against the fake disk: whatever happens, what was acked is there, in order, and nothing else. */

/** More with LOG_RUNS, for a long search. */
const RUNS = Number(process.env.LOG_RUNS ?? 1000)

const which = fc.array(fc.nat(2), { maxLength: 4 })
const keys = fc.array(fc.nat(12), { maxLength: 3 })

// Not fc.double, most of whose values are next to nothing.
const fraction = fc.integer({ min: 0, max: 100 }).map(percent => percent / 100)
const replica = {
  op: fc.constant('replica' as const),
  log: fc.nat(2),
  count: fc.integer({ min: 1, max: 5 }),
  size: fc.nat(3000),
}
const restart = { op: fc.constant('restart' as const), log: fc.nat(2), fraction, atBatch: fc.boolean() }
const after = { op: fc.constant('after' as const), log: fc.nat(2), fraction }
const crash = {
  op: fc.constant('crash' as const),
  kill: fc.boolean(),
  hops: fc.nat(200),
  during: fc.boolean(),
}

/** Time enough for nothing, for segments to be written, for free space to be asked for again. */
const pass = {
  op: fc.constant('pass' as const),
  turns: fc.nat(4),
  ms: fc.constantFrom(0, 0, 60, 2_000),
}

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ op: fc.constant('append' as const), which, size: fc.nat(6000), keys }),
  },
  { weight: 3, arbitrary: fc.record(replica) },
  { weight: 3, arbitrary: fc.record(pass) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('settle' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('burst' as const), count: fc.nat(30), size: fc.nat(3000) }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('before' as const), log: fc.nat(2), fraction }) },
  { weight: 1, arbitrary: fc.record(after) },
  { weight: 1, arbitrary: fc.record(restart) },
  { weight: 2, arbitrary: fc.record(crash) },
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
      crash: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('reopen' as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('check' as const) }) },
)

/** What a follower does, in one log mostly, so that cuts and restarts meet each other, crashes and checkpoints. */
const one = fc.integer({ min: 0, max: 8 }).map(at => Math.max(0, at - 6))
const followerStep = fc.oneof(
  { weight: 8, arbitrary: fc.record({ ...replica, log: one }) },
  { weight: 3, arbitrary: fc.record({ ...restart, log: one }) },
  { weight: 2, arbitrary: fc.record({ ...after, log: one }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('before' as const), log: one, fraction }) },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('burst' as const), count: fc.nat(30), size: fc.nat(3000) }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('settle' as const) }) },
  { weight: 2, arbitrary: fc.record(pass) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('check' as const) }) },
  { weight: 3, arbitrary: fc.record(crash) },
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
      model.clock.advance(next.ms)
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
      break
    case 'replica':
      model.appendReplica(next.log, next.count, next.size)
      break
    case 'restart':
      model.restartAt(next.log, next.fraction, next.atBatch)
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
      await model.compare()
      if (next.crash) await reopen(model, 'crash', 0)
      model.disk.setCapacity(Number.POSITIVE_INFINITY)
      break
    case 'check':
      await model.settle()
      await model.compare()
      break
    case 'reopen':
      await model.close()
      await model.open()
      break
  }
}

function holds(steps: fc.Arbitrary<Step[]>): Promise<void> {
  const tearing = fc.constantFrom('none' as const, 'sector' as const, 'byte' as const)
  const property = fc.asyncProperty(fc.nat(0x7fffffff), tearing, steps, async (seed, torn, list) => {
    const model = new Model(seed, torn)
    await model.open()
    for (const next of list) await run(model, next)
    await reopen(model, 'crash', 0)
    await model.close()
  })
  return fc.assert(property, { numRuns: RUNS })
}

describe('after any crash', () => {
  test(
    'a log holds every acked batch, in order, and nothing that was never appended',
    () => holds(fc.array(step, { minLength: 3, maxLength: 14 })),
    60_000 + RUNS * 60,
  )

  test(
    "so does a follower's, with epochs and offsets as stamped, or it starts over whole",
    () => holds(fc.array(followerStep, { minLength: 10, maxLength: 24 })),
    60_000 + RUNS * 60,
  )
})

import { describe, expect, it } from 'vitest'
import { MAX_SEQUENCE, readHeader } from '../../../common/batch.ts'
import { encodeCbor } from '../../../common/cbor.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { createGapPlaces } from '../../../hub/replica/gap-places.ts'
import type { GapRange, LaneState, RunAnnouncement } from '../../../hub/replica/lanes.ts'
import { pastOf } from '../../../hub/replica/lanes.ts'
import { createLeaderEpochs } from '../../../hub/replica/leader-epochs.ts'
import { decodeSnapshot, encodeSnapshot } from '../../../hub/replica/producer-snapshot.ts'
import { MAX_CLIENT_PRODUCERS, Producers } from '../../../hub/replica/producers.ts'
import { seededRng } from '../../fake-clock.ts'
import { runOf, testRun } from './batches.ts'

const id = { edge: 'e1', lane: 0 }
const P = testRun(1)
const Q = testRun(2)

function refusal(action: () => unknown): { code: string; details: unknown } {
  try {
    action()
  } catch (error) {
    if (isTributaryError(error)) return { code: error.code, details: error.details }
    throw error
  }
  return { code: 'none', details: null }
}

function header(producer: number, from: number, count: number, epoch = 0) {
  const base =
    from > MAX_SEQUENCE - count
      ? { ...readHeader(runOf(producer, 0, count, { epoch }), 0), baseSequence: from }
      : null
  return base ?? readHeader(runOf(producer, from, count, { epoch }), 0)
}

function first(run: number, reason: RunAnnouncement['reason'] = 'first'): RunAnnouncement {
  return { run, prev: null, reason }
}

function gap(run: number, from: number, to: number): GapRange {
  const local = { localFrom: 1_000 + from, localTo: 1_000 + to }
  return { run, from, to, reason: 'disk-full', firstMs: 1, lastMs: 2, ...local }
}

describe('clients', () => {
  function client() {
    const producers = new Producers()
    let offset = 0
    return {
      producers,
      send(from: number, count: number, epoch = 0, producer = 7) {
        const sent = header(producer, from, count, epoch)
        const judged = producers.judgeClient(sent)
        if (judged.kind === 'duplicate') return judged
        producers.applyBatch(sent, offset, 0)
        offset += count
        return judged
      },
    }
  }

  it('go on where they ended and get the offset of what they repeat, for the last five batches', () => {
    const { send } = client()
    for (let batch = 0; batch < 6; batch++) expect(send(batch * 2, 2).kind).toBe('append')
    expect(send(2, 2)).toEqual({ kind: 'duplicate', baseOffset: 2 })
    expect(send(10, 2)).toEqual({ kind: 'duplicate', baseOffset: 10 })
    expect(refusal(() => send(0, 2))).toMatchObject({ code: 'out_of_order_sequence', details: { next: 12 } })
    expect(refusal(() => send(13, 1)).code).toBe('out_of_order_sequence')
    expect(refusal(() => send(10, 3)).code).toBe('out_of_order_sequence')
  })

  it('wrap from 2^31 - 1 to 0', () => {
    const { send } = client()
    send(MAX_SEQUENCE - 1, 3)
    expect(send(1, 1).kind).toBe('append')
    expect(send(MAX_SEQUENCE - 1, 3).kind).toBe('duplicate')
    const exact = client()
    exact.send(MAX_SEQUENCE, 1)
    expect(exact.send(0, 1).kind).toBe('append')
  })

  it('begin anywhere when unknown, at 0 with a new epoch, and not at all with an old one', () => {
    const { send } = client()
    expect(send(17, 1).kind).toBe('append')
    expect(refusal(() => send(5, 1, 1))).toMatchObject({
      code: 'out_of_order_sequence',
      details: { next: 0 },
    })
    expect(send(0, 1, 1).kind).toBe('append')
    expect(refusal(() => send(18, 1, 0)).code).toBe('fenced')
  })

  it('may not use the ids of runs', () => {
    expect(refusal(() => new Producers().judgeClient(header(P, 0, 1))).code).toBe('invalid_argument')
  })

  it('expire when silent, and the longest silent goes first at the limit', () => {
    const { producers, send } = client()
    producers.applyBatch(header(8, 0, 1), 0, 100)
    producers.applyBatch(header(9, 0, 1), 1, 200)
    expect(producers.expire(150)).toBe(1)
    expect(send(0, 1, 0, 9).kind).toBe('duplicate')
    for (let producer = 10; producer < 10 + MAX_CLIENT_PRODUCERS; producer++) {
      producers.applyBatch(header(producer, 0, 1), producer, 300)
    }
    expect(producers.stats()).toMatchObject({ clients: MAX_CLIENT_PRODUCERS, evicted: 1 })
    expect(send(5, 1, 0, 9).kind).toBe('append')
  })
})

describe('runs', () => {
  function lane() {
    const producers = new Producers()
    return {
      producers,
      start(start: RunAnnouncement) {
        const declared = producers.judgeRun(id, start)
        if (declared !== null) producers.applyRun(id, start)
        return declared
      },
      send(run: number, from: number, count: number) {
        const sent = header(run, from, count)
        const kind = producers.judgeLane(id, sent)
        if (kind === 'append') producers.applyBatch(sent, -1, 0)
        return kind
      },
      declare(range: GapRange) {
        const left = producers.judgeGap(id, range)
        if (left !== null) producers.applyGap(left.run, left.to)
        return left
      },
      next: () => producers.lane(id)?.next,
    }
  }

  it('must be announced, begin at 0 and go on without holes', () => {
    const { start, send } = lane()
    expect(refusal(() => send(P, 0, 1))).toEqual({ code: 'unknown_run', details: {} })
    expect(start(first(P))).toEqual({ gap: null })
    expect(refusal(() => send(P, 1, 1))).toMatchObject({
      code: 'out_of_order_sequence',
      details: { next: 0 },
    })
    expect(send(P, 0, 5)).toBe('append')
    expect(send(P, 5, 5)).toBe('append')
    expect(send(P, 0, 5)).toBe('duplicate')
    expect(send(P, 3, 7)).toBe('duplicate')
    expect(refusal(() => send(P, 8, 5))).toMatchObject({
      code: 'out_of_order_sequence',
      details: { next: 10 },
    })
    expect(refusal(() => send(Q, 0, 1))).toMatchObject({ code: 'unknown_run', details: { run: P, next: 10 } })
  })

  it('are announced again for nothing', () => {
    const { start, send } = lane()
    start(first(P))
    send(P, 0, 5)
    expect(start(first(P))).toBeNull()
    expect(start({ run: P, prev: { run: Q, end: 9 }, reason: 'next' })).toBeNull()
  })

  it('follow a predecessor that is held to its end, or declared', () => {
    const { start, send, declare } = lane()
    const next = { run: Q, prev: { run: P, end: 10 }, reason: 'next' } as const
    expect(refusal(() => start(next)).code).toBe('unknown_run')
    start(first(P))
    send(P, 0, 5)
    expect(refusal(() => start(next))).toMatchObject({
      code: 'out_of_order_sequence',
      details: { run: P, next: 5 },
    })
    declare(gap(P, 5, 10))
    expect(start(next)).toEqual({ gap: null })
    expect(send(Q, 0, 1)).toBe('append')
    expect(refusal(() => send(P, 10, 1)).code).toBe('unknown_run')
    expect(refusal(() => start({ run: testRun(3), prev: { run: P, end: 10 }, reason: 'next' })).code).toBe(
      'unknown_run',
    )
  })

  it.each([
    ['first', 'wiped'],
    ['wiped', 'wiped'],
    ['next', 'wiped'],
    ['fork', 'fork'],
    ['moved', 'moved'],
  ] as const)(
    'without predecessor, said to be %s, on a lane with a tip are declared as %s',
    (reason, declared) => {
      const { start, next } = lane()
      start(first(P))
      expect(start(first(Q, reason))).toEqual({ gap: declared })
      expect(next()).toBe(0)
    },
  )

  it('on a lane without a tip are declared only where the edge says that something came before', () => {
    for (const reason of ['first', 'fork', 'next'] as const) {
      expect(lane().start(first(P, reason))).toEqual({ gap: null })
    }
    for (const reason of ['wiped', 'moved'] as const) {
      expect(lane().start(first(P, reason))).toEqual({ gap: reason })
    }
  })

  it('are a fork where the hub holds more of the predecessor than the edge says there was', () => {
    const { start, send } = lane()
    start(first(P))
    send(P, 0, 10)
    expect(start({ run: Q, prev: { run: P, end: 7 }, reason: 'next' })).toEqual({ gap: 'fork' })
  })

  it('can be skipped by gaps, which are clipped, idempotent and leave no hole', () => {
    const { start, send, declare, next } = lane()
    expect(refusal(() => declare(gap(P, 0, 5))).code).toBe('unknown_run')
    start(first(P))
    send(P, 0, 5)
    expect(refusal(() => declare(gap(P, 6, 8)))).toMatchObject({
      code: 'out_of_order_sequence',
      details: { next: 5 },
    })
    expect(declare(gap(P, 3, 8))).toMatchObject({ from: 5, to: 8, localFrom: 1_005, localTo: 1_008 })
    expect(next()).toBe(8)
    expect(declare(gap(P, 3, 8))).toBeNull()
    expect(send(P, 8, 2)).toBe('append')
    start({ run: Q, prev: { run: P, end: 10 }, reason: 'next' })
    expect(declare(gap(P, 3, 8))).toBeNull()
    expect(refusal(() => declare(gap(P, 3, 11))).code).toBe('unknown_run')
  })

  it.each([gap(P, 5, 5), gap(P, -1, 5), gap(P, 0, MAX_SEQUENCE + 1), { ...gap(P, 0, 5), localTo: 1_006 }])(
    'refuse gaps that are none: %j',
    bad => {
      const { start, declare } = lane()
      start(first(P))
      expect(refusal(() => declare(bad)).code).toBe('invalid_argument')
    },
  )

  it('that came before are remembered: the newest, of older ones fewer and fewer, and the oldest for ever', () => {
    const rng = seededRng(8)
    const ids = Array.from({ length: 500 }, () => 2 ** 52 + rng.below(2 ** 52))
    const agesOf = (isContested: boolean): number[] => {
      let tip: LaneState | undefined
      for (const [at, run] of ids.entries()) {
        const before = ids[at - 1]
        const prev = isContested || before === undefined ? null : { run: before, end: 3 }
        tip = { ...id, run, next: 3, prev, past: pastOf(tip) }
      }
      return pastOf(tip).map(past => ids.length - 1 - ids.indexOf(past.run))
    }
    const calm = agesOf(false)
    expect(calm).toHaveLength(16)
    expect(calm.slice(0, 12)).toEqual(Array.from({ length: 12 }, (_, age) => age))
    expect(calm).toEqual(calm.toSorted((left, right) => left - right))
    expect(calm[14]).toBeGreaterThan(20)
    expect(calm.at(-1)).toBe(499)
    const contested = agesOf(true)
    expect(contested).toHaveLength(64)
    expect(contested.slice(0, 60)).toEqual(Array.from({ length: 60 }, (_, age) => age))
    expect(contested.at(-1)).toBe(499)
  })

  it('are one lane of one edge each', () => {
    const { producers, start } = lane()
    start(first(P))
    expect(refusal(() => producers.judgeRun({ edge: 'e2', lane: 0 }, first(P))).code).toBe('invalid_argument')
    expect(refusal(() => start(first(5))).code).toBe('invalid_argument')
    expect(refusal(() => producers.judgeLane(id, header(P, 0, 1, 1))).code).toBe('invalid_argument')
  })

  it('leave nothing when their edge is removed', () => {
    const { producers, start, send } = lane()
    start(first(P))
    const undo = producers.removeLane(id)
    expect(producers.lane(id)).toBeUndefined()
    undo()
    expect(send(P, 0, 1)).toBe('append')
    producers.removeLane(id)
    expect(start(first(Q))).toEqual({ gap: null })
  })
})

describe('snapshots', () => {
  it('hold clients and lanes, more than one CBOR value takes', () => {
    const producers = new Producers()
    for (let edge = 0; edge < 30_000; edge++) {
      const start = {
        run: testRun(edge),
        prev: edge % 2 ? { run: 2 ** 53 - 1, end: 5 } : null,
        reason: 'next',
      } as const
      producers.applyRun({ edge: `edge-${edge}`, lane: edge % 3 }, start)
    }
    for (let batch = 0; batch < 8; batch++) producers.applyBatch(header(4, batch, 1, 2), batch, 99)
    const epochs = createLeaderEpochs([
      { epoch: 2, startOffset: 0 },
      { epoch: 5, startOffset: 70 },
    ])
    const gaps = createGapPlaces([3, 70])
    const restored = decodeSnapshot(encodeSnapshot({ producers, epochs, gaps }))
    expect(restored.gaps.above(3)).toEqual([70])
    expect([...restored.producers.lanes()]).toEqual([...producers.lanes()])
    expect([...restored.producers.clients()]).toEqual([...producers.clients()])
    expect(restored.epochs.entries()).toEqual(epochs.entries())
  })

  it('of the first format were taken where all was written under epoch 0', () => {
    const clients = encodeCbor([[7, 1, 99, 0, 2, 10, 12]])
    const restored = decodeSnapshot(encodeCbor({ format: 1, clients: [clients], lanes: [] }))
    expect([...restored.producers.clients()]).toMatchObject([
      [7, { epoch: 1, batches: [{ baseOffset: 10 }] }],
    ])
    expect(restored.epochs.entries()).toEqual([{ epoch: 0, startOffset: 0 }])
  })

  it('that are none, or of a later format, are refused', () => {
    const later = encodeCbor({ format: 4, epochs: [], clients: [], lanes: [] })
    expect(refusal(() => decodeSnapshot(later)).code).toBe('corrupt_log')
    expect(refusal(() => decodeSnapshot(new Uint8Array([1, 2]))).code).toBe('corrupt_log')
  })
})

import pino from 'pino'
import { describe, expect, test } from 'vitest'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { concat } from '../../../../common/bytes.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type { EdgeFrame, UplinkHubFrame } from '../../../../common/wire.ts'
import { CLOSE } from '../../../../common/wire.ts'
import type { UplinkLimits } from '../../../../hub/endpoints/uplink/uplink.ts'
import { acceptUplink, createUplinkCounters } from '../../../../hub/endpoints/uplink/uplink.ts'
import { createFakePorts } from '../../../fake-ports.ts'
import { linkPair } from '../../../links.ts'
import { liveClock } from '../../../live-clock.ts'
import { rawPeer, until } from '../../../raw-peer.ts'

const LIMITS: UplinkLimits = {
  maxFrameBytes: 4_194_304,
  maxInflightBytesPerConnection: 1_048_576,
  heartbeatMs: 20_000,
  deadMs: 60_000,
  helloTimeoutMs: 10_000,
}
const RUN = 2 ** 52 + 11

function setup(limits: Partial<UplinkLimits> = {}) {
  const ports = createFakePorts()
  const counters = createUplinkCounters()
  const log = pino({ level: 'silent' })
  const connect = () => {
    const pair = linkPair()
    const session = acceptUplink(pair.right, {
      ports,
      counters,
      log,
      env: { clock: liveClock },
      limits: { ...LIMITS, ...limits },
    })
    return { pair, session, edge: rawPeer(pair.left, 'uplink-hub') }
  }
  return { ports, counters, connect }
}

type Edge = ReturnType<ReturnType<typeof setup>['connect']>['edge']

const hello = (edge: Edge, session = 0, id = 'e1', nowMs = 1_000) =>
  edge.send({ t: 'hello', min: 1, max: 1, software: 'test', edge: { id, session, clusterId: null, nowMs } })

async function started(edge: Edge, session = 0, id = 'e1') {
  hello(edge, session, id)
  const welcome = await edge.expect('welcome')
  const granted = welcome.edge?.session ?? -1
  edge.send({ t: 'start', session: granted })
  return granted
}

const open = (log: number, topic = 'telemetry'): EdgeFrame => ({
  t: 'open',
  log,
  topic,
  topicId: null,
  lane: log,
  lanes: 16,
  partitionBy: 'key',
})
const run = (log: number, id = RUN, prev: { run: number; end: number } | null = null): EdgeFrame => ({
  t: 'run',
  log,
  run: id,
  prev,
  reason: prev === null ? 'first' : 'next',
})

/** `count` records of `run` from `sequence`, in one batch. */
function batch(sequence: number, count: number, producerId = RUN): Uint8Array {
  const records = Array.from({ length: count }, (_, index) => ({
    key: null,
    value: Buffer.from(`v${sequence + index}`),
    headers: [],
    timestampMs: 1,
  }))
  return buildBatch(records, { producerId, producerEpoch: 0, baseSequence: sequence })
}
const append = (log: number, sequence: number, count: number, id = RUN): EdgeFrame => ({
  t: 'append',
  log,
  batches: batch(sequence, count, id),
})

/** The next ack of `log` that says `next`; acks before it are coalesced at will. */
async function acked(edge: Edge, next: number) {
  for (;;) {
    const ack = await edge.expect('ack')
    if (ack.next === next && ack.committed === next) return ack
  }
}

describe('handshake', () => {
  test('a transcript from hello to the first ack', async () => {
    const { connect } = setup()
    const { edge } = connect()
    hello(edge)
    const welcome = await edge.expect('welcome')
    expect(welcome).toMatchObject({
      protocol: 1,
      clusterId: 'fake-cluster',
      nodeId: 1,
      maxFrameBytes: 4_194_304,
      heartbeatMs: 20_000,
      deadMs: 60_000,
      edge: { session: 1, verdict: 'ok' },
    })
    edge.send({ t: 'start', session: 1 })
    edge.send(open(3))
    const opened = await edge.expect('opened')
    expect(opened).toMatchObject({
      log: 3,
      partition: 0,
      leaderEpoch: 0,
      maxRecordBytes: 1_048_576,
      tip: null,
    })
    edge.send(run(3))
    expect(await edge.expect('ack')).toEqual({ t: 'ack', log: 3, run: RUN, next: 0, committed: 0 })
    edge.send(append(3, 0, 5))
    expect(await acked(edge, 5)).toEqual({ t: 'ack', log: 3, run: RUN, next: 5, committed: 5 })
  })

  test('hello, start, open, run and append may be sent without waiting', async () => {
    const { connect } = setup()
    const { edge } = connect()
    hello(edge)
    await edge.expect('welcome')
    for (const frame of [
      { t: 'start', session: 1 } as const,
      open(1),
      run(1),
      append(1, 0, 2),
      append(1, 2, 2),
    ]) {
      edge.send(frame)
    }
    await edge.expect('opened')
    await acked(edge, 4)
  })

  const refusals: [string, (edge: Edge) => void, string, number][] = [
    ['no edge', edge => edge.send({ t: 'hello', min: 1, max: 1, software: 't' }), 'protocol_error', 4000],
    [
      'versions to come',
      edge => edge.send({ t: 'hello', min: 7, max: 9, software: 't' }),
      'unsupported_version',
      4000,
    ],
    ['no hello first', edge => edge.send(open(1)), 'protocol_error', 4000],
    ['garbage', edge => edge.sendBytes(new Uint8Array([1, 2, 3])), 'protocol_error', 4000],
    ['a large hello', edge => edge.sendBytes(new Uint8Array(20_000)), 'protocol_error', 4000],
  ]
  test.each(refusals)('%s: a fatal error and the close', async (_name, act, code, closeCode) => {
    const { connect, counters } = setup()
    const { edge } = connect()
    act(edge)
    expect(await edge.expect('error')).toMatchObject({ code, fatal: true })
    expect((await edge.whenClosed).code).toBe(closeCode)
    await until(() => counters.open === 0, 'the close')
  })

  test('nothing is taken before start, and start must name the session granted', async () => {
    const { connect } = setup()
    const early = connect().edge
    hello(early)
    await early.expect('welcome')
    early.send(open(1))
    expect((await early.expect('error')).message).toContain('open came before start')
    const wrong = connect().edge
    hello(wrong, 1)
    await wrong.expect('welcome')
    wrong.send({ t: 'start', session: 99 })
    expect((await wrong.expect('error')).message).toContain('start.session must be 2')
  })

  test('a newer connection fences the older one', async () => {
    const { connect, counters } = setup()
    const old = connect().edge
    await started(old)
    const newer = connect().edge
    await started(newer, 1)
    expect(await old.expect('error')).toMatchObject({ code: 'fenced', fatal: true })
    expect((await old.whenClosed).code).toBe(CLOSE.fenced)
    newer.send(open(1))
    await newer.expect('opened')
    expect(counters.fenced).toBe(1)
  })

  test('a fork is told and a hub that is not ready says so', async () => {
    const { ports, connect } = setup()
    const first = connect().edge
    await started(first, 5)
    const clone = connect().edge
    hello(clone, 2)
    expect((await clone.expect('welcome')).edge).toEqual({ session: 7, verdict: 'fork' })
    ports.setNotReady('still recovering')
    const late = connect().edge
    hello(late)
    expect(await late.expect('error')).toMatchObject({
      code: 'not_available',
      message: 'not ready: still recovering',
    })
  })

  test('the report gives the clock offset and the lanes', async () => {
    const { ports, connect } = setup()
    const { edge } = connect()
    await started(edge)
    const lanes = [{ topic: 't', lane: 0, lagRecords: 3, lagBytes: 9, oldestMs: 5, droppedRecords: 0 }]
    const nowMs = Date.now() + 3_600_000
    edge.send({ t: 'report', nowMs, version: '1', diskBytes: 10, diskBudgetBytes: 20, lanes })
    await until(() => ports.fleet.local()[0]?.report !== null, 'the report')
    const [info] = ports.fleet.local()
    expect(info?.report).toMatchObject({ diskBytes: 10, diskBudgetBytes: 20, lanes })
    expect(Math.abs((info?.clockOffsetMs ?? 0) - 3_600_000)).toBeLessThan(1_000)
  })
})

/** A connection with one lane open under handle 1 and the run announced. */
async function lane(options: Partial<UplinkLimits> = {}) {
  const all = setup(options)
  const connection = all.connect()
  await started(connection.edge)
  connection.edge.send(open(1))
  const opened = await connection.edge.expect('opened')
  connection.edge.send(run(1))
  await connection.edge.expect('ack')
  return { ...all, ...connection, opened }
}

describe('lanes', () => {
  test('acks are cumulative and few, though appends are many', async () => {
    const { edge, ports } = await lane()
    ports.hold()
    for (let sequence = 0; sequence < 100; sequence++) edge.send(append(1, sequence, 1))
    await until(() => ports.endOffset(ports.topics.list()[0]?.topicId ?? '', 0) === 100, 'the appends')
    expect(edge.waiting()).toEqual([])
    ports.release()
    expect(await edge.expect('ack')).toEqual({ t: 'ack', log: 1, run: RUN, next: 100, committed: 100 })
  })

  test('a gap in sequence is refused once, what is behind it dropped, and the rewind goes through', async () => {
    const { edge, counters } = await lane()
    edge.send(append(1, 0, 10))
    for (let sequence = 20; sequence < 60; sequence += 10) edge.send(append(1, sequence, 10))
    edge.send(run(1, RUN + 1, { run: RUN, end: 60 }))
    edge.send(append(1, 0, 3, RUN + 1))
    const frames: UplinkHubFrame[] = []
    do frames.push(await edge.next())
    while (frames.at(-1)?.t !== 'refused')
    expect(frames.at(-1)).toMatchObject({ log: 1, code: 'out_of_order_sequence', run: RUN, next: 10 })
    edge.send(append(1, 10, 50))
    edge.send(run(1, RUN + 1, { run: RUN, end: 60 }))
    edge.send(append(1, 0, 3, RUN + 1))
    for (let last = await edge.expect('ack'); last.run !== RUN + 1 || last.next !== 3; )
      last = await edge.expect('ack')
    expect(counters.refused).toBe(1)
    expect(edge.waiting()).toEqual([])
  })

  test('a declared gap at the place refused goes through too, and appends go on behind it', async () => {
    const { edge } = await lane()
    edge.send(append(1, 5, 5))
    expect(await edge.expect('refused')).toMatchObject({ next: 0 })
    const gap = {
      from: 0,
      to: 5,
      reason: 'disk-full',
      firstMs: null,
      lastMs: 1,
      localFrom: 0,
      localTo: 5,
    } as const
    edge.send({ t: 'gap', log: 1, run: RUN, ...gap })
    edge.send(append(1, 5, 5))
    await acked(edge, 10)
  })

  test('duplicates are acked, not stored again', async () => {
    const { edge, ports, opened } = await lane()
    edge.send(append(1, 0, 5))
    await acked(edge, 5)
    edge.send(append(1, 0, 5))
    await acked(edge, 5)
    expect(ports.endOffset(opened.topicId, opened.partition)).toBe(5)
  })

  test('bad CRC: refused as corrupt with the place to go on from; the connection and other lanes live', async () => {
    const { edge } = await lane()
    const broken = batch(0, 3)
    broken[broken.length - 1] = 1 + (broken[broken.length - 1] ?? 0)
    edge.send({ t: 'append', log: 1, batches: broken })
    expect(await edge.expect('refused')).toMatchObject({ log: 1, code: 'corrupt_batch', run: RUN, next: 0 })
    edge.send(open(2))
    await edge.expect('opened')
    edge.send({ t: 'append', log: 1, batches: new Uint8Array([1, 2, 3]) })
    edge.send(append(1, 0, 3))
    await acked(edge, 3)
  })

  test('failures that may pass throttle the edge and lose nothing', async () => {
    for (const [code, delayMs] of [
      ['disk_full', 5_000],
      ['not_available', 1_000],
    ] as const) {
      const { edge, ports, counters } = await lane()
      ports.failNext('appendLane', new TributaryError(code, 'for now'))
      for (let sequence = 0; sequence < 30; sequence += 10) edge.send(append(1, sequence, 10))
      expect(await edge.expect('refused')).toMatchObject({ code, run: RUN, next: 0 })
      expect(await edge.expect('throttle')).toEqual({ t: 'throttle', delayMs })
      edge.send(append(1, 0, 30))
      await acked(edge, 30)
      expect(counters).toMatchObject({ refused: 1, throttled: 1 })
    }
  })

  test('where a leader went the edge is not throttled; where another node may reach it, it is sent there', async () => {
    const { edge, ports, counters } = await lane()
    const leader = { leader: 3 }
    ports.failNext('appendLane', new TributaryError('not_available', 'it moved', { details: leader }))
    edge.send(append(1, 0, 10))
    expect(await edge.expect('refused')).toMatchObject({ code: 'not_available', run: RUN, next: 0 })
    edge.send(append(1, 0, 10))
    await acked(edge, 10)
    expect(counters).toMatchObject({ refused: 1, throttled: 0 })

    const away = () =>
      ports.failNext(
        'appendLane',
        new TributaryError('not_available', 'it is not reached', { details: { ...leader, elsewhere: true } }),
      )
    away()
    edge.send(append(1, 10, 1))
    expect(await edge.expect('refused')).toMatchObject({ code: 'not_available', next: 10 })
    edge.send(append(1, 10, 1))
    await acked(edge, 11)
    ports.setAddresses(['ws://there'])
    away()
    edge.send(append(1, 11, 1))
    expect(await edge.expect('refused')).toMatchObject({ code: 'not_available', next: 11 })
    expect(await edge.expect('error')).toMatchObject({ code: 'not_available', fatal: true })
    await edge.whenClosed
  })

  test('a lane that cannot be bound is refused without a place and helped by open alone', async () => {
    const { edge, ports } = await lane()
    ports.failNext('bindLane', new TributaryError('topic_deleted', 'gone'))
    for (const frame of [open(2), run(2), append(2, 0, 1)]) edge.send(frame)
    const refused = await edge.expect('refused')
    expect(refused).toEqual({ t: 'refused', log: 2, code: 'topic_deleted', message: 'gone' })
    for (const frame of [open(2), run(2), append(2, 0, 1)]) edge.send(frame)
    await edge.expect('opened')
    await acked(edge, 1)
  })

  test('an unknown run without a tip needs an open', async () => {
    const { edge } = setup().connect()
    await started(edge)
    for (const frame of [open(1), append(1, 0, 1), run(1), append(1, 0, 1)]) edge.send(frame)
    await edge.expect('opened')
    expect(await edge.expect('refused')).toEqual({
      t: 'refused',
      log: 1,
      code: 'unknown_run',
      message: expect.stringContaining('run'),
    })
    for (const frame of [open(1), run(1), append(1, 0, 1)]) edge.send(frame)
    await edge.expect('opened')
    await acked(edge, 1)
  })

  test('a reconnect is told the tip and goes on from it', async () => {
    const { edge, connect } = await lane()
    edge.send(append(1, 0, 7))
    await acked(edge, 7)
    const again = connect().edge
    await started(again, 1)
    again.send(open(1))
    expect((await again.expect('opened')).tip).toEqual({ run: RUN, next: 7, committed: 7 })
    again.send(append(1, 7, 1))
    await acked(again, 8)
  })

  test('an unopened log is a protocol error', async () => {
    const { edge } = await lane()
    edge.send(append(9, 0, 1))
    expect(await edge.expect('error')).toMatchObject({ code: 'protocol_error', fatal: true })
    expect((await edge.whenClosed).code).toBe(CLOSE.protocolError)
  })

  test('a slow lane does not hold another one up', async () => {
    const { edge, ports } = await lane()
    edge.send(open(2))
    await edge.expect('opened')
    edge.send(run(2))
    await edge.expect('ack')
    ports.hold()
    edge.send(append(1, 0, 1))
    // Not committed: a run on the same log waits behind it, an open of another log does not.
    edge.send(run(1, RUN + 5, { run: RUN, end: 1 }))
    edge.send(open(3))
    await edge.expect('opened')
    ports.release()
    await edge.expect('ack')
  })
})

describe('limits and closing', () => {
  test('answers to pipelined appends that come in another order are acked all the same', async () => {
    const { edge, ports } = await lane()
    const { logs } = ports
    const appendLane = logs.appendLane.bind(logs)
    const asked: Promise<unknown>[] = []
    logs.appendLane = async (lane, batches) => {
      const asks = appendLane(lane, batches)
      const isFirst = asked.push(asks) === 1
      const tip = await asks
      if (!isFirst) return tip
      while (asked[1] === undefined) await new Promise(resolve => setImmediate(resolve))
      await asked[1]
      return { run: RUN, next: 5, committed: 2 }
    }
    edge.send(append(1, 0, 2))
    edge.send(append(1, 2, 3))
    expect(await acked(edge, 5)).toMatchObject({ run: RUN })
  })

  test('too much in flight pauses reading until commits catch up', async () => {
    const { edge, ports, counters, pair } = await lane({ maxInflightBytesPerConnection: 100_000 })
    ports.hold()
    const many = (sequence: number): EdgeFrame => ({
      t: 'append',
      log: 1,
      batches: concat([batch(sequence, 2_000)]),
    })
    for (let sequence = 0; sequence < 100_000; sequence += 2_000) edge.send(many(sequence))
    await until(() => counters.paused === 1, 'the pause')
    const unread = pair.left.bufferedBytes()
    expect(unread).toBeGreaterThan(300_000)
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(pair.left.bufferedBytes()).toBe(unread)
    ports.release()
    await acked(edge, 100_000)
    expect(pair.left.bufferedBytes()).toBe(0)
  })

  test('a graceful stop acks what is under way and then goes', async () => {
    const { edge, ports, session, opened } = await lane()
    ports.hold()
    edge.send(append(1, 0, 4))
    await until(() => ports.endOffset(opened.topicId, opened.partition) === 4, 'the append')
    const closed = session.close()
    ports.release()
    await acked(edge, 4)
    await closed
    expect((await edge.whenClosed).code).toBe(CLOSE.goingAway)
  })

  test('a connection cut in mid-append harms nobody', async () => {
    const { edge, ports, pair, connect, counters } = await lane()
    ports.hold()
    edge.send(append(1, 0, 4))
    edge.send(append(1, 4, 4))
    pair.cut()
    await edge.whenClosed
    ports.release()
    await until(() => counters.open === 0, 'the close')
    expect(ports.fleet.local()[0]?.connected).toBe(false)
    const again = connect().edge
    await started(again, 1)
    again.send(open(1))
    await again.expect('opened')
  })
})

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { utf8 } from '../../../../common/bytes.ts'
import { isTributaryError } from '../../../../common/errors.ts'
import type { ImageRecord } from '../../../../hub/controller/image.ts'
import { plainOf, runOf, testRun } from '../../replica/batches.ts'
import { created, eventually, ledBy, Nodes, TOPIC, valuesOf } from './stage.ts'

const LANE = { edgeId: 'e', topicId: TOPIC, partition: 0, lane: 0 }
const RUN = testRun(1)
const FIRST = { run: RUN, prev: null, reason: 'first' } as const

let nodes: Nodes

beforeEach(async () => {
  nodes = new Nodes()
  await nodes.start(1, 2, 3)
  nodes.commit([created(2), ledBy(0, 1, 1), ledBy(1, 2, 1)])
})
afterEach(() => nodes.close())

function registered(nodeId: number): ImageRecord {
  const at = {
    directoryId: 'd',
    peerAddress: null,
    httpAddress: 'h:1',
    rack: null,
    software: 's',
    startId: null,
  }
  return { type: 'node_registered', atMs: 1, ...at, nodeId, incarnation: nodeId }
}

async function code(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'done',
    (error: unknown) => (isTributaryError(error) ? error.code : String(error)),
  )
}

describe('logs that other nodes lead', () => {
  test('are written and read on any node as on their leader', async () => {
    const { logs } = nodes.node(3)
    expect(await logs.bounds(TOPIC, 0)).toMatchObject({ endOffset: 0, highWatermark: 0, leaderEpoch: 1 })
    expect(await logs.append(TOPIC, 0, plainOf(['a', 'b']), 'all')).toEqual({ baseOffset: 0 })
    expect(await logs.append(TOPIC, 0, plainOf(['c'], [5_000]), 1)).toEqual({ baseOffset: 2 })
    expect(await nodes.node(1).logs.append(TOPIC, 0, plainOf(['d']), 'all')).toEqual({ baseOffset: 3 })
    for (const nodeId of [1, 2, 3]) {
      expect(await valuesOf(nodes.node(nodeId).logs, 0)).toEqual(['a', 'b', 'c', 'd'])
      expect(await nodes.node(nodeId).logs.offsetForTime(TOPIC, 0, 4_000)).toBe(2)
      expect(await valuesOf(nodes.node(nodeId).logs, 1)).toEqual([])
    }
    const read = await logs.read(TOPIC, 0, 3, 1_000)
    expect(read.bounds).toMatchObject({ highWatermark: 4, leaderEpoch: 1, startOffset: 0 })
    const tooFar = await logs.read(TOPIC, 0, 9, 1_000).catch((error: unknown) => error)
    expect(tooFar).toMatchObject({
      code: 'offset_out_of_range',
      details: { startOffset: 0, highWatermark: 4 },
    })
    expect(await code(logs.read(TOPIC, 1, 1, 1_000))).toBe('offset_out_of_range')
    expect(await code(logs.append(TOPIC, 2, plainOf(['x']), 'all'))).toBe('unknown_topic')
    expect(await code(logs.bounds('nowhere', 0))).toBe('unknown_topic')
  })

  test('take lanes in the order of the calls, and say with a refusal where the lane stands', async () => {
    const { logs } = nodes.node(2)
    expect(await logs.openLane(LANE)).toEqual({ tip: null, leaderEpoch: 1 })
    await logs.startRun(LANE, FIRST)
    const appends = Array.from({ length: 50 }, (_, index) => logs.appendLane(LANE, runOf(RUN, 2 * index, 2)))
    const tips = await Promise.all(appends)
    expect(tips.at(-1)).toEqual({ run: RUN, next: 100, committed: 100 })
    expect(logs.tip(LANE)).toBeNull()
    expect(nodes.node(1).logs.tip(LANE)).toEqual({ run: RUN, next: 100, committed: 100 })
    const jump = await logs.appendLane(LANE, runOf(RUN, 150, 1)).catch((error: unknown) => error)
    expect(jump).toMatchObject({ code: 'out_of_order_sequence', details: { run: RUN, next: 100 } })
    const large = await logs.appendLane(LANE, new Uint8Array(600_000)).catch((error: unknown) => error)
    expect(large).toMatchObject({ details: { run: RUN, next: 100 } })
    const gap = { run: RUN, from: 100, to: 110, reason: 'retention', firstMs: null, lastMs: null } as const
    expect(await logs.declareGap(LANE, { ...gap, localFrom: 100, localTo: 110 })).toMatchObject({ next: 110 })
    expect(await nodes.node(3).logs.openLane(LANE)).toEqual({
      tip: { run: RUN, next: 110, committed: 110 },
      leaderEpoch: 1,
    })
  })

  test('wake readers on all nodes, who ask the leader once for all of them', async () => {
    const { logs, called } = nodes.node(1)
    const far = nodes.node(3).logs
    let woken = 0
    for (let count = 0; count < 20; count++) far.whenPast(TOPIC, 1, 0, () => woken++)
    const cancel = far.whenPast(TOPIC, 1, 0, () => {
      throw new Error('was cancelled')
    })
    cancel()
    await eventually(() => nodes.node(2).called.includes('read'), 'the question')
    await logs.append(TOPIC, 1, plainOf(['new']), 'all')
    await eventually(() => woken === 20, 'all to wake')
    expect(nodes.node(2).called.filter(name => name === 'read').length).toBe(1)
    expect(await valuesOf(far, 1)).toEqual(['new'])
    expect(called).toEqual([])
    // Data that is there already wakes too.
    await new Promise<void>(resolve => void far.whenPast(TOPIC, 1, 0, resolve))
  })

  test('what wakes readers is not read again for each of them', async () => {
    const far = nodes.node(3).logs
    const asked = () => nodes.node(2).called.filter(name => name === 'read').length
    const seen: string[] = []
    const reader = async (name: string) => {
      for (let offset = 0; offset < 5; ) {
        await new Promise<void>(resolve => void far.whenPast(TOPIC, 1, offset, resolve))
        const read = await far.read(TOPIC, 1, offset, 100_000)
        for (; offset < read.nextOffset; offset++) seen.push(`${name}${offset}`)
      }
    }
    const readers = Promise.all(['a', 'b', 'c', 'd'].map(reader))
    for (let count = 0; count < 5; count++) {
      await nodes.node(2).logs.append(TOPIC, 1, plainOf([`${count}`]), 'all')
      await eventually(() => seen.length === 4 * (count + 1), 'all to read it')
    }
    await readers
    expect(seen.length).toBe(20)
    // One question each time, and one that is waiting.
    expect(asked()).toBeLessThanOrEqual(7)
  })
})

test('a kept answer tells the watermark to those who waited for it, not to who comes later', async () => {
  const { logs } = nodes.node(3)
  const read = () => logs.read(TOPIC, 0, 0, 1_000)
  const first = new Promise<Awaited<ReturnType<typeof read>>>((resolve, reject) => {
    logs.whenPast(TOPIC, 0, 0, () => void read().then(resolve, reject))
  })
  const cancel = logs.whenPast(TOPIC, 0, 9, () => {})
  await eventually(() => nodes.node(1).called.includes('read'), 'the leader is asked')
  await nodes.node(1).logs.append(TOPIC, 0, plainOf(['a']), 'all')
  expect(await first).toMatchObject({ nextOffset: 1, isSettled: true })
  const asked = nodes.node(1).called.length
  await new Promise(resolve => setImmediate(resolve))
  expect(await read()).toMatchObject({ nextOffset: 1, isSettled: false })
  expect(
    nodes
      .node(1)
      .called.slice(asked)
      .filter(name => name === 'read'),
  ).toHaveLength(0)
  cancel()
})

describe('who waits for a leader', () => {
  test('is not forgotten when a call lands that was given up before', async () => {
    const { routes } = nodes.node(1)
    const route = routes.now(TOPIC, 1)
    if (route === null) throw new Error('node 2 is linked')
    let land = (): void => {}
    const call = new Promise<void>(resolve => {
      land = resolve
    })
    const flight = routes.underWay(TOPIC, 1, route, call)
    nodes.commit([ledBy(1, null, 2)])
    expect(await code(flight)).toBe('not_available')
    const waits = routes.enter(TOPIC, 1, 5_000, async ({ leaderEpoch }) => leaderEpoch)
    const gives = code(routes.enter(TOPIC, 1, 1, async () => {}))
    land()
    expect(await gives).toBe('not_available')
    nodes.commit([ledBy(1, 3, 3)])
    expect(await waits).toBe(3)
    expect(routes.stats()).toMatchObject({ waiting: 0, underWay: 0 })
  })
})

describe('a leader that changes', () => {
  test('fails what is under way to the old one at once, and later calls go to the new one', async () => {
    const { logs } = nodes.node(3)
    await logs.startRun(LANE, FIRST)
    const [link] = nodes.net.open(3, 1)
    link?.hold('right')
    const lost = Promise.all([
      code(logs.appendLane(LANE, runOf(RUN, 0, 1))),
      code(logs.appendLane(LANE, runOf(RUN, 1, 1))),
    ])
    const atMs = performance.now()
    nodes.commit([ledBy(0, 2, 2)])
    expect(await lost).toEqual(['not_available', 'not_available'])
    expect(performance.now() - atMs).toBeLessThan(1_000)
    expect(await logs.openLane(LANE)).toEqual({ tip: null, leaderEpoch: 2 })
    await logs.startRun(LANE, FIRST)
    expect(await logs.appendLane(LANE, runOf(RUN, 0, 3))).toMatchObject({ next: 3 })
    link?.release('right')
    expect(await valuesOf(nodes.node(1).logs, 0)).toEqual([`${RUN}:0`, `${RUN}:1`, `${RUN}:2`])
  })

  test('is waited for, in the order of the calls, and not for ever', async () => {
    const { logs } = nodes.node(3)
    nodes.commit([ledBy(0, null, 2)])
    const waiting = ['a', 'b', 'c'].map(value => logs.append(TOPIC, 0, plainOf([value]), 'all'))
    const early = await logs.bounds(TOPIC, 0, 50).catch((error: unknown) => error)
    expect(early).toMatchObject({ code: 'not_available', details: { leader: null } })
    expect(nodes.node(3).routes.stats().waiting).toBe(3)
    nodes.commit([ledBy(0, 2, 3)])
    expect(await Promise.all(waiting)).toEqual([{ baseOffset: 0 }, { baseOffset: 1 }, { baseOffset: 2 }])
    expect(await valuesOf(logs, 0)).toEqual(['a', 'b', 'c'])
    expect(nodes.node(3).routes.stats()).toMatchObject({ waiting: 0, underWay: 0 })
  })

  test('and does not know of the next one refuses nothing for what it lacks', async () => {
    nodes.commit([1, 2, 3].map(registered))
    const produce = (nodeId: number, baseSequence: number) => {
      const record = { key: null, value: utf8(`${baseSequence}`), headers: [], timestampMs: 1 }
      const batch = buildBatch([record], { producerId: 7, producerEpoch: 0, baseSequence })
      return nodes.node(nodeId).logs.append(TOPIC, 0, batch, 'all')
    }
    let syncs = 0
    nodes.beforeSync = () => syncs++
    await produce(1, 0)
    expect(await code(produce(3, 2))).toBe('out_of_order_sequence')
    expect(await code(nodes.node(1).logs.read(TOPIC, 0, 2, 100))).toBe('offset_out_of_range')
    expect(syncs).toBe(2)

    nodes.commit([ledBy(0, 2, 2)], [2, 3])
    await produce(3, 0)
    await produce(3, 1)
    nodes.beforeSync = () => nodes.commit([ledBy(0, 2, 2)], [1])
    expect(await code(produce(1, 2))).toBe('not_available')
    expect(await produce(1, 2)).toEqual({ baseOffset: 2 })

    nodes.commit([ledBy(0, 3, 3)], [3])
    for (let sequence = 0; sequence < 5; sequence++) await produce(3, sequence)
    nodes.beforeSync = () => nodes.commit([ledBy(0, 3, 3)], [1, 2])
    const { nextOffset, bounds } = await nodes.node(1).logs.read(TOPIC, 0, 4, 1_000)
    expect([nextOffset, bounds.leaderEpoch]).toEqual([5, 3])
  })

  test('of a partition without a place yet is the node with its log, and no other answers for it', async () => {
    nodes.commit([1, 2].map(registered))
    // The topic has a third partition now.
    nodes.commit([created(3)])
    expect(await code(nodes.node(2).logs.bounds(TOPIC, 2, 50))).toBe('not_available')
    const lane = { ...LANE, partition: 2 }
    expect(await nodes.node(1).logs.openLane(lane)).toEqual({ tip: null, leaderEpoch: 0 })
  })

  test('of a partition that this node has not heard of yet is asked for, not denied', async () => {
    nodes.commit([1, 2, 3].map(registered))
    nodes.commit([created(3), ledBy(2, 1, 1)], [1])
    const { logs } = nodes.node(3)
    const hear = () => nodes.commit([created(3), ledBy(2, 1, 1)], [2, 3])
    nodes.beforeSync = hear
    expect(await code(logs.append(TOPIC, 2, plainOf(['x']), 'all'))).toBe('not_available')
    expect(await logs.append(TOPIC, 2, plainOf(['x']), 'all')).toEqual({ baseOffset: 0 })
    expect(await code(logs.append(TOPIC, 3, plainOf(['x']), 'all'))).toBe('unknown_topic')
    nodes.commit([created(4), ledBy(3, 1, 1)], [1])
    nodes.beforeSync = () => nodes.commit([created(4), ledBy(3, 1, 1)], [2, 3])
    expect(await logs.bounds(TOPIC, 3)).toMatchObject({ highWatermark: 0 })
    nodes.commit([created(5), ledBy(4, 1, 1)], [1])
    nodes.beforeSync = () => nodes.commit([created(5), ledBy(4, 1, 1)], [2, 3])
    expect(await logs.read(TOPIC, 4, 0, 1_000)).toMatchObject({ nextOffset: 0 })
    expect(await code(logs.read(TOPIC, 5, 0, 1_000))).toBe('unknown_topic')
  })

  test('that is not linked is waited for too', async () => {
    const { logs } = nodes.node(3)
    nodes.part(3, 1)
    await eventually(() => !nodes.node(3).peers.isUp(1), 'the break')
    const waiting = logs.append(TOPIC, 0, plainOf(['x']), 'all')
    expect(await code(logs.bounds(TOPIC, 0, 50))).toBe('not_available')
    nodes.join()
    expect(await waiting).toEqual({ baseOffset: 0 })
  })

  test('that stays the leader and is not linked for seconds is said to be reached elsewhere, to reads and writes', async () => {
    const { logs } = nodes.node(3)
    nodes.part(3, 1)
    await eventually(() => !nodes.node(3).peers.isUp(1), 'the break')
    const sinceMs = performance.now()
    const calls = [logs.openLane(LANE), logs.append(TOPIC, 0, plainOf(['x']), 'all')]
    for (const result of await Promise.allSettled(calls)) {
      const details = { leader: 1, elsewhere: true }
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'not_available', details } })
    }
    expect(performance.now() - sinceMs).toBeLessThan(8_000)
  })

  test('is not taken for another by old metadata, on either side', async () => {
    // Node 3 has not heard that node 2 leads now; node 1, which led, has.
    nodes.commit([ledBy(0, 2, 2)], [1, 2])
    const stale = await nodes
      .node(3)
      .logs.append(TOPIC, 0, plainOf(['stale']), 'all')
      .catch((error: unknown) => error)
    expect(stale).toMatchObject({ code: 'not_available', details: { leader: 2 } })
    // A question may be asked again until the news are here.
    const bounds = nodes.node(3).logs.bounds(TOPIC, 0)
    nodes.commit([ledBy(0, 2, 2)], [3])
    expect(await bounds).toMatchObject({ leaderEpoch: 2, endOffset: 0 })
    // Node 3 has heard of the next leader before that one has.
    nodes.commit([ledBy(0, 1, 3)], [3])
    const ahead = nodes.node(3).logs.append(TOPIC, 0, plainOf(['ahead']), 'all')
    await eventually(() => nodes.node(1).routes.stats().waiting === 1, 'the wait at the next leader')
    nodes.commit([ledBy(0, 1, 3)], [1, 2])
    expect(await ahead).toEqual({ baseOffset: 0 })
    expect(await valuesOf(nodes.node(2).logs, 0)).toEqual(['ahead'])
  })

  test('wakes readers, who go on with the new one', async () => {
    const far = nodes.node(3).logs
    await nodes.node(2).logs.append(TOPIC, 0, plainOf(['old']), 'all')
    let woken = 0
    far.whenPast(TOPIC, 0, 1, () => woken++)
    nodes.node(1).logs.whenPast(TOPIC, 0, 1, () => woken++)
    nodes.node(2).logs.whenPast(TOPIC, 1, 0, () => {
      throw new Error('its leader did not change')
    })
    await eventually(() => nodes.node(1).called.includes('read'), 'the question')
    nodes.commit([ledBy(0, 2, 2)])
    await eventually(() => woken === 2, 'both to wake')
    expect(await code(far.read(TOPIC, 0, 1, 100))).toBe('offset_out_of_range')
  })

  test('that lost records tells readers where the log parts from what they have', async () => {
    const far = nodes.node(3).logs
    await far.append(TOPIC, 0, plainOf(['a', 'b', 'c']), 'all')
    const { batches, nextOffset } = await far.read(TOPIC, 0, 0, 1_000, -1)
    expect([batches.length > 0, nextOffset]).toEqual([true, 3])
    expect(await code(far.read(TOPIC, 0, 3, 1_000, 1))).toBe('done')
    // The next leader has none of it.
    nodes.commit([ledBy(0, 2, 2)])
    await far.append(TOPIC, 0, plainOf(['x', 'y', 'z', 'u']), 'all')
    const parted = await far.read(TOPIC, 0, 3, 1_000, 1).catch((error: unknown) => error)
    expect(parted).toMatchObject({
      code: 'offset_out_of_range',
      details: { truncatedTo: 0, startOffset: 0, highWatermark: 4 },
    })
    expect(await code(far.read(TOPIC, 0, 3, 1_000))).toBe('done')
  })

  test('and lost records tells them so too where the next ones are at hand already', async () => {
    const far = nodes.node(3).logs
    await far.append(TOPIC, 0, plainOf(['a', 'b', 'c']), 'all')
    nodes.commit([ledBy(0, 2, 2)])
    await far.append(TOPIC, 0, plainOf(['x', 'y', 'z']), 'all')
    const reads = new Promise<string[]>(resolve => {
      far.whenPast(TOPIC, 0, 3, () =>
        resolve(Promise.all([code(far.read(TOPIC, 0, 3, 1_000, 1)), code(far.read(TOPIC, 0, 3, 1_000, 2))])),
      )
    })
    await eventually(() => nodes.node(2).called.includes('read'), 'the question')
    await far.append(TOPIC, 0, plainOf(['u']), 'all')
    expect(await reads).toEqual(['offset_out_of_range', 'done'])
  })
})

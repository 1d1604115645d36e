import { describe, expect, test } from 'vitest'
import { TributaryError } from '../../../../common/errors.ts'
import { MIB } from '../../../../common/limits.ts'
import type { PeerCall } from '../../../../common/wire-peer.ts'
import { FakeClock } from '../../../fake-clock.ts'
import type { Node } from './stage.ts'
import { addressOf, linked, listen, PeerNet, startNode, until } from './stage.ts'

const REF = { topicId: 't', partition: 0, leaderEpoch: 1 }
const LANE = { ...REF, edgeId: 'e', lane: 0 }

function removal(lane: number): Extract<PeerCall, { c: 'remove-lane' }> {
  return { c: 'remove-lane', ...LANE, lane }
}

/** How a promise ended. */
async function outcome(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'done',
    (error: unknown) => (error instanceof TributaryError ? error.code : String(error)),
  )
}

async function two(): Promise<{ net: PeerNet; clock: FakeClock; a: Node; b: Node }> {
  const net = new PeerNet()
  const clock = new FakeClock()
  const a = startNode(net, 1, { clock })
  const b = startNode(net, 2, { clock })
  await linked(a, b)
  return { net, clock, a, b }
}

describe('links between nodes', () => {
  test('both ways, each knowing whom it has before it', async () => {
    const { a, b } = await two()
    expect(a.peers.identity(2)).toEqual({ nodeId: 2, directoryId: 'd2', clusterId: 'c', software: 'test' })
    expect(b.peers.identity(1)).toMatchObject({ nodeId: 1, directoryId: 'd1' })
    expect(a.changes).toEqual([[2, 'up']])
    expect(a.peers.stats()).toMatchObject({ up: 1, known: 1, served: 1 })
  })

  test('frames arrive with their sender, fetched data comes back on the link of the fetch', async () => {
    const { a, b } = await two()
    expect(a.peers.send(2, { t: 'raft', messages: [new Uint8Array([1, 2])] })).toBe(true)
    expect(a.peers.send(2, { t: 'fetch', incarnation: 5, taken: 0, positions: [], forget: [] })).toBe(true)
    await until(() => b.fetches.length === 1, 'the fetch')
    expect(b.frames).toMatchObject([{ from: { nodeId: 1, directoryId: 'd1' }, frame: { t: 'raft' } }])
    b.fetches[0]?.reply({ t: 'fetched', seq: 1, partitions: [] })
    await until(() => a.fetched.length === 1, 'the data')
    expect(a.fetched[0]).toEqual({ nodeId: 2, frame: { t: 'fetched', seq: 1, partitions: [] } })
    expect(a.peers.send(9, { t: 'raft', messages: [] })).toBe(false)
  })

  test('a node that is somewhere else now is told of as gone before it is told of as there', async () => {
    const { net, a, b } = await two()
    const [old] = net.open(1, 2)
    old?.hold('right')
    old?.hold('left')
    listen(net, b, 'elsewhere:7700')
    a.peers.locate(2, 'elsewhere:7700')
    await until(() => a.changes.length >= 2 && a.peers.isUp(2), 'the new link')
    old?.release('left')
    old?.release('right')
    await until(() => old?.isClosed() === true, 'the end of the old link')
    expect(a.changes).toEqual([
      [2, 'up'],
      [2, 'down'],
      [2, 'up'],
    ])
    expect(a.peers.send(2, { t: 'raft', messages: [] })).toBe(true)
  })

  test('calls are begun in order, answered in any, and fail with the error that the other end had', async () => {
    const { a, b } = await two()
    const waiting: (() => void)[] = []
    b.answer = () => new Promise(resolve => waiting.push(() => resolve({ c: 'remove-lane' })))
    const ended: number[] = []
    const all = [0, 1, 2].map(lane =>
      a.peers.call(2, removal(lane), 1_000).then(() => {
        ended.push(lane)
      }),
    )
    await until(() => waiting.length === 3, 'the calls')
    expect(b.calls.map(call => (call.c === 'remove-lane' ? call.lane : -1))).toEqual([0, 1, 2])
    for (const answer of waiting.reverse()) answer()
    await Promise.all(all)
    expect(ended).toEqual([2, 1, 0])
    b.answer = () =>
      Promise.reject(new TributaryError('not_available', 'not here', { details: { leader: 3, odd: {} } }))
    const failure: unknown = await a.peers.call(2, removal(0), 1_000).catch((error: unknown) => error)
    expect(failure).toMatchObject({ code: 'not_available', message: 'not here', details: { leader: 3 } })
    b.answer = () => Promise.reject(new Error('out of the blue'))
    expect(await outcome(a.peers.call(2, removal(0), 1_000))).toBe('not_available')
    b.answer = async () => ({ c: 'tell-gaps' })
    expect(await outcome(a.peers.call(2, removal(0), 1_000))).toBe('protocol_error')
  })

  test('a call that nobody answers times out, and its late answer finds nobody', async () => {
    const { clock, a, b } = await two()
    let answer: () => void = () => {}
    b.answer = () =>
      new Promise(resolve => {
        answer = () => resolve({ c: 'remove-lane' })
      })
    const late = outcome(a.peers.call(2, removal(0), 500))
    await until(() => b.calls.length === 1, 'the call')
    clock.advance(400)
    clock.advance(400)
    expect(await late).toBe('timeout')
    answer()
    b.answer = async () => ({ c: 'remove-lane' })
    expect(await outcome(a.peers.call(2, removal(1), 500))).toBe('done')
  })
})

describe('a node that goes', () => {
  test('is refused at the first retry, which comes at once, and found again when it comes and dials', async () => {
    const { net, clock, a, b } = await two()
    net.listening.delete(addressOf(2))
    const pending = outcome(a.peers.call(2, removal(0), 60_000))
    b.answer = () => new Promise(() => {})
    await b.peers.close()
    expect(await pending).toBe('not_available')
    clock.advance(1)
    await until(() => a.changes.some(([, change]) => change === 'refused'), 'the refusal')
    expect(a.changes).toEqual([
      [2, 'up'],
      [2, 'down'],
      [2, 'refused'],
    ])
    for (let round = 0; round < 10; round++) {
      clock.advance(5_000)
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(await outcome(a.peers.call(2, removal(0), 60_000))).toBe('not_available')
    const again = startNode(net, 2, { clock })
    again.peers.locate(1, addressOf(1))
    // No time passes: the node that came is dialled because it came.
    await until(() => a.peers.isUp(2) && again.peers.isUp(1), 'the links')
  })

  test('retries are spread between 50 ms and a second', async () => {
    const net = new PeerNet()
    const clock = new FakeClock()
    const a = startNode(net, 1, { clock })
    a.peers.locate(2, addressOf(2))
    await until(() => net.dials === 1, 'the first dial')
    for (let ms = 0; ms < 20_000; ms += 10) {
      clock.advance(10)
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(net.dials).toBeGreaterThan(22)
    expect(net.dials).toBeLessThan(50)
    a.peers.locate(2, null)
    const before = net.dials
    clock.advance(10_000)
    await new Promise(resolve => setImmediate(resolve))
    expect(net.dials).toBe(before)
  })

  test('without a word is found dead, by the dialler and by who was dialled', async () => {
    const { net, clock, a, b } = await two()
    for (const { pair } of net.pairs) {
      pair.hold('left')
      pair.hold('right')
    }
    const pending = outcome(a.peers.call(2, removal(0), 60_000))
    a.peers.send(2, { t: 'fetch', incarnation: 1, taken: 0, positions: [], forget: [] })
    for (let second = 0; second < 2; second++) {
      clock.advance(1_000)
      for (let turn = 0; turn < 10; turn++) await new Promise(resolve => setImmediate(resolve))
    }
    expect(a.peers.isUp(2)).toBe(true)
    net.listening.clear()
    clock.advance(1_000)
    clock.advance(100)
    await until(() => !a.peers.isUp(2) && !b.peers.isUp(1), 'the ends')
    expect(await pending).toBe('not_available')
    await until(() => b.peers.stats().served === 0, 'the end of the served link')
  })

  test('its fetches end with its link', async () => {
    const { net, a, b } = await two()
    a.peers.send(2, { t: 'fetch', incarnation: 1, taken: 0, positions: [], forget: [] })
    await until(() => b.fetches.length === 1, 'the fetch')
    for (const pair of net.open(1, 2)) pair.cut()
    await until(() => b.closedFetches.length === 1, 'the end')
    expect(b.closedFetches).toEqual([1])
  })
})

describe('a node that this one does not know', () => {
  test('is dialled where it says that it is, for as long as it comes from there', async () => {
    const net = new PeerNet()
    const clock = new FakeClock()
    const a = startNode(net, 1, { clock })
    const b = startNode(net, 2, { clock })
    b.peers.locate(1, addressOf(1))
    await until(() => a.peers.isUp(2), 'the answer')
    expect(a.peers.send(2, { t: 'raft', messages: [] })).toBe(true)
    await b.peers.close()
    await until(() => a.peers.stats().known === 0, 'the end of it')
  })

  test('is dialled there by turns where it is taken to be elsewhere, and nobody hears that it is gone', async () => {
    const net = new PeerNet()
    const clock = new FakeClock()
    const a = startNode(net, 1, { clock })
    const b = startNode(net, 2, { clock })
    a.peers.locate(2, 'former:1')
    await until(() => a.changes.length > 0, 'the refusal')
    expect(a.changes).toEqual([[2, 'refused']])
    b.peers.locate(1, addressOf(1))
    await until(() => b.peers.isUp(1), 'its link')
    a.changes.length = 0
    await until(() => {
      clock.advance(20)
      return a.peers.isUp(2)
    }, 'the link there')
    expect(a.changes).toEqual([[2, 'up']])
    b.peers.locate(1, null)
    await until(() => a.peers.stats().served === 0, 'the end of its link')
    expect(a.peers.isUp(2)).toBe(true)
  })

  test('hears before anything else what this one knows of it', async () => {
    const net = new PeerNet()
    const promised = { seat: '2/d2', term: 3, index: -1, entryTerm: 0 }
    const memory = { incarnation: 4, directoryId: 'd2', startId: null, othersVote: true, promised }
    const a = startNode(net, 1, { memories: new Map([[2, memory]]) })
    const b = startNode(net, 2)
    a.peers.locate(2, addressOf(2))
    await until(() => a.peers.isUp(2) && b.peers.isUp(1), 'both links')
    expect(a.reminders).toEqual([
      { from: 2, memory: null },
      { from: 2, memory: null },
    ])
    expect(b.reminders).toEqual([
      { from: 1, memory },
      { from: 1, memory },
    ])
  })
})

describe('who is let in', () => {
  test('nodes of one cluster, under ids of their own, at the addresses they are looked for', async () => {
    const net = new PeerNet()
    const clock = new FakeClock()
    const a = startNode(net, 1, { clock })
    const stranger = startNode(net, 2, { clock, clusterId: 'other' })
    const third = startNode(net, 3, { clock })
    net.listening.set('wrong:1', link => third.peers.accept(link))
    const twin = startNode(net, 1, { clock, address: 'twin:1' })
    a.peers.locate(2, addressOf(2))
    a.peers.locate(4, 'wrong:1')
    third.peers.locate(1, addressOf(1))
    net.listening.set(addressOf(5), link => twin.peers.accept(link))
    await until(() => third.peers.isUp(1), 'the link that is right')
    a.peers.locate(5, addressOf(5))
    const reasons = (): string[] => a.warnings.filter(line => line.includes('is not reached'))
    await until(() => reasons().length >= 3, 'three reasons')
    const dials = net.dials
    for (let turn = 0; turn < 200; turn++) {
      clock.advance(20)
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(net.dials).toBeGreaterThan(dials + 10)
    expect([2, 4, 5].map(nodeId => a.peers.isUp(nodeId))).toEqual([false, false, false])
    const text = reasons().join('')
    expect(text).toContain('belongs to cluster c, this node to other')
    expect(text).toContain('looked for node 4 and found node 3')
    expect(text).toContain('looked for node 5 and found node 1')
    // Each reason once, however often it is tried.
    expect(reasons().length).toBe(3)
    expect(stranger.peers.stats().served).toBe(0)
  })

  test('a node without a cluster hears of the one it meets, also when that is founded later', async () => {
    const net = new PeerNet()
    const clock = new FakeClock()
    const a = startNode(net, 1, { clock, clusterId: null })
    const b = startNode(net, 2, { clock, clusterId: null })
    await linked(a, b)
    expect(b.peers.identity(1)?.clusterId).toBeNull()
    a.clusterId = 'founded'
    a.peers.reintroduce()
    await until(() => {
      clock.advance(10)
      return b.peers.identity(1)?.clusterId === 'founded' && a.peers.isUp(2)
    }, 'the news')
  })

  test('a new link of a node takes the place of the one before', async () => {
    const { net, clock, b } = await two()
    const [old] = net.open(1, 2)
    const again = startNode(net, 1, { clock })
    again.peers.locate(2, addressOf(2))
    await until(() => again.peers.isUp(2) && old?.isClosed() === true, 'the change')
    await until(() => b.peers.stats().served === 1, 'the end of the old one')
    expect(b.peers.isUp(1)).toBe(true)
    // Another directory under the same node id: which of the two is the node is not for links to say.
    startNode(net, 1, { clock, directoryId: 'other' }).peers.locate(2, addressOf(2))
    await until(() => b.peers.stats().served === 2, 'the other one')
  })
})

describe('backpressure', () => {
  test('of writes only so many bytes are under way, those behind wait in order, and too many are refused', async () => {
    const { a, b } = await two()
    const waiting: (() => void)[] = []
    b.answer = () => new Promise(resolve => waiting.push(() => resolve({ c: 'append', baseOffset: 1 })))
    const batches = new Uint8Array(MIB)
    const ended: Promise<string>[] = []
    for (let partition = 0; partition < 400; partition++) {
      ended.push(outcome(a.peers.call(2, { c: 'append', ...REF, partition, acks: -1, batches }, 60_000)))
    }
    await until(() => waiting.length >= 31, 'what may be under way')
    for (let turn = 0; turn < 50; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(waiting.length).toBe(31)
    expect(a.peers.stats().callBytesInFlight).toBeLessThanOrEqual(32 * MIB)
    // A small question goes past what waits.
    b.answer = async () => ({ c: 'presence', edges: [], more: false })
    expect(await outcome(a.peers.call(2, { c: 'presence', after: null }, 1_000))).toBe('done')
    b.answer = async () => ({ c: 'append', baseOffset: 1 })
    for (const answer of waiting) answer()
    const outcomes = await Promise.all(ended)
    const refused = outcomes.filter(code => code === 'throttled').length
    expect(outcomes.filter(code => code === 'done').length).toBe(400 - refused)
    // 256 MiB wait, and what the link took before it was full went out.
    expect(refused).toBeGreaterThan(100)
    expect(refused).toBeLessThan(400 - 255)
    expect(outcomes.lastIndexOf('done')).toBe(400 - refused - 1)
    const order = b.calls.flatMap(call => (call.c === 'append' ? [call.partition] : []))
    expect(order).toEqual([...order].sort((left, right) => left - right))
    expect(a.peers.stats()).toMatchObject({ callsInFlight: 0, callsQueued: 0, callsRefused: refused })
  })

  test('while the other end does not read, bulk is not read for it and frames are not taken', async () => {
    const { net, a, b } = await two()
    const bounds = { startOffset: 0, endOffset: 9, highWatermark: 9, leaderEpoch: 1, sizeBytes: 9 }
    b.answer = async call =>
      call.c === 'read'
        ? { c: 'read', batches: new Uint8Array(MIB), nextOffset: 1, lastEpoch: 1, bounds, isSettled: true }
        : { c: 'presence', edges: [], more: false }
    const [link] = net.open(1, 2)
    link?.hold('left')
    const read: PeerCall = { c: 'read', ...REF, offset: 0, lastEpoch: -1, maxBytes: MIB, maxWaitMs: 0 }
    const reads: Promise<string>[] = []
    for (let count = 0; count < 25; count++) {
      reads.push(outcome(a.peers.call(2, read, 60_000)))
      for (let turn = 0; turn < 4; turn++) await new Promise(resolve => setImmediate(resolve))
    }
    expect(b.calls.length).toBeLessThan(8)
    const asked = b.calls.length
    const small = outcome(a.peers.call(2, { c: 'presence', after: null }, 60_000))
    await until(() => b.calls.length === asked + 1, 'the small call')
    link?.release('left')
    expect(await Promise.all([...reads, small])).toEqual(Array.from({ length: 26 }, () => 'done'))

    link?.hold('right')
    const piece = { message: new Uint8Array(1), position: 0, sizeBytes: 20 * MIB, bytes: new Uint8Array(MIB) }
    const frame = { t: 'snapshot-chunk' as const, ...piece }
    let sent = 0
    while (sent < 20 && a.peers.send(2, frame)) sent++
    expect(sent).toBeLessThan(8)
    // Signs of life pass all the same.
    expect(a.peers.send(2, { t: 'raft', messages: [] })).toBe(true)
    expect(a.peers.isUp(2)).toBe(true)
    link?.release('right')
    await until(() => a.changes.some(([, change]) => change === 'roomy'), 'room')
    expect(a.peers.send(2, frame)).toBe(true)
  })
})

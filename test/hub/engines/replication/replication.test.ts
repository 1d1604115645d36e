import { describe, expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
import { eachBatch } from '../../../../common/batch.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type { Topic } from '../../../../hub/ports.ts'
import type { Partition } from '../../../../hub/replica/partition.ts'
import { plainOf, runOf, testRun } from '../../replica/batches.ts'
import { codeOf } from '../../replica/harness.ts'
import { Cluster, LAG_MS } from './cluster.ts'

const P = testRun(1)
const lane = { edge: 'e1', lane: 0 }

/** Three nodes and a topic with one partition, which node 1 leads. */
async function three(seed: number, config: Partial<Topic['config']> = {}) {
  const cluster = new Cluster(seed)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  const topic = cluster.topic('t', 1, config)
  await cluster.until('a leader', () => cluster.leader(topic) !== null)
  return { cluster, topic }
}

function leaderOf(cluster: Cluster, topic: Topic): Partition {
  return must(cluster.leader(topic), 'nobody leads')
}

/** What has become of a promise. */
function watched<T>(promise: Promise<T>): { state: string; value?: T } {
  const seen: { state: string; value?: T } = { state: 'waits' }
  promise.then(
    value => Object.assign(seen, { state: 'done', value }),
    error => Object.assign(seen, { state: error instanceof TributaryError ? error.code : String(error) }),
  )
  return seen
}

/** The result of something that takes other nodes. */
async function done<T>(cluster: Cluster, promise: Promise<T>): Promise<T> {
  const seen = watched(promise)
  await cluster.until(`an end, ${seen.state}`, () => seen.state !== 'waits')
  return promise
}

/** All that a node's log holds of a partition. */
async function logOf(cluster: Cluster, nodeId: number, topic: Topic, partition = 0): Promise<string[]> {
  const replica = cluster.replica(nodeId, topic, partition)
  const found: string[] = []
  for (let offset = replica.told().startOffset; ; ) {
    const { batches, nextOffset } = await replica.readForFollower(offset, 1 << 20)
    if (nextOffset === offset) return found
    for (const { header } of eachBatch(batches)) {
      found.push(`${header.baseOffset}-${header.lastOffset}@${header.leaderEpoch}:${header.crc}`)
    }
    offset = nextOffset
  }
}

/** Lets the followers get to where the leader is. */
async function caughtUp(cluster: Cluster, topic: Topic): Promise<void> {
  await cluster.until('all the same', () => {
    const end = cluster.leader(topic)?.told().durableEnd
    const ends = [...cluster.nodes.keys()].map(
      id => cluster.replica(id, topic).following.position().durableEnd,
    )
    return ends.every(each => each === end)
  })
}

function epochs(cluster: Cluster, topic: Topic): number[] {
  return [1, 2, 3].map(id => cluster.replica(id, topic).following.position().lastEpoch)
}

describe('three replicas', () => {
  it('hold what acks=all acked, synced, and know how far it is committed', async () => {
    const { cluster, topic } = await three(1)
    await done(cluster, leaderOf(cluster, topic).append(plainOf(['a', 'b']), 'all'))
    const logs = await Promise.all([1, 2, 3].map(id => logOf(cluster, id, topic)))
    expect(logs[0]).toHaveLength(1)
    expect(logs[1]).toEqual(logs[0])
    expect(logs[2]).toEqual(logs[0])
    expect(leaderOf(cluster, topic).bounds()).toMatchObject({ highWatermark: 2, endOffset: 2 })
  })

  it('ack by acks: at once, from the own disk, from all disks in sync', async () => {
    const { cluster, topic } = await three(2)
    const leader = leaderOf(cluster, topic)
    await done(cluster, leader.append(plainOf(['first']), 'all'))
    const releases = [1, 2, 3].map(id => cluster.node(id).disk.holdSyncs())
    const acks = ([0, 1, 'all'] as const).map(kind => watched(leader.append(plainOf(['x']), kind)))
    const states = () => acks.map(({ state }) => state)
    await cluster.turns(100)
    expect(states()).toEqual(['done', 'waits', 'waits'])
    releases[0]?.()
    await cluster.turns(100)
    expect(states()).toEqual(['done', 'done', 'waits'])
    expect(leader.bounds().highWatermark).toBe(1)
    releases[1]?.()
    await cluster.turns(100)
    expect(states()).toEqual(['done', 'done', 'waits'])
    releases[2]?.()
    await cluster.until('all acks', () => states().every(state => state === 'done'))
    expect(leader.bounds().highWatermark).toBe(4)
  })

  it('take no acks=all and nothing of lanes while too few are in sync', async () => {
    const { cluster, topic } = await three(3)
    const leader = leaderOf(cluster, topic)
    await done(cluster, leader.startRun(lane, { run: P, prev: null, reason: 'first' }))
    cluster.fence(2, 3)
    await cluster.until('alone', () => cluster.node(1).image.partition(topic.topicId, 0)?.isr.length === 1)
    expect(await codeOf(leader.append(plainOf(['x']), 'all'))).toBe('not_available')
    expect(await codeOf(leader.appendLane(lane, runOf(P, 0, 1)))).toBe('not_available')
    await done(cluster, leader.append(plainOf(['y']), 1))
    expect(leader.bounds()).toMatchObject({ highWatermark: 1, endOffset: 2 })
    cluster.unfence(2, 3)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    await cluster.until('committed', () => leader.bounds().highWatermark === 2)
    await done(cluster, leader.append(plainOf(['z']), 'all'))
  })

  it('have no log of a partition that was never written, and are in sync all the same', async () => {
    const { cluster, topic } = await three(4)
    cluster.stop(2, 'kill')
    cluster.fence(2)
    await cluster.turns(50)
    await cluster.start(2)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    expect(leaderOf(cluster, topic).bounds()).toMatchObject({ startOffset: 0, highWatermark: 0 })
    for (const { dataDir } of cluster.nodes.values()) {
      expect(dataDir.logNames().filter(name => name.startsWith('t/'))).toEqual([])
    }
  })
})

describe('a leader that is replaced', () => {
  it('lets nobody wait, and what only it had is cut off when it comes back', async () => {
    const { cluster, topic } = await three(5)
    const old = leaderOf(cluster, topic)
    await done(cluster, old.startRun(lane, { run: P, prev: null, reason: 'first' }))
    await done(cluster, old.appendLane(lane, runOf(P, 0, 3)))
    cluster.network.cut(1, 2)
    cluster.network.cut(1, 3)
    const lost = watched(old.appendLane(lane, runOf(P, 3, 2)))
    let woken = false
    old.whenPast(100, () => {
      woken = true
    })
    await cluster.turns(50)
    expect(lost.state).toBe('waits')
    cluster.fence(1)
    await cluster.until('the new leader', () => cluster.leader(topic) !== null && lost.state !== 'waits')
    expect(lost.state).toBe('not_available')
    await cluster.until('woken', () => woken)
    const next = leaderOf(cluster, topic)
    expect(next).not.toBe(old)
    expect(await codeOf(old.append(plainOf(['x']), 1))).toBe('not_available')
    expect(await codeOf(old.read(0, 100))).toBe('not_available')
    await cluster.until('settled', () => next.inSync()?.settled() === true)
    expect(next.tip(lane)).toEqual({ run: P, next: 3, committed: 3 })
    await done(cluster, next.appendLane(lane, runOf(P, 3, 1)))
    cluster.network.heal()
    cluster.unfence(1)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    await caughtUp(cluster, topic)
    expect(await logOf(cluster, 1, topic)).toEqual(await logOf(cluster, 2, topic))
    expect(cluster.node(1).replication.stats()).toMatchObject({ cuts: 1, cutsBelowWatermark: 0 })
    expect(epochs(cluster, topic)).toEqual([2, 2, 2])
  })

  it('is followed by one that refuses what came late to it, under an older epoch of its producer', async () => {
    const { cluster, topic } = await three(7)
    const old = leaderOf(cluster, topic)
    await done(cluster, old.append(runOf(7, 0, 1), 'all'))
    await done(cluster, old.append(runOf(7, 0, 1, { epoch: 1 }), 'all'))
    cluster.stop(1, 'kill')
    cluster.fence(1)
    await cluster.until('the new leader', () => cluster.leader(topic)?.inSync()?.settled() === true)
    const next = leaderOf(cluster, topic)
    expect(await codeOf(next.append(runOf(7, 1, 1), 1))).toBe('fenced')
    expect(await done(cluster, next.append(runOf(7, 1, 1, { epoch: 1 }), 'all'))).toEqual({ baseOffset: 2 })
  })

  it('is followed by one that says where the log ends only when all that was acked is known', async () => {
    const { cluster, topic } = await three(6)
    await done(cluster, leaderOf(cluster, topic).append(plainOf(['a', 'b']), 'all'))
    // The next one hears of nobody: it can't tell whether its tail is committed.
    cluster.network.cut(2, 3)
    cluster.stop(1, 'kill')
    cluster.fence(1)
    await cluster.until('the new leader', () => cluster.leader(topic) !== null)
    const next = leaderOf(cluster, topic)
    expect(() => next.bounds()).toThrow(TributaryError)
    expect(() => next.tip(lane)).toThrow(TributaryError)
    expect(await codeOf(next.read(2, 100))).toBe('not_available')
    expect(await codeOf(next.offsetForTime(0))).toBe('not_available')
    cluster.network.heal()
    await cluster.until('settled', () => next.inSync()?.settled() === true)
    expect(next.bounds()).toMatchObject({ highWatermark: 2, leaderEpoch: 2 })
  })
})

describe('a follower', () => {
  it('that lags for too long leaves the in-sync set, which then acks without it, and comes back', async () => {
    const { cluster, topic } = await three(7)
    const leader = leaderOf(cluster, topic)
    await done(cluster, leader.append(plainOf(['a']), 'all'))
    const release = cluster.node(3).disk.holdSyncs()
    const waiting = watched(leader.append(plainOf(['b']), 'all'))
    await cluster.turns(50)
    cluster.clock.advance(LAG_MS * 0.9)
    await cluster.turns(50)
    expect(waiting.state).toBe('waits')
    for (let at = 0; at < 6; at++) {
      cluster.clock.advance(LAG_MS / 5)
      await cluster.turns(20)
    }
    await cluster.until('an ack without it', () => waiting.state === 'done')
    expect(cluster.state(topic).isr).toEqual([1, 2])
    release()
    await cluster.until('in sync again', () => cluster.isInSync(topic))
  })

  it('that fell behind the start of the log begins there, with all producers', async () => {
    const { cluster, topic } = await three(8, { segmentBytes: 1_024, retentionBytes: 1 })
    await done(cluster, leaderOf(cluster, topic).startRun(lane, { run: P, prev: null, reason: 'first' }))
    await done(cluster, leaderOf(cluster, topic).appendLane(lane, runOf(P, 0, 1)))
    cluster.stop(3, 'kill')
    cluster.fence(3)
    for (let at = 0; at < 30; at++) {
      await done(cluster, leaderOf(cluster, topic).append(runOf(7, at, 1), 'all'))
    }
    await leaderOf(cluster, topic).snapshot(0)
    await leaderOf(cluster, topic).maintain(cluster.clock.nowMs())
    const { startOffset } = leaderOf(cluster, topic).bounds()
    expect(startOffset).toBeGreaterThan(5)
    await cluster.start(3)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    expect(cluster.node(3).replication.stats().restarts).toBe(1)
    expect(cluster.replica(3, topic).told().startOffset).toBeGreaterThanOrEqual(startOffset)
    // It leads, and knows the lane and the client of before its log began.
    cluster.fence(1, 2)
    await cluster.until('it leads', () => cluster.leader(topic) === cluster.replica(3, topic))
    cluster.unfence(1, 2)
    const leader = cluster.replica(3, topic)
    await cluster.until(
      'settled',
      () => leader.inSync()?.settled() === true && leader.inSync()?.mayCommit() === true,
    )
    expect(leader.tip(lane)).toEqual({ run: P, next: 1, committed: 1 })
    const { baseOffset } = await done(cluster, leader.append(runOf(7, 29, 1), 'all'))
    expect(baseOffset).toBe(31)
  })

  it('whose producer snapshots are lost takes the leader’s before it goes on', async () => {
    const { cluster, topic } = await three(9, { segmentBytes: 1_024, retentionBytes: 1 })
    await done(cluster, leaderOf(cluster, topic).startRun(lane, { run: P, prev: null, reason: 'first' }))
    for (let at = 0; at < 30; at++)
      await done(cluster, leaderOf(cluster, topic).append(runOf(7, at, 1), 'all'))
    cluster.clock.advance(500)
    await cluster.turns(50)
    for (const id of [1, 2, 3]) {
      await cluster.replica(id, topic).snapshot(0)
      await cluster.replica(id, topic).maintain(cluster.clock.nowMs())
      cluster.clock.advance(500)
      await cluster.turns(50)
    }
    await cluster.replica(3, topic).maintain(cluster.clock.nowMs())
    expect(cluster.replica(3, topic).told().startOffset).toBeGreaterThan(1)
    const { disk } = cluster.node(3)
    cluster.stop(3, 'kill')
    const folder = `/data/producers/${topic.topicId}/0`
    for (const path of disk.paths()) if (path.startsWith(folder)) cluster.diskOf(3).flipBit(path, 20, 1)
    cluster.fence(3)
    await cluster.start(3)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    cluster.fence(1, 2)
    await cluster.until('it leads', () => cluster.leader(topic) === cluster.replica(3, topic))
    expect(cluster.replica(3, topic).producerStats()).toMatchObject({ lanes: 1, clients: 1 })
  })

  it('with a full disk tries again, and catches up when there is room', async () => {
    const { cluster, topic } = await three(10, { minInsyncReplicas: 2 })
    const leader = leaderOf(cluster, topic)
    await done(cluster, leader.append(plainOf(['a']), 'all'))
    const { disk } = cluster.node(3)
    disk.setCapacity(disk.usedBytes() + 100)
    // More than its journal holds.
    const sent: { state: string }[] = []
    for (let at = 0; at < 12; at++) {
      sent.push(watched(leader.append(plainOf(['b'.repeat(60_000)]), 'all')))
      await cluster.turns(20)
    }
    expect(sent.at(-1)?.state).toBe('waits')
    expect(cluster.node(3).replication.stats().failures).toBeGreaterThan(0)
    disk.setCapacity(Number.POSITIVE_INFINITY)
    await cluster.until('the acks', () => sent.every(({ state }) => state === 'done'))
    expect(await logOf(cluster, 3, topic)).toEqual(await logOf(cluster, 1, topic))
  })

  it('gets batches of any size, one frame for many partitions and many for one', async () => {
    const { cluster } = await three(11)
    const wide = cluster.topic('wide', 20)
    await cluster.until('leaders', () =>
      Array.from({ length: 20 }, (_, at) => cluster.leader(wide, at)).every(Boolean),
    )
    const sent = Array.from({ length: 20 }, (_, at) => {
      const value = 'x'.repeat(at === 7 ? 60_000 : 10)
      return must(cluster.leader(wide, at), 'no leader').append(plainOf([value]), 'all')
    })
    await done(cluster, Promise.all(sent))
    for (let number = 0; number < 20; number++) {
      expect(await logOf(cluster, 2, wide, number)).toEqual(await logOf(cluster, 3, wide, number))
    }
  })
})

describe('a topic', () => {
  it('deleted while it is fetched leaves nothing behind, and one made again begins empty', async () => {
    const { cluster, topic } = await three(12)
    const sent = Array.from({ length: 10 }, () =>
      watched(leaderOf(cluster, topic).append(plainOf(['x'.repeat(5_000)]), 'all')),
    )
    await cluster.turns(3)
    cluster.call('delete-topic', { name: 't' })
    await cluster.until('all told', () => sent.every(({ state }) => state !== 'waits'))
    await cluster.until('files gone', () =>
      [...cluster.nodes.values()].every(({ dataDir }) =>
        dataDir.logNames().every(name => !name.includes(topic.topicId)),
      ),
    )
    const again = cluster.topic('t', 1)
    await cluster.until('a leader', () => cluster.leader(again) !== null)
    await done(cluster, leaderOf(cluster, again).append(plainOf(['new']), 'all'))
    expect(await logOf(cluster, 3, again)).toHaveLength(1)
    for (const { replication } of cluster.nodes.values())
      expect(replication.stats().failures).toBeLessThan(10)
  })
})

describe('a reassignment', () => {
  it('fetches what is added within its byte rate, and drops what goes with its files', async () => {
    const cluster = new Cluster(13, { reassignBytesPerSecond: 300_000 })
    for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
    const topic = cluster.topic('t', 1)
    await cluster.until('a leader', () => cluster.leader(topic) !== null)
    for (let at = 0; at < 50; at++) {
      await done(cluster, leaderOf(cluster, topic).append(plainOf(['x'.repeat(50_000)]), 'all'))
    }
    await cluster.start(4)
    cluster.call('drain-node', { nodeId: 1, draining: true })
    cluster.tidy()
    const startedMs = cluster.clock.monotonicMs()
    await cluster.until(
      'node 4 in sync',
      () => {
        cluster.tidy()
        return cluster.state(topic).isr.includes(4) && !cluster.state(topic).replicas.includes(1)
      },
      6_000,
    )
    expect(cluster.clock.monotonicMs() - startedMs).toBeGreaterThan(3_000)
    await cluster.until('files gone', () =>
      cluster
        .node(1)
        .dataDir.logNames()
        .every(name => !name.startsWith('t/')),
    )
    expect(
      cluster
        .node(1)
        .disk.paths()
        .filter(path => path.includes('producers/')),
    ).toEqual([])
    await done(cluster, leaderOf(cluster, topic).append(plainOf(['y']), 'all'))
    expect(await logOf(cluster, 4, topic)).toEqual(await logOf(cluster, 2, topic))
  })
})

describe('idle partitions', () => {
  it('cost nothing: no frames, no timers', async () => {
    const { cluster } = await three(14)
    const topic = cluster.topic('idle', 200)
    const led = () => Array.from({ length: 200 }, (_, at) => cluster.leader(topic, at))
    await cluster.until('leaders', () => led().every(Boolean))
    await done(cluster, must(led()[5], 'no leader').append(plainOf(['x']), 'all'))
    for (let round = 0; round < 20; round++) {
      cluster.clock.advance(LAG_MS)
      await cluster.turns(10)
    }
    const before = cluster.network.frames
    expect(cluster.clock.pendingTimers()).toBe(0)
    cluster.clock.advance(60_000)
    await cluster.turns(100)
    expect(cluster.network.frames).toBe(before)
  })
})

import { describe, expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
import type { Topic } from '../../../../hub/ports.ts'
import type { FakeDisk } from '../../../fake-disk.ts'
import { plainOf, runOf, testRun } from '../../replica/batches.ts'
import { codeOf } from '../../replica/harness.ts'
import { batchesOf } from './checks.ts'
import { Cluster } from './cluster.ts'

const P = testRun(1)
const lane = { edge: 'e1', lane: 0 }

async function until<T>(cluster: Cluster, promise: Promise<T>): Promise<T> {
  let isDone = false
  const done = promise.finally(() => {
    isDone = true
  })
  done.catch(() => {})
  await cluster.until('an end', () => isDone)
  return done
}

async function pass(cluster: Cluster, ms: number): Promise<void> {
  for (let passedMs = 0; passedMs < ms; passedMs += 50) {
    await cluster.turns(2)
    cluster.clock.advance(50)
  }
}

/** Three nodes, node 1 leads, and a lane whose start stands in the log somewhere before `middle`. */
async function written() {
  const cluster = new Cluster(21)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  const topic = cluster.topic('t', 1)
  await cluster.until('a leader', () => cluster.leader(topic) !== null)
  const leader = must(cluster.leader(topic), 'nobody leads')
  for (let at = 0; at < 10; at++)
    await until(cluster, leader.append(plainOf([`before${at} ${'x'.repeat(900)}`]), 'all'))
  await until(cluster, leader.startRun(lane, { run: P, prev: null, reason: 'first' }))
  await until(cluster, leader.appendLane(lane, runOf(P, 0, 1)))
  for (let at = 0; at < 20; at++)
    await until(cluster, leader.append(plainOf([`behind${at} ${'x'.repeat(900)}`]), 'all'))
  await cluster.until('all the same', () =>
    [1, 2, 3].every(id => cluster.replica(id, topic).following.position().durableEnd === 32),
  )
  // What the commit wrote reaches the segments with the checkpoint of an orderly end.
  return { cluster, topic, leader }
}

/** Bends what the log of a node that is down holds of `text`. */
function bend(disk: FakeDisk, topic: Topic, text: string): void {
  const path = must(
    disk.paths().find(name => name.includes(topic.topicId) && name.endsWith('.log')),
    'no log',
  )
  const at = Buffer.from(disk.contentOf(path)).indexOf(text)
  expect(at).toBeGreaterThan(0)
  disk.flipBit(path, at, 1)
}

async function stopInOrder(cluster: Cluster, ...nodeIds: number[]): Promise<void> {
  for (const id of nodeIds) {
    const { dataDir } = cluster.node(id)
    await dataDir.close()
    cluster.stop(id, 'kill')
    cluster.fence(id)
  }
}

async function same(cluster: Cluster, topic: Topic, ...nodeIds: number[]): Promise<void> {
  const logs = await Promise.all(nodeIds.map(id => batchesOf(cluster.replica(id, topic))))
  for (const log of logs) expect(Buffer.compare(log.bytes, must(logs[0], 'no log').bytes)).toBe(0)
}

describe('a damaged stretch', () => {
  it('of a follower is fetched from its leader, and its producers are whole again', async () => {
    const { cluster, topic } = await written()
    await stopInOrder(cluster, 3)
    bend(cluster.diskOf(3), topic, 'before7')
    bend(cluster.diskOf(3), topic, 'e1')
    await cluster.start(3)
    await cluster.until('repaired', () => cluster.node(3).replication.stats().repairedStretches === 2)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    await same(cluster, topic, 3, 1)
    expect(cluster.node(3).damage).toEqual([])
    cluster.fence(1, 2)
    await cluster.until('it leads', () => cluster.leader(topic) === cluster.replica(3, topic))
    expect(cluster.replica(3, topic).producerStats().lanes).toBe(1)
  })

  it('of a leader is fetched from a replica in sync; until then nobody is let past it', async () => {
    const { cluster, topic } = await written()
    await stopInOrder(cluster, 1)
    bend(cluster.diskOf(1), topic, 'before3')
    bend(cluster.diskOf(1), topic, 'e1')
    // It comes back as the only one that may lead, and hears of nobody.
    cluster.network.cut(1, 2)
    cluster.network.cut(1, 3)
    cluster.network.cut(2, 3)
    cluster.fence(2)
    await cluster.startFenced(1)
    await cluster.until('seated', () => cluster.replica(1, topic).actingEpoch('follower') !== null)
    cluster.lead(topic, 1, [1, 2, 3])
    await cluster.until('it leads', () => cluster.replica(1, topic).actingEpoch('leader') !== null)
    const leader = cluster.replica(1, topic)
    expect(await codeOf(leader.append(runOf(P, 0, 1), 1))).toBe('not_available')
    expect(await codeOf(leader.read(0, 100))).toBe('not_available')
    expect(() => leader.tip(lane)).toThrow()
    cluster.network.heal()
    await cluster.until('repaired', () => cluster.node(1).replication.stats().repairedStretches === 2)
    await cluster.until(
      'settled',
      () => leader.inSync()?.settled() === true && leader.repairs.damaged().length === 0,
    )
    await cluster.until('it knows the lane', () => {
      try {
        return leader.tip(lane)?.next === 1
      } catch {
        return false
      }
    })
    await same(cluster, topic, 1, 2, 3)
    expect(cluster.node(1).damage).toEqual([])
  })

  it('found by a read is fetched too, and the leader goes on', async () => {
    const { cluster, topic, leader } = await written()
    await stopInOrder(cluster, 2)
    await cluster.start(2)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    cluster.lead(topic, 2, [1, 2, 3])
    const next = cluster.replica(2, topic)
    await cluster.until('node 2 leads', () => next.inSync()?.settled() === true && next !== leader)
    bend(cluster.node(2).disk, topic, 'before5')
    let met = false
    await cluster.until('read to the end', () => {
      next.read(5, 1 << 20).then(
        ({ nextOffset }) => {
          if (nextOffset > 6) met = true
        },
        () => {},
      )
      return met
    })
    expect(cluster.node(2).replication.stats()).toMatchObject({ repairedStretches: 1, lostStretches: 0 })
    expect(cluster.node(2).damage).toEqual([])
    await same(cluster, topic, 2, 3)
  })

  it('that nobody has whole any more is given up and told of, and followers take over that it is lost', async () => {
    const { cluster, topic } = await written()
    await stopInOrder(cluster, 3, 2, 1)
    for (const id of [1, 2, 3]) bend(cluster.diskOf(id), topic, 'behind4')
    for (const id of [1, 2, 3]) await cluster.start(id)
    await cluster.until('a leader', () => cluster.leader(topic) !== null)
    await cluster.until('given up', () => must(cluster.leader(topic), 'none').repairs.damaged().length === 0)
    const told = [...cluster.nodes.values()].flatMap(({ damage }) => damage)
    expect(told.map(({ fromOffset, toOffset }) => [fromOffset, toOffset])).toEqual([[16, 17]])
    await cluster.until('in sync', () => cluster.isInSync(topic))
    // A replica that begins from nothing takes the loss over.
    cluster.wipe(3)
    cluster.fence(3)
    await cluster.start(3)
    await cluster.until(
      'in sync',
      () => cluster.isInSync(topic) && cluster.replica(3, topic).following.position().offset === 32,
    )
    const leader = must(cluster.leader(topic), 'none')
    const read = await leader.read(15, 1 << 20)
    expect(read.nextOffset).toBe(16)
    await until(cluster, leader.append(plainOf(['new']), 'all'))
    await cluster.until('all know', () =>
      [1, 2, 3].every(id => cluster.replica(id, topic).repairs.damaged().length === 0),
    )
    await same(cluster, topic, 1, 2, 3)
    expect([...cluster.nodes.values()].flatMap(({ damage }) => damage)).toHaveLength(1)
  })

  it('of a leader alone in sync waits for a replica that is away, and is not called lost', async () => {
    const { cluster, topic } = await written()
    await stopInOrder(cluster, 2, 3)
    cluster.lead(topic, 1, [1])
    await stopInOrder(cluster, 1)
    bend(cluster.diskOf(1), topic, 'before3')
    await cluster.start(1)
    const leader = cluster.replica(1, topic)
    await cluster.until('damage is known', () => leader.repairs.damaged().length === 1)
    await pass(cluster, 10_000)
    expect(leader.repairs.damaged()).toHaveLength(1)
    expect(await codeOf(leader.read(0, 100))).toBe('not_available')
    await cluster.start(3)
    await cluster.until('repaired', () => cluster.node(1).replication.stats().repairedStretches === 1)
    expect(cluster.node(1).replication.stats().lostStretches).toBe(0)
    expect(cluster.node(1).damage).toEqual([])
    await cluster.until('led', () => cluster.leader(topic)?.inSync()?.settled() === true)
    await cluster.start(2)
    await cluster.until('in sync', () => cluster.isInSync(topic))
    await same(cluster, topic, 1, 2, 3)
  })

  it('of a follower whose leader lacks it too comes from the third replica by way of the leader', async () => {
    const { cluster, topic } = await written()
    await stopInOrder(cluster, 2, 3, 1)
    for (const id of [1, 2]) bend(cluster.diskOf(id), topic, 'behind4')
    await cluster.start(1)
    await cluster.start(2)
    cluster.lead(topic, 1, [1, 2, 3])
    await pass(cluster, 5_000)
    await cluster.start(3)
    await cluster.until('repaired', () =>
      [1, 2].every(id => cluster.node(id).replication.stats().repairedStretches === 1),
    )
    await cluster.until('in sync', () => cluster.isInSync(topic))
    for (const id of [1, 2]) {
      expect(cluster.node(id).replication.stats().lostStretches).toBe(0)
      expect(cluster.node(id).damage).toEqual([])
    }
    await same(cluster, topic, 1, 2, 3)
  })

  it('that held all of a leader epoch keeps the leader from cutting it off a follower, who has it', async () => {
    const { cluster, topic } = await written()
    cluster.lead(topic, 2, [1, 2, 3])
    const second = cluster.replica(2, topic)
    await cluster.until(
      'node 2 leads',
      () => cluster.leader(topic) === second && second.inSync()?.settled() === true,
    )
    await until(cluster, second.append(plainOf([`middle ${'x'.repeat(900)}`]), 'all'))
    const known = (): number => cluster.replica(3, topic).following.position().durableEnd
    await cluster.until('node 3 has it', () => known() === 33)
    await pass(cluster, 1_000)
    cluster.network.cut(3, 1)
    cluster.network.cut(3, 2)
    cluster.lead(topic, 1, [1, 2])
    const first = cluster.replica(1, topic)
    await cluster.until(
      'node 1 leads',
      () => cluster.leader(topic) === first && first.inSync()?.settled() === true,
    )
    for (let at = 0; at < 3; at++) await until(cluster, first.append(plainOf([`late${at}`]), 'all'))
    await stopInOrder(cluster, 2, 1)
    bend(cluster.diskOf(1), topic, 'middle')
    await cluster.startFenced(1)
    cluster.lead(topic, 1, [1])
    cluster.network.heal()
    await cluster.until('repaired', () => cluster.node(1).replication.stats().repairedStretches === 1)
    await cluster.until('fetched', () => known() === 36)
    expect(cluster.node(3).replication.stats().cuts).toBe(0)
    expect(cluster.node(1).damage).toEqual([])
    await same(cluster, topic, 1, 3)
  })
})

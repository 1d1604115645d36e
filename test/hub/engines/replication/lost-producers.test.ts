import { expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
import type { Topic } from '../../../../hub/ports.ts'
import { plainOf, runOf, testRun } from '../../replica/batches.ts'
import { codeOf } from '../../replica/harness.ts'
import { Cluster } from './cluster.ts'

const lane = { edge: 'e1', lane: 0 }
const P = testRun(1)
const big = 'x'.repeat(8_000)
const ALL = [1, 2, 3]

/** Three nodes, and a lane whose records are below every log's start; node 1 leads, and was in sync last when all stopped. */
async function trimmed() {
  const cluster = new Cluster(21)
  for (const nodeId of ALL) await cluster.start(nodeId)
  const topic = cluster.topic('t', 1, { retentionBytes: 65_536, minInsyncReplicas: 1 })
  await cluster.until('a leader', () => cluster.leader(topic) !== null)
  const leader = cluster.replica(1, topic)
  expect(cluster.leader(topic)).toBe(leader)
  let begun = false
  void leader
    .startRun(lane, { run: P, prev: null, reason: 'first' })
    .then(() => leader.appendLane(lane, runOf(P, 0, 3)))
    .then(() => {
      begun = true
    })
  await cluster.until('the run', () => begun)
  for (let at = 0; at < 40; at++) void leader.append(plainOf([big]), 1).catch(() => {})
  const end = () => leader.told().durableEnd
  await cluster.until('all of it everywhere', () => {
    const isThere = (id: number) => cluster.replica(id, topic).following.position().durableEnd === end()
    return end() > 20 && ALL.every(isThere) && leader.told().highWatermark === end()
  })
  for (let round = 0; round < 2; round++) {
    for (const id of ALL) {
      void cluster.replica(id, topic).snapshot(0)
      await cluster.turns(20)
      await cluster.replica(id, topic).maintain(cluster.clock.nowMs())
      cluster.clock.advance(500)
      await cluster.turns(50)
    }
  }
  for (const id of ALL) expect(cluster.replica(id, topic).told().startOffset).toBeGreaterThan(6)
  for (const id of [2, 3, 1]) await stop(cluster, id)
  expect(cluster.state(topic)).toMatchObject({ isr: [1], leader: null })
  await spoil(cluster, 1, topic)
  return { cluster, topic }
}

async function stop(cluster: Cluster, nodeId: number): Promise<void> {
  await cluster.node(nodeId).dataDir.close()
  cluster.stop(nodeId, 'kill')
  cluster.fence(nodeId)
}

/** Damages what the node has of producer snapshots. */
async function spoil(cluster: Cluster, nodeId: number, topic: Topic): Promise<void> {
  const disk = cluster.diskOf(nodeId)
  const paths = disk.paths().filter(path => path.includes(topic.topicId) && path.endsWith('.snapshot'))
  expect(paths.length).toBeGreaterThan(0)
  for (const path of paths) await disk.replaceFile(path, new Uint8Array(20))
}

async function pass(cluster: Cluster, ms: number): Promise<void> {
  for (let passedMs = 0; passedMs < ms; passedMs += 50) {
    await cluster.turns(2)
    cluster.clock.advance(50)
  }
}

it('a leader whose producer snapshots are damaged takes nothing before another replica told it of its producers', async () => {
  const { cluster, topic } = await trimmed()
  for (const id of [2, 3]) cluster.network.cut(1, id)
  for (const id of ALL) await cluster.start(id)
  const leader = cluster.replica(1, topic)
  await cluster.until('it leads', () => cluster.leader(topic) === leader)
  await pass(cluster, 5_000)
  expect(await codeOf(leader.appendLane(lane, runOf(P, 0, 3)))).toBe('not_available')
  expect(() => leader.tip(lane)).toThrow()
  cluster.network.heal()
  await cluster.until('in sync', () => cluster.isInSync(topic))
  await cluster.until('it knows them', () => !leader.repairs.lacksProducers())
  expect(leader.tip(lane)).toEqual({ run: P, next: 3, committed: 3 })
  expect(await leader.appendLane(lane, runOf(P, 0, 3))).toMatchObject({ next: 3 })
  const { offset } = await leader.snapshotForFollower()
  expect(offset).toBeGreaterThan(6)
})

it('a follower whose leader lost its producers too waits until the leader knows them again', async () => {
  const { cluster, topic } = await trimmed()
  await spoil(cluster, 2, topic)
  await cluster.start(1)
  await cluster.start(2)
  await pass(cluster, 5_000)
  const leader = must(cluster.leader(topic), 'nobody leads')
  expect(leader.repairs.lacksProducers()).toBe(true)
  await cluster.start(3)
  await cluster.until('in sync', () => cluster.isInSync(topic))
  for (const id of ALL) expect(cluster.replica(id, topic).producerStats().lanes).toBe(1)
})

it('a leader that nobody can tell of its producers leads with what its log holds', async () => {
  const { cluster, topic } = await trimmed()
  await spoil(cluster, 2, topic)
  await spoil(cluster, 3, topic)
  for (const id of ALL) await cluster.start(id)
  await cluster.until('in sync', () => cluster.isInSync(topic))
  const leader = must(cluster.leader(topic), 'nobody leads')
  expect(leader.tip(lane)).toBeNull()
  for (const id of ALL) expect(cluster.replica(id, topic).following.isComplete()).toBe(true)
})

it('a leader waits for replicas that are not in sync and away for a while only', async () => {
  const { cluster, topic } = await trimmed()
  await cluster.start(1)
  const leader = cluster.replica(1, topic)
  await pass(cluster, 20_000)
  expect(leader.repairs.lacksProducers()).toBe(true)
  await pass(cluster, 20_000)
  expect(leader.repairs.lacksProducers()).toBe(false)
  expect(leader.tip(lane)).toBeNull()
})

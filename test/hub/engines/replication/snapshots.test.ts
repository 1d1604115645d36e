import { expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
import { plainOf, runOf, testRun } from '../../replica/batches.ts'
import { Cluster } from './cluster.ts'

const lane = { edge: 'e1', lane: 0 }
const P = testRun(1)
const big = 'x'.repeat(8_000)

it('a replica whose cut took its producers away asks for them again before it goes on', async () => {
  const cluster = new Cluster(21)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  const topic = cluster.topic('t', 1, { retentionBytes: 65_536, minInsyncReplicas: 1 })
  await cluster.until('a leader', () => cluster.leader(topic) !== null)
  const [first, , last] = cluster.state(topic).replicas
  const [firstId, lastId] = [must(first, 'no leader'), must(last, 'no follower')]
  const otherId = must(
    [1, 2, 3].find(id => id !== firstId && id !== lastId),
    'no other follower',
  )
  const lead = (nodeId: number) => cluster.replica(nodeId, topic)

  /** Appends at the leader, all of it committed and known everywhere. */
  async function fill(nodeId: number, count: number): Promise<void> {
    for (let at = 0; at < count; at++)
      void lead(nodeId)
        .append(plainOf([big]), 1)
        .catch(() => {})
    const live = [...cluster.nodes.keys()]
    await cluster.until('all of it everywhere', () => {
      const end = lead(nodeId).told().durableEnd
      return (
        live.every(id => lead(id).following.position().durableEnd === end) &&
        lead(nodeId).told().highWatermark === end
      )
    })
  }

  // The lane's records are soon below every log's start.
  let begun = false
  void lead(firstId)
    .startRun(lane, { run: P, prev: null, reason: 'first' })
    .then(() => lead(firstId).appendLane(lane, runOf(P, 0, 3)))
    .then(() => {
      begun = true
    })
  await cluster.until('the run', () => begun)
  await fill(firstId, 40)
  await cluster.turns(50)
  for (let round = 0; round < 2; round++) {
    await lead(firstId).snapshot(0)
    await lead(firstId).maintain(cluster.clock.nowMs())
    await cluster.until('the news', () => lead(lastId).following.position().offset > 0)
    cluster.clock.advance(500)
    await cluster.turns(50)
    for (const id of [otherId, lastId]) {
      void lead(id).snapshot(0)
      await cluster.turns(20)
      await lead(id).maintain(cluster.clock.nowMs())
    }
  }
  const start = lead(lastId).told().startOffset
  expect(start).toBeGreaterThan(0)

  // What the first leader appends reaches the last one alone, and is never committed.
  cluster.network.cut(firstId, otherId)
  const common = lead(firstId).told().durableEnd
  for (let at = 0; at < 3; at++)
    void lead(firstId)
      .append(plainOf(['lost']), 1)
      .catch(() => {})
  await cluster.until('the tail', () => lead(lastId).told().durableEnd === common + 3)
  cluster.stop(lastId, 'crash')
  cluster.stop(firstId, 'crash')
  cluster.fence(firstId, lastId)
  expect(cluster.state(topic).leader).toBe(otherId)
  await cluster.until('the new leader', () => cluster.leader(topic) !== null)
  void lead(otherId).append(plainOf(['kept']), 1)
  await cluster.until('it is committed', () => lead(otherId).told().highWatermark === common + 1)
  await lead(otherId).snapshot(0)

  await cluster.diskOf(lastId).remove(`/data/producers/${topic.topicId}/0`)
  await cluster.start(lastId)
  await cluster.until('in sync again', () => cluster.state(topic).isr.includes(lastId))
  expect(lead(lastId).following.isComplete()).toBe(true)
  expect(lead(lastId).producerStats().lanes).toBe(1)
})

import { expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
import { viewOf } from '../../../../hub/controller/election.ts'
import { beginReassignment, completeReassignment } from '../../../../hub/controller/reassignment.ts'
import { plainOf } from '../../replica/batches.ts'
import { batchesOf } from './checks.ts'
import { Cluster } from './cluster.ts'

it('a replica that asks before its leader hears that it is one gets in sync, though there is nothing to fetch', async () => {
  const cluster = new Cluster(31)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  cluster.call('create-topic', { name: 't', partitions: 1, replication: 1 })
  const topic = must(cluster.image.topicByName('t'), 'no topic')
  await cluster.until('a leader', () => cluster.leader(topic) !== null)
  const leaderId = must(cluster.state(topic).leader, 'no leader')
  cluster.deaf.add(leaderId)
  cluster.call('reassign-topic', { name: 't', replication: 3 })
  await cluster.until('the others to ask', () =>
    [1, 2, 3].every(id => id === leaderId || cluster.node(id).replication.stats().followed === 1),
  )
  await cluster.turns(200)
  cluster.deaf.delete(leaderId)
  await cluster.until('all in sync', () => cluster.state(topic).isr.length === 3)
  cluster.tidy()
  expect(cluster.state(topic)).toMatchObject({ adding: [], removing: [] })
})

it('a replica that goes, with its log, and comes again at once is in sync by nothing that it said before', async () => {
  const cluster = new Cluster(32)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  const topic = cluster.topic('t', 1)
  await cluster.until('a leader', () => cluster.leader(topic) !== null)
  const { leader: leaderId } = cluster.state(topic)
  const gone = must(
    [3, 2].find(id => id !== leaderId),
    'no follower',
  )
  const leader = must(cluster.leader(topic), 'nobody leads')
  const acked = leader.append(plainOf(['a', 'b', 'c']), 'all')
  await cluster.until('all have it', () =>
    [1, 2, 3].every(id => cluster.replica(id, topic).following.position().durableEnd === 3),
  )
  await acked
  await cluster.turns(50)
  cluster.deaf.add(gone)
  const rest = [1, 2, 3].filter(id => id !== gone)
  for (const step of ['goes', 'gone', 'comes'] as const) {
    const [state, nodes] = [cluster.state(topic), viewOf(cluster.image)]
    const target = step === 'comes' ? [...rest, gone] : rest
    const next =
      step === 'gone' ? completeReassignment(state, nodes, null) : beginReassignment(state, target, nodes)
    cluster.commit([must(next, `nothing follows when it ${step}`)])
  }
  await cluster.turns(300)
  expect(cluster.state(topic)).toMatchObject({ adding: [gone] })
  expect(cluster.state(topic).isr).not.toContain(gone)
  cluster.deaf.delete(gone)
  await cluster.until('in sync', () => cluster.state(topic).isr.includes(gone))
  expect(cluster.replica(gone, topic).following.position().durableEnd).toBe(3)
  const logs = await Promise.all([1, 2, 3].map(id => batchesOf(cluster.replica(id, topic))))
  for (const log of logs) expect(log.bytes).toEqual(logs[0]?.bytes)
})

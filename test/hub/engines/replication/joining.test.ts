import { expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
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

import { describe, expect, it } from 'vitest'
import { must } from '../../../../common/assert.ts'
import type { Topic } from '../../../../hub/ports.ts'
import { plainOf } from '../../replica/batches.ts'
import { Cluster } from './cluster.ts'

/** Three nodes in sync, of which the first leads. */
async function three(seed: number): Promise<{ cluster: Cluster; topic: Topic }> {
  const cluster = new Cluster(seed)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  const topic = cluster.topic('t', 1)
  await cluster.until('all in sync', () => cluster.leader(topic) !== null && cluster.isInSync(topic))
  return { cluster, topic }
}

/** What a process says that stands at `end`, all of it durable. */
function saysEnd(cluster: Cluster, topic: Topic, incarnation: number, end: number) {
  const { leaderEpoch } = cluster.state(topic)
  const { topicId } = topic
  const position = {
    topicId,
    partition: 0,
    leaderEpoch,
    offset: end,
    lastEpoch: leaderEpoch,
    durableEnd: end,
  }
  return { t: 'fetch' as const, incarnation, taken: 0, positions: [position], forget: [] }
}

describe('a node that was replaced', () => {
  it('is not counted by what its former process says that goes on fetching', async () => {
    const { cluster, topic } = await three(11)
    const leaderId = must(cluster.state(topic).leader, 'no leader')
    const otherId = must(
      [1, 2, 3].find(id => id !== leaderId),
      'no follower',
    )
    const { incarnation: former } = cluster.node(otherId)
    cluster.wipe(otherId)
    cluster.fence(otherId)
    await cluster.start(otherId)
    await cluster.until('in sync again', () => cluster.isInSync(topic))

    const leader = must(cluster.leader(topic), 'no leader')
    cluster.network.cut(leaderId, otherId)
    const old = cluster.node(leaderId).replication.serve(otherId, () => {})
    let isAcked = false
    void leader.append(plainOf(['a']), 'all').then(
      () => {
        isAcked = true
      },
      () => {},
    )
    await cluster.turns(50)
    old.fetch(saysEnd(cluster, topic, former, 1))
    await cluster.turns(50)
    expect(cluster.state(topic).isr).toContain(otherId)
    expect(isAcked).toBe(false)
    expect(leader.told().highWatermark).toBe(0)
    cluster.network.heal()
    await cluster.until('the ack', () => isAcked)
  })

  it('counts as soon as its leader hears who it is', async () => {
    const { cluster, topic } = await three(12)
    const leaderId = must(cluster.state(topic).leader, 'no leader')
    const otherId = must(
      [1, 2, 3].find(id => id !== leaderId),
      'no follower',
    )
    cluster.deaf.add(leaderId)
    cluster.wipe(otherId)
    cluster.fence(otherId)
    await cluster.start(otherId)
    await cluster.turns(200)
    expect(cluster.isInSync(topic)).toBe(false)
    cluster.deaf.delete(leaderId)
    await cluster.until('in sync again', () => cluster.isInSync(topic))
  })

  it('is proposed though its former link ends after its new one began', async () => {
    const { cluster, topic } = await three(13)
    const leaderId = must(cluster.state(topic).leader, 'no leader')
    const otherId = must(
      [1, 2, 3].find(id => id !== leaderId),
      'no follower',
    )
    const { incarnation: former } = cluster.node(otherId)
    const old = cluster.node(leaderId).replication.serve(otherId, () => {})
    old.fetch(saysEnd(cluster, topic, former, 0))
    cluster.wipe(otherId)
    cluster.fence(otherId)
    await cluster.startFenced(otherId)
    await cluster.turns(100)
    old.close()
    cluster.unfence(otherId)
    await cluster.until('in sync again', () => cluster.isInSync(topic))
  })
})

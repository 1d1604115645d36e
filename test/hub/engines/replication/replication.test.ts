import { describe, expect, it } from 'vitest'
import { eachBatch } from '../../../../common/batch.ts'
import type { Topic } from '../../../../hub/ports.ts'
import { plainOf } from '../../replica/batches.ts'
import { Cluster } from './cluster.ts'

async function three(seed: number): Promise<Cluster> {
  const cluster = new Cluster(seed)
  for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
  return cluster
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

describe('three replicas', () => {
  it('hold what acks=all acked, synced, and know how far it is committed', async () => {
    const cluster = await three(1)
    const topic = cluster.topic('t', 1)
    await cluster.until('a leader', () => cluster.leader(topic) !== null)
    const leader = cluster.leader(topic)
    let isAcked = false
    const acked = leader?.append(plainOf(['a', 'b']), 'all').then(() => {
      isAcked = true
    })
    await cluster.until('the ack', () => isAcked)
    await acked
    const logs = await Promise.all([1, 2, 3].map(id => logOf(cluster, id, topic)))
    expect(logs[0]).toHaveLength(1)
    expect(logs[1]).toEqual(logs[0])
    expect(logs[2]).toEqual(logs[0])
    expect(leader?.bounds()).toMatchObject({ highWatermark: 2, endOffset: 2 })
  })
})

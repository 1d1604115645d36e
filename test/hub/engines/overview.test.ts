import { describe, expect, it } from 'vitest'
import { createCluster } from '../../../hub/engines/cluster/overview.ts'
import { createStage } from '../controller/stage.ts'

describe('the cluster in numbers', () => {
  it('asks for as many in sync as writes need, which replicas that are being added do not raise', () => {
    const stage = createStage()
    stage.start(1)
    stage.call('create-topic', { name: 't', partitions: 1 })
    stage.commit([
      { type: 'partition_changed', ...stage.at('t'), replicas: [1, 2, 3], adding: [2, 3], unclean: false },
    ])
    const status = {
      role: 'leader',
      term: 1,
      leader: null,
      commit: 0,
      config: { voters: [], learners: [] },
      forgot: false,
    } as const
    const cluster = createCluster({
      image: () => stage.image,
      controllerId: () => 1,
      status: () => status,
      submit: () => Promise.reject(new Error('nothing is asked here')),
    })
    expect(cluster.status()).toMatchObject({ belowMinInSync: 0, underReplicated: 1, reassigning: 1 })
    stage.commit([{ type: 'partition_changed', ...stage.at('t'), adding: [], unclean: false }])
    expect(cluster.status()).toMatchObject({ belowMinInSync: 1, underReplicated: 1, reassigning: 0 })
  })
})

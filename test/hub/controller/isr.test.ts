import { describe, expect, it } from 'vitest'
import type { ChangeIsr } from '../../../hub/controller/requests.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'
import { codeOf, createStage } from './stage.ts'

function three() {
  const stage = createStage()
  for (const nodeId of [1, 2, 3]) stage.start(nodeId)
  stage.call('create-topic', { name: 't', partitions: 2 })
  return stage
}

/** Proposed upon this state by its leader; each member as `[nodeId, incarnation]`. */
function proposal(
  state: PartitionState,
  members: [number, number][],
  more: Partial<PartitionState> = {},
): ChangeIsr {
  const { topicId, partition, leaderEpoch, partitionEpoch, leader, leaderIncarnation } = { ...state, ...more }
  const isr = members.map(([nodeId, incarnation]) => ({ nodeId, incarnation }))
  const changes = [{ topicId, partition, leaderEpoch, partitionEpoch, isr }]
  return { nodeId: leader ?? 0, incarnation: leaderIncarnation, changes }
}

describe('a proposed in-sync set', () => {
  it('is taken in the order of the replicas, under a new partition epoch', () => {
    const { propose, at } = three()
    expect(propose('t', [3, 1])).toBe('ok')
    expect(at('t')).toMatchObject({ isr: [1, 3], leader: 1, leaderEpoch: 1, partitionEpoch: 1 })
    expect(propose('t', [3, 2, 1])).toBe('ok')
    expect(at('t')).toMatchObject({ isr: [1, 2, 3], partitionEpoch: 2 })
  })

  it('is stale where another was taken upon the same state, in one request too', () => {
    const { call, at } = three()
    const shrink = proposal(at('t'), [
      [1, 1],
      [2, 2],
    ])
    const other = proposal(at('t'), [
      [1, 1],
      [3, 3],
    ])
    const both = { ...shrink, changes: [...shrink.changes, ...other.changes] }
    expect(call('change-isr', both).results.map(({ outcome }) => outcome)).toEqual(['ok', 'stale'])
    expect(call('change-isr', other).results).toMatchObject([{ outcome: 'stale' }])
    expect(at('t').isr).toEqual([1, 2])
  })

  it.each([{ leaderEpoch: 0 }, { partitionEpoch: 7 }, { leader: 2, leaderIncarnation: 2 }, { partition: 9 }])(
    'is stale with %j',
    more => {
      const { call, at } = three()
      expect(call('change-isr', proposal(at('t'), [[1, 1]], more)).results).toMatchObject([
        { outcome: 'stale' },
      ])
      expect(at('t').isr).toEqual([1, 2, 3])
    },
  )

  it('is stale for a topic that is gone, and judged by itself beside others', () => {
    const { call, at } = three()
    const gone = proposal(at('t'), [[1, 1]], { topicId: 'f'.repeat(32) })
    const good = proposal(at('t'), [[1, 1]])
    const { results } = call('change-isr', { ...good, changes: [...gone.changes, ...good.changes] })
    expect(results.map(({ outcome }) => outcome)).toEqual(['stale', 'ok'])
  })

  it('is refused without the leader, with strangers, with the dead and with one twice', () => {
    const { call, start, fence, at } = three()
    start(4)
    fence(3)
    const refused: [number, number][][] = [
      [],
      [[2, 2]],
      [
        [1, 1],
        [1, 1],
      ],
      [
        [1, 1],
        [4, 4],
      ],
      [
        [1, 1],
        [9, 9],
      ],
      [
        [1, 1],
        [3, 3],
      ],
    ]
    for (const members of refused) {
      const { results } = call('change-isr', proposal(at('t'), members))
      expect(results, JSON.stringify(members)).toMatchObject([{ outcome: 'refused' }])
    }
  })

  it('is refused where it rests on what a process before held', () => {
    const { call, start, fence, at } = three()
    fence(2)
    const seen = proposal(at('t'), [
      [1, 1],
      [2, 2],
      [3, 3],
    ])
    start(2, { directoryId: 'wiped' })
    expect(call('change-isr', seen).results).toMatchObject([{ outcome: 'refused' }])
    expect(at('t').isr).toEqual([1, 3])
  })

  it('of a process that was replaced, or a node that is gone, fails as a whole', () => {
    const { call, start, at } = three()
    const old = proposal(at('t'), [[1, 1]])
    start(1)
    expect(codeOf(() => call('change-isr', old))).toBe('fenced')
    expect(codeOf(() => call('change-isr', { ...old, nodeId: 9 }))).toBe('not_found')
  })
})

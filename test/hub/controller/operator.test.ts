import { describe, expect, it } from 'vitest'
import { must } from '../../../common/assert.ts'
import { viewOf } from '../../../hub/controller/election.ts'
import { beginReassignment, completeReassignment } from '../../../hub/controller/reassignment.ts'
import type { Stage } from './stage.ts'
import { codeOf, createStage, SETTINGS } from './stage.ts'

function nodes(count: number): Stage {
  const stage = createStage()
  for (let nodeId = 1; nodeId <= count; nodeId++) stage.start(nodeId)
  return stage
}

function placesOf(stage: Stage, name: string): number[][] {
  const topic = must(stage.image.topicByName(name), name)
  return stage.image.partitionsOf(topic.topicId).map(state => [...(state?.replicas ?? [])].sort())
}

describe('a new topic', () => {
  it('has its default replicas as far as nodes are alive, led by all of them', () => {
    const stage = nodes(5)
    stage.fence(5)
    stage.call('create-topic', { name: 't', partitions: 4 })
    expect(stage.image.topicByName('t')?.replication).toBeNull()
    for (let partition = 0; partition < 4; partition++) {
      const { replicas, isr, leader } = stage.at('t', partition)
      expect(replicas).toHaveLength(3)
      expect(replicas).not.toContain(5)
      expect([isr, leader]).toEqual([replicas, replicas[0]])
    }
    expect(new Set([0, 1, 2, 3].map(partition => stage.at('t', partition).leader)).size).toBe(4)
  })

  it('has as many replicas as asked for, or is refused', () => {
    const stage = nodes(3)
    const create = (name: string, replication: number) =>
      stage.call('create-topic', { name, partitions: 1, replication })
    expect(create('t', 2)).toMatchObject({ replication: 2 })
    expect(stage.at('t').replicas).toHaveLength(2)
    for (const bad of [0, 1.5, 4, 16]) expect(codeOf(() => create('u', bad))).toBe('invalid_argument')
    stage.fence(3)
    expect(codeOf(() => create('u', 3))).toBe('not_available')
    stage.fence(1, 2)
    expect(codeOf(() => stage.call('create-topic', { name: 'u' }))).toBe('not_available')
    expect(codeOf(() => stage.call('topic-for-producer', { name: 'u' }))).toBe('not_available')
  })

  it('gets places for partitions that come later', () => {
    const stage = nodes(3)
    stage.call('create-topic', { name: 't', partitions: 2, replication: 2 })
    stage.call('alter-topic', { name: 't', change: { partitions: 6 } })
    expect(placesOf(stage, 't')).toHaveLength(6)
    const counts = [1, 2, 3].map(nodeId => placesOf(stage, 't').filter(list => list.includes(nodeId)).length)
    expect(counts).toEqual([4, 4, 4])
  })

  it('takes its places with it when it is deleted', () => {
    const stage = nodes(4)
    stage.call('create-topic', { name: 't', partitions: 3 })
    stage.call('reassign-topic', { name: 't', replication: 4 })
    stage.call('delete-topic', { name: 't' })
    expect([...stage.image.partitionStates()]).toEqual([])
    expect(stage.image.partitionsOn(1).size).toBe(0)
    expect(stage.image.todo().moving()).toBe(0)
    expect(stage.settleDown()).toBe(0)
  })
})

describe('a topic reassigned', () => {
  it('is spread over nodes that came, in sync before anything is dropped', () => {
    const stage = nodes(3)
    stage.call('create-topic', { name: 't', partitions: 8 })
    stage.start(4)
    expect(stage.call('reassign-topic', { name: 't', replication: null }).partitions).toBeGreaterThanOrEqual(
      6,
    )
    const moving = [...stage.image.partitionStates()].filter(({ adding }) => adding.length > 0)
    expect(moving).toHaveLength(6)
    for (const { replicas, adding, removing, isr } of moving) {
      expect(adding).toEqual([4])
      expect(replicas).toHaveLength(4)
      expect(isr).not.toContain(4)
      expect(isr).toContain(removing[0])
    }
    stage.settleDown()
    const lists = placesOf(stage, 't')
    expect([1, 2, 3, 4].map(nodeId => lists.filter(list => list.includes(nodeId)).length)).toEqual([
      6, 6, 6, 6,
    ])
    expect(stage.call('reassign-topic', { name: 't', replication: null })).toEqual({ partitions: 0 })
  })

  it('may have more or fewer replicas from then on', () => {
    const stage = nodes(3)
    stage.call('create-topic', { name: 't', partitions: 2, replication: 1 })
    stage.call('reassign-topic', { name: 't', replication: 3 })
    expect(stage.image.topicByName('t')?.replication).toBe(3)
    stage.settleDown()
    expect(placesOf(stage, 't')).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ])
    stage.call('reassign-topic', { name: 't', replication: 1 })
    stage.settleDown()
    expect(placesOf(stage, 't').map(list => list.length)).toEqual([1, 1])
    for (const partition of [0, 1]) expect(stage.at('t', partition).leader).not.toBeNull()
  })

  it('is done when all that came are in sync, and not before', () => {
    const { at, call, start, image, propose, commit } = nodes(1)
    call('create-topic', { name: 't', partitions: 1 })
    start(2)
    const adding = must(beginReassignment(at('t'), [2, 1], viewOf(image)), 'nothing to reassign')
    commit([adding])
    expect(at('t')).toMatchObject({ replicas: [2, 1], adding: [2], isr: [1], leader: 1 })
    expect(completeReassignment(at('t'), viewOf(image), null)).toBeNull()
    propose('t', [1, 2])
    expect(completeReassignment(at('t'), viewOf(image), null)).toMatchObject({
      adding: [],
      isr: [2, 1],
      leader: 1,
    })
  })

  it('is refused for what can’t be', () => {
    const { call } = nodes(2)
    call('create-topic', { name: 't' })
    expect(codeOf(() => call('reassign-topic', { name: 'u', replication: null }))).toBe('unknown_topic')
    expect(codeOf(() => call('reassign-topic', { name: 't', replication: 3 }))).toBe('invalid_argument')
  })

  it('goes elsewhere when asked again, and keeps what is in sync until it is there', () => {
    const stage = nodes(3)
    stage.call('create-topic', { name: 't', partitions: 1, replication: 1 })
    const [home = 0] = stage.at('t').replicas
    const [first = 0, second = 0] = [1, 2, 3].filter(nodeId => nodeId !== home)
    stage.commit([
      {
        type: 'partition_changed',
        unclean: false,
        ...stage.at('t'),
        replicas: [first, home],
        adding: [first],
        removing: [home],
      },
    ])
    stage.propose('t', [first, home])
    stage.call('drain-node', { nodeId: first, draining: true })
    stage.settleDown()
    expect(stage.at('t').replicas).toHaveLength(1)
    expect(stage.at('t').replicas).not.toContain(first)
    expect([home, second]).toContain(stage.at('t').leader)
  })
})

describe('balance', () => {
  it('gives leaders back to the preferred replicas that are alive and in sync', () => {
    const stage = nodes(3)
    stage.call('create-topic', { name: 't', partitions: 3 })
    stage.fence(1)
    stage.unfence(1)
    expect(stage.call('balance', {})).toEqual({ moved: 0 })
    for (const partition of [0, 1, 2]) stage.propose('t', [1, 2, 3], partition)
    const { leaderEpoch } = stage.at('t')
    expect(stage.call('balance', {})).toEqual({ moved: 1 })
    expect(stage.at('t')).toMatchObject({ leader: 1, leaderEpoch: leaderEpoch + 1 })
  })
})

describe('an unclean election', () => {
  it('needs a replica that is alive, and prefers those that were there before', () => {
    const stage = nodes(3)
    stage.call('create-topic', { name: 't', partitions: 1, replication: 2 })
    const [first = 0, second = 0] = stage.at('t').replicas
    const third = 6 - first - second
    stage.commit([
      {
        type: 'partition_changed',
        unclean: false,
        ...stage.at('t'),
        replicas: [third, first, second],
        adding: [third],
      },
    ])
    stage.fence(second)
    stage.fence(first)
    stage.fence(third)
    expect(codeOf(() => stage.call('elect-unclean', { name: 't', partition: 0 }))).toBe('not_available')
    stage.unfence(third, second)
    expect(stage.at('t')).toMatchObject({ leader: null, isr: [first] })
    expect(stage.call('elect-unclean', { name: 't', partition: 0 })).toEqual({ leader: second })
  })
})

describe('settings', () => {
  it('hold in-sync sets as asked for', () => {
    const stage = createStage({ ...SETTINGS, defaultReplication: 1 })
    stage.start(1)
    stage.call('create-topic', { name: 't', config: { minInsyncReplicas: 2, uncleanLeaderElection: true } })
    expect(stage.image.topicByName('t')?.config).toMatchObject({
      minInsyncReplicas: 2,
      uncleanLeaderElection: true,
    })
  })
})

import { describe, expect, it } from 'vitest'
import { ensureInternalTopics } from '../../../hub/controller/controller.ts'
import type { Image } from '../../../hub/controller/image.ts'
import {
  LEAD_AFTER_MS,
  MAX_MOVING,
  MAX_TIDY_CHANGES,
  REPLACE_AFTER_MS,
  tidy,
} from '../../../hub/controller/tidy.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'
import type { Stage } from './stage.ts'
import { createStage, SETTINGS } from './stage.ts'

/** A hub of before there were nodes: topics, and no places. */
function old(): Stage {
  const stage = createStage()
  stage.call('create-topic', { name: 't', partitions: 3 })
  stage.commit(ensureInternalTopics(stage.image, SETTINGS, ['a'.repeat(32), 'b'.repeat(32)], 1).records)
  return stage
}

function once({ image, nowMs }: Stage) {
  return tidy(image, SETTINGS, nowMs())
}

describe('an old directory', () => {
  it('has its partitions on the node that it is on, however many nodes come', () => {
    const stage = old()
    expect(once(stage)).toEqual([])
    stage.start(1)
    stage.start(2)
    stage.start(3)
    stage.commit(once(stage))
    for (const { isr, leader, leaderEpoch } of stage.image.partitionStates()) {
      expect([isr, leader, leaderEpoch]).toEqual([[1], 1, 1])
    }
    expect([...stage.image.partitionStates()]).toHaveLength(3 + 1 + 4)
  })

  it('grows onto nodes that join, with leaders spread, internal topics too', () => {
    const stage = old()
    stage.start(1)
    stage.settleDown()
    expect(stage.at('t')).toMatchObject({ replicas: [1], leader: 1 })
    stage.start(2)
    stage.settleDown()
    expect(stage.at('t').isr).toHaveLength(2)
    stage.start(3)
    stage.settleDown()
    stage.pass(LEAD_AFTER_MS)
    stage.settleDown()
    for (const { isr, replicas, leader } of stage.image.partitionStates()) {
      expect(isr).toHaveLength(3)
      expect(leader).toBe(replicas[0])
    }
    expect(stage.at('_gaps').isr).toHaveLength(3)
    const leaders = [0, 1, 2].map(partition => stage.at('t', partition).leader).sort()
    expect(leaders).toEqual([1, 2, 3])
  })

  it('leads nothing before its node is heard of', () => {
    const stage = old()
    stage.call('register-node', {
      nodeId: 1,
      directoryId: 'd',
      peerAddress: null,
      httpAddress: '',
      rack: null,
      software: '',
      startId: null,
      lostData: false,
    })
    stage.commit(once(stage))
    expect(stage.at('t')).toMatchObject({ replicas: [1], isr: [1], leader: null })
    stage.unfence(1)
    expect(stage.at('t')).toMatchObject({ leader: 1, leaderIncarnation: 1 })
  })
})

describe('growth', () => {
  it('brings topics of a number back to it when a node is gone for good', () => {
    const stage = createStage()
    for (const nodeId of [1, 2, 3]) stage.start(nodeId)
    stage.call('create-topic', { name: 't', partitions: 2, replication: 2 })
    const [gone = 0] = stage.at('t').replicas
    stage.fence(gone)
    stage.call('remove-node', { nodeId: gone })
    expect(stage.at('t').replicas).toHaveLength(1)
    stage.settleDown()
    expect(stage.at('t').isr).toHaveLength(2)
  })

  it('is done some at a time', () => {
    const stage = createStage()
    stage.start(1)
    const partitions = MAX_MOVING + MAX_TIDY_CHANGES
    stage.call('create-topic', { name: 't', partitions })
    stage.start(2)
    const first = once(stage)
    expect(first).toHaveLength(Math.min(MAX_MOVING, MAX_TIDY_CHANGES))
    stage.commit(first)
    stage.commit(once(stage))
    expect(stage.image.todo().moving()).toBe(MAX_MOVING)
    expect(once(stage)).toEqual([])
    stage.settleDown()
    expect([...stage.image.partitionStates()].every(({ isr }) => isr.length === 2)).toBe(true)
  })

  it('counts on no node that is not alive', () => {
    const stage = createStage()
    stage.start(1)
    stage.call('create-topic', { name: 't', partitions: 1 })
    stage.start(2)
    stage.fence(2)
    expect(once(stage)).toEqual([])
  })

  it('gives a topic spread over racks', () => {
    const stage = createStage()
    for (const [nodeId, rack] of [
      [1, 'a'],
      [2, 'a'],
      [3, 'b'],
    ] as const)
      stage.start(nodeId, { rack })
    stage.call('create-topic', { name: 't', partitions: 4, replication: 2 })
    for (const { replicas } of stage.image.partitionStates()) expect(replicas).toContain(3)
  })
})

describe('a reassignment', () => {
  /** Onto node 2 or 3, which then dies. */
  function adding(): { stage: Stage; target: number } {
    const stage = createStage()
    stage.start(1)
    stage.call('create-topic', { name: 't', partitions: 1 })
    stage.start(2)
    stage.commit(once(stage))
    expect(stage.at('t').adding).toEqual([2])
    return { stage, target: 2 }
  }

  it('to a node that is silent for long goes to another one', () => {
    const { stage, target } = adding()
    stage.fence(target)
    stage.start(3)
    expect(once(stage)).toEqual([])
    stage.pass(REPLACE_AFTER_MS)
    stage.commit(once(stage))
    expect(stage.at('t')).toMatchObject({ adding: [3], isr: [1], leader: 1 })
    stage.settleDown()
    expect([...stage.at('t').isr].sort()).toEqual([1, 3])
  })

  it('to a node that is silent for long is given up where there is no other', () => {
    const { stage, target } = adding()
    stage.fence(target)
    stage.pass(REPLACE_AFTER_MS)
    stage.settleDown()
    expect(stage.at('t')).toMatchObject({ replicas: [1], adding: [], leader: 1 })
    stage.unfence(target)
    stage.settleDown()
    expect(stage.at('t').isr).toHaveLength(2)
  })

  it('waits for a node that is back soon', () => {
    const { stage, target } = adding()
    stage.fence(target)
    stage.unfence(target)
    stage.settleDown()
    expect(stage.at('t').isr).toHaveLength(2)
  })

  it('takes no leader from a partition whose leader goes', () => {
    const stage = createStage()
    for (const nodeId of [1, 2, 3]) stage.start(nodeId)
    stage.call('create-topic', { name: 't', partitions: 1, replication: 2 })
    const [leader = 0] = stage.at('t').replicas
    stage.call('drain-node', { nodeId: leader, draining: true })
    stage.settleDown()
    const { replicas, leader: next } = stage.at('t')
    expect(replicas).not.toContain(leader)
    expect(replicas).toContain(next)
  })
})

describe('leaders', () => {
  it('go back to where they belong after a while', () => {
    const stage = createStage()
    for (const nodeId of [1, 2, 3]) stage.start(nodeId)
    stage.call('create-topic', { name: 't', partitions: 1 })
    stage.fence(1)
    stage.unfence(1)
    stage.settleDown()
    expect(stage.at('t')).toMatchObject({ leader: 2, isr: [1, 2, 3] })
    stage.pass(LEAD_AFTER_MS - 1)
    expect(once(stage)).toEqual([])
    stage.pass(1)
    stage.settleDown()
    expect(stage.at('t').leader).toBe(1)
  })
})

it('looks at no partition where nothing is to do', () => {
  const stage = createStage()
  for (const nodeId of [1, 2, 3]) stage.start(nodeId)
  stage.call('create-topic', { name: 't', partitions: 50 })
  stage.call('create-topic', { name: 'alone', partitions: 50, replication: 1 })
  stage.fence(2)
  const look = (): never => {
    throw new Error('a partition was looked at')
  }
  const lookAt = new Proxy(new Set<PartitionState>(), { get: look })
  const todo = stage.image.todo()
  const image: Image = {
    ...stage.image,
    partition: look,
    partitionsOf: look,
    partitionStates: look,
    partitionsOn: look,
    todo: () => ({
      ...todo,
      resting: () => [...todo.resting()].map(group => ({ ...group, states: lookAt })),
    }),
  }
  expect(tidy(image, SETTINGS, stage.nowMs() + REPLACE_AFTER_MS)).toEqual([])
  stage.start(4)
  stage.unfence(2)
  stage.call('create-topic', { name: 'u', partitions: 1 })
  expect(() => tidy(image, { ...SETTINGS, defaultReplication: 4 }, stage.nowMs())).toThrow('looked at')
})

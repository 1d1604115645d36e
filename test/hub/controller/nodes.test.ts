import { describe, expect, it } from 'vitest'
import { MAX_NODES } from '../../../hub/controller/nodes.ts'
import { codeOf, createStage, registration } from './stage.ts'

/** Three nodes and a topic "t" of one partition on all of them, led by the first. */
function three() {
  const stage = createStage()
  for (const nodeId of [1, 2, 3]) stage.start(nodeId)
  stage.call('create-topic', { name: 't', partitions: 1 })
  expect(stage.at('t')).toMatchObject({ replicas: [1, 2, 3], isr: [1, 2, 3], leader: 1, leaderEpoch: 1 })
  return stage
}

describe('registration', () => {
  it('gives each process an incarnation of its own, and a fenced node', () => {
    const { call, image, start } = createStage()
    expect(call('register-node', registration(1))).toEqual({ incarnation: 1 })
    expect(image.node(1)).toMatchObject({
      fenced: true,
      left: false,
      draining: false,
      httpAddress: 'n1:7600',
    })
    expect(start(2)).toBe(2)
    expect(start(1, { rack: 'r' })).toBe(3)
    expect(image.node(1)).toMatchObject({ fenced: false, incarnation: 3, rack: 'r' })
    expect(image.nodes().map(({ nodeId }) => nodeId)).toEqual([1, 2])
  })

  it('takes the controller’s own node first, for its directory may hold all there is', () => {
    const { call } = createStage()
    expect(codeOf(() => call('register-node', registration(2)))).toBe('not_available')
    call('register-node', registration(1))
    call('register-node', registration(2))
  })

  it('refuses ids that are none, and too many nodes', () => {
    const { call } = createStage()
    for (const bad of [0, -1, 1.5, 2 ** 31]) {
      expect(codeOf(() => call('register-node', registration(bad)))).toBe('invalid_argument')
    }
    for (let nodeId = 1; nodeId <= MAX_NODES; nodeId++) call('register-node', registration(nodeId))
    expect(codeOf(() => call('register-node', registration(MAX_NODES + 1)))).toBe('limit_exceeded')
    call('register-node', registration(7))
  })

  it('refuses another directory under the id of a node that is alive, and takes it when that is gone', () => {
    const { call, fence, at, image } = three()
    const other = registration(2, { directoryId: 'other' })
    expect(codeOf(() => call('register-node', other))).toBe('not_available')
    expect(at('t').isr).toEqual([1, 2, 3])
    fence(2)
    call('register-node', other)
    expect(image.node(2)).toMatchObject({ directoryId: 'other', fenced: true })
  })

  it('of a restarted node moves its leaders, which it gets back by catching up and in turn', () => {
    const { start, at, propose } = three()
    start(1)
    expect(at('t')).toMatchObject({ isr: [2, 3], leader: 2, leaderEpoch: 2, leaderIncarnation: 2 })
    expect(propose('t', [1, 2, 3])).toBe('ok')
    expect(at('t')).toMatchObject({ isr: [1, 2, 3], leader: 2, leaderEpoch: 2 })
  })

  it('of the last one in sync keeps its seat, and it leads again under its new incarnation', () => {
    const { call, start, fence, unfence, at } = three()
    fence(2)
    fence(3)
    const before = at('t')
    call('register-node', registration(1))
    expect(at('t')).toMatchObject({ isr: [1], leader: null })
    const incarnation = start(1)
    expect(at('t')).toMatchObject({ isr: [1], leader: 1, leaderIncarnation: incarnation })
    expect(at('t').leaderEpoch).toBe(before.leaderEpoch + 1)
    unfence(2)
    expect(at('t').isr).toEqual([1])
  })

  it.each([{ lostData: true }, { directoryId: 'wiped' }])('with %j costs the seats in sync', more => {
    const { call, start, fence, at } = three()
    fence(2)
    fence(3)
    fence(1)
    expect(at('t')).toMatchObject({ isr: [1], leader: null })
    call('register-node', registration(1, more))
    expect(at('t')).toMatchObject({ isr: [], leader: null })
    start(2)
    start(3)
    start(1, { ...more, lostData: false })
    expect(at('t')).toMatchObject({ isr: [], leader: null })
    expect(codeOf(() => call('elect-unclean', { name: 't', partition: 1 }))).toBe('not_found')
    expect(codeOf(() => call('elect-unclean', { name: 'u', partition: 0 }))).toBe('unknown_topic')
    expect(call('elect-unclean', { name: 't', partition: 0 })).toEqual({ leader: 1 })
    expect(at('t')).toMatchObject({ isr: [1], leader: 1 })
    expect(codeOf(() => call('elect-unclean', { name: 't', partition: 0 }))).toBe('invalid_argument')
  })

  it('with lost data keeps the seats of partitions that nobody else could have', () => {
    const { call, start, fence, at } = createStage()
    start(1)
    call('create-topic', { name: 't', partitions: 1 })
    fence(1)
    start(1, { lostData: true })
    expect(at('t')).toMatchObject({ replicas: [1], isr: [1], leader: 1, leaderEpoch: 2 })
    // The same directory, under another seat.
    fence(1)
    start(1, { directoryId: 'd1-2', lostData: true })
    expect(at('t')).toMatchObject({ replicas: [1], isr: [1], leader: 1, leaderEpoch: 3 })
  })

  it('with another directory waits for an operator also where nobody else could have the data: the one that has it may be away', () => {
    const { call, start, fence, at } = createStage()
    start(1)
    call('create-topic', { name: 't', partitions: 1 })
    fence(1)
    start(1, { directoryId: 'not-mounted' })
    expect(at('t')).toMatchObject({ replicas: [1], isr: [], leader: null })
    fence(1)
    start(1)
    expect(call('elect-unclean', { name: 't', partition: 0 })).toEqual({ leader: 1 })
  })
})

describe('fencing', () => {
  it('moves leaders and shrinks the sets in sync, down to the last one', () => {
    const { fence, unfence, at, image } = three()
    fence(1)
    expect(at('t')).toMatchObject({ isr: [2, 3], leader: 2, leaderEpoch: 2, partitionEpoch: 1 })
    expect(image.node(1)).toMatchObject({ fenced: true, left: false })
    fence(1)
    expect(at('t').partitionEpoch).toBe(1)
    fence(2)
    fence(3)
    expect(at('t')).toMatchObject({ isr: [3], leader: null, leaderEpoch: 3 })
    unfence(1, 2)
    expect(at('t')).toMatchObject({ isr: [3], leader: null })
    unfence(3)
    expect(at('t')).toMatchObject({ isr: [3], leader: 3, leaderEpoch: 4 })
  })

  it('of all in sync at once takes none for the last one', () => {
    const { fence, unfence, at } = three()
    fence(3)
    fence(1, 2)
    expect(at('t')).toMatchObject({ isr: [1, 2], leader: null })
    unfence(2, 3)
    expect(at('t')).toMatchObject({ isr: [2], leader: 2 })
  })

  it('lets a replica that is not in sync lead where the topic says so, and records it', () => {
    const { call, fence, unfence, at, image } = three()
    fence(3)
    fence(2)
    fence(1)
    unfence(3)
    expect(at('t')).toMatchObject({ isr: [1], leader: null })
    call('alter-topic', { name: 't', change: { config: { uncleanLeaderElection: true } } })
    expect(at('t')).toMatchObject({ isr: [3], leader: 3 })
    fence(3)
    unfence(2)
    expect(at('t')).toMatchObject({ isr: [2], leader: 2 })
    expect(image.partitionsOn(2).size).toBe(1)
  })
})

describe('an orderly stop', () => {
  it('moves leaders, and only another registration brings the node back', () => {
    const { call, start, unfence, at, image } = three()
    const incarnation = image.node(1)?.incarnation ?? 0
    expect(codeOf(() => call('leave', { nodeId: 9, incarnation }))).toBe('not_found')
    expect(codeOf(() => call('leave', { nodeId: 1, incarnation: incarnation + 1 }))).toBe('fenced')
    call('leave', { nodeId: 1, incarnation })
    expect(at('t')).toMatchObject({ isr: [2, 3], leader: 2 })
    expect(image.node(1)).toMatchObject({ fenced: true, left: true })
    call('leave', { nodeId: 1, incarnation })
    unfence(1)
    expect(image.node(1)?.fenced).toBe(true)
    start(1)
    expect(image.node(1)).toMatchObject({ fenced: false, left: false })
  })

  it('of a node that is taken for dead holds too', () => {
    const { call, fence, unfence, image } = three()
    fence(1)
    call('leave', { nodeId: 1, incarnation: image.node(1)?.incarnation ?? 0 })
    unfence(1)
    expect(image.node(1)).toMatchObject({ fenced: true, left: true })
  })
})

describe('draining', () => {
  it('empties a node, and the others take its replicas', () => {
    const { call, start, image, settleDown, at } = three()
    start(4)
    call('create-topic', { name: 'u', partitions: 8 })
    call('drain-node', { nodeId: 1, draining: true })
    settleDown()
    expect(image.partitionsOn(1).size).toBe(0)
    expect(at('t')).toMatchObject({ isr: at('t').replicas, adding: [], removing: [] })
    expect([...at('t').replicas].sort()).toEqual([2, 3, 4])
    call('remove-node', { nodeId: 1 })
    expect(image.node(1)).toBeUndefined()
  })

  it('of one of three leaves two replicas of what has no number of its own', () => {
    const { call, settleDown, at } = three()
    call('drain-node', { nodeId: 1, draining: true })
    settleDown()
    expect([...at('t').replicas].sort()).toEqual([2, 3])
    expect(at('t').leader).not.toBe(1)
  })

  it('waits for nodes that could take replicas and are not alive', () => {
    const { call, start, fence, unfence, settleDown, at } = three()
    start(4)
    fence(4)
    call('drain-node', { nodeId: 1, draining: true })
    settleDown()
    expect(at('t').replicas).toEqual([1, 2, 3])
    unfence(4)
    settleDown()
    expect([...at('t').replicas].sort()).toEqual([2, 3, 4])
  })

  it('drops no replica before enough of those that stay are in sync', () => {
    const { call, fence, unfence, settleDown, at } = three()
    fence(2)
    call('drain-node', { nodeId: 1, draining: true })
    settleDown()
    expect(at('t')).toMatchObject({ isr: [3, 1], removing: [1] })
    unfence(2)
    settleDown()
    expect([...at('t').replicas].sort()).toEqual([2, 3])
  })

  it('is refused where others are too few, and can be taken back', () => {
    const { call, start, image } = createStage()
    start(1)
    expect(codeOf(() => call('drain-node', { nodeId: 9, draining: true }))).toBe('not_found')
    expect(codeOf(() => call('drain-node', { nodeId: 1, draining: true }))).toBe('invalid_argument')
    start(2)
    call('create-topic', { name: 't', partitions: 1, replication: 2 })
    expect(codeOf(() => call('drain-node', { nodeId: 1, draining: true }))).toBe('invalid_argument')
    start(3)
    call('drain-node', { nodeId: 1, draining: true })
    call('drain-node', { nodeId: 1, draining: true })
    expect(image.node(1)?.draining).toBe(true)
    expect(codeOf(() => call('drain-node', { nodeId: 2, draining: true }))).toBe('invalid_argument')
    start(1)
    expect(image.node(1)?.draining).toBe(true)
    call('drain-node', { nodeId: 1, draining: false })
    expect(image.node(1)?.draining).toBe(false)
  })
})

describe('removal', () => {
  it('is for nodes that are drained or dead, and whose replicas are in sync elsewhere', () => {
    const { call, fence, at, image } = three()
    call('create-topic', { name: 'alone', partitions: 1, replication: 1 })
    const [holder = 0] = at('alone').replicas
    expect(codeOf(() => call('remove-node', { nodeId: 9 }))).toBe('not_found')
    expect(codeOf(() => call('remove-node', { nodeId: 2 }))).toBe('invalid_argument')
    fence(holder)
    expect(codeOf(() => call('remove-node', { nodeId: holder }))).toBe('invalid_argument')
    call('delete-topic', { name: 'alone' })
    call('remove-node', { nodeId: holder })
    expect(image.node(holder)).toBeUndefined()
    expect(at('t').replicas).not.toContain(holder)
    expect(image.partitionsOn(holder).size).toBe(0)
  })

  it('of a node that holds no seat where nobody does leaves the rest to others, if there are any', () => {
    const { call, start, fence, at, image } = three()
    fence(2)
    fence(3)
    fence(1)
    start(1, { directoryId: 'other' })
    expect(at('t')).toMatchObject({ replicas: [1, 2, 3], isr: [], leader: null })
    call('remove-node', { nodeId: 2 })
    expect(at('t')).toMatchObject({ replicas: [1, 3], isr: [], leader: null })
    fence(1)
    start(3)
    call('remove-node', { nodeId: 1 })
    expect(at('t')).toMatchObject({ replicas: [3], isr: [], leader: null })
    start(4)
    fence(3)
    expect(codeOf(() => call('remove-node', { nodeId: 3 }))).toBe('invalid_argument')
    expect(image.node(3)).toBeDefined()
  })

  it('of a draining node waits until it is empty', () => {
    const { call } = three()
    call('drain-node', { nodeId: 1, draining: true })
    expect(codeOf(() => call('remove-node', { nodeId: 1 }))).toBe('invalid_argument')
  })

  it('gives the id free, never its incarnations', () => {
    const { call, start, fence, image } = three()
    fence(3)
    call('remove-node', { nodeId: 3 })
    expect(image.copy().lastIncarnation()).toBe(3)
    expect(start(3, { directoryId: 'other' })).toBe(4)
  })

  it('in the midst of a reassignment keeps what was to go', () => {
    const { call, start, fence, at, commit, image } = three()
    fence(3)
    call('remove-node', { nodeId: 3 })
    start(4)
    call('reassign-topic', { name: 't', replication: null })
    call('drain-node', { nodeId: 1, draining: true })
    commit([
      {
        type: 'partition_changed',
        unclean: false,
        ...at('t'),
        replicas: [2, 4, 1],
        adding: [4],
        removing: [1],
      },
    ])
    fence(4)
    call('remove-node', { nodeId: 4 })
    expect(at('t')).toMatchObject({ replicas: [2, 1], adding: [], removing: [] })
    expect(image.partitionsOn(4).size).toBe(0)
  })
})

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { OwnPast, Registration } from '../../../../hub/engines/cluster/quorum/memory.ts'
import { isOlder, ownIncarnation } from '../../../../hub/engines/cluster/quorum/memory.ts'
import type { FakeDisk } from '../../../fake-disk.ts'
import { voter } from '../../raft/voter.ts'
import { codeOf } from '../../replica/harness.ts'
import { NodeStage } from './nodes.ts'

/** Directories that are put back from a copy, or are copies of one in use: none keeps the seat of the one it was. */

describe('by what others know a directory', () => {
  const own: OwnPast = { seat: '3/d', directoryId: 'd', incarnation: 5, startIds: ['a', 'b'], kept: null }
  const fresh: OwnPast = { ...own, incarnation: 0, startIds: ['b'] }
  const told = (incarnation: number, startId: string | null, directoryId = 'd'): Registration => {
    return { incarnation, startId, directoryId }
  }

  it.each<[string, boolean, OwnPast, Registration]>([
    ['of its last start is the newest', false, own, told(5, 'a')],
    ['of a start before, as a node that lags tells, is the newest', false, own, told(4, 'z')],
    ['of a start that was not known to be registered is the newest', false, own, told(6, 'b')],
    ['of a start that it does not know is older', true, own, told(6, 'z')],
    ['whose node has registered with another directory since is older', true, own, told(6, 'z', 'other')],
    ['of a version that named no starts is taken for the newest', false, own, told(6, null)],
    ['that was never registered has no part in what another one was', false, fresh, told(6, 'z', 'other')],
    ['from before its first registration is older', true, fresh, told(6, 'z')],
  ])('%s', (_, older, past, registration) => {
    expect(isOlder(past, registration)).toBe(older)
  })

  it('without a promise that it gave is older, in the same start too', () => {
    const past = { ...own, kept: voter([1, 1, 2]) }
    const promised = { seat: '3/d', term: 2, index: 3, entryTerm: 2 }
    const same = told(5, 'a')
    expect(isOlder(past, { ...same, promised })).toBe(true)
    expect(isOlder(past, { ...same, promised: { ...promised, index: 2 } })).toBe(false)
    expect(isOlder(past, { ...same, promised: { ...promised, seat: '3/former' } })).toBe(false)
  })

  it('holds the incarnations that were registered with it', () => {
    expect(ownIncarnation(told(7, 'a'), 'd', ['a'])).toBe(7)
    expect(ownIncarnation(told(7, null), 'd', [])).toBe(7)
    expect(ownIncarnation(told(7, 'z'), 'd', ['a'])).toBe(0)
    expect(ownIncarnation(told(7, 'a', 'other'), 'd', ['a'])).toBe(0)
    expect(ownIncarnation(undefined, 'd', [])).toBe(0)
  })
})

const ALL = [1, 2, 3]
let stage: NodeStage

beforeEach(() => {
  stage = new NodeStage()
})

afterEach(() => stage.close())

function isWhole(ids: readonly number[] = ALL, voters = ids): boolean {
  return stage.isWhole(ids, voters)
}

async function found(): Promise<void> {
  for (const id of ALL) stage.start(id, ALL)
  await stage.until(isWhole, 'all live and vote')
}

/** Something is committed. */
async function commit(edgeId: string): Promise<void> {
  const by = stage.node(stage.controller())
  await stage.run(by.metadata.submit('connect-edge', { edgeId, session: 0, address: 'a', software: 's' }))
}

function copyOf(id: number): FakeDisk {
  return stage.process(id).disk.copy()
}

/** The node, down, comes back with another disk. */
function restore(id: number, disk: FakeDisk): void {
  stage.kill(id)
  stage.start(id, ALL, disk)
}

async function isBackWithoutItsSeat(id: number, seat: string): Promise<void> {
  await stage.until(() => isWhole() && stage.node(id).metadata.seat() !== seat, 'it is back, and votes')
  const { voters, learners } = stage.node(stage.controller()).metadata.status().config
  expect([...voters, ...learners]).not.toContain(seat)
  const edges = stage.node(id).metadata.image().edges()
  expect(edges.map(edge => edge.id)).toContain('since')
}

describe('a node whose directory was put back from a copy', () => {
  it('that was made before it last started takes another seat before it takes part', async () => {
    await found()
    const seat = stage.node(3).metadata.seat()
    const copy = copyOf(3)
    stage.kill(3)
    stage.start(3, ALL)
    await stage.until(isWhole, 'it is back')
    expect(stage.node(3).metadata.seat()).toBe(seat)
    await commit('since')
    restore(3, copy)
    await isBackWithoutItsSeat(3, seat)
    expect(stage.process(3).failure).toBeNull()
  })

  it('that was made while it ran takes another seat where it acked more', async () => {
    await found()
    const seat = stage.node(3).metadata.seat()
    const copy = copyOf(3)
    await commit('since')
    await stage.pass(500)
    restore(3, copy)
    await isBackWithoutItsSeat(3, seat)
    expect(stage.process(3).failure).toBeNull()
  })

  it('keeps its seat where it forgot nothing', async () => {
    await found()
    await commit('since')
    await stage.pass(500)
    const seat = stage.node(3).metadata.seat()
    restore(3, copyOf(3))
    await stage.until(isWhole, 'it is back')
    expect(stage.node(3).metadata.seat()).toBe(seat)
  })

  it('to where it was the only one, joins what it founded', async () => {
    stage.start(1, [])
    await stage.until(() => isWhole([1]), 'it lives')
    const { clusterId } = stage.node(1)
    const seat = stage.node(1).metadata.seat()
    const copy = copyOf(1)
    await stage.stop(1)
    await found()
    await commit('since')
    restore(1, copy)
    await isBackWithoutItsSeat(1, seat)
    expect(stage.node(1).clusterId).toBe(clusterId)
    expect(stage.process(1).failure).toBeNull()
  })

  it('and finds nobody there, stops when it hears of the others, and comes back without its seat', async () => {
    await found()
    const seat = stage.node(1).metadata.seat()
    const copy = copyOf(1)
    stage.kill(1)
    stage.start(1, ALL)
    await stage.until(isWhole, 'it is back')
    await commit('since')
    for (const id of ALL) stage.kill(id)
    const alone = stage.start(1, ALL, copy)
    await stage.pass(5_000)
    expect(alone.failure).toBeNull()
    for (const id of [2, 3]) stage.start(id, ALL)
    await stage.until(() => alone.failure !== null, 'it stops')
    expect(alone.failure).toMatchObject({ code: 'fenced' })
    stage.kill(1)
    stage.start(1, ALL)
    await isBackWithoutItsSeat(1, seat)
  })

  it('does not start as the only voter: what it forgot, nobody else may say', async () => {
    const two = [1, 2]
    for (const id of two) stage.start(id, two)
    await stage.until(() => isWhole(two, [1]), 'both live, one votes')
    const copy = copyOf(1)
    stage.kill(1)
    const newest = stage.start(1, two)
    await stage.until(() => isWhole(two, [1]), 'it is back')
    stage.kill(1)
    const { started } = stage.start(1, two, copy)
    expect(await stage.run(codeOf(started))).toBe('fenced')
    stage.kill(1)
    stage.start(1, two, newest.disk.kill())
    await stage.until(() => isWhole(two, [1]), 'the newest one leads')
  })
})

it('a copy of a directory and the directory are not both the node: who was there first comes back without the seat', async () => {
  await found()
  const seat = stage.node(3).metadata.seat()
  const copy = copyOf(3)
  stage.cut(3)
  await stage.until(() => `${stage.live(1)}` === '1,2', 'it is fenced')
  const first = stage.process(3)
  stage.start(3, ALL, copy)
  await stage.until(isWhole, 'the copy lives as it')
  await stage.until(() => first.failure !== null, 'the first one stops')
  await commit('since')
  stage.kill(3)
  stage.start(3, ALL, first.disk.kill())
  await isBackWithoutItsSeat(3, seat)
})

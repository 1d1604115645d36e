import { afterEach, describe, expect, it } from 'vitest'
import { codeOf } from '../../replica/harness.ts'
import { connect, edgesOf, QuorumStage } from './stage.ts'

let seeds = 100
let stage: QuorumStage

async function found(count: number): Promise<QuorumStage> {
  stage = new QuorumStage(++seeds)
  await stage.found(count)
  return stage
}

afterEach(() => stage.close())

describe('metadata of several nodes', () => {
  it('takes requests at any node and shows them at all', async () => {
    await found(3)
    for (const id of [1, 2, 3]) await stage.run(connect(stage.metadata(id), `e${id}`))
    await stage.pass(200)
    for (const id of [1, 2, 3]) expect(edgesOf(stage.metadata(id))).toEqual(['e1', 'e2', 'e3'])
    expect(stage.metadata(2).controllerId()).toBe(1)
  })

  it('goes on with another leader when the first is gone', async () => {
    await found(3)
    await stage.run(connect(stage.metadata(2), 'before'))
    stage.crash(1)
    await stage.until(() => stage.leader() !== null, 'another leads', 4_000)
    await stage.run(connect(stage.metadata(2), 'after'))
    await stage.start(1)
    await stage.until(() => edgesOf(stage.metadata(1)).length === 2, 'the first one follows')
    expect(edgesOf(stage.metadata(1))).toEqual(['before', 'after'])
  })

  it('refuses within a time where no majority is there', async () => {
    await found(3)
    stage.crash(1)
    stage.crash(3)
    expect(await stage.run(codeOf(connect(stage.metadata(2), 'x')))).toBe('not_available')
  })
})

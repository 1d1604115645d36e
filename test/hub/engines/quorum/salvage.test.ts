import { afterEach, beforeEach, expect, it } from 'vitest'
import { METADATA_LOG } from '../../../../hub/engines/cluster/quorum/storage.ts'
import { codeOf } from '../../replica/harness.ts'
import { NodeStage } from './nodes.ts'

/** Two nodes, of which one votes alone, and its metadata gets damaged. */

const BOTH = [1, 2]
let stage: NodeStage

beforeEach(() => {
  stage = new NodeStage()
})

afterEach(() => stage.close())

function isWhole(): boolean {
  return stage.isWhole(BOTH, [1])
}

async function start(): Promise<void> {
  for (const id of BOTH) stage.start(id, BOTH)
  await stage.until(isWhole, 'both live, one votes')
}

async function commit(edgeId: string): Promise<void> {
  const { metadata } = stage.node(1)
  await stage.run(metadata.submit('connect-edge', { edgeId, session: 0, address: 'a', software: 's' }))
}

function edgesOf(id: number): string[] {
  const { metadata } = stage.node(id)
  return metadata
    .image()
    .edges()
    .map(edge => edge.id)
}

/** Both stop in order, so that node 2 has all there is, and the first edge that the voter's log tells of is damaged. */
async function damage(): Promise<void> {
  for (const id of BOTH) await stage.stop(id)
  const disk = stage.disk(1)
  const path = disk.paths().find(name => name.includes(METADATA_LOG) && name.endsWith('.log')) ?? ''
  disk.flipBit(path, Buffer.from(disk.contentOf(path)).indexOf('edge_registered'), 1)
}

it('it does not start with what is left: who is in sync may be missing, and others go by it', async () => {
  await start()
  for (const id of ['a', 'b', 'c']) await commit(id)
  await damage()
  const process = stage.start(1, BOTH)
  expect(await stage.run(codeOf(process.started))).toBe('corrupt_log')
  await expect(process.started).rejects.toThrow('/hub/salvage')
})

it('where an operator chose what is left of it, all nodes go by that, and choose anew the next time', async () => {
  await start()
  for (const id of ['a', 'b', 'c']) await commit(id)
  await damage()
  await stage.disk(1).replaceFile('/hub/salvage', new Uint8Array(0))
  await start()
  expect(edgesOf(1)).toEqual(['b', 'c'])
  await commit('d')
  await stage.until(() => edgesOf(2).includes('d'), 'node 2 follows')
  expect(edgesOf(2)).toEqual(['b', 'c', 'd'])
  expect(stage.disk(1).paths()).not.toContain('/hub/salvage')
  for (const id of [2, 1]) await stage.stop(id)
  await start()
  for (const id of BOTH) expect(edgesOf(id)).toEqual(['b', 'c', 'd'])
})

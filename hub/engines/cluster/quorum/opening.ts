import { assert } from '../../../../common/assert.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type { Image } from '../../../controller/image.ts'
import { encodeRecord } from '../../../controller/records.ts'
import { nodeIdOf } from '../../../raft/types.ts'
import { imageOf } from './state-machine.ts'
import type { Loaded, QuorumStorage } from './storage.ts'

/** A directory's part in a quorum, as it is found at a start. */

export type LoadedMember = Extract<Loaded, { t: 'member' }> & {
  /** As of the snapshot. */
  image: Image
}

/**
 * What a directory holds, ready to go on from: what was salvaged is saved, a seat whose promises are lost is given up. Null
 * for a directory that was neither founded nor joined. Rejects with `directory_newer_format`, `corrupt_log`, `disk_full`; `corrupt_log` too
 * where something is missing and other nodes hold partitions: who is in sync may be part of it, and a leader chosen by what was is chosen
 * without what was acked since. That is for an operator to risk.
 */
export async function loadMember(storage: QuorumStorage): Promise<LoadedMember | null> {
  let loaded = await storage.load()
  if (loaded.t === 'lost') {
    await storage.leaveSeat()
    loaded = await storage.load()
  }
  if (loaded.t === 'empty') return null
  assert(loaded.t === 'member', 'a seat that was just taken has nothing to lose')
  const image = imageOf(loaded.values)
  if (!loaded.unsaved) return { ...loaded, image }
  const { snapshot } = loaded.restored
  const nodeId = nodeIdOf(storage.self())
  const isFollowed = snapshot.config.learners.length > 0 || image.nodes().some(node => node.nodeId !== nodeId)
  if (isFollowed && !(await storage.isSalvageWanted())) throw damaged(nodeId, storage.salvagePath)
  await storage.saveSalvaged(snapshot, image.records().map(encodeRecord))
  const clusterId = image.clusterId()
  if (storage.clusterId() === null && clusterId !== null) await storage.saveClusterId(clusterId)
  return { ...loaded, image }
}

function damaged(nodeId: number, salvagePath: string): TributaryError {
  return new TributaryError(
    'corrupt_log',
    `the metadata of node ${nodeId}, the only voter of its cluster, is damaged: put a whole copy of its directory back. To go on with what is left of it, which may cost topics, edges and acked records, make an empty file ${salvagePath}`,
  )
}

/** Makes an empty directory the first of a cluster of this id. */
export async function foundCluster(storage: QuorumStorage, clusterId: string): Promise<LoadedMember> {
  await storage.found()
  await storage.saveClusterId(clusterId)
  return mustLoad(storage)
}

/** Makes an empty directory one of the cluster, which tells it the rest. */
export async function joinCluster(storage: QuorumStorage, clusterId: string): Promise<LoadedMember> {
  await storage.saveClusterId(clusterId)
  return mustLoad(storage)
}

async function mustLoad(storage: QuorumStorage): Promise<LoadedMember> {
  const loaded = await loadMember(storage)
  assert(loaded !== null, 'what was just made is there')
  return loaded
}

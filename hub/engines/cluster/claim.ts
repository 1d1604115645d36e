import type { Logger } from 'pino'
import { utf8, utf8Text } from '../../../common/bytes.ts'
import type { Disk } from '../../../common/env.ts'
import { messageOf, TributaryError } from '../../../common/errors.ts'
import type { Config } from '../../raft/types.ts'
import { memberId, nodeIdOf } from '../../raft/types.ts'

/** Whose a data directory is: one node's, for good. What lies in it is that node's part of the cluster. */

const FILE = 'node-id'
const REMOVED_FILE = 'removed'

/**
 * To be called before anything in the directory is looked at. Rejects with `config_invalid` where it is another node's: to the cluster, its
 * partitions would have no place on this node, and what may be the only copy of them would be removed. The same where the node was removed.
 */
export async function refuseOthersDirectory(disk: Disk, path: string, nodeId: number): Promise<void> {
  const owner = await ownerOf(disk, path)
  if (owner !== null) refuseOther(path, owner, nodeId)
  if (!(await disk.exists(`${path}/${REMOVED_FILE}`))) return
  throw new TributaryError(
    'config_invalid',
    `node ${nodeId} was removed from its cluster while it ran with ${path}: give it an empty directory to come back as a new one, or delete ${path}/${REMOVED_FILE} if it is to come back with this one`,
  )
}

/** The cluster removed the node: whatever starts processes again must not make it one of the cluster's again. */
export async function markRemoved(disk: Disk, path: string, log: Logger): Promise<void> {
  try {
    await disk.replaceFile(`${path}/${REMOVED_FILE}`, new Uint8Array(0))
  } catch (error) {
    log.warn({ reason: messageOf(error) }, 'the directory could not be marked as that of a removed node')
  }
}

/** Makes the directory this node's for good. Rejects as above; one that does not say whose it is is known by its seat in the quorum. */
export async function claimDirectory(
  disk: Disk,
  path: string,
  nodeId: number,
  seatId: string,
  { voters, learners }: Config,
  log: Logger,
): Promise<void> {
  if ((await ownerOf(disk, path)) !== null) return
  const seated = [...voters, ...learners].find(seat => seat === memberId(nodeIdOf(seat), seatId))
  if (seated !== undefined) refuseOther(path, nodeIdOf(seated), nodeId)
  try {
    await disk.replaceFile(`${path}/${FILE}`, utf8(`${nodeId}\n`))
  } catch (error) {
    // It guards against a slip, and a full disk keeps no node from starting: the next start says it.
    log.warn({ reason: messageOf(error) }, 'the directory could not be marked as this node’s')
  }
}

async function ownerOf(disk: Disk, path: string): Promise<number | null> {
  const file = `${path}/${FILE}`
  if (!(await disk.exists(file))) return null
  const owner = Number(utf8Text(await disk.readFile(file)))
  return Number.isSafeInteger(owner) && owner > 0 ? owner : null
}

function refuseOther(path: string, owner: number, nodeId: number): void {
  if (owner === nodeId) return
  throw new TributaryError(
    'config_invalid',
    `${path} is the directory of node ${owner}, and this is started as node ${nodeId}: start it with --node ${owner}, or give node ${nodeId} a directory of its own with --data`,
    { details: { nodeId: owner } },
  )
}

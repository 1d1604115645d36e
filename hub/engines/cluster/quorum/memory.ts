import type { PeerMemory } from '../../../../common/wire-peer.ts'
import { decodeRecords } from '../../../controller/records.ts'
import { RaftLog } from '../../../raft/log.ts'
import { membersOf } from '../../../raft/membership.ts'
import type { Kept } from '../../../raft/promises.ts'
import { keeps } from '../../../raft/promises.ts'
import type { Config, MemberId, Promised } from '../../../raft/types.ts'
import { nodeIdOf } from '../../../raft/types.ts'
import type { LoadedMember } from './opening.ts'

/**
 * Whether a node's directory is the newest there is of it. One that was put back from a copy, and one that is a copy, say of themselves
 * that they are whole; but others remember what the node did since: that it registered, and what it promised in the quorum.
 */

/** A node's registration, as far as directories are told apart by it. */
export type Registration = Pick<PeerMemory, 'incarnation' | 'directoryId' | 'startId'>

export type LocatedRegistration = Registration & { readonly peerAddress: string | null }

/**
 * The registrations that a directory tells of, by node, the newest last, be they committed or not: whoever loads it may be the only one
 * left who knows of them. Nodes that were removed have none.
 */
export function registrationsIn({ image, restored }: LoadedMember): Map<number, LocatedRegistration[]> {
  const known = new Map<number, LocatedRegistration[]>(image.nodes().map(node => [node.nodeId, [node]]))
  for (const { payload } of restored.entries) {
    if (payload.t !== 'data' || payload.bytes.length === 0) continue
    for (const record of decodeRecords(payload.bytes)) {
      if (record.type === 'node_removed') known.delete(record.nodeId)
      else if (record.type === 'node_registered') {
        known.set(record.nodeId, [...(known.get(record.nodeId) ?? []), record])
      }
    }
  }
  return known
}

/** The members as of what a directory holds. */
export function configIn({ restored }: LoadedMember): Config {
  const { snapshot, entries } = restored
  return entries.reduce(
    (now, { payload }) => (payload.t === 'config' ? payload.config : now),
    snapshot.config,
  )
}

/** Term and log as of what a directory holds. */
export function keptIn({ restored }: LoadedMember): Kept {
  const { hardState, snapshot, entries } = restored
  return { term: hardState.term, log: new RaftLog(snapshot, entries) }
}

/** What this node tells another of that one's past; null where it knows nothing. */
export function memoryOf(
  nodeId: number,
  registered: Registration | undefined,
  { voters, learners }: Config,
  promisedBy: (seat: MemberId) => Promised | null,
): PeerMemory | null {
  const seat = membersOf({ voters, learners }).find(member => nodeIdOf(member) === nodeId)
  const promise = seat === undefined ? null : promisedBy(seat)
  if (registered === undefined && promise === null) return null
  const { incarnation = 0, directoryId = '', startId = null } = registered ?? {}
  const promised =
    seat === undefined || promise === null
      ? null
      : { seat, term: promise.term, index: promise.acked.index, entryTerm: promise.acked.term }
  return {
    incarnation,
    directoryId,
    startId,
    othersVote: voters.some(voter => nodeIdOf(voter) !== nodeId),
    promised,
  }
}

/** What a node's own directory says of it. */
export interface OwnPast {
  readonly seat: MemberId
  readonly directoryId: string
  /** The newest incarnation that was registered with this directory, as far as it holds the log; 0 for none. */
  readonly incarnation: number
  /** Starts with this directory that may be registered since. */
  readonly startIds: readonly string[]
  /** Null where promises can't be judged. */
  readonly kept: Kept | null
}

/** The incarnation of a registration that was made with this directory; 0 for another's. */
export function ownIncarnation(
  registered: Registration | undefined,
  directoryId: string,
  startIds: readonly string[],
): number {
  if (registered?.directoryId !== directoryId) return 0
  const { startId, incarnation } = registered
  return startId === null || startIds.includes(startId) ? incarnation : 0
}

/**
 * Whether somebody remembers of this node what its directory does not hold. Never so of a directory that is the newest: it holds each start
 * before that registers, and each promise before it is given.
 */
export function isOlder(own: OwnPast, told: Registration & Partial<Pick<PeerMemory, 'promised'>>): boolean {
  const { promised = null, incarnation, directoryId, startId } = told
  if (promised !== null && promised.seat === own.seat && own.kept !== null) {
    const { term, index, entryTerm } = promised
    if (!keeps(own.kept, { term, acked: { index, term: entryTerm } })) return true
  }
  if (startId === null || incarnation <= own.incarnation || own.startIds.includes(startId)) return false
  // Before it is registered for the first time a directory has no part in what another one was.
  return own.incarnation > 0 || directoryId === own.directoryId
}

import { TributaryError } from '../../common/errors.ts'
import type { Seats } from './in-sync.ts'

/** What a node is to a partition, as the controller says. */
export type Role =
  | { kind: 'leader'; self: number; seats: Seats; required: number }
  /** `adding`: a reassignment gave it the partition, and it has yet to catch up. */
  | { kind: 'follower'; leader: number; leaderEpoch: number; adding: boolean }
  /** Without a leader, or led under an epoch that was granted to an earlier process of this node. */
  | { kind: 'idle'; leader: number | null; leaderEpoch: number }

/** Before anything is known. */
export const UNASSIGNED: Role = { kind: 'idle', leader: null, leaderEpoch: -1 }

/** The leader epoch of a role. */
export function epochOf(role: Role): number {
  return role.kind === 'leader' ? role.seats.leaderEpoch : role.leaderEpoch
}

/** The refusal of what only the leader does; says who that is, where it is known. */
export function notLeading(name: string, role: Role): TributaryError {
  const leader = role.kind === 'leader' ? role.self : role.leader
  const where = leader === null ? 'it has no leader now' : `node ${leader} does`
  return new TributaryError('not_available', `this node does not lead ${name}, ${where}; try again`, {
    details: { leader, leaderEpoch: epochOf(role) },
  })
}

import type { RaftLog } from './log.ts'
import type { Raft } from './state.ts'
import type { MemberId, Position, Promised } from './types.ts'

/**
 * What members know of each other's promises. A vote or an ack that its giver forgets may cost a committed entry; a directory
 * that was put back from a copy forgets some, and can't know. Those it gave them to do.
 */

/** `from` said, in this member's term, that it holds the log to `acked`, or that it votes for it. */
export function notePromise(raft: Raft, from: MemberId, acked: Position): void {
  const known = raft.promises.get(from)
  if (known !== undefined && known.term === raft.term && known.acked.index >= acked.index) return
  raft.promises.set(from, { term: raft.term, acked })
}

/** Members that are gone are asked about no more. */
export function forgetPromises(raft: Raft, members: readonly MemberId[]): void {
  for (const member of raft.promises.keys()) if (!members.includes(member)) raft.promises.delete(member)
}

/** Term and log of a member, as far as its promises are judged by them. */
export interface Kept {
  readonly term: number
  readonly log: Pick<RaftLog, 'firstIndex' | 'holds'>
}

/**
 * Whether a member may have given this promise, which it can't take back in that term: what it acked stays in its log, or in its
 * snapshot, until a later leader replaces it.
 */
export function keeps({ term, log }: Kept, { term: promised, acked }: Promised): boolean {
  return term > promised || (term === promised && (acked.index < log.firstIndex() || log.holds(acked)))
}

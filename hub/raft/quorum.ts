import type { MemberId } from './types.ts'

/** The arithmetic of majorities (paper sections 5.2 and 5.3). Any two majorities share a member; all safety rests on it. */

/** How many of `voters` make a majority. */
export function majority(voters: number): number {
  return Math.floor(voters / 2) + 1
}

/** Whether the votes cast so far elect, can't elect any more, or leave it open. Votes of others than `voters` don't count. */
export function voteResult(
  voters: readonly MemberId[],
  votes: ReadonlyMap<MemberId, boolean>,
): 'won' | 'lost' | 'open' {
  const needed = majority(voters.length)
  let granted = 0
  let refused = 0
  for (const voter of voters) {
    const vote = votes.get(voter)
    if (vote === true) granted++
    else if (vote === false) refused++
  }
  if (granted >= needed) return 'won'
  return voters.length - refused < needed ? 'lost' : 'open'
}

/** The largest index that a majority holds (paper Figure 2, "Rules for Servers", Leaders); without voters nothing: -Infinity. */
export function majorityIndex(voters: readonly MemberId[], matchOf: (voter: MemberId) => number): number {
  const matches = voters.map(matchOf).sort((left, right) => right - left)
  return matches[majority(voters.length) - 1] ?? Number.NEGATIVE_INFINITY
}

/** Whether a majority of `voters` is in touch (check quorum, thesis 6.2). */
export function majorityActive(voters: readonly MemberId[], isActive: (voter: MemberId) => boolean): boolean {
  return voters.filter(isActive).length >= majority(voters.length)
}

import { entryBytes } from './log.ts'
import { membersOf } from './membership.ts'
import { forgetPromises, notePromise } from './promises.ts'
import { majorityActive, voteResult } from './quorum.ts'
import { appendOwn, followMembers, heartbeat } from './replication.ts'
import type { Raft } from './state.ts'
import { becomeFollower, configOf, promise, restartTimeout, say } from './state.ts'
import type { Message } from './types.ts'
import { NOWHERE } from './types.ts'

/** Leader election (paper section 5.2), with the pre-vote (thesis 9.6), the lease (thesis 4.2.3) and check quorum (thesis 6.2). */

/** Why a member stands: it timed out, it won the pre-vote, or the leader hands over to it. */
type Reason = 'pre-vote' | 'vote' | 'transfer'

/**
 * Whether the member may stand: as a voter, and also where only an entry that may not be committed takes its vote away.
 * It may be the one who holds that entry, without whom nobody can be elected (thesis 4.2.2, Figure 4.6).
 */
function mayStand({ self, configs, commit }: Raft): boolean {
  const votes = configs.current().voters.includes(self)
  return votes || (configs.currentIndex() > commit && configs.at(commit).voters.includes(self))
}

/**
 * Stands for election; who has no vote never does. Of a timeout a pre-vote comes first, so that a member cut off, or
 * back from a cut, doesn't drive up the term and unseat a working leader. A hand-over needs none.
 */
export function campaign(raft: Raft, reason: Reason): void {
  if (raft.role === 'leader' || !mayStand(raft)) return
  const { voters } = configOf(raft)
  const pre = reason === 'pre-vote'
  if (!pre) {
    raft.term++
    raft.vote = raft.self
  }
  raft.role = pre ? 'pre-candidate' : 'candidate'
  raft.leader = null
  raft.votes.clear()
  restartTimeout(raft)
  const last = raft.log.last()
  for (const voter of voters) {
    if (voter === raft.self) continue
    if (pre) say(raft, voter, { t: 'pre-vote', last }, raft.term + 1)
    // Its own vote must be durable first: elected by the others alone and forgetful of it, it could be elected in the
    // same term again and give an index of that term to another entry.
    else promise(raft, voter, { t: 'vote', last, transfer: reason === 'transfer' })
  }
}

/** Counts the votes, its own too: a pre-vote at once, since it promises nothing; a vote when it is durable (thesis 3.8). */
export function countVotes(raft: Raft): void {
  if (raft.role !== 'candidate' && raft.role !== 'pre-candidate') return
  const durable = raft.durability.hardState()
  if (raft.role === 'pre-candidate' || (durable.term === raft.term && durable.vote === raft.self)) {
    raft.votes.set(raft.self, true)
  }
  const result = voteResult(configOf(raft).voters, raft.votes)
  if (result === 'lost') becomeFollower(raft, raft.term, null)
  else if (result === 'won') {
    if (raft.role === 'candidate') becomeLeader(raft)
    else {
      campaign(raft, 'vote')
      countVotes(raft)
    }
  }
}

/** Elected: it says so at once, and appends an entry of its term, behind which all before it commits (paper sections 5.4.2 and 8). */
function becomeLeader(raft: Raft): void {
  raft.role = 'leader'
  raft.leader = raft.self
  raft.votes.clear()
  raft.progress.clear()
  forgetPromises(raft, membersOf(configOf(raft)))
  raft.heartbeatTicks = 0
  restartTimeout(raft)
  raft.uncommittedBytes = raft.log
    .range(raft.commit + 1, raft.log.lastIndex())
    .reduce((total, entry) => total + entryBytes(entry), 0)
  followMembers(raft)
  appendOwn(raft, [{ t: 'noop' }])
}

/**
 * Whether a leader was heard of so lately that nobody should stand against it (thesis 4.2.3): a member that was removed,
 * or hears the leader badly, disturbs nobody.
 */
export function inLease(raft: Raft): boolean {
  return raft.leader !== null && raft.elapsedTicks < raft.options.electionTicks
}

type Request = Extract<Message, { t: 'vote' | 'pre-vote' }>

/**
 * Votes (paper Figure 2, "RequestVote RPC"): once a term, and only for a log at least as up to date as its own (section
 * 5.4.1). A learner votes too when asked: it may be a voter whose promotion has not reached it.
 */
export function onVoteRequest(raft: Raft, message: Request): void {
  const free = raft.vote === message.from || (raft.vote === null && raft.leader === null)
  const granted = raft.log.isUpToDate(message.last)
  if (message.t === 'pre-vote') {
    const would = granted && (message.term > raft.term || free)
    say(raft, message.from, { t: 'pre-vote-reply', granted: would }, would ? message.term : raft.term)
    return
  }
  const gives = granted && free
  if (gives) {
    raft.vote = message.from
    restartTimeout(raft)
  }
  promise(raft, message.from, { t: 'vote-reply', granted: gives })
}

type Reply = Extract<Message, { t: 'vote-reply' | 'pre-vote-reply' }>

/** A vote cast for this member, unless it is for a candidacy that is over. */
export function onVoteReply(raft: Raft, { t, from, term, granted }: Reply): void {
  const role = t === 'vote-reply' ? 'candidate' : 'pre-candidate'
  const asked = granted && role === 'pre-candidate' ? raft.term + 1 : raft.term
  if (raft.role !== role || term !== asked) return
  raft.votes.set(from, granted)
  if (granted && role === 'candidate') notePromise(raft, from, NOWHERE)
}

/** One tick: a follower's patience, a leader's heartbeats and its check that a majority still hears it. */
export function tick(raft: Raft): void {
  raft.elapsedTicks++
  if (raft.role === 'leader') tickLeader(raft)
  else if (raft.elapsedTicks >= raft.timeoutTicks) {
    raft.leader = null
    restartTimeout(raft)
    campaign(raft, 'pre-vote')
  }
}

function tickLeader(raft: Raft): void {
  const { electionTicks, heartbeatTicks } = raft.options
  const { transfer } = raft
  // Without an answer in the time an election takes, the hand-over is off (thesis 3.10).
  if (transfer !== null && ++transfer.ticks >= electionTicks) raft.transfer = null
  if (raft.elapsedTicks >= electionTicks) {
    raft.elapsedTicks = 0
    const { voters } = configOf(raft)
    const active = majorityActive(
      voters,
      voter => voter === raft.self || (raft.progress.get(voter)?.active ?? false),
    )
    if (!active) {
      becomeFollower(raft, raft.term, null)
      return
    }
    for (const progress of raft.progress.values()) progress.active = false
  }
  if (++raft.heartbeatTicks < heartbeatTicks) return
  raft.heartbeatTicks = 0
  heartbeat(raft)
}

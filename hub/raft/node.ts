import { campaign, countVotes, inLease, onVoteReply, onVoteRequest, tick } from './election.ts'
import { onLeader } from './follower.ts'
import { advanceCommit, leaveIfRemoved, onAnswer, sendAll } from './replication.ts'
import { change, hurryTransfer, propose, startTransfer } from './requests.ts'
import { onSnapshot, onSnapshotSent, onSnapshotted } from './snapshot.ts'
import type { Raft } from './state.ts'
import { becomeFollower, configOf, promise } from './state.ts'
import type { Entry, Input, Message, Ready, Status, Write } from './types.ts'

/**
 * The consensus core: what happens goes in, what to do about it comes out. No I/O, no clock, no chance of its own: ticks
 * are inputs, and `random`, in [0, 1), is drawn by the caller for each step. The shell must
 * - perform the writes in the order of their tickets and say `persisted` when they are durable; a write that failed is a
 *   crash: make the member anew from what is on the disk,
 * - send each message only when the write it waits for is durable; lose, repeat or reorder them as it likes,
 * - apply `committed` in order.
 * The state is changed in place.
 */
export function step(raft: Raft, input: Input, random: number): Ready {
  raft.random = random
  raft.outcome = null
  if (!raft.forgot) {
    take(raft, input)
    settle(raft)
  }
  return readyOf(raft)
}

function take(raft: Raft, input: Input): void {
  switch (input.t) {
    case 'tick':
      tick(raft)
      return
    case 'message':
      onMessage(raft, input.message)
      return
    case 'propose':
      raft.outcome = propose(raft, input.data)
      return
    case 'change':
      raft.outcome = change(raft, input.change)
      return
    case 'transfer':
      raft.outcome = startTransfer(raft, input.to)
      return
    case 'campaign':
      campaign(raft, 'pre-vote')
      return
    case 'gone':
      if (raft.leader === input.member && raft.role !== 'leader') raft.leader = null
      return
    case 'persisted':
      raft.durability.completed(input.ticket)
      return
    case 'snapshotted':
      onSnapshotted(raft, input.index, input.keepFrom)
      return
    case 'snapshot-sent':
      onSnapshotSent(raft, input.to, input.ok)
  }
}

/** What follows from the new state, whatever brought it about. */
function settle(raft: Raft): void {
  countVotes(raft)
  if (raft.role !== 'leader') return
  advanceCommit(raft)
  leaveIfRemoved(raft)
  sendAll(raft)
  hurryTransfer(raft)
}

/** Terms first (paper Figure 2, "Rules for Servers", All Servers; section 5.1), then the message itself. */
function onMessage(raft: Raft, message: Message): void {
  // For who sat here with another directory: its promises are not this member's.
  if (message.to !== raft.self) return
  if (message.term < raft.term) {
    onStale(raft, message)
    return
  }
  if (message.term > raft.term) {
    const asksVote = message.t === 'vote' || message.t === 'pre-vote'
    const handedOver = message.t === 'vote' && message.transfer
    if (asksVote && !handedOver && inLease(raft)) return
    if (takesOver(message)) becomeFollower(raft, message.term, null)
  }
  act(raft, message)
}

function act(raft: Raft, message: Message): void {
  switch (message.t) {
    case 'vote':
    case 'pre-vote':
      onVoteRequest(raft, message)
      return
    case 'vote-reply':
    case 'pre-vote-reply':
      onVoteReply(raft, message)
      return
    case 'append':
    case 'heartbeat':
      onLeader(raft, message)
      return
    case 'append-ok':
    case 'append-refused':
    case 'heartbeat-reply':
      onAnswer(raft, message)
      return
    case 'snapshot':
      onSnapshot(raft, message)
      return
    case 'timeout-now':
      campaign(raft, 'transfer')
  }
}

/** A pre-vote and its grant speak of a term that nobody has entered yet. */
function takesOver(message: Message): boolean {
  return message.t !== 'pre-vote' && !(message.t === 'pre-vote-reply' && message.granted)
}

/**
 * From an older term: not acted upon (paper section 5.1), but its sender learns the term where it would be stuck
 * otherwise, a leader that can't reach this member, or a candidate that asks in vain.
 */
function onStale(raft: Raft, message: Message): void {
  if (message.t === 'append' || message.t === 'heartbeat' || message.t === 'snapshot') {
    promise(raft, message.from, { t: 'heartbeat-reply' })
  } else if (message.t === 'vote') promise(raft, message.from, { t: 'vote-reply', granted: false })
  else if (message.t === 'pre-vote') promise(raft, message.from, { t: 'pre-vote-reply', granted: false })
}

/** Where the member stands. */
function statusOf(raft: Raft): Status {
  const { role, term, leader, commit, forgot } = raft
  return { role, term, leader, commit, config: configOf(raft), forgot }
}

function readyOf(raft: Raft): Ready {
  const write = writeOf(raft)
  const after = raft.durability.latest()
  const send = raft.said.map(({ message, dependent }) => ({ message, after: dependent ? after : 0 }))
  raft.said = []
  return { write, send, committed: committedOf(raft), outcome: raft.outcome, status: statusOf(raft) }
}

function writeOf(raft: Raft): Write | null {
  const { term, vote, writtenHardState: written, installed: snapshot } = raft
  const changed = term !== written.term || vote !== written.vote
  const lastIndex = raft.log.lastIndex()
  const entries = raft.unwrittenFrom > lastIndex ? [] : raft.log.range(raft.unwrittenFrom, lastIndex)
  if (!changed && snapshot === null && entries.length === 0) return null
  const hardState = { term, vote }
  raft.writtenHardState = hardState
  raft.installed = null
  raft.unwrittenFrom = lastIndex + 1
  const ticket = raft.durability.begin(hardState, lastIndex)
  return { ticket, hardState: changed ? hardState : null, snapshot, entries }
}

/** A member applies what is committed once it holds it durably itself, so that what it shows never outruns its disk. */
function committedOf(raft: Raft): Entry[] {
  const to = Math.min(raft.commit, raft.durability.index())
  if (to <= raft.applied) return []
  const entries = raft.log.range(raft.applied + 1, to)
  raft.applied = to
  return entries
}

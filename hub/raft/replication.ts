import { assert } from '../../common/assert.ts'
import { entryBytes } from './log.ts'
import { membersOf } from './membership.ts'
import type { Progress } from './progress.ts'
import { acked, heard, maySend, newProgress, refused, sendingSnapshot, sent } from './progress.ts'
import { notePromise } from './promises.ts'
import { majorityIndex } from './quorum.ts'
import type { Raft } from './state.ts'
import { appendEntries, becomeFollower, configOf, say } from './state.ts'
import type { MemberId, Message, Payload } from './types.ts'
import { BEFORE_FIRST, NOWHERE } from './types.ts'

/** The leader's side of log replication (paper section 5.3; Figure 2, "Rules for Servers", Leaders). */

/** Appends entries of the leader's own term; they go out when the step ends. Gives the first one's index. */
export function appendOwn(raft: Raft, payloads: readonly Payload[]): number {
  assert(raft.role === 'leader', 'only a leader appends')
  const first = raft.log.lastIndex() + 1
  const entries = payloads.map((payload, at) => ({ index: first + at, term: raft.term, payload }))
  appendEntries(raft, entries)
  for (const entry of entries) raft.uncommittedBytes += entryBytes(entry)
  followMembers(raft)
  return first
}

/** Starts following whoever is a member now and stops following who isn't (thesis 4.1: a configuration counts once in the log). */
export function followMembers(raft: Raft): void {
  const members = membersOf(configOf(raft)).filter(member => member !== raft.self)
  for (const member of raft.progress.keys()) if (!members.includes(member)) raft.progress.delete(member)
  for (const member of members) {
    if (!raft.progress.has(member)) raft.progress.set(member, newProgress(raft.log.lastIndex() + 1))
  }
}

/**
 * Moves the commit index to what a majority holds durably, the leader itself included where it votes. Only an entry of
 * the leader's own term is committed by counting; older ones come along with it (paper section 5.4.2, Figure 8). A
 * leader that is no voter any more goes when that is committed (thesis 4.2.2).
 */
export function advanceCommit(raft: Raft): void {
  const { voters } = configOf(raft)
  const index = majorityIndex(voters, voter => {
    if (voter === raft.self) return raft.durability.index()
    return raft.progress.get(voter)?.match ?? BEFORE_FIRST
  })
  if (index > raft.commit && raft.log.termAt(index) === raft.term) {
    for (const entry of raft.log.range(raft.commit + 1, index)) raft.uncommittedBytes -= entryBytes(entry)
    raft.commit = index
  }
}

/** A leader that votes no longer leaves once the configuration that says so is committed (thesis 4.2.2). */
export function leaveIfRemoved(raft: Raft): void {
  if (raft.configs.currentIndex() > raft.commit || configOf(raft).voters.includes(raft.self)) return
  // The others are told of the commit first, or they would find out by a timeout only.
  sendAll(raft)
  becomeFollower(raft, raft.term, null)
}

/** Sends every follower what it may be sent: entries within the bounds, or news of the commit. */
export function sendAll(raft: Raft): void {
  for (const [member, progress] of raft.progress) sendTo(raft, member, progress)
}

function sendTo(raft: Raft, to: MemberId, progress: Progress): void {
  if (progress.mode === 'probe' && maySend(progress, raft.options)) {
    sendEntries(raft, to, progress, true)
    return
  }
  if (progress.mode !== 'replicate') return
  let said = false
  while (progress.next <= raft.log.lastIndex() && maySend(progress, raft.options)) {
    if (!sendEntries(raft, to, progress, true)) return
    said = true
  }
  if (!said && (progress.inDoubt || progress.toldCommit < raft.commit)) sendEntries(raft, to, progress, false)
  progress.inDoubt = false
}

/** Sends an append behind the last one, or a snapshot where its entries are forgotten; gives whether it was an append. */
function sendEntries(raft: Raft, to: MemberId, progress: Progress, withEntries: boolean): boolean {
  const { log, options } = raft
  const prevIndex = progress.next - 1
  const prevTerm = prevIndex === BEFORE_FIRST ? 0 : log.termAt(prevIndex)
  if (prevTerm === null || progress.next < log.firstIndex()) {
    sendSnapshot(raft, to, progress)
    return false
  }
  const { maxMessageEntries, maxMessageBytes } = options
  const entries = withEntries ? log.take(progress.next, maxMessageEntries, maxMessageBytes) : []
  const bytes = entries.reduce((total, entry) => total + entryBytes(entry), 0)
  const { commit } = raft
  say(raft, to, { t: 'append', prev: { index: prevIndex, term: prevTerm }, entries, commit })
  if (withEntries) sent(progress, prevIndex + entries.length, bytes)
  progress.toldCommit = commit
  return true
}

/** A follower that lacks what is forgotten here gets a snapshot (paper section 7), if it is there to take it. */
function sendSnapshot(raft: Raft, to: MemberId, progress: Progress): void {
  if (!progress.active) return
  sendingSnapshot(progress)
  say(raft, to, { t: 'snapshot', snapshot: raft.snapshot })
}

/** Tells every follower that the leader is there (paper section 5.2). */
export function heartbeat(raft: Raft): void {
  for (const member of raft.progress.keys()) {
    const promised = raft.promises.get(member)
    const acked = promised?.term === raft.term ? promised.acked : NOWHERE
    // Beyond that its log may not be the leader's, and it would apply what is not committed.
    say(raft, member, { t: 'heartbeat', acked, commit: Math.min(acked.index, raft.commit) })
  }
}

type Answer = Extract<Message, { t: 'append-ok' | 'append-refused' | 'heartbeat-reply' }>

/** A follower's answer, in the leader's own term. */
export function onAnswer(raft: Raft, message: Answer): void {
  const progress = raft.progress.get(message.from)
  if (raft.role !== 'leader' || progress === undefined) return
  progress.active = true
  if (message.t === 'heartbeat-reply') heard(progress)
  else if (message.t === 'append-ok') {
    assert(message.match <= raft.log.lastIndex(), `${message.from} acked more than was sent`)
    acked(progress, message.match, raft.log.firstIndex())
    const term = raft.log.termAt(message.match)
    if (term !== null) notePromise(raft, message.from, { index: message.match, term })
  } else refused(progress, message.prevIndex, raft.log.agreementBelow(message.hint).index)
}

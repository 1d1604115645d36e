import { assert } from '../../common/assert.ts'
import { keeps } from './promises.ts'
import type { Raft } from './state.ts'
import { appendEntries, becomeFollower, promise, say, truncateFrom } from './state.ts'
import type { Entry, Message } from './types.ts'

/** The follower's side of log replication (paper section 5.3; Figure 2, "AppendEntries RPC", "Receiver implementation"). */

type FromLeader = Extract<Message, { t: 'append' | 'heartbeat' }>

/** A message of the leader of this member's term: whoever stood against it gives way (paper section 5.2). */
export function onLeader(raft: Raft, message: FromLeader): void {
  assert(raft.role !== 'leader', `${message.from} leads term ${raft.term} too`)
  becomeFollower(raft, raft.term, message.from)
  if (message.t === 'append') onAppend(raft, message)
  else onHeartbeat(raft, message)
}

function onHeartbeat(raft: Raft, { from, acked, commit }: Extract<Message, { t: 'heartbeat' }>): void {
  if (acked.index > raft.commit && !keeps(raft, { term: raft.term, acked })) {
    raft.forgot = true
    return
  }
  commitTo(raft, Math.min(commit, acked.index))
  say(raft, from, { t: 'heartbeat-reply' })
}

function onAppend(raft: Raft, message: Extract<Message, { t: 'append' }>): void {
  const { from, prev, entries, commit } = message
  const { log } = raft
  // Up to its commit every log is the leader's (leader completeness, paper section 5.4): only what lies behind matters.
  const known = prev.index < raft.commit
  if (!known && !log.holds(prev)) {
    const hint = log.agreementBelow(prev)
    promise(raft, from, { t: 'append-refused', prevIndex: prev.index, hint })
    return
  }
  const match = prev.index + entries.length
  store(
    raft,
    entries.filter(({ index }) => index > raft.commit),
  )
  commitTo(raft, Math.min(commit, match))
  promise(raft, from, { t: 'append-ok', match: Math.max(match, known ? raft.commit : match) })
}

/** Rules 3 and 4: only a conflict takes entries back, since a message may be older than what came after it. */
function store(raft: Raft, entries: readonly Entry[]): void {
  const fresh = entries.findIndex(entry => !raft.log.holds(entry))
  const first = entries[fresh]
  if (first === undefined) return
  if (first.index <= raft.log.lastIndex()) truncateFrom(raft, first.index)
  appendEntries(raft, entries.slice(fresh))
}

/** Rule 5: `index` is the smaller of the leader's commit and the last entry known to be the leader's. */
function commitTo(raft: Raft, index: number): void {
  raft.commit = Math.max(raft.commit, index)
}

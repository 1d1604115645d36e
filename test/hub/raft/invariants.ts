import { assert, must } from '../../../common/assert.ts'
import type { Raft } from '../../../hub/raft/state.ts'
import type { Entry, Input, MemberId, Message, Ready } from '../../../hub/raft/types.ts'
import { BEFORE_FIRST } from '../../../hub/raft/types.ts'
import { entryText, messageText } from './describe.ts'
import type { Member, Watch } from './stage.ts'

/** Members hand entries on as they are, so they are mostly the same object. */
function isSame(left: Entry, right: Entry): boolean {
  return left === right || entryText(left) === entryText(right)
}

/** What was seen to happen, so that a run without the hard cases counts for nothing. */
export interface Seen {
  elections: number
  commits: number
  truncations: number
  installs: number
  changes: number
  transfers: number
}

export interface Invariants extends Watch {
  readonly seen: Seen
  /** All entries committed so far, by index. */
  readonly committed: readonly Entry[]
  /** The member came up: what it applies follows its snapshot. */
  started(member: Member): void
}

/**
 * Watches a stage for what Raft promises (paper Figure 3): election safety, leader append-only, log matching, leader
 * completeness, state machine safety; and that no promise leaves before it is durable. Throws where one is broken.
 */
export function createInvariants(): Invariants {
  const seen: Seen = { elections: 0, commits: 0, truncations: 0, installs: 0, changes: 0, transfers: 0 }
  const leaders = new Map<number, Raft>()
  const entries = new Map<string, { previousTerm: number; entry: Entry }>()
  const committed: Entry[] = []
  const committedIn: number[] = []
  const applied = new Map<MemberId, number>()

  /** At most one leader a term, not even the same member twice. */
  function electionSafety(raft: Raft): void {
    const known = leaders.get(raft.term)
    assert(
      known === undefined || known === raft,
      `two leaders in term ${raft.term}: ${known?.self}, ${raft.self}`,
    )
    if (known !== undefined) return
    leaders.set(raft.term, raft)
    seen.elections++
    leaderCompleteness(raft)
  }

  /** What was committed in an earlier term is in the log of every later leader. */
  function leaderCompleteness(raft: Raft): void {
    for (const entry of committed) {
      if (must(committedIn[entry.index], 'no term') >= raft.term || entry.index < raft.log.firstIndex())
        continue
      if (raft.log.termAt(entry.index) === entry.term) continue
      assert(false, `${raft.self} leads term ${raft.term} without ${entryText(entry)}`)
    }
  }

  /** Entries of one index and term are the same, and so is all before them (by induction over their predecessors). */
  function logMatching(raft: Raft, written: readonly Entry[]): void {
    for (const entry of written) {
      const key = `${entry.index}@${entry.term}`
      const previousTerm =
        entry.index === 0 ? 0 : must(raft.log.termAt(entry.index - 1), `nothing before ${key}`)
      const known = entries.get(key)
      if (known === undefined) entries.set(key, { previousTerm, entry })
      else if (known.previousTerm !== previousTerm || !isSame(known.entry, entry)) {
        assert(false, `${entryText(entry)} is also ${entryText(known.entry)}, or follows another`)
      }
    }
  }

  function noteCommits(raft: Raft): void {
    for (let index = committed.length; index <= raft.commit; index++) {
      committed.push(must(raft.log.range(index, index)[0], 'committed without being there'))
      committedIn.push(raft.term)
      seen.commits++
    }
  }

  /** Every member applies the same entries, in order, each once. */
  function stateMachineSafety(member: Member, ready: Ready): void {
    const snapshot = ready.write?.snapshot ?? null
    if (snapshot !== null) {
      seen.installs++
      assert(
        committed[snapshot.index]?.term === snapshot.term,
        `a snapshot of ${snapshot.index} that never was`,
      )
      applied.set(member.id, snapshot.index)
    }
    for (const entry of ready.committed) {
      const last = applied.get(member.id) ?? BEFORE_FIRST
      assert(entry.index === last + 1, `${member.id} applies ${entry.index} after ${last}`)
      const known = committed[entry.index]
      if (known === undefined || !isSame(known, entry)) {
        assert(false, `${member.id} applies another ${entryText(entry)}`)
      }
      applied.set(member.id, entry.index)
    }
  }

  function promiseIsDurable({ disk }: Member, message: Message): void {
    const { term, vote } = disk.hardState
    let kept = true
    if (message.t === 'append-ok' && message.match > BEFORE_FIRST) {
      const end = disk.entries.at(-1)?.index ?? disk.snapshot.index
      kept = end >= message.match && term >= message.term
    } else if (message.t === 'vote' || (message.t === 'vote-reply' && message.granted)) {
      const whom = message.t === 'vote' ? message.from : message.to
      kept = term > message.term || (term === message.term && vote === whom)
    }
    if (!kept) assert(false, `${messageText(message)}: its disk does not say so`)
  }

  return {
    seen,
    committed,
    started: member => {
      applied.set(member.id, member.disk.snapshot.index)
    },
    ready: (member: Member, input: Input | null, ready: Ready): void => {
      const raft = must(member.raft, 'a member that is down acts')
      const first = ready.write?.entries[0]
      const end = member.writes.at(-2)?.entries.at(-1) ?? member.disk.entries.at(-1)
      if (first !== undefined && end !== undefined && first.index <= end.index) {
        assert(raft.role !== 'leader', `leader ${raft.self} replaces its own entries`)
        seen.truncations++
      }
      if (ready.write !== null) logMatching(raft, ready.write.entries)
      if (raft.role === 'leader') electionSafety(raft)
      // Also of one that left in this very step, since its removal is committed.
      if (leaders.get(raft.term) === raft) noteCommits(raft)
      if (input?.t === 'change' && ready.outcome?.taken) seen.changes++
      if (input?.t === 'message' && input.message.t === 'timeout-now') seen.transfers++
      stateMachineSafety(member, ready)
      for (const { message, after } of ready.send)
        if (after <= member.durableTicket) promiseIsDurable(member, message)
    },
  }
}

import { describe, expect, it } from 'vitest'
import { utf8, utf8Text } from '../../../common/bytes.ts'
import { step } from '../../../hub/raft/node.ts'
import { createRaft } from '../../../hub/raft/state.ts'
import type { MessageBody, Position } from '../../../hub/raft/types.ts'
import { BEFORE_FIRST, NOWHERE } from '../../../hub/raft/types.ts'
import { founding, OPTIONS, seat } from './stage.ts'
import { append, entriesOf, leader, ONE, receive, said, THREE, TWO, termsIn, vote, voter } from './voter.ts'

/** One test per rule of Figure 2 of the Raft paper (extended version) and of its section 5.4; the names say which. */

describe('Figure 2, state', () => {
  it('persistent state: term, vote and entries are written before the answers that depend on them', () => {
    const raft = voter()
    const voted = receive(raft, TWO, 1, vote())
    expect(voted.write?.hardState).toEqual({ term: 1, vote: TWO })
    expect(voted.send).toMatchObject([
      { message: { t: 'vote-reply', granted: true }, after: voted.write?.ticket },
    ])
    // A vote in a term that is known already is as much to be kept.
    expect(receive(voter([], 1), TWO, 1, vote()).write?.hardState).toEqual({ term: 1, vote: TWO })
    const stored = receive(raft, TWO, 1, append(NOWHERE, entriesOf(1)))
    expect(stored.write?.entries).toEqual(entriesOf(1))
    expect(stored.send).toMatchObject([
      { message: { t: 'append-ok', match: 0 }, after: stored.write?.ticket },
    ])
    // Said again while the write is under way, it still waits for that write.
    const again = receive(raft, TWO, 1, append(NOWHERE, entriesOf(1)))
    expect(again.write).toBeNull()
    expect(again.send[0]?.after).toBe(stored.write?.ticket)
  })

  it('persistent state: a candidate asks, and counts its own vote, only when that vote is durable', () => {
    const raft = voter()
    step(raft, { t: 'campaign' }, 0)
    const standing = receive(raft, TWO, 1, { t: 'pre-vote-reply', granted: true })
    expect(standing.send.every(({ message, after }) => message.t === 'vote' && after === 1)).toBe(true)
    expect(receive(raft, TWO, 1, { t: 'vote-reply', granted: true }).status.role).toBe('candidate')
    expect(step(raft, { t: 'persisted', ticket: 1 }, 0).status.role).toBe('leader')
  })

  it('volatile state: commit and applied start at the snapshot and only grow', () => {
    const raft = voter([1, 1, 1])
    expect(raft.commit).toBe(BEFORE_FIRST)
    receive(raft, TWO, 1, append({ index: 2, term: 1 }, [], 2))
    expect(raft.commit).toBe(2)
    receive(raft, TWO, 1, append({ index: 1, term: 1 }, [], 0))
    expect(raft.commit).toBe(2)
  })

  it('volatile state on leaders: nextIndex starts behind the last entry, matchIndex at nothing', () => {
    const raft = leader([1, 1])
    expect([...raft.progress.values()]).toMatchObject([
      { next: 2, match: BEFORE_FIRST },
      { next: 2, match: BEFORE_FIRST },
    ])
  })
})

describe('Figure 2, AppendEntries', () => {
  it('rule 1: refuses a leader of an older term, and tells it the term', () => {
    const raft = voter([1, 2])
    const ready = receive(raft, TWO, 1, append(NOWHERE, entriesOf(1)))
    expect(said(ready)).toEqual([{ from: ONE, to: TWO, term: 2, t: 'heartbeat-reply' }])
    expect(termsIn(raft)).toEqual([1, 2])
  })

  it('rule 2: refuses entries where the one before them is missing or of another term', () => {
    for (const prev of [
      { index: 2, term: 2 },
      { index: 1, term: 2 },
    ]) {
      const raft = voter([1, 1])
      const entries = [{ ...(entriesOf(2)[0] ?? { payload: { t: 'noop' } }), index: prev.index + 1, term: 2 }]
      const ready = receive(raft, TWO, 2, append(prev, entries))
      expect(said(ready)).toMatchObject([
        { t: 'append-refused', prevIndex: prev.index, hint: { index: 1, term: 1 } },
      ])
      expect(termsIn(raft)).toEqual([1, 1])
    }
  })

  it('rule 3: an entry that conflicts goes, with all that follow it', () => {
    const raft = voter([1, 1, 1, 1])
    receive(raft, TWO, 2, append({ index: 0, term: 1 }, entriesOf(1, 2).slice(1)))
    expect(termsIn(raft)).toEqual([1, 2])
  })

  it('rule 3: only a conflict takes entries away; an older message does not', () => {
    const raft = voter()
    receive(raft, TWO, 1, append(NOWHERE, entriesOf(1, 1, 1)))
    receive(raft, TWO, 1, append(NOWHERE, entriesOf(1)))
    expect(termsIn(raft)).toEqual([1, 1, 1])
  })

  it('rule 4: appends what it lacks, and writes that alone', () => {
    const raft = voter([1])
    const ready = receive(raft, TWO, 1, append(NOWHERE, entriesOf(1, 1, 1)))
    expect(ready.write?.entries.map(entry => entry.index)).toEqual([1, 2])
    expect(said(ready)).toMatchObject([{ t: 'append-ok', match: 2 }])
  })

  it('rule 5: commits up to the smaller of the leader commit and the last entry received', () => {
    const raft = voter([1, 1, 1])
    // Index 2 may not be the leader's: this message says nothing of it.
    receive(raft, TWO, 2, append({ index: 0, term: 1 }, entriesOf(1, 1).slice(1), 9))
    expect(raft.commit).toBe(1)
    receive(raft, TWO, 2, append({ index: 1, term: 1 }, [], 0))
    expect(raft.commit).toBe(1)
  })
})

describe('Figure 2, RequestVote', () => {
  it('rule 1: refuses a candidate of an older term', () => {
    const raft = voter([], 5)
    expect(said(receive(raft, TWO, 4, vote()))).toMatchObject([{ t: 'vote-reply', granted: false, term: 5 }])
  })

  it('rule 2: votes once a term, for the same candidate as often as it asks', () => {
    const raft = voter()
    expect(said(receive(raft, TWO, 1, vote()))).toMatchObject([{ granted: true }])
    expect(said(receive(raft, THREE, 1, vote()))).toMatchObject([{ granted: false }])
    expect(said(receive(raft, TWO, 1, vote()))).toMatchObject([{ granted: true }])
    expect(said(receive(raft, THREE, 2, vote()))).toMatchObject([{ granted: true, term: 2 }])
  })

  it('rule 2: keeps its vote over a restart', () => {
    const raft = voter([], 1, TWO)
    expect(said(receive(raft, THREE, 1, vote()))).toMatchObject([{ granted: false }])
    expect(said(receive(raft, TWO, 1, vote()))).toMatchObject([{ granted: true }])
  })
})

describe('Figure 2, rules for all servers', () => {
  it('applies what is committed, in order, each entry once, when it is durable here', () => {
    const raft = voter()
    const stored = receive(raft, TWO, 1, append(NOWHERE, entriesOf(1, 1), 0))
    expect(stored.committed).toEqual([])
    const durable = step(raft, { t: 'persisted', ticket: stored.write?.ticket ?? 0 }, 0)
    expect(durable.committed.map(entry => entry.index)).toEqual([0])
    const told = receive(raft, TWO, 1, append({ index: 1, term: 1 }, [], 1))
    expect(told.committed.map(entry => entry.index)).toEqual([1])
    expect(receive(raft, TWO, 1, append({ index: 1, term: 1 }, [], 1)).committed).toEqual([])
  })

  it('takes over a larger term from any message and follows, with its vote free', () => {
    const bodies: MessageBody[] = [
      vote({ index: 9, term: 9 }),
      append(NOWHERE),
      { t: 'heartbeat', acked: NOWHERE, commit: BEFORE_FIRST },
      { t: 'append-ok', match: 0 },
      { t: 'vote-reply', granted: false },
    ]
    for (const body of bodies) {
      const raft = voter()
      step(raft, { t: 'campaign' }, 0)
      receive(raft, TWO, 1, { t: 'pre-vote-reply', granted: true })
      expect(raft).toMatchObject({ role: 'candidate', term: 1, vote: ONE })
      receive(raft, THREE, 7, body)
      expect(raft).toMatchObject({ role: 'follower', term: 7, vote: body.t === 'vote' ? THREE : null })
    }
    const raft = leader()
    receive(raft, THREE, 7, append(NOWHERE))
    expect(raft).toMatchObject({ role: 'follower', term: 7, leader: THREE })
  })
})

describe('Figure 2, rules for followers', () => {
  it('answer leaders and candidates, and stand when neither is heard for the time drawn', () => {
    const raft = voter()
    for (let at = 1; at < OPTIONS.electionTicks; at++) step(raft, { t: 'tick' }, 0)
    receive(raft, TWO, 1, append(NOWHERE))
    for (let at = 1; at < OPTIONS.electionTicks; at++) step(raft, { t: 'tick' }, 0)
    receive(raft, TWO, 1, { t: 'heartbeat', acked: NOWHERE, commit: BEFORE_FIRST })
    for (let at = 1; at < OPTIONS.electionTicks; at++) step(raft, { t: 'tick' }, 0)
    expect(raft.role).toBe('follower')
    expect(step(raft, { t: 'tick' }, 0).status.role).toBe('pre-candidate')
  })

  it('wait anew after a vote they gave', () => {
    const raft = voter()
    for (let at = 1; at < OPTIONS.electionTicks; at++) step(raft, { t: 'tick' }, 0)
    receive(raft, TWO, 1, vote())
    step(raft, { t: 'tick' }, 0)
    expect(raft.role).toBe('follower')
  })

  it('draw a time between one and two election times', () => {
    for (const random of [0, 0.5, 0.999]) {
      const restored = { hardState: { term: 0, vote: null }, snapshot: founding([1, 2, 3]), entries: [] }
      const { timeoutTicks } = createRaft({ ...OPTIONS, self: ONE }, restored, random)
      expect(timeoutTicks).toBe(OPTIONS.electionTicks + Math.floor(random * OPTIONS.electionTicks))
    }
  })
})

describe('Figure 2, rules for candidates', () => {
  it('start an election: next term, a vote for themselves, a new timeout, a request to all others', () => {
    const raft = voter([1, 1])
    step(raft, { t: 'campaign' }, 0)
    const ready = receive(raft, TWO, 2, { t: 'pre-vote-reply', granted: true })
    expect(ready.write?.hardState).toEqual({ term: 2, vote: ONE })
    const last = { index: 1, term: 1 }
    expect(said(ready)).toMatchObject([
      { t: 'vote', to: TWO, term: 2, last },
      { t: 'vote', to: THREE, term: 2, last },
    ])
    expect(raft.elapsedTicks).toBe(0)
  })

  it('lead with the votes of a majority, and not before', () => {
    const raft = voter([], 0, null, 5)
    step(raft, { t: 'campaign' }, 0)
    for (const id of [2, 3]) receive(raft, seat(id), 1, { t: 'pre-vote-reply', granted: true })
    step(raft, { t: 'persisted', ticket: 1 }, 0)
    for (const [from, granted, role] of [
      [2, true, 'candidate'],
      [2, true, 'candidate'],
      [4, false, 'candidate'],
      [3, true, 'leader'],
    ] as const) {
      expect(receive(raft, seat(from), 1, { t: 'vote-reply', granted }).status.role).toBe(role)
    }
  })

  it('follow a leader of their term', () => {
    const raft = voter()
    step(raft, { t: 'campaign' }, 0)
    receive(raft, TWO, 1, { t: 'pre-vote-reply', granted: true })
    receive(raft, THREE, 1, append(NOWHERE))
    expect(raft).toMatchObject({ role: 'follower', term: 1, leader: THREE, vote: ONE })
  })

  it('start over when the time is up', () => {
    const raft = voter()
    step(raft, { t: 'campaign' }, 0)
    receive(raft, TWO, 1, { t: 'pre-vote-reply', granted: true })
    for (let at = 1; at < OPTIONS.electionTicks; at++) step(raft, { t: 'tick' }, 0)
    expect(said(step(raft, { t: 'tick' }, 0))).toMatchObject([{ t: 'pre-vote', term: 2 }, { t: 'pre-vote' }])
  })
})

describe('Figure 2, rules for leaders', () => {
  it('say so at once, and go on saying it', () => {
    const raft = voter()
    step(raft, { t: 'campaign' }, 0)
    receive(raft, TWO, 1, { t: 'pre-vote-reply', granted: true })
    step(raft, { t: 'persisted', ticket: 1 }, 0)
    const elected = receive(raft, TWO, 1, { t: 'vote-reply', granted: true })
    expect(said(elected)).toMatchObject([
      { t: 'append', to: TWO },
      { t: 'append', to: THREE },
    ])
    expect(said(step(raft, { t: 'tick' }, 0))).toMatchObject([{ t: 'heartbeat' }, { t: 'heartbeat' }])
  })

  it('append what is proposed, and hand it out once committed', () => {
    const raft = leader()
    receive(raft, TWO, 1, { t: 'append-ok', match: 0 })
    const proposed = step(raft, { t: 'propose', data: [utf8('x')] }, 0)
    expect(proposed.outcome).toEqual({ taken: true, index: 1, term: 1 })
    expect(proposed.committed).toEqual([])
    expect(receive(raft, TWO, 1, { t: 'append-ok', match: 1 }).committed).toEqual([])
    const durable = step(raft, { t: 'persisted', ticket: proposed.write?.ticket ?? 0 }, 0)
    expect(durable.committed.map(({ payload }) => payload.t === 'data' && utf8Text(payload.bytes))).toEqual([
      'x',
    ])
  })

  it('send entries from nextIndex on, ahead of the acks', () => {
    const raft = leader()
    receive(raft, TWO, 1, { t: 'append-ok', match: 0 })
    for (let at = 1; at < 3; at++) {
      const ready = step(raft, { t: 'propose', data: [utf8('x')] }, 0)
      expect(said(ready)).toMatchObject([{ to: TWO, prev: { index: at - 1 }, entries: [{ index: at }] }])
    }
  })

  it('step nextIndex back where a follower disagrees, over whole terms', () => {
    const raft = leader([1, 1, 1, 4, 4, 4], 5)
    // The follower has 1 1 1 2 2 2 2: nothing of term 2 can agree.
    const ready = receive(raft, TWO, 5, { t: 'append-refused', prevIndex: 5, hint: { index: 5, term: 2 } })
    expect(said(ready)).toMatchObject([{ to: TWO, prev: { index: 2, term: 1 } }])
  })

  it('never count an entry that is not durable at a majority, themselves included', () => {
    const raft = leader([], 1, 5)
    const proposed = step(raft, { t: 'propose', data: [utf8('x')] }, 0)
    receive(raft, seat(2), 1, { t: 'append-ok', match: 1 })
    receive(raft, seat(3), 1, { t: 'append-ok', match: 0 })
    expect(raft.commit).toBe(0)
    receive(raft, seat(3), 1, { t: 'append-ok', match: 1 })
    expect(raft.commit).toBe(0)
    step(raft, { t: 'persisted', ticket: proposed.write?.ticket ?? 0 }, 0)
    expect(raft.commit).toBe(1)
  })
})

describe('section 5.4', () => {
  it('5.4.1: votes only for a log at least as up to date as its own', () => {
    const mine = [1, 2, 2]
    const cases: [Position, boolean][] = [
      [{ index: 2, term: 2 }, true],
      [{ index: 3, term: 2 }, true],
      [{ index: 0, term: 3 }, true],
      [{ index: 1, term: 2 }, false],
      [{ index: 9, term: 1 }, false],
      [NOWHERE, false],
    ]
    for (const [last, granted] of cases) {
      expect(said(receive(voter(mine), TWO, 3, vote(last)))).toMatchObject([{ t: 'vote-reply', granted }])
      const asked = receive(voter(mine), TWO, 3, { t: 'pre-vote', last })
      expect(said(asked)).toMatchObject([{ t: 'pre-vote-reply', granted }])
    }
  })

  it('5.4.2: commits an entry of an older term only along with one of its own', () => {
    const raft = leader([1, 2], 4)
    receive(raft, TWO, 4, { t: 'append-ok', match: 1 })
    receive(raft, THREE, 4, { t: 'append-ok', match: 1 })
    expect(raft.commit).toBe(BEFORE_FIRST)
    const ready = receive(raft, TWO, 4, { t: 'append-ok', match: 2 })
    expect(ready.committed.map(entry => entry.term)).toEqual([1, 2, 4])
  })

  it('5.4.3: a leader never takes back entries of its own log', () => {
    const raft = leader([1, 2, 2], 3)
    receive(raft, TWO, 3, { t: 'append-refused', prevIndex: 2, hint: { index: 0, term: 1 } })
    receive(raft, TWO, 3, { t: 'append-ok', match: 3 })
    expect(termsIn(raft)).toEqual([1, 2, 2, 3])
  })
})

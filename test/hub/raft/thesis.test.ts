import { describe, expect, it } from 'vitest'
import { utf8 } from '../../../common/bytes.ts'
import { step } from '../../../hub/raft/node.ts'
import type { Entry, Message } from '../../../hub/raft/types.ts'
import { NOWHERE } from '../../../hub/raft/types.ts'
import { founding, OPTIONS, Stage, seat } from './stage.ts'
import {
  append,
  entriesOf,
  leader,
  ONE,
  receive,
  receiveAndSync,
  said,
  THREE,
  TWO,
  termsIn,
  vote,
  voter,
} from './voter.ts'

/** What the paper's Figure 2 leaves out: snapshots, members, leases, bounds. */

describe('beyond the figure', () => {
  it('thesis 4.2.3: whoever hears a leader hears no candidate, unless the leader asked for the election', () => {
    const raft = voter()
    receiveAndSync(raft, TWO, 1, append(NOWHERE))
    expect(receive(raft, THREE, 5, vote()).send).toEqual([])
    expect(raft.term).toBe(1)
    const handed = receive(raft, THREE, 2, { t: 'vote', last: NOWHERE, transfer: true })
    expect(said(handed)).toMatchObject([{ t: 'vote-reply', granted: true }])
  })

  it('hears a candidate at once where the leader it heard is known to be gone, and nobody else is', () => {
    const raft = voter()
    receiveAndSync(raft, TWO, 1, append(NOWHERE))
    step(raft, { t: 'gone', member: THREE }, 0)
    expect(receive(raft, THREE, 2, vote()).send).toEqual([])
    step(raft, { t: 'gone', member: TWO }, 0)
    expect(said(receive(raft, THREE, 2, vote()))).toMatchObject([{ t: 'vote-reply', granted: true }])
  })

  it('thesis 9.6: a pre-vote changes neither term nor vote', () => {
    const raft = voter()
    const ready = receive(raft, TWO, 9, { t: 'pre-vote', last: NOWHERE })
    expect(ready.write).toBeNull()
    expect(raft).toMatchObject({ term: 0, vote: null })
  })

  it('ignores what is meant for another directory of its node', () => {
    const raft = voter()
    const message: Message = {
      from: TWO,
      to: seat(1, 'before'),
      term: 3,
      t: 'vote',
      last: NOWHERE,
      transfer: false,
    }
    expect(step(raft, { t: 'message', message }, 0)).toMatchObject({ write: null, send: [] })
  })

  it('refuses proposals beyond its bounds, and takes any size when nothing waits', () => {
    const raft = leader()
    receive(raft, TWO, 1, { t: 'append-ok', match: 0 })
    const large = { t: 'propose', data: [new Uint8Array(OPTIONS.maxUncommittedBytes)] } as const
    expect(step(raft, large, 0).outcome).toMatchObject({ taken: true })
    const refused = { taken: false, reason: 'too-much-uncommitted' }
    expect(step(raft, { t: 'propose', data: [utf8('x')] }, 0).outcome).toEqual(refused)
    const few = leader([], 1, 3)
    const many = Array.from({ length: OPTIONS.maxUncommittedEntries }, () => utf8(''))
    expect(step(few, { t: 'propose', data: many }, 0).outcome).toEqual(refused)
  })

  it('a write of entries that were replaced meanwhile vouches for none of the new ones', () => {
    const raft = voter()
    const first = receive(raft, TWO, 1, append(NOWHERE, entriesOf(1, 1)))
    const second = receive(raft, THREE, 2, append(NOWHERE, entriesOf(2), 0))
    expect(step(raft, { t: 'persisted', ticket: first.write?.ticket ?? 0 }, 0).committed).toEqual([])
    expect(step(raft, { t: 'persisted', ticket: second.write?.ticket ?? 0 }, 0).committed).toEqual(
      entriesOf(2),
    )
  })

  it('thesis 4.1, corrected: no change of members before the leader has committed in its term', () => {
    const raft = leader([1], 2)
    const add = { t: 'change', change: { t: 'add-learner', member: seat(4) } } as const
    receive(raft, TWO, 2, { t: 'append-ok', match: 0 })
    expect(step(raft, add, 0).outcome).toEqual({ taken: false, reason: 'no-commit-in-term' })
    receive(raft, TWO, 2, { t: 'append-ok', match: 1 })
    expect(step(raft, add, 0).outcome).toMatchObject({ taken: true })
    expect(step(raft, add, 0).outcome).toEqual({ taken: false, reason: 'change-under-way' })
  })

  it('thesis 4.1: members count from the entry on, and no longer when it is taken back', () => {
    const raft = voter([1])
    const config = { voters: [ONE, TWO], learners: [THREE] }
    const entry: Entry = { index: 1, term: 1, payload: { t: 'config', config } }
    expect(receive(raft, TWO, 1, append({ index: 0, term: 1 }, [entry])).status.config).toEqual(config)
    const replaced = entriesOf(1, 2).slice(1)
    const { status } = receive(raft, THREE, 2, append({ index: 0, term: 1 }, replaced))
    expect(status.config).toEqual(founding([1, 2, 3]).config)
  })

  it('Figure 13: a snapshot replaces a log that does not hold its last entry, and nothing of it is durable before its write', () => {
    const raft = voter([1, 1, 1, 1, 1])
    const snapshot = { index: 2, term: 2, config: founding([1, 2, 3]).config }
    const installed = receive(raft, TWO, 2, { t: 'snapshot', snapshot })
    expect(installed.write).toMatchObject({ snapshot, entries: [] })
    expect(installed.send).toMatchObject([
      { message: { t: 'append-ok', match: 2 }, after: installed.write?.ticket },
    ])
    const behind = entriesOf(2, 2, 2, 2, 2).slice(3)
    const stored = receive(raft, TWO, 2, append(snapshot, behind, 4))
    expect(stored.committed).toEqual([])
    expect(step(raft, { t: 'persisted', ticket: installed.write?.ticket ?? 0 }, 0).committed).toEqual([])
    expect(step(raft, { t: 'persisted', ticket: stored.write?.ticket ?? 0 }, 0).committed).toEqual(behind)
  })

  it('Figure 13: a snapshot whose last entry the log holds takes nothing away', () => {
    const raft = voter([1, 1, 1])
    const snapshot = { index: 1, term: 1, config: founding([1, 2, 3]).config }
    const ready = receive(raft, TWO, 1, { t: 'snapshot', snapshot })
    expect(ready.committed.map(entry => entry.index)).toEqual([0, 1])
    expect(termsIn(raft)).toEqual([1, 1, 1])
  })

  it('thesis 9.6: grants of an earlier pre-vote do not count in a later one', () => {
    const raft = voter([], 1)
    step(raft, { t: 'campaign' }, 0)
    receive(raft, THREE, 2, { t: 'pre-vote-reply', granted: false })
    expect(raft.term).toBe(2)
    step(raft, { t: 'campaign' }, 0)
    receive(raft, TWO, 2, { t: 'pre-vote-reply', granted: true })
    expect(raft.role).toBe('pre-candidate')
    expect(receive(raft, TWO, 3, { t: 'pre-vote-reply', granted: true }).status.role).toBe('candidate')
  })

  it('paper section 7: a snapshot lost on its way is sent again', () => {
    const stage = new Stage()
    stage.found(3)
    stage.step(ONE, { t: 'propose', data: [utf8('x')] })
    stage.settle(message => message.to !== THREE)
    stage.step(ONE, { t: 'snapshotted', index: 1, keepFrom: 2 })
    const lost: string[] = []
    for (let round = 0; round < 3; round++) {
      stage.step(ONE, { t: 'tick' })
      stage.settle(message => {
        const passes = message.t !== 'snapshot' || lost.length > 0
        if (!passes) lost.push(message.to)
        return passes
      })
    }
    expect(lost).toEqual([THREE])
    expect(stage.raft(THREE).applied).toBe(1)
  })

  it('a follower that acked keeps what it acked through a crash', () => {
    const stage = new Stage()
    stage.found(3)
    stage.step(ONE, { t: 'propose', data: [utf8('x')] })
    stage.settle(message => message.to !== THREE && message.from !== THREE)
    expect(stage.raft(ONE).commit).toBe(1)
    stage.crash(ONE)
    stage.crash(TWO)
    stage.start(TWO)
    expect(termsIn(stage.raft(TWO))).toEqual([1, 1])
  })
})

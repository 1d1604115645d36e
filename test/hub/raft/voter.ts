import { expect } from 'vitest'
import { utf8 } from '../../../common/bytes.ts'
import { step } from '../../../hub/raft/node.ts'
import type { Raft } from '../../../hub/raft/state.ts'
import { createRaft } from '../../../hub/raft/state.ts'
import type { Entry, Message, MessageBody, Position, Ready } from '../../../hub/raft/types.ts'
import { BEFORE_FIRST, NOWHERE } from '../../../hub/raft/types.ts'
import { founding, OPTIONS, seat } from './stage.ts'

/** One voter, spoken to by hand. */

export const [ONE, TWO, THREE] = [seat(1), seat(2), seat(3)]

/** Entries from index 0 on, of these terms. */
export function entriesOf(...terms: number[]): Entry[] {
  return terms.map((term, index) => ({
    index,
    term,
    payload: { t: 'data', bytes: utf8(`${index}@${term}`) },
  }))
}

/** Voter 1 of `voters`, with a log of these terms, and the term and vote it remembers. */
export function voter(
  terms: number[] = [],
  term = terms.at(-1) ?? 0,
  vote: string | null = null,
  voters = 3,
): Raft {
  const ids = Array.from({ length: voters }, (_, at) => at + 1)
  const restored = { hardState: { term, vote }, snapshot: founding(ids), entries: entriesOf(...terms) }
  return createRaft({ ...OPTIONS, self: ONE }, restored, 0)
}

/** Gives it a message of `term`. */
export function receive(raft: Raft, from: string, term: number, body: MessageBody): Ready {
  return step(raft, { t: 'message', message: { from, to: ONE, term, ...body } }, 0)
}

/** Receives it, and completes what is to be written. */
export function receiveAndSync(raft: Raft, from: string, term: number, body: MessageBody): Ready[] {
  const ready = receive(raft, from, term, body)
  const ticket = ready.write?.ticket
  return ticket === undefined ? [ready] : [ready, step(raft, { t: 'persisted', ticket }, 0)]
}

/** The body of an AppendEntries. */
export function append(prev: Position, entries: Entry[] = [], commit = BEFORE_FIRST): MessageBody {
  return { t: 'append', prev, entries, commit }
}

/** The body of a RequestVote by whose log ends there. */
export function vote(last: Position = NOWHERE): MessageBody {
  return { t: 'vote', last, transfer: false }
}

/** The terms of the entries it holds. */
export function termsIn(raft: Raft): number[] {
  return raft.log.range(raft.log.firstIndex(), raft.log.lastIndex()).map(entry => entry.term)
}

/** What it says, whenever that may leave. */
export function said(ready: Ready): Message[] {
  return ready.send.map(({ message }) => message)
}

/** A leader of `term`, its own first entry appended behind its log and durable; nobody else has answered. */
export function leader(terms: number[] = [], term = (terms.at(-1) ?? 0) + 1, voters = 3): Raft {
  const raft = voter(terms, term - 1, null, voters)
  const [standing] = [step(raft, { t: 'campaign' }, 0)]
  expect(standing.status.role).toBe('pre-candidate')
  for (let id = 2; id <= voters; id++) receive(raft, seat(id), term, { t: 'pre-vote-reply', granted: true })
  step(raft, { t: 'persisted', ticket: 1 }, 0)
  for (let id = 2; id <= voters; id++) receive(raft, seat(id), term, { t: 'vote-reply', granted: true })
  step(raft, { t: 'persisted', ticket: 2 }, 0)
  expect(raft).toMatchObject({ role: 'leader', term })
  return raft
}

import { describe, expect, it } from 'vitest'
import { utf8 } from '../../../common/bytes.ts'
import { step } from '../../../hub/raft/node.ts'
import { keeps } from '../../../hub/raft/promises.ts'
import { BEFORE_FIRST, NOWHERE } from '../../../hub/raft/types.ts'
import type { Disk } from './stage.ts'
import { Stage } from './stage.ts'
import { append, leader, ONE, receive, said, THREE, TWO, vote, voter } from './voter.ts'

/** Members whose directories went back behind what they promised, as no crash takes them. */

describe('a member that is told of an ack it can not have given', () => {
  it.each([
    ['its log ends before it', { index: 3, term: 2 }, 3],
    ['its log ends before it, which nobody committed', { index: 3, term: 2 }, 0],
    ['it holds another entry there', { index: 2, term: 2 }, 2],
  ])('takes part in nothing any more: %s', (_, acked, commit) => {
    const raft = voter([1, 1, 1], 2)
    const told = receive(raft, TWO, 2, { t: 'heartbeat', acked, commit })
    expect(told).toMatchObject({ status: { forgot: true, commit: BEFORE_FIRST }, send: [] })
    expect(said(receive(raft, THREE, 9, vote({ index: 9, term: 9 })))).toEqual([])
    expect(said(receive(raft, TWO, 2, append({ index: 2, term: 1 }, [])))).toEqual([])
    for (let ticks = 0; ticks < 100; ticks++) expect(said(step(raft, { t: 'tick' }, 0))).toEqual([])
  })

  it('goes on where it holds the entry, or its snapshot does', () => {
    const raft = voter([1, 1, 1], 2)
    const told = receive(raft, TWO, 2, { t: 'heartbeat', acked: { index: 2, term: 1 }, commit: 1 })
    expect(told.status).toMatchObject({ forgot: false, commit: 1 })
    expect(said(told)).toMatchObject([{ t: 'heartbeat-reply' }])
    step(raft, { t: 'snapshotted', index: 1, keepFrom: 2 }, 0)
    const again = receive(raft, TWO, 2, { t: 'heartbeat', acked: { index: 0, term: 7 }, commit: 0 })
    expect(again.status.forgot).toBe(false)
  })
})

describe('a leader', () => {
  it('asks a member that refuses what it had acked again with its next sign of life, not at once', () => {
    const raft = leader([1, 1])
    receive(raft, TWO, 2, { t: 'append-ok', match: 2 })
    receive(raft, TWO, 2, { t: 'append-refused', prevIndex: 3, hint: { index: 0, term: 1 } })
    const refusal = { t: 'append-refused', prevIndex: 2, hint: { index: 0, term: 1 } } as const
    for (let times = 0; times < 3; times++) {
      expect(said(receive(raft, TWO, 2, refusal))).toEqual([])
    }
    const alive = said(receive(raft, TWO, 2, { t: 'heartbeat-reply' }))
    expect(alive).toMatchObject([{ t: 'append', to: TWO, prev: { index: 2 } }])
  })

  it('tells in its heartbeats what was acked, though it is not committed', () => {
    const raft = leader([1, 1], 2, 5)
    receive(raft, TWO, 2, { t: 'append-ok', match: 2 })
    const beats = said(step(raft, { t: 'tick' }, 0)).filter(({ t }) => t === 'heartbeat')
    expect(beats.find(({ to }) => to === TWO)).toMatchObject({ acked: { index: 2, term: 2 }, commit: -1 })
    expect(beats.find(({ to }) => to === THREE)).toMatchObject({ acked: NOWHERE, commit: -1 })
  })

  it('remembers votes and acks when it leads no more', () => {
    const raft = leader([1, 1])
    expect(raft.promises.get(TWO)).toEqual({ term: 2, acked: NOWHERE })
    receive(raft, TWO, 2, { t: 'append-ok', match: 2 })
    receive(raft, TWO, 2, { t: 'append-ok', match: 1 })
    receive(raft, THREE, 5, append({ index: 1, term: 1 }, []))
    expect(raft).toMatchObject({ role: 'follower', term: 5 })
    expect(raft.promises.get(TWO)).toEqual({ term: 2, acked: { index: 2, term: 2 } })
  })
})

it('a promise is kept by who is in a later term, or holds what it acked', () => {
  const { log } = voter([1, 1, 2])
  const kept = (term: number, promised: number, index: number, entryTerm: number): boolean =>
    keeps({ term, log }, { term: promised, acked: { index, term: entryTerm } })
  expect(kept(3, 2, 9, 2)).toBe(true)
  expect(kept(2, 2, 2, 2)).toBe(true)
  expect(kept(2, 2, -1, 0)).toBe(true)
  expect(kept(2, 2, 3, 2)).toBe(false)
  expect(kept(2, 2, 1, 2)).toBe(false)
  expect(kept(1, 2, -1, 0)).toBe(false)
})

/** What a disk held once. */
function copyOf({ hardState, snapshot, entries }: Disk): Disk {
  return { hardState, snapshot, entries: [...entries] }
}

it('a member whose disk went back comes to rest, and acks nothing', () => {
  const stage = new Stage()
  stage.found(3)
  const copy = copyOf(stage.member(THREE).disk)
  stage.step(ONE, { t: 'propose', data: [utf8('x'), utf8('y')] })
  stage.settle()
  stage.crash(THREE)
  Object.assign(stage.member(THREE).disk, copy)
  stage.start(THREE)
  const acks: number[] = []
  for (let ticks = 0; ticks < 5; ticks++) {
    stage.step(ONE, { t: 'propose', data: [utf8('z')] })
    stage.step(ONE, { t: 'tick' })
    stage.settle(message => {
      if (message.from === THREE && message.t === 'append-ok') acks.push(message.match)
      return true
    })
  }
  expect(stage.raft(THREE).forgot).toBe(true)
  expect(acks).toEqual([])
  expect(stage.raft(ONE).commit).toBe(7)
})

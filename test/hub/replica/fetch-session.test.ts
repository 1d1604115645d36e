import { describe, expect, it } from 'vitest'
import { must } from '../../../common/assert.ts'
import type { FetchPosition } from '../../../common/wire-peer.ts'
import { FETCH_WINDOW } from '../../../common/wire-peer.ts'
import type { FetchEntry, FetchSession } from '../../../hub/replica/fetch-session.ts'
import { createFetchSession, FRAME_BYTES } from '../../../hub/replica/fetch-session.ts'

const keyOf = (topicId: string, partition: number): string => `${topicId}/${partition}`

function at(partition: number, more: Partial<FetchPosition> = {}): FetchPosition {
  return { topicId: 't', partition, leaderEpoch: 1, offset: 0, lastEpoch: -1, durableEnd: 0, ...more }
}

function say(session: FetchSession, positions: FetchPosition[], taken = 0, forget: number[] = []) {
  const gone = forget.map(partition => ({ topicId: 't', partition }))
  return session.take({ t: 'fetch', incarnation: 7, taken, positions, forget: gone })
}

/** A session that asks for so many partitions. */
function asking(count: number): { session: FetchSession; entries: FetchEntry[] } {
  const session = createFetchSession(keyOf)
  const { changed } = say(
    session,
    Array.from({ length: count }, (_, partition) => at(partition)),
  )
  return { session, entries: changed }
}

function turns(session: FetchSession, usedBytes = 0): number[] {
  const found: number[] = []
  for (let turn = session.next(usedBytes); turn !== null; turn = session.next(usedBytes)) {
    found.push(turn.entry.partition)
  }
  return found
}

describe('a fetch session', () => {
  it('keeps what is not named, and takes a durable end without an offset for news of nothing else', () => {
    const { session, entries } = asking(2)
    const first = must(entries[0], 'no entry')
    first.agrees = true
    expect(say(session, [at(0, { offset: -1, durableEnd: 9 })]).changed).toEqual([first])
    expect(first).toMatchObject({ offset: 0, durableEnd: 9, agrees: true, incarnation: 7 })
    say(session, [at(0, { offset: 12, lastEpoch: 1, durableEnd: 9 })])
    expect(first).toMatchObject({ offset: 12, agrees: false, asks: true })
    expect([...session.entries()]).toHaveLength(2)
  })

  it('begins anew with a partition under another epoch', () => {
    const { session, entries } = asking(1)
    const [first] = entries
    const [second] = say(session, [at(0, { leaderEpoch: 2 })]).changed
    expect(second).not.toBe(first)
    expect(first?.asks).toBe(false)
    expect([...session.entries()]).toEqual([second])
  })

  it('gives turns to who asks and has something waiting, once each, in order', () => {
    const { session, entries } = asking(4)
    for (const index of [2, 0, 2, 3]) session.ready(must(entries[index], 'no entry'), true)
    expect(turns(session)).toEqual([2, 0, 3])
    const answered = must(entries[1], 'no entry')
    answered.asks = false
    session.ready(answered, true)
    expect(session.next(0)).toBeNull()
  })

  it('gives no turn to who was forgotten, or changed its epoch, while it waited', () => {
    const { session, entries } = asking(3)
    for (const entry of entries) session.ready(entry, true)
    const { forgotten } = say(session, [at(1, { leaderEpoch: 2 })], 0, [0])
    expect(forgotten).toEqual([entries[0]])
    expect(turns(session)).toEqual([2])
  })

  it('lets those in sync go first, but keeps a share of the frame for those that catch up', () => {
    const { session, entries } = asking(3)
    session.ready(must(entries[0], 'no entry'), false)
    session.ready(must(entries[1], 'no entry'), true)
    session.ready(must(entries[2], 'no entry'), true)
    expect(session.next(0)?.entry.partition).toBe(1)
    // Three quarters are used by those in sync: the last quarter is not theirs.
    expect(session.next(FRAME_BYTES * 0.75)?.entry.partition).toBe(0)
    expect(session.next(FRAME_BYTES * 0.75)?.entry.partition).toBe(2)
  })

  it('shares a frame among many that are behind, and ends where it is full', () => {
    const { session, entries } = asking(8)
    for (const entry of entries) session.ready(entry, false)
    expect(session.next(0)?.maxBytes).toBe(FRAME_BYTES / 8)
    expect(session.next(FRAME_BYTES)).toBeNull()
    expect(session.hasReady()).toBe(true)
  })

  it('begins the next frame with who found no room in this one', () => {
    const { session, entries } = asking(2)
    for (const entry of entries) session.ready(entry, true)
    const first = must(session.next(0), 'no turn').entry
    session.again(first)
    expect(turns(session)).toEqual([0, 1])
  })

  it('has so many frames under way, and believes no more to be taken than were sent', () => {
    const { session } = asking(1)
    for (let sent = 0; sent < FETCH_WINDOW; sent++) {
      expect(session.hasRoom()).toBe(true)
      session.send()
    }
    expect(session.hasRoom()).toBe(false)
    say(session, [], 1)
    expect(session.hasRoom()).toBe(true)
    say(session, [], 1_000)
    for (let sent = 0; sent < FETCH_WINDOW; sent++) session.send()
    expect(session.hasRoom()).toBe(false)
  })

  it('tells numbers once, and not of who is gone', () => {
    const { session, entries } = asking(3)
    for (const entry of entries) session.tell(entry)
    say(session, [], 0, [1])
    expect(session.numbers().map(({ partition }) => partition)).toEqual([0, 2])
    expect(session.hasNumbers()).toBe(false)
  })
})

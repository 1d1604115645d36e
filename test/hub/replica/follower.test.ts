import { describe, expect, it } from 'vitest'
import type { FetchedPartition } from '../../../common/wire-peer.ts'
import type { FetchingSession } from '../../../hub/replica/follower.ts'
import { createFetchingSession } from '../../../hub/replica/follower.ts'

const keyOf = (topicId: string, partition: number): string => `${topicId}/${partition}`
const START = { offset: 10, lastEpoch: 2, durableEnd: 8 }

function following(session: FetchingSession, partition = 0, leaderEpoch = 3) {
  return session.follow({ key: `t/${partition}`, topicId: 't', partition, leaderEpoch }, START)
}

function fetched(more: Partial<FetchedPartition> = {}): FetchedPartition {
  const place = { topicId: 't', partition: 0, leaderEpoch: 3, offset: 10 }
  return { ...place, highWatermark: 9, startOffset: 0, hubTimeMs: 1, batches: new Uint8Array(0), ...more }
}

const DATA = new Uint8Array([1])

/** A session whose position was said. */
function asked() {
  const session = createFetchingSession(keyOf)
  const followed = following(session)
  session.frame(7)
  return { session, followed }
}

describe('a follower', () => {
  it('says once where it stands, then only what is new', () => {
    const session = createFetchingSession(keyOf)
    const followed = following(session)
    const place = { topicId: 't', partition: 0, leaderEpoch: 3 }
    expect(session.frame(7)).toEqual({
      t: 'fetch',
      incarnation: 7,
      taken: 0,
      positions: [{ ...place, ...START }],
      forget: [],
    })
    expect(session.frame(7)).toBeNull()
    session.durable(followed, 10)
    session.durable(followed, 9)
    const positions = [{ ...place, offset: -1, lastEpoch: 2, durableEnd: 10 }]
    expect(session.frame(7)).toMatchObject({ positions })
    session.taken(4)
    expect(session.frame(7)).toMatchObject({ taken: 4, positions: [] })
    session.forget('t/0')
    expect(session.frame(7)).toMatchObject({ forget: [{ topicId: 't', partition: 0 }] })
  })

  it('says all of it anew over a new link, but what it holds back', () => {
    const { session } = asked()
    const held = following(session, 1)
    session.frame(7)
    session.taken(9)
    session.hold(held)
    session.connected()
    const frame = session.frame(7)
    expect(frame?.taken).toBe(0)
    expect(frame?.positions.map(({ partition, offset }) => [partition, offset])).toEqual([[0, 10]])
  })

  it('takes what answers its question, under the epoch that it follows', () => {
    const { session } = asked()
    expect(session.judge(fetched({ batches: DATA }))).toEqual({ do: 'append' })
    expect(session.judge(fetched())).toEqual({ do: 'learn' })
    expect(session.judge(fetched({ leaderEpoch: 2, batches: DATA }))).toEqual({ do: 'nothing' })
    expect(session.judge(fetched({ partition: 5, batches: DATA }))).toEqual({ do: 'nothing' })
  })

  it('takes no batches that came for what it asked before', () => {
    const { session, followed } = asked()
    expect(session.judge(fetched({ offset: 4, batches: DATA }))).toEqual({ do: 'learn' })
    session.hold(followed)
    expect(session.judge(fetched({ batches: DATA }))).toEqual({ do: 'learn' })
    session.stand(followed, { ...START, offset: 6 })
    session.ask(followed)
    expect(session.judge(fetched({ offset: 6, batches: DATA }))).toEqual({ do: 'learn' })
    session.frame(7)
    expect(session.judge(fetched({ offset: 6, batches: DATA }))).toEqual({ do: 'append' })
  })

  it('cuts its log where the leader says, and believes no watermark of another log', () => {
    const { session, followed } = asked()
    const diverging = { epoch: 1, endOffset: 5 }
    expect(session.judge(fetched({ diverging }))).toEqual({ do: 'part', told: diverging })
    session.hold(followed)
    expect(session.judge(fetched({ diverging }))).toEqual({ do: 'nothing' })
  })

  it('begins anew where the leader starts beyond its end, and else asks again later', () => {
    const { session } = asked()
    const below = fetched({ error: 'offset_out_of_range', startOffset: 40 })
    expect(session.judge(below)).toEqual({ do: 'restart', startOffset: 40 })
    const beyond = fetched({ error: 'offset_out_of_range', startOffset: 3 })
    expect(session.judge(beyond)).toEqual({ do: 'wait', code: 'offset_out_of_range' })
    expect(session.judge(fetched({ error: 'fenced' }))).toEqual({ do: 'wait', code: 'fenced' })
  })

  it('asks nothing more of what it follows no more', () => {
    const { session, followed } = asked()
    const next = following(session, 0, 4)
    session.ask(followed)
    expect(session.frame(7)?.positions).toMatchObject([{ leaderEpoch: 4 }])
    expect(session.get('t/0')).toBe(next)
    expect(session.size()).toBe(1)
  })
})

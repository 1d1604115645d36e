import type { ErrorCode } from '../../common/errors.ts'
import type { FetchedPartition, FetchFrame, FetchPosition } from '../../common/wire-peer.ts'
import type { Position } from './following.ts'
import type { EpochEnd } from './leader-epochs.ts'

/**
 * The follower's side of its fetches from one leader's node: where it stands in each partition, what of that the leader has to be told,
 * and what is to be done with what the leader sends. What is appended, cut and sent is the shell's.
 */

/** Positions in one frame; more go into the next. */
const MAX_POSITIONS_PER_FRAME = 10_000

/** A partition that is followed. */
export interface Followed {
  readonly key: string
  readonly topicId: string
  readonly partition: number
  readonly leaderEpoch: number
  position: Position
  /** It fetches: not while its log is being changed, or it is held up. */
  fetches: boolean
}

/** What to do with what a leader sent of a partition. */
export type FetchedAction =
  /** Not followed under this epoch any more. */
  | { do: 'nothing' }
  /** Only the numbers count: there is nothing else, or it was not asked for. */
  | { do: 'learn' }
  | { do: 'append' }
  | { do: 'part'; told: EpochEnd }
  /** The leader's log starts beyond this one's end. */
  | { do: 'restart'; startOffset: number }
  /** The leader can't serve it: it is asked again later. */
  | { do: 'wait'; code: ErrorCode }

export interface FetchingSession {
  /** Follows a partition from here on, under this epoch. */
  follow(ref: Pick<Followed, 'key' | 'topicId' | 'partition' | 'leaderEpoch'>, position: Position): Followed
  forget(key: string): void
  get(key: string): Followed | undefined
  size(): number
  /** It stands here now. */
  stand(followed: Followed, position: Position): void
  /** It asks on from where it stands. */
  ask(followed: Followed): void
  /** It asks for nothing until it does again. */
  hold(followed: Followed): void
  /** More of it is durable. */
  durable(followed: Followed, durableEnd: number): void
  /** A new link: the leader knows nothing of this session. */
  connected(): void
  judge(fetched: FetchedPartition): FetchedAction
  /** The frame of this number is done with. */
  taken(seq: number): void
  /** What there is to tell the leader, null for nothing; said, then, unless `connected` comes between. */
  frame(incarnation: number): FetchFrame | null
}

/** Follows nothing yet; `keyOf` names a partition. */
export function createFetchingSession(
  keyOf: (topicId: string, partition: number) => string,
): FetchingSession {
  const all = new Map<string, Followed>()
  let asking = new Set<Followed>()
  let reporting = new Set<Followed>()
  let forgotten: FetchFrame['forget'] = []
  let takenSeq = 0
  let takenTold = 0

  function drop(followed: Followed): void {
    asking.delete(followed)
    reporting.delete(followed)
    all.delete(followed.key)
  }

  /** The position with the offset to fetch from, or with the durable end alone. */
  function tell({ topicId, partition, leaderEpoch, position }: Followed, asks: boolean): FetchPosition {
    const { lastEpoch, durableEnd } = position
    const offset = asks ? position.offset : -1
    return { topicId, partition, leaderEpoch, offset, lastEpoch, durableEnd }
  }

  function positions(): FetchPosition[] {
    const told: FetchPosition[] = []
    for (const followed of asking) {
      if (told.length >= MAX_POSITIONS_PER_FRAME) return told
      asking.delete(followed)
      reporting.delete(followed)
      told.push(tell(followed, true))
    }
    for (const followed of reporting) {
      if (told.length >= MAX_POSITIONS_PER_FRAME) return told
      reporting.delete(followed)
      told.push(tell(followed, false))
    }
    return told
  }

  return {
    follow: ({ key, topicId, partition, leaderEpoch }, position) => {
      const known = all.get(key)
      if (known !== undefined) drop(known)
      const followed = { key, topicId, partition, leaderEpoch, position, fetches: true }
      all.set(key, followed)
      asking.add(followed)
      return followed
    },
    forget: key => {
      const known = all.get(key)
      if (known === undefined) return
      drop(known)
      forgotten.push({ topicId: known.topicId, partition: known.partition })
    },
    get: key => all.get(key),
    size: () => all.size,
    stand: (followed, position) => {
      followed.position = position
    },
    ask: followed => {
      if (all.get(followed.key) !== followed) return
      followed.fetches = true
      asking.add(followed)
    },
    hold: followed => {
      followed.fetches = false
      asking.delete(followed)
      reporting.delete(followed)
    },
    durable: (followed, durableEnd) => {
      if (durableEnd <= followed.position.durableEnd) return
      followed.position = { ...followed.position, durableEnd }
      if (followed.fetches) reporting.add(followed)
    },
    connected: () => {
      asking = new Set([...all.values()].filter(({ fetches }) => fetches))
      reporting = new Set()
      forgotten = []
      takenSeq = 0
      takenTold = 0
    },
    judge: fetched => {
      const { topicId, partition, leaderEpoch, offset, error, diverging, startOffset, batches } = fetched
      const followed = all.get(keyOf(topicId, partition))
      if (followed === undefined || followed.leaderEpoch !== leaderEpoch) return { do: 'nothing' }
      // What was on its way when something else was asked for comes again from there.
      const isWanted = followed.fetches && !asking.has(followed) && offset === followed.position.offset
      // What the leader has committed says nothing of a log that may part from its.
      if (!isWanted) return { do: error === undefined && diverging === undefined ? 'learn' : 'nothing' }
      if (error === 'offset_out_of_range' && startOffset > followed.position.offset) {
        return { do: 'restart', startOffset }
      }
      if (error !== undefined) return { do: 'wait', code: error }
      if (diverging !== undefined) return { do: 'part', told: diverging }
      return batches.length > 0 ? { do: 'append' } : { do: 'learn' }
    },
    taken: seq => {
      takenSeq = Math.max(takenSeq, seq)
    },
    frame: incarnation => {
      const told = positions()
      if (told.length === 0 && forgotten.length === 0 && takenSeq === takenTold) return null
      const forget = forgotten
      forgotten = []
      takenTold = takenSeq
      return { t: 'fetch', incarnation, taken: takenSeq, positions: told, forget }
    },
  }
}

import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../common/env.ts'
import { isTributaryError, messageOf } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { FetchedFrame, FetchedPartition } from '../../../common/wire-peer.ts'
import type { FetchEntry, FetchSession, Turn } from '../../replica/fetch-session.ts'
import { createFetchSession, FRAME_BYTES } from '../../replica/fetch-session.ts'
import type { EpochEnd } from '../../replica/leader-epochs.ts'
import type { Partition } from '../../replica/partition.ts'
import type { Held, PartitionTable } from './partitions.ts'
import type { FetchService } from './types.ts'

/**
 * Serves the followers of what this node leads: whoever dialled it tells where it stands, and is sent what is durable here as it comes,
 * without being asked for each time. What waits costs nothing: a partition is looked at when something of it changes.
 */

/** A watermark without batches to go with it is told after so long at most, with those of other partitions. */
const TELL_AFTER_MS = 200
/** What could not be read is tried again after so long. */
const READ_RETRY_MS = SECOND_MS

export interface LeaderShellContext {
  clock: Clock
  partitions: PartitionTable
  log: Logger
  /** Under which a node is registered, as far as is known here; undefined for one that is not. */
  incarnationOf(nodeId: number): number | undefined
  /** A replica that is not in sync might join. */
  candidate(held: Held): void
}

export interface LeaderShell {
  serve(nodeId: number, reply: (frame: FetchedFrame) => void): FetchService
  /** It leads under another epoch, or from another place: all that its followers said is judged anew. */
  acting(held: Held): void
  /** More of it is durable. */
  durable(held: Held): void
  /** Its watermark may have moved. */
  watermark(held: Held): void
  /** Other replicas have a say, or others are in sync: what they said before counts now, and they may have nothing new to say. */
  seated(key: string): void
  /** Another process of the node registered: what that one said counts now, what others of its name say no more. */
  registered(nodeId: number): void
  stats(): { sessions: number; framesSent: number; bytesSent: number }
}

interface Session {
  nodeId: number
  rules: FetchSession
  reply(frame: FetchedFrame): void
  scheduled: boolean
  pumping: boolean
  /** Numbers go with the next frame. */
  telling: boolean
  timer: Timer | null
  closed: boolean
}

const NO_BYTES = new Uint8Array(0)

/** See Partition.parting. */
function partingOf(replica: Partition, { lastEpoch, offset }: FetchEntry): EpochEnd | null | 'unsure' {
  try {
    return replica.parting(lastEpoch, offset)
  } catch (error) {
    if (isTributaryError(error, 'not_available')) return 'unsure'
    throw error
  }
}

export function createLeaderShell(context: LeaderShellContext): LeaderShell {
  const { clock, partitions, log } = context
  /** Who follows a partition, by its key. */
  const follows = new Map<string, Map<Session, FetchEntry>>()
  const sessions = new Set<Session>()
  const counters = { framesSent: 0, bytesSent: 0 }

  function leads(held: Held | null, entry: FetchEntry): boolean {
    return held?.replica.actingEpoch('leader') === entry.leaderEpoch
  }

  /** Looks at what a follower says, as far as this node leads under the epoch that it follows; where it has not heard of that yet, it waits. */
  function judge(session: Session, entry: FetchEntry): void {
    const held = partitions.heldAt(entry.key)
    const epoch = held?.replica.actingEpoch('leader') ?? null
    if (held === null || epoch === null || epoch < entry.leaderEpoch) return
    const inSync = held.replica.inSync()
    if (inSync === null) return
    const { startOffset, durableEnd, highWatermark } = held.replica.told()
    if (entry.asks && !entry.agrees) {
      const parts = partingOf(held.replica, entry)
      if (epoch > entry.leaderEpoch || entry.offset < startOffset || (parts !== null && parts !== 'unsure')) {
        session.rules.ready(entry, true)
        wake(session)
        return
      }
      // Judged when the leader's log is repaired, and it acts anew.
      if (parts === 'unsure') return
      entry.agrees = true
    }
    if (!entry.agrees || epoch > entry.leaderEpoch) return
    // A process whose node was given to another one may go on asking: the seat in the in-sync set is not its any more.
    if (context.incarnationOf(session.nodeId) === entry.incarnation) {
      if (inSync.reported(session.nodeId, entry.incarnation, entry.durableEnd)) held.replica.watermarkMoved()
      if (inSync.hasCandidate()) context.candidate(held)
    }
    if (entry.asks && entry.offset < durableEnd) {
      session.rules.ready(entry, inSync.inSync(session.nodeId))
      wake(session)
    }
    if (entry.toldWatermark !== highWatermark || entry.toldStart !== startOffset) tell(session, entry)
  }

  function tell(session: Session, entry: FetchEntry): void {
    session.rules.tell(entry)
    session.timer ??= clock.setTimer(() => {
      session.timer = null
      session.telling = true
      wake(session)
    }, TELL_AFTER_MS)
  }

  /** Sends at the end of this turn, with all that becomes ready in it. */
  function wake(session: Session): void {
    if (session.scheduled || session.pumping || session.closed) return
    session.scheduled = true
    clock.soon(() => {
      session.scheduled = false
      pump(session).catch(error => log.error({ reason: messageOf(error) }, 'followers are not served'))
    })
  }

  async function pump(session: Session): Promise<void> {
    if (session.pumping) return
    session.pumping = true
    try {
      while (!session.closed && session.rules.hasRoom()) {
        const { fetched, releases } = await gather(session)
        const isWorthwhile = fetched.length > 0 && !session.closed
        if (isWorthwhile) session.reply({ t: 'fetched', seq: session.rules.send(), partitions: fetched })
        for (const release of releases) release()
        if (!isWorthwhile) break
        counters.framesSent++
      }
    } finally {
      session.pumping = false
    }
  }

  /** One frame: turns until it is full, and the numbers that are due. */
  async function gather(
    session: Session,
  ): Promise<{ fetched: FetchedPartition[]; releases: (() => void)[] }> {
    const fetched: FetchedPartition[] = []
    const releases: (() => void)[] = []
    let usedBytes = 0
    for (;;) {
      const turn = session.rules.next(usedBytes)
      if (turn === null) break
      const part = await take(session, turn, releases)
      if (part === null) continue
      // A batch larger than a frame goes alone.
      if (usedBytes > 0 && usedBytes + part.batches.length > 2 * FRAME_BYTES) {
        session.rules.again(turn.entry)
        break
      }
      usedBytes += part.batches.length
      fetched.push(sent(turn.entry, part))
    }
    if (session.telling) {
      session.telling = session.rules.hasNumbers()
      for (const entry of session.rules.numbers()) {
        const held = partitions.heldAt(entry.key)
        if (entry.agrees && leads(held, entry) && held !== null)
          fetched.push(sent(entry, answer(held, entry, { offset: -1 })))
      }
    }
    counters.bytesSent += usedBytes
    return { fetched, releases }
  }

  function sent(entry: FetchEntry, part: FetchedPartition): FetchedPartition {
    if (part.offset >= 0) entry.asks = false
    // Who has to change its log first takes no numbers.
    const isTold = part.error === undefined && part.diverging === undefined
    entry.toldWatermark = isTold ? part.highWatermark : -1
    entry.toldStart = isTold ? part.startOffset : -1
    return part
  }

  function answer(held: Held, entry: FetchEntry, what: Partial<FetchedPartition>): FetchedPartition {
    const { highWatermark, startOffset } = held.replica.told()
    const { topicId, partition, leaderEpoch, offset } = entry
    const place = { topicId, partition, leaderEpoch, offset, highWatermark, startOffset }
    return { ...place, hubTimeMs: 0, batches: NO_BYTES, ...what }
  }

  /** What an entry gets in its turn; null where it is nothing, or the follower said something else meanwhile. */
  async function take(
    session: Session,
    { entry, maxBytes }: Turn,
    releases: (() => void)[],
  ): Promise<FetchedPartition | null> {
    const held = partitions.heldAt(entry.key)
    const epoch = held?.replica.actingEpoch('leader') ?? null
    if (held === null || epoch === null || epoch < entry.leaderEpoch) return null
    if (epoch > entry.leaderEpoch) return answer(held, entry, { error: 'fenced' })
    const { replica } = held
    if (entry.offset < replica.told().startOffset)
      return answer(held, entry, { error: 'offset_out_of_range' })
    const parting = entry.agrees ? null : partingOf(replica, entry)
    if (parting === 'unsure') return null
    if (parting !== null) return answer(held, entry, { diverging: parting })
    const { version } = entry
    try {
      const given = await replica.readForFollower(entry.offset, maxBytes)
      const { batches, hubTimeMs, lostBefore, release } = given
      if (release !== undefined) releases.push(release)
      if (batches.length === 0 || entry.version !== version || !leads(held, entry)) return null
      return answer(held, entry, { batches, hubTimeMs, ...(lostBefore === undefined ? {} : { lostBefore }) })
    } catch (error) {
      unreadable(session, held, entry, error)
      return null
    }
  }

  function unreadable(session: Session, held: Held, entry: FetchEntry, error: unknown): void {
    log.warn({ log: held.key, reason: messageOf(error) }, 'a follower can not be sent what it asks for yet')
    const { version } = entry
    clock.setTimer(() => {
      if (!session.closed && entry.version === version) judge(session, entry)
    }, READ_RETRY_MS)
  }

  function heard(session: Session, entries: readonly FetchEntry[]): void {
    for (const entry of entries) {
      const known = follows.get(entry.key)
      if (known === undefined) follows.set(entry.key, new Map([[session, entry]]))
      else known.set(session, entry)
      judge(session, entry)
    }
  }

  function forget(session: Session, entry: FetchEntry): void {
    const known = follows.get(entry.key)
    if (known?.get(session) !== entry) return
    known.delete(session)
    if (known.size === 0) follows.delete(entry.key)
    // A link that ends late has nothing to say of the one that took its place.
    for (const other of known.keys()) if (other.nodeId === session.nodeId) return
    partitions.heldAt(entry.key)?.replica.inSync()?.gone(session.nodeId)
  }

  return {
    serve: (nodeId, reply) => {
      const rules = createFetchSession(partitions.logName)
      const session: Session = {
        nodeId,
        rules,
        reply,
        scheduled: false,
        pumping: false,
        telling: false,
        timer: null,
        closed: false,
      }
      sessions.add(session)
      return {
        fetch: frame => {
          if (session.closed) return
          const { changed, forgotten } = rules.take(frame)
          for (const entry of forgotten) forget(session, entry)
          heard(session, changed)
          if (rules.hasReady() || session.telling) wake(session)
        },
        close: () => {
          session.closed = true
          session.timer?.cancel()
          sessions.delete(session)
          for (const entry of [...rules.entries()]) forget(session, entry)
        },
      }
    },
    acting: held => {
      for (const [session, entry] of follows.get(held.key) ?? []) {
        entry.agrees = false
        judge(session, entry)
      }
    },
    durable: held => {
      const known = follows.get(held.key)
      if (known === undefined) return
      const { durableEnd } = held.replica.told()
      for (const [session, entry] of known) {
        if (!entry.asks || !entry.agrees || entry.offset >= durableEnd || !leads(held, entry)) continue
        session.rules.ready(entry, held.replica.inSync()?.inSync(session.nodeId) ?? false)
        wake(session)
      }
    },
    watermark: held => {
      const known = follows.get(held.key)
      if (known === undefined) return
      const { highWatermark, startOffset } = held.replica.told()
      for (const [session, entry] of known) {
        if (!entry.agrees) continue
        if (entry.toldWatermark !== highWatermark || entry.toldStart !== startOffset) tell(session, entry)
      }
    },
    seated: key => {
      for (const [session, entry] of follows.get(key) ?? []) if (entry.agrees) judge(session, entry)
    },
    registered: nodeId => {
      for (const session of sessions) {
        if (session.nodeId !== nodeId) continue
        for (const entry of [...session.rules.entries()]) judge(session, entry)
      }
    },
    stats: () => ({ sessions: sessions.size, ...counters }),
  }
}

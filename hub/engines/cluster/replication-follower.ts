import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../common/env.ts'
import { messageOf } from '../../../common/errors.ts'
import { MIB, SECOND_MS } from '../../../common/limits.ts'
import type { FetchedFrame, FetchedPartition, FetchFrame } from '../../../common/wire-peer.ts'
import type { FetchingSession, Followed } from '../../replica/follower.ts'
import { createFetchingSession } from '../../replica/follower.ts'
import type { EpochEnd } from '../../replica/leader-epochs.ts'
import type { Role } from '../../replica/role.ts'
import type { Held, PartitionTable } from './partitions.ts'
import type { Peers } from './types.ts'

/**
 * Follows the leaders of this node's other replicas: one session with each node that leads some, over the link dialled to it. What comes
 * is appended at once and asked on from, while the disk syncs; how far it is durable is told at the end of the turn, of all partitions
 * together.
 */

/** Batches taken from one leader and not synced yet; above it its frames are not handed back, so that it stops. */
const MAX_UNSYNCED_BYTES = 16 * MIB
/** What failed (a full disk, a leader that can't serve yet) is tried again after so long. */
const RETRY_MS = SECOND_MS
const SNAPSHOT_TIMEOUT_MS = 30 * SECOND_MS

export interface FollowerShellContext {
  clock: Clock
  partitions: PartitionTable
  peers: Pick<Peers, 'send' | 'call' | 'isUp'>
  log: Logger
  incarnation(): number
  /** What replicas that are being added fetch at most, together. */
  reassignBytesPerSecond: number
}

export interface FollowerShell {
  /** It acts by its role: follows it, or no more. */
  acting(held: Held): void
  durable(held: Held): void
  gone(held: Held): void
  connected(nodeId: number): void
  disconnected(nodeId: number): void
  /** There is room again on the link to the node. */
  roomy(nodeId: number): void
  fetched(nodeId: number, frame: FetchedFrame): void
  close(): void
  stats(): FollowerStats
}

export interface FollowerStats {
  followed: number
  bytesFetched: number
  /** Logs cut because they parted from their leader's. */
  cuts: number
  /** Of them, those below what was known to be committed: an unclean leader was elected. */
  cutsBelowWatermark: number
  /** Logs begun anew at their leader's start. */
  restarts: number
  /** Batches not taken, or not asked for in time, and tried again. */
  failures: number
}

interface LeaderLink {
  readonly nodeId: number
  readonly rules: FetchingSession
  isUp: boolean
  scheduled: boolean
  /** Said, but there was no room on the link. */
  unsent: FetchFrame | null
  unsyncedBytes: number
  /** Frames that came, in order, until they are done with: `open` parts of them still wait for a log to be opened. */
  frames: { seq: number; open: number }[]
}

export function createFollowerShell(context: FollowerShellContext): FollowerShell {
  const { clock, partitions, peers, log } = context
  const links = new Map<number, LeaderLink>()
  /** Where each replica that follows does so. */
  const places = new Map<string, { held: Held; link: LeaderLink; followed: Followed }>()
  const counters = { bytesFetched: 0, cuts: 0, cutsBelowWatermark: 0, restarts: 0, failures: 0 }
  const waiting = new Map<Followed, { held: Held; link: LeaderLink }>()
  /** Whose failure was told of. */
  const toldOf = new Set<string>()
  const budget = createBudget(clock, context.reassignBytesPerSecond)
  let retry: Timer | null = null
  let closed = false

  function linkTo(nodeId: number): LeaderLink {
    const known = links.get(nodeId)
    if (known !== undefined) return known
    const made: LeaderLink = {
      nodeId,
      rules: createFetchingSession(partitions.logName),
      isUp: peers.isUp(nodeId),
      scheduled: false,
      unsent: null,
      unsyncedBytes: 0,
      frames: [],
    }
    links.set(nodeId, made)
    return made
  }

  // ------------------------------------------------------------------------------------------ telling

  /** Tells the leader at the end of this turn, all that there is. */
  function wake(link: LeaderLink): void {
    if (link.scheduled || !link.isUp) return
    link.scheduled = true
    clock.soon(() => {
      link.scheduled = false
      say(link)
    })
  }

  function say(link: LeaderLink): void {
    while (link.isUp && !closed) {
      const frame = link.unsent ?? link.rules.frame(context.incarnation())
      if (frame === null) return
      link.unsent = peers.send(link.nodeId, frame) ? null : frame
      // Tried again when there is room; after a break all is said anew.
      if (link.unsent !== null) return
    }
  }

  // ------------------------------------------------------------------------------------------- roles

  function follow(held: Held, role: Extract<Role, { kind: 'follower' }>): void {
    forget(held)
    const { topicId, number, key, replica } = held
    const link = linkTo(role.leader)
    const ref = { key, topicId, partition: number, leaderEpoch: role.leaderEpoch }
    const followed = link.rules.follow(ref, replica.following.position())
    places.set(key, { held, link, followed })
    if (!replica.following.isComplete()) takeSnapshot(held, link, followed)
    wake(link)
  }

  function forget(held: Held): void {
    const place = places.get(held.key)
    if (place === undefined) return
    places.delete(held.key)
    waiting.delete(place.followed)
    place.link.rules.forget(held.key)
    wake(place.link)
  }

  function isCurrent({ key }: Held, followed: Followed): boolean {
    return !closed && places.get(key)?.followed === followed
  }

  /** Asks on from where the replica stands; one that is being added when its turn comes. */
  function goOn(held: Held, link: LeaderLink, followed: Followed): void {
    if (!isCurrent(held, followed)) return
    link.rules.stand(followed, held.replica.following.position())
    const role = held.replica.role()
    const ask = (): void => {
      if (!isCurrent(held, followed)) return
      link.rules.ask(followed)
      wake(link)
    }
    if (role.kind === 'follower' && role.adding) budget.when(ask)
    else ask()
  }

  /** Holds a partition up for a while. */
  function failed(held: Held, link: LeaderLink, followed: Followed, error: unknown): void {
    if (!isCurrent(held, followed)) return
    counters.failures++
    if (!toldOf.has(held.key))
      log.warn({ log: held.key, reason: messageOf(error) }, 'a partition can not be followed now')
    toldOf.add(held.key)
    link.rules.hold(followed)
    waiting.set(followed, { held, link })
    retry ??= clock.setTimer(() => {
      retry = null
      const again = [...waiting]
      waiting.clear()
      for (const [one, place] of again) {
        if (isCurrent(place.held, one)) complete(place.held, place.link, one)
      }
    }, RETRY_MS)
  }

  /** Holds a partition up while its log is changed, and then goes on from where that left it. */
  function change(held: Held, link: LeaderLink, followed: Followed, work: () => Promise<void>): void {
    link.rules.hold(followed)
    work().then(
      () => {
        toldOf.delete(held.key)
        complete(held, link, followed)
      },
      error => failed(held, link, followed, error),
    )
  }

  /** Goes on, once its producers are all known: a cut may have taken the snapshot that told of them. */
  function complete(held: Held, link: LeaderLink, followed: Followed): void {
    if (held.replica.following.isComplete()) goOn(held, link, followed)
    else takeSnapshot(held, link, followed)
  }

  async function snapshotOf(link: LeaderLink, { topicId, partition, leaderEpoch }: Followed) {
    const call = { c: 'producer-snapshot', topicId, partition, leaderEpoch } as const
    const { offset, bytes } = await peers.call(link.nodeId, call, SNAPSHOT_TIMEOUT_MS)
    return { offset, bytes }
  }

  function takeSnapshot(held: Held, link: LeaderLink, followed: Followed): void {
    change(held, link, followed, async () => {
      await held.replica.following.takeSnapshot(followed.leaderEpoch, await snapshotOf(link, followed))
    })
  }

  // --------------------------------------------------------------------------------------- what comes

  function taken(link: LeaderLink): void {
    for (;;) {
      const first = link.frames[0]
      if (first === undefined || first.open > 0 || link.unsyncedBytes > MAX_UNSYNCED_BYTES) return
      link.frames.shift()
      link.rules.taken(first.seq)
      wake(link)
    }
  }

  function take(link: LeaderLink, part: FetchedPartition, frame: LeaderLink['frames'][number]): void {
    const action = link.rules.judge(part)
    const place = places.get(partitions.logName(part.topicId, part.partition))
    if (action.do === 'nothing' || place === undefined) return
    const { held, followed } = place
    const { following } = held.replica
    if (action.do === 'append' || action.do === 'learn') following.learn(part.highWatermark, part.startOffset)
    if (action.do === 'wait') failed(held, link, followed, `its leader answers ${action.code}`)
    else if (action.do === 'part') cut(held, link, followed, action.told)
    else if (action.do === 'restart') restart(held, link, followed, action.startOffset)
    else if (action.do === 'append') {
      if (held.replica.isOpen()) append(held, link, followed, part)
      else openFor(held, link, followed, part, frame)
    }
  }

  function cut(held: Held, link: LeaderLink, followed: Followed, told: EpochEnd): void {
    const { following } = held.replica
    change(held, link, followed, async () => {
      const isBelow = await following.part(followed.leaderEpoch, told)
      counters.cuts++
      const what = { log: held.key, ...told, endsAt: following.position().offset }
      if (!isBelow) {
        log.info(what, 'what only this replica had was cut off')
        return
      }
      counters.cutsBelowWatermark++
      log.error(what, 'committed records were cut off: a leader was elected that lacked them')
    })
  }

  function restart(held: Held, link: LeaderLink, followed: Followed, startOffset: number): void {
    change(held, link, followed, async () => {
      const snapshot = await snapshotOf(link, followed)
      const from = Math.min(startOffset, snapshot.offset)
      await held.replica.following.restartAt(followed.leaderEpoch, from, snapshot)
      counters.restarts++
      log.info({ log: held.key, from }, 'a replica begins anew where its leader starts')
    })
  }

  /** The first batches of an empty partition: it gets a log. */
  function openFor(
    held: Held,
    link: LeaderLink,
    followed: Followed,
    part: FetchedPartition,
    frame: LeaderLink['frames'][number],
  ): void {
    frame.open++
    link.rules.hold(followed)
    held.replica
      .open()
      .then(
        () => {
          if (isCurrent(held, followed)) append(held, link, followed, part)
        },
        error => failed(held, link, followed, error),
      )
      .finally(() => {
        frame.open--
        taken(link)
      })
  }

  function append(held: Held, link: LeaderLink, followed: Followed, part: FetchedPartition): void {
    const { following } = held.replica
    const { batches, hubTimeMs, lostBefore, offset: from } = part
    const told = lostBefore === undefined ? { hubTimeMs, from } : { hubTimeMs, from, lostBefore }
    const before = following.position().offset
    link.unsyncedBytes += batches.length
    counters.bytesFetched += batches.length
    const done = following.append(followed.leaderEpoch, batches, told)
    if (following.position().offset > before) {
      const role = held.replica.role()
      if (role.kind === 'follower' && role.adding) budget.spend(batches.length)
      goOn(held, link, followed)
    }
    done
      .then(
        () => void toldOf.delete(held.key),
        error => failed(held, link, followed, error),
      )
      .finally(() => {
        link.unsyncedBytes -= batches.length
        taken(link)
      })
  }

  return {
    acting: held => {
      const role = held.replica.role()
      if (role.kind === 'follower') follow(held, role)
      else forget(held)
    },
    durable: held => {
      const place = places.get(held.key)
      if (place === undefined) return
      place.link.rules.durable(place.followed, held.replica.following.position().durableEnd)
      wake(place.link)
    },
    gone: forget,
    connected: nodeId => {
      const link = linkTo(nodeId)
      link.isUp = true
      link.unsent = null
      link.frames = []
      link.rules.connected()
      wake(link)
    },
    disconnected: nodeId => {
      const link = links.get(nodeId)
      if (link !== undefined) link.isUp = false
    },
    roomy: nodeId => {
      const link = links.get(nodeId)
      if (link !== undefined) wake(link)
    },
    fetched: (nodeId, { seq, partitions: parts }) => {
      const link = links.get(nodeId)
      if (link === undefined || closed) return
      const frame = { seq, open: 0 }
      link.frames.push(frame)
      for (const part of parts) take(link, part, frame)
      taken(link)
    },
    close: () => {
      closed = true
      retry?.cancel()
      budget.close()
    },
    stats: () => ({ followed: places.size, ...counters }),
  }
}

/** Bytes per second, shared: what is spent beyond them delays those who ask next. */
function createBudget(clock: Clock, bytesPerSecond: number) {
  /** May be below zero, by as much as came at once; never above a second's worth. */
  let left = bytesPerSecond
  let atMs = clock.monotonicMs()
  let queue: (() => void)[] = []
  let timer: Timer | null = null

  function refill(): void {
    const nowMs = clock.monotonicMs()
    left = Math.min(bytesPerSecond, left + ((nowMs - atMs) * bytesPerSecond) / SECOND_MS)
    atMs = nowMs
  }

  function run(): void {
    timer = null
    refill()
    if (left <= 0) {
      timer = clock.setTimer(run, Math.max(1, (-left * SECOND_MS) / bytesPerSecond))
      return
    }
    for (const ask of queue.splice(0)) ask()
  }

  return {
    spend: (bytes: number): void => {
      refill()
      left -= bytes
    },
    when: (ask: () => void): void => {
      queue.push(ask)
      if (timer === null) run()
    },
    close: (): void => {
      timer?.cancel()
      queue = []
    },
  }
}

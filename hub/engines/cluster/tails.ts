import type { Clock } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import { KIB, MIB, SECOND_MS } from '../../../common/limits.ts'
import type { PartitionRead } from '../../ports.ts'
import type { Routes } from './routes.ts'
import type { Peers } from './types.ts'

/**
 * Readers at the end of partitions that other nodes lead. However many wait on one, its leader is asked once, by a read that
 * waits there; what it answers is kept for those whom it wakes, who would else ask for the same again.
 */

/** What one such read brings at most. */
const TAIL_BYTES = 256 * KIB
/** How long it waits at the leader. */
const TAIL_WAIT_MS = 5 * SECOND_MS
/** On top of it, for the way. */
const TAIL_GRACE_MS = 5 * SECOND_MS
/** Answers kept, all partitions together; the oldest goes first. */
const MAX_KEPT_BYTES = 64 * MIB
/** Partitions waited for at once; readers of further ones are refused. */
const MAX_WATCHED = 100_000
/** Readers waiting on one partition; the next is refused, as one more at its leader is. */
const MAX_READERS = 100_000

export interface Tails {
  /** Calls `listener` once when the watermark is past `offset`, or the leader is another one; the result cancels. Throws `limit_exceeded`. */
  wait(topicId: string, partition: number, offset: number, listener: () => void): () => void
  /** What was kept of the partition, if it begins at `offset` and was read under `leaderEpoch`. */
  take(topicId: string, partition: number, offset: number, leaderEpoch: number): PartitionRead | null
  stats(): { watched: number; keptBytes: number }
}

export interface TailsContext {
  clock: Clock
  routes: Pick<Routes, 'now' | 'onMoved'>
  peers: Pick<Peers, 'call'>
}

interface Tail {
  readonly topicId: string
  readonly partition: number
  readonly readers: Set<{ readonly offset: number; listener(): void }>
  asking: boolean
  /** Somebody came after the leader was asked last: it may have heard of a newer watermark elsewhere before. */
  joined: boolean
  /** Under which the leader was asked last. */
  leaderEpoch: number | null
}

interface Kept {
  readonly offset: number
  read: PartitionRead
}

export function createTails({ clock, routes, peers }: TailsContext): Tails {
  const tails = new Map<string, Tail>()
  const kept = new Map<string, Kept>()
  let keptBytes = 0

  routes.onMoved(moved => {
    const places = moved?.map(({ topicId, partition }) => keyOf(topicId, partition))
    for (const key of places ?? [...tails.keys()]) {
      const tail = tails.get(key)
      // They read again, from whoever leads now, and come back here if there is nothing.
      if (tail !== undefined && !isLedAsAsked(tail)) wake(tail, Number.POSITIVE_INFINITY)
    }
  })

  /** Who was not asked yet will be, whoever that is then. */
  function isLedAsAsked({ topicId, partition, leaderEpoch }: Tail): boolean {
    if (leaderEpoch === null) return true
    try {
      return routes.now(topicId, partition)?.leaderEpoch === leaderEpoch
    } catch {
      return false
    }
  }

  function wake(tail: Tail, highWatermark: number): void {
    for (const reader of [...tail.readers]) {
      if (reader.offset >= highWatermark) continue
      // An earlier listener of this round may have cancelled it.
      if (tail.readers.delete(reader)) reader.listener()
    }
    forgetIfIdle(tail)
  }

  function forgetIfIdle(tail: Tail): void {
    if (tail.readers.size > 0 || tail.asking) return
    tails.delete(keyOf(tail.topicId, tail.partition))
  }

  /** Asks the leader for as long as anybody waits. */
  async function ask(tail: Tail): Promise<void> {
    const { topicId, partition } = tail
    tail.asking = true
    while (tail.readers.size > 0) {
      try {
        await askOnce(tail)
      } catch {
        // Deleted, out of range, without a leader: whoever reads is told.
        wake(tail, Number.POSITIVE_INFINITY)
      }
    }
    tail.asking = false
    forget(keyOf(topicId, partition))
    forgetIfIdle(tail)
  }

  async function askOnce(tail: Tail): Promise<void> {
    const { topicId, partition } = tail
    const route = routes.now(topicId, partition)
    if (route?.at !== 'there') {
      wake(tail, Number.POSITIVE_INFINITY)
      return
    }
    const { nodeId, leaderEpoch } = route
    tail.leaderEpoch = leaderEpoch
    tail.joined = false
    let offset = Number.POSITIVE_INFINITY
    for (const reader of tail.readers) offset = Math.min(offset, reader.offset)
    const place = { topicId, partition, leaderEpoch }
    const wanted = { offset, lastEpoch: -1, maxBytes: TAIL_BYTES, maxWaitMs: TAIL_WAIT_MS }
    const timeoutMs = TAIL_WAIT_MS + TAIL_GRACE_MS
    const { c: _, ...read } = await peers.call(nodeId, { c: 'read', ...place, ...wanted }, timeoutMs)
    const key = keyOf(topicId, partition)
    // Who waited all the while is told the watermark, nobody else: a reader that moved here from a faster node would see it go back.
    const isSettled = read.isSettled && !tail.joined
    if (read.batches.length > 0) keep(key, { offset, read: { ...read, isSettled } })
    wake(tail, read.bounds.highWatermark)
    // Those who were woken read before the next question goes out, so that it begins where they are then.
    await new Promise<void>(resolve => clock.soon(resolve))
    const left = kept.get(key)
    if (left !== undefined) left.read = { ...left.read, isSettled: false }
  }

  function keep(key: string, answer: Kept): void {
    forget(key)
    kept.set(key, answer)
    keptBytes += answer.read.batches.length
    for (const oldest of kept.keys()) {
      if (keptBytes <= MAX_KEPT_BYTES) return
      forget(oldest)
    }
  }

  function forget(key: string): void {
    const known = kept.get(key)
    if (known === undefined) return
    kept.delete(key)
    keptBytes -= known.read.batches.length
  }

  return {
    wait: (topicId, partition, offset, listener) => {
      const key = keyOf(topicId, partition)
      const known = tails.get(key)
      if (known === undefined && tails.size >= MAX_WATCHED) {
        throw new TributaryError('limit_exceeded', `${MAX_WATCHED} partitions of other nodes are waited for`)
      }
      if (known !== undefined && known.readers.size >= MAX_READERS) {
        throw new TributaryError('limit_exceeded', `${MAX_READERS} readers wait on this partition`)
      }
      const tail = known ?? {
        topicId,
        partition,
        readers: new Set(),
        asking: false,
        joined: false,
        leaderEpoch: null,
      }
      tails.set(key, tail)
      const reader = { offset, listener }
      tail.readers.add(reader)
      tail.joined = true
      // In a turn of its own: others who wait for the same come in this one.
      if (!tail.asking) {
        tail.asking = true
        clock.soon(() => void ask(tail))
      }
      return () => {
        tail.readers.delete(reader)
        forgetIfIdle(tail)
      }
    },
    take: (topicId, partition, offset, leaderEpoch) => {
      const known = kept.get(keyOf(topicId, partition))
      if (known?.offset !== offset || known.read.bounds.leaderEpoch !== leaderEpoch) return null
      return known.read
    },
    stats: () => ({ watched: tails.size, keptBytes }),
  }
}

function keyOf(topicId: string, partition: number): string {
  return `${topicId}/${partition}`
}

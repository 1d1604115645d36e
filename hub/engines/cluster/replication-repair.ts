import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../common/env.ts'
import { isTributaryError, messageOf } from '../../../common/errors.ts'
import { MIB, SECOND_MS } from '../../../common/limits.ts'
import type { Damage } from '../../../common/log/types.ts'
import type { PartitionState } from '../../controller/types.ts'
import type { Partition } from '../../replica/partition.ts'
import { epochOf } from '../../replica/role.ts'
import type { Held, PartitionTable } from './partitions.ts'
import type { Peers } from './types.ts'

/**
 * Fetches what is damaged in this node's logs from other replicas: a follower from its leader, a leader from whoever has it. Only what each
 * of them is known to lack is given up, by the leader first; a replica that can't be asked is waited for. One stretch at a time, for it is
 * rare, and the disk may be sick. A leader whose producer snapshots are damaged gets another replica's before it takes anything.
 */

const CHUNK_BYTES = MIB
const CALL_TIMEOUT_MS = 10 * SECOND_MS
/** Those who could not be asked are asked again after so long. */
const RETRY_MS = 2 * SECOND_MS
/** A leader waits so long for what replicas that are not in sync, and can't be asked, know of producers. */
const PRODUCERS_WAIT_MS = 30 * SECOND_MS
/** Stretches whose troubles are told of in a process's life. */
const MAX_TOLD = 10_000

export interface RepairerContext {
  clock: Clock
  nodeId: number
  partitions: PartitionTable
  peers: Pick<Peers, 'call'>
  state(topicId: string, partition: number): PartitionState | undefined
  log: Logger
}

export interface Repairer {
  /** Something of it is damaged. */
  found(held: Held): void
  close(): void
  stats(): { repairedStretches: number; lostStretches: number }
}

/** Why a stretch was not had from a replica: that has none of it, or may have it yet. */
type Refusal = 'missing' | 'unknown'

export function createRepairer(context: RepairerContext): Repairer {
  const { clock, nodeId, partitions, peers, log } = context
  const queue = new Set<string>()
  const later = new Set<string>()
  const toldOf = new Set<string>()
  /** Since when leaders look for what they lack of producers. */
  const lacking = new Map<string, number>()
  const counters = { repairedStretches: 0, lostStretches: 0 }
  let running = false
  let retry: Timer | null = null
  let closed = false

  async function run(): Promise<void> {
    if (running) return
    running = true
    for (const key of queue) {
      queue.delete(key)
      const held = partitions.heldAt(key)
      if (held !== null && !closed) await repairAll(held)
    }
    running = false
  }

  async function repairAll(held: Held): Promise<void> {
    const { replica, key } = held
    try {
      for (const damage of replica.repairs.damaged()) await repairOne(held, damage)
      if (replica.repairs.damaged().length > 0) again(key)
      else if (!replica.repairs.lacksProducers()) {
        lacking.delete(key)
        await replica.repairs.repaired()
      } else if (await findProducers(held)) lacking.delete(key)
      else again(key)
    } catch (error) {
      log.warn({ log: key, reason: messageOf(error) }, 'a damaged log is not repaired yet')
      again(key)
    }
  }

  function again(key: string): void {
    later.add(key)
    if (closed) return
    retry ??= clock.setTimer(() => {
      retry = null
      for (const one of later) queue.add(one)
      later.clear()
      void run()
    }, RETRY_MS)
  }

  /** Whom to ask, those in sync first; null where it is not known now. */
  function sources({ topicId, number, replica }: Held): number[] | null {
    const role = replica.role()
    if (role.kind === 'follower') return [role.leader]
    const state = role.kind === 'leader' ? context.state(topicId, number) : undefined
    if (state === undefined) return null
    const { replicas, isr } = state
    return [...isr, ...replicas.filter(id => !isr.includes(id))].filter(id => id !== nodeId)
  }

  async function repairOne(held: Held, damage: Damage): Promise<void> {
    const asked = sources(held)
    if (asked === null) return
    const { fromOffset, toOffset, reason } = damage
    const what = { log: held.key, fromOffset, toOffset, why: reason }
    const mayHaveIt: number[] = []
    let left = damage
    for (const source of asked) {
      const { rest, refusal } = await fetchFrom(held, source, left)
      if (rest === undefined) {
        counters.repairedStretches++
        log.warn({ ...what, source }, 'a damaged part of a log was replaced by another replica’s')
        return
      }
      left = rest
      if (refusal === 'unknown') mayHaveIt.push(source)
    }
    if (mayHaveIt.length > 0) {
      tellOnce(held, left, { ...what, nodes: mayHaveIt }, 'a damaged part of a log waits for other replicas')
      return
    }
    counters.lostStretches++
    log.error(what, 'a damaged part of a log is lost: no replica has it')
    held.replica.repairs.giveUp(left)
  }

  /** Gets a leader what others know of producers; false where that is to be tried again. */
  async function findProducers(held: Held): Promise<boolean> {
    const asked = sources(held)
    if (asked === null) return false
    const sinceMs = lacking.get(held.key) ?? clock.monotonicMs()
    lacking.set(held.key, sinceMs)
    const isLate = clock.monotonicMs() - sinceMs >= PRODUCERS_WAIT_MS
    const isr = context.state(held.topicId, held.number)?.isr ?? []
    const mayKnow: number[] = []
    for (const source of asked) {
      const answer = await askProducers(held, source)
      if (answer === 'taken') {
        log.warn({ log: held.key, source }, 'a damaged producer snapshot was replaced by another replica’s')
        return true
      }
      if (answer === 'unknown' && (!isLate || isr.includes(source))) mayKnow.push(source)
    }
    if (mayKnow.length > 0) {
      const what = { log: held.key, nodes: mayKnow }
      tellOnce(held, { fromOffset: -1 }, what, 'a damaged producer snapshot waits for other replicas')
      return false
    }
    log.error(
      { log: held.key },
      'a damaged producer snapshot is lost: what a producer sends again that wrote below the log’s start can not be told from new records',
    )
    await held.replica.repairs.giveUpProducers()
    return true
  }

  async function askProducers(
    { topicId, number, replica }: Held,
    source: number,
  ): Promise<'taken' | Refusal> {
    const call = {
      c: 'producer-snapshot',
      topicId,
      partition: number,
      leaderEpoch: epochOf(replica.role()),
    } as const
    const given = await peers.call(source, call, CALL_TIMEOUT_MS).catch((error: unknown) => {
      return isTributaryError(error, 'not_found') ? 'missing' : 'unknown'
    })
    if (typeof given === 'string') return given
    // It does not know yet that it needs a newer one.
    if (given.offset < replica.told().startOffset) return 'unknown'
    return (await replica.repairs.takeProducers(given)) ? 'taken' : 'missing'
  }

  /** What is tried again and again is told of once. */
  function tellOnce(
    { key }: Held,
    { fromOffset }: Pick<Damage, 'fromOffset'>,
    what: object,
    message: string,
  ): void {
    const told = `${key} ${fromOffset} ${message}`
    if (toldOf.has(told) || toldOf.size >= MAX_TOLD) return
    toldOf.add(told)
    log.warn(what, message)
  }

  /** Puts in what the source has of the stretch; what is left of it, and why. */
  async function fetchFrom(
    held: Held,
    source: number,
    damage: Damage,
  ): Promise<{ rest: Damage | undefined; refusal: Refusal }> {
    let rest: Damage | undefined = damage
    while (rest !== undefined) {
      const batches = await ask(held, source, rest)
      if (typeof batches === 'string') return { rest, refusal: batches }
      try {
        rest = await held.replica.repairs.repair(rest, batches)
      } catch (error) {
        const what = { log: held.key, source, reason: messageOf(error) }
        tellOnce(held, damage, what, 'what another replica has could not be put in for the damaged part')
        return { rest, refusal: 'unknown' }
      }
    }
    return { rest, refusal: 'unknown' }
  }

  async function ask(
    { topicId, number, replica }: Held,
    source: number,
    { fromOffset, toOffset }: Damage,
  ): Promise<Uint8Array | Refusal> {
    const role = replica.role()
    const place = { topicId, partition: number, leaderEpoch: epochOf(role) }
    try {
      const call = { c: 'stretch', ...place, fromOffset, toOffset, maxBytes: CHUNK_BYTES } as const
      const { batches } = await peers.call(source, call, CALL_TIMEOUT_MS)
      // Else it does not know yet that it is committed.
      return batches.length > 0 ? batches : 'unknown'
    } catch (error) {
      if (!isTributaryError(error)) return 'unknown'
      // A leader's own damage is the leader's to repair first.
      if (error.code === 'corrupt_log') return role.kind === 'leader' ? 'missing' : 'unknown'
      return error.code === 'not_found' || error.code === 'offset_out_of_range' ? 'missing' : 'unknown'
    }
  }

  return {
    found: ({ key }) => {
      queue.add(key)
      clock.soon(() => void run())
    },
    close: () => {
      closed = true
      retry?.cancel()
    },
    stats: () => counters,
  }
}

/** Batches of a stretch for another replica; see Repairs.readStretch. */
export async function answerStretch(
  replica: Partition,
  call: { leaderEpoch: number; fromOffset: number; toOffset: number; maxBytes: number },
) {
  const { leaderEpoch, fromOffset, toOffset, maxBytes } = call
  const { batches, nextOffset } = await replica.repairs.readStretch(
    leaderEpoch,
    fromOffset,
    toOffset,
    Math.min(maxBytes, CHUNK_BYTES),
  )
  return { c: 'stretch', batches, nextOffset } as const
}

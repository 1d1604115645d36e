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
 * Fetches what is damaged in this node's logs from other replicas: a follower from its leader, a leader from those in sync with it. What
 * none of them has is given up. One stretch at a time, for it is rare, and the disk may be sick.
 */

const CHUNK_BYTES = MIB
const CALL_TIMEOUT_MS = 10 * SECOND_MS
/** Those who could not be asked are asked again after so long. */
const RETRY_MS = 2 * SECOND_MS

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

/** `missing`: who was asked has none of it; `unknown`: nobody can say yet; `stuck`: it can't be put back. */
type Outcome = 'whole' | 'missing' | 'unknown' | 'stuck'

export function createRepairer(context: RepairerContext): Repairer {
  const { clock, nodeId, partitions, peers, log } = context
  const queue = new Set<string>()
  const later = new Set<string>()
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
      if (replica.repairs.damaged().length === 0) await replica.repairs.repaired()
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

  /** Whom to ask; null where it is not known now. */
  function sources({ topicId, number, replica }: Held): number[] | null {
    const role = replica.role()
    if (role.kind === 'follower') return [role.leader]
    if (role.kind === 'idle') return null
    return context.state(topicId, number)?.isr.filter(id => id !== nodeId) ?? null
  }

  async function repairOne(held: Held, damage: Damage): Promise<void> {
    const asked = sources(held)
    if (asked === null) return
    const { fromOffset, toOffset, reason } = damage
    const what = { log: held.key, fromOffset, toOffset, why: reason }
    let isUnknown = false
    for (const source of asked) {
      const outcome = await fetchFrom(held, source, damage)
      if (outcome === 'whole') {
        counters.repairedStretches++
        log.warn({ ...what, source }, 'a damaged part of a log was replaced by another replica’s')
        return
      }
      if (outcome === 'unknown') isUnknown = true
    }
    if (isUnknown) return
    counters.lostStretches++
    log.error(what, 'a damaged part of a log is lost: no replica in sync has it')
    held.replica.repairs.giveUp(damage)
  }

  async function fetchFrom(held: Held, source: number, damage: Damage): Promise<Outcome> {
    const { replica } = held
    let left: Damage | undefined = damage
    while (left !== undefined) {
      const batches = await ask(held, source, left)
      if (typeof batches === 'string') return batches
      try {
        left = await replica.repairs.repair(left, batches)
      } catch (error) {
        log.warn(
          { log: held.key, reason: messageOf(error) },
          'what another replica has does not fit the damaged part',
        )
        return isTributaryError(error, 'disk_full') ? 'unknown' : 'stuck'
      }
    }
    return 'whole'
  }

  async function ask(
    { topicId, number, replica }: Held,
    source: number,
    damage: Damage,
  ): Promise<Uint8Array | Outcome> {
    const { fromOffset, toOffset } = damage
    const leaderEpoch = epochOf(replica.role())
    const place = { topicId, partition: number, leaderEpoch }
    try {
      const call = { c: 'stretch', ...place, fromOffset, toOffset, maxBytes: CHUNK_BYTES } as const
      const { batches } = await peers.call(source, call, CALL_TIMEOUT_MS)
      // It has not got so far, or has it not committed yet.
      return batches.length > 0 ? batches : 'unknown'
    } catch (error) {
      const isMissing =
        isTributaryError(error, 'corrupt_log') || isTributaryError(error, 'offset_out_of_range')
      return isMissing ? 'missing' : 'unknown'
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

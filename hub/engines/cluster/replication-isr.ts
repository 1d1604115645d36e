import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../common/env.ts'
import { messageOf } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { ChangeIsr, IsrResult } from '../../controller/requests.ts'
import type { Proposal } from '../../replica/in-sync.ts'
import type { Held, PartitionTable } from './partitions.ts'
import type { Metadata } from './types.ts'

/**
 * Proposes to the controller who joins and who leaves the in-sync sets of what this node leads (KIP-497). One request is under way at a
 * time, with all partitions that have something to propose; of each, one proposal.
 */

/** Proposals in one request. */
const MAX_CHANGES = 1_000
/** A proposal whose fate is unknown, or that was refused, is made again after so long. */
const RETRY_MS = SECOND_MS
/** Followers that lag are looked for so often in the time that they may lag. */
const SWEEPS_PER_LAG = 5

export interface IsrKeeperContext {
  clock: Clock
  nodeId: number
  incarnation(): number
  metadata: Pick<Metadata, 'image' | 'submit'>
  partitions: PartitionTable
  replicaLagMaxMs: number
  log: Logger
}

export interface IsrKeeper {
  /** Who may join this partition's in-sync set, or leave it, has changed. */
  consider(held: Held): void
  /** There is something that its followers have yet to fetch: looks after laggards until there is no more. */
  watch(held: Held): void
  /** Nodes came to life, or changed: those who could not be proposed may be now. */
  nodesChanged(): void
  close(): void
  stats(): { proposals: number; refused: number; shrinks: number; expansions: number }
}

export function createIsrKeeper(context: IsrKeeperContext): IsrKeeper {
  const { clock, nodeId, metadata, partitions, log } = context
  const dirty = new Set<string>()
  /** Have a candidate that could not be proposed. */
  const hopeful = new Set<string>()
  const watched = new Set<string>()
  const counters = { proposals: 0, refused: 0, shrinks: 0, expansions: 0 }
  let scheduled = false
  let asking = false
  let sweep: Timer | null = null
  let retry: Timer | null = null
  let closed = false

  function wake(): void {
    if (scheduled || asking || closed || dirty.size === 0) return
    scheduled = true
    clock.soon(() => {
      scheduled = false
      flush().catch(error => log.error({ reason: messageOf(error) }, 'in-sync sets can not be proposed'))
    })
  }

  function isEligible(id: number, incarnation: number): boolean {
    const node = metadata.image().node(id)
    return node !== undefined && !node.fenced && node.incarnation === incarnation
  }

  function incarnationOf(id: number, { joining }: Proposal): number {
    if (id === nodeId) return context.incarnation()
    return joining.get(id) ?? metadata.image().node(id)?.incarnation ?? 0
  }

  /** What to propose for a partition: what is not resolved yet, or something new. */
  function changeOf(key: string): ChangeIsr['changes'][number] | null {
    const held = partitions.heldAt(key)
    const inSync = held?.replica.inSync()
    if (held === null || inSync === undefined || inSync === null) return null
    const proposal = inSync.outstanding() ?? inSync.propose(isEligible)
    if (proposal === null) {
      if (inSync.hasCandidate()) hopeful.add(key)
      return null
    }
    const { leaderEpoch, partitionEpoch } = proposal
    const isr = proposal.isr.map(id => ({ nodeId: id, incarnation: incarnationOf(id, proposal) }))
    return { topicId: held.topicId, partition: held.number, leaderEpoch, partitionEpoch, isr }
  }

  async function flush(): Promise<void> {
    asking = true
    try {
      while (dirty.size > 0 && !closed) {
        const changes: ChangeIsr['changes'] = []
        for (const key of dirty) {
          if (changes.length >= MAX_CHANGES) break
          dirty.delete(key)
          hopeful.delete(key)
          const change = changeOf(key)
          if (change !== null) changes.push(change)
        }
        if (changes.length > 0) await propose(changes)
      }
    } finally {
      asking = false
    }
    wake()
  }

  async function propose(changes: ChangeIsr['changes']): Promise<void> {
    counters.proposals += changes.length
    for (const { topicId, partition, isr } of changes) {
      const seats = metadata.image().partition(topicId, partition)?.isr.length ?? 0
      if (isr.length < seats) counters.shrinks++
      else if (isr.length > seats) counters.expansions++
    }
    try {
      const request = { nodeId, incarnation: context.incarnation(), changes }
      const { results } = await metadata.submit('change-isr', request)
      for (const result of results) resolved(result)
    } catch (error) {
      log.warn({ reason: messageOf(error), partitions: changes.length }, 'in-sync sets are proposed again')
      for (const { topicId, partition } of changes) again(partitions.logName(topicId, partition))
    }
  }

  function resolved({ topicId, partition, outcome }: IsrResult): void {
    const key = partitions.logName(topicId, partition)
    const inSync = partitions.heldAt(key)?.replica.inSync()
    if (inSync === undefined || inSync === null) return
    if (outcome === 'refused') {
      counters.refused++
      inSync.withdraw()
    }
    // What was taken is applied here already; what is stale is replaced by what the image tells, soon.
    if (inSync.outstanding() !== null) again(key)
    else if (inSync.hasCandidate()) dirty.add(key)
  }

  /** A while later. */
  const later = new Set<string>()
  function again(key: string): void {
    later.add(key)
    retry ??= clock.setTimer(() => {
      retry = null
      for (const one of later) dirty.add(one)
      later.clear()
      wake()
    }, RETRY_MS)
  }

  function lookForLaggards(): void {
    sweep = null
    const nowMs = clock.monotonicMs()
    for (const key of watched) {
      const inSync = partitions.heldAt(key)?.replica.inSync()
      const isBehind = inSync?.sweep(nowMs, context.replicaLagMaxMs) ?? false
      if (isBehind) dirty.add(key)
      else watched.delete(key)
    }
    wake()
    schedule()
  }

  function schedule(): void {
    if (sweep !== null || watched.size === 0 || closed) return
    sweep = clock.setTimer(lookForLaggards, context.replicaLagMaxMs / SWEEPS_PER_LAG)
  }

  return {
    consider: ({ key }) => {
      dirty.add(key)
      wake()
    },
    watch: ({ key }) => {
      watched.add(key)
      schedule()
    },
    nodesChanged: () => {
      for (const key of hopeful) dirty.add(key)
      hopeful.clear()
      wake()
    },
    close: () => {
      closed = true
      sweep?.cancel()
      retry?.cancel()
    },
    stats: () => counters,
  }
}

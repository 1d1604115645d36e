import type { FetchedFrame, FetchFrame } from '../../../common/wire-peer.ts'
import { decodeRecords } from '../../../hub/controller/records.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'
import type { World } from '../world.ts'
import { Holding } from './holding.ts'

/**
 * What the controller commits about partitions obeys the rules of in-sync sets, and no leader tells a high watermark that a member
 * of the set has not said it holds durably. It is looked at as it is said, long before anybody misses a record.
 */

/** A state that an entry of the metadata log brings. */
interface Proposed {
  index: number
  state: PartitionState
}

interface Place {
  committed: PartitionState | null
  /** Said, and not known to be committed: it may be in force all the same, or never be. */
  proposed: Proposed[]
  /** When the last leader was elected, as far as is known. */
  electedMs: number
  /** The same of every leader that took another one's place, by epoch. */
  readonly elections: Map<number, number>
  /** When it was last noticed that elections may be missing there. */
  missedMs: number
  /** What each node last told its leader to be durable there. */
  readonly told: Map<number, number>
  readonly holding: Holding
}

export class PartitionsChecker {
  readonly #world: World
  readonly #places = new Map<string, Place>()
  /** Who votes alone commits what nobody was told of yet: then nothing is known of the sets that leaders go by. */
  #isDecidedAlone = true

  constructor(world: World) {
    this.#world = world
  }

  /** A leader of the quorum sends an entry that was not seen before. */
  proposed(index: number, bytes: Uint8Array): void {
    for (const record of decodeRecords(bytes)) {
      if (record.type === 'partition_changed') this.#placeOf(record).proposed.push({ index, state: record })
    }
  }

  voters(count: number): void {
    this.#isDecidedAlone = count < 2
  }

  /** Entries come in their order; those before `index` that were not told of are not known. */
  committed(index: number, bytes: Uint8Array): void {
    for (const record of decodeRecords(bytes)) {
      if (record.type !== 'partition_changed') continue
      const place = this.#placeOf(record)
      const before = place.committed
      if (before !== null) this.#follows(before, record)
      if (before !== null && record.leaderEpoch > before.leaderEpoch) {
        place.electedMs = this.#world.nowMs()
        place.elections.set(record.leaderEpoch, place.electedMs)
      }
      place.committed = record
      place.holding.committed(this.#isDecidedAlone ? null : record)
      place.proposed = place.proposed.filter(each => each.index > index)
    }
  }

  /** Entries were committed that nobody sent. */
  missed(): void {
    for (const place of this.#places.values()) {
      place.committed = null
      place.holding.committed(null)
      place.electedMs = this.#world.nowMs()
      place.missedMs = place.electedMs
    }
  }

  /** Simulated time of the last election of a leader that took another one's place. */
  electedMs(topicId: string, partition: number): number {
    return this.#placeOf({ topicId, partition }).electedMs
  }

  /** The same of the leader of an epoch, -Infinity where that one took nobody's place. */
  epochElectedMs(topicId: string, partition: number, leaderEpoch: number): number {
    const { elections, missedMs } = this.#placeOf({ topicId, partition })
    return elections.get(leaderEpoch) ?? missedMs
  }

  #placeOf({ topicId, partition }: { topicId: string; partition: number }): Place {
    const key = `${topicId}/${partition}`
    let place = this.#places.get(key)
    if (place === undefined) {
      place = {
        committed: null,
        proposed: [],
        told: new Map(),
        holding: new Holding(),
        electedMs: Number.NEGATIVE_INFINITY,
        elections: new Map(),
        missedMs: Number.NEGATIVE_INFINITY,
      }
      this.#places.set(key, place)
    }
    return place
  }

  /** KIP-497: epochs never go back, who leads is in sync and was so before, and nobody is in sync that holds no replica. */
  #follows(before: PartitionState, after: PartitionState): void {
    const wrong = (what: string): Error =>
      new Error(`${what}: ${JSON.stringify(after)} was committed upon ${JSON.stringify(before)}`)
    if (after.partitionEpoch <= before.partitionEpoch) throw wrong('a partition epoch does not go up')
    if (after.leaderEpoch < before.leaderEpoch) throw wrong('a leader epoch goes back')
    if (after.isr.some(member => !after.replicas.includes(member)))
      throw wrong('who has no replica is in sync')
    if (after.leader !== null && !after.isr.includes(after.leader)) throw wrong('who is not in sync leads')
    if (after.leaderEpoch > before.leaderEpoch) {
      this.#world.count('leaders elected')
      // No topic here lets anybody else lead.
      if (after.leader === null || !before.isr.includes(after.leader))
        throw wrong('who was not in sync was elected')
    }
    if (after.isr.some(member => !before.isr.includes(member))) this.#world.count('isr grows')
    if (before.isr.some(member => !after.isr.includes(member))) this.#world.count('isr shrinks')
    if (after.isr.length === 0) this.#world.count('isr is empty')
  }

  /** A follower tells its leader how far it is; throws where it has given up what it must hold. */
  fetch({ positions }: FetchFrame, nodeId: number): void {
    for (const position of positions) {
      const { committed, proposed, told, holding } = this.#placeOf(position)
      told.set(nodeId, position.durableEnd)
      if (committed === null || this.#isDecidedAlone) continue
      const members = [committed.isr, ...proposed.map(({ state }) => state.isr)].flat()
      const followers = [...new Set(members)].filter(id => id !== committed.leader)
      const held = holding.told(position, nodeId, followers)
      if (held === null) continue
      const { topicId, partition, leaderEpoch, offset } = position
      throw new Error(
        `node ${nodeId}, in sync, held ${topicId}/${partition} up to ${held}, as all followers did; under epoch ${leaderEpoch} its log ends at ${offset}`,
      )
    }
  }

  /** A leader tells its followers how far all is committed; throws where it can not be. */
  fetched({ partitions }: FetchedFrame, leader: number): void {
    for (const { topicId, partition, leaderEpoch, highWatermark, error } of partitions) {
      const { committed, proposed, told } = this.#placeOf({ topicId, partition })
      if (error !== undefined) continue
      // It says so of itself, too: to its successors it need not.
      told.set(leader, Math.max(told.get(leader) ?? 0, highWatermark))
      // One that has not heard of its successor goes by an in-sync set of before.
      if (committed === null || leaderEpoch < committed.leaderEpoch || this.#isDecidedAlone) continue
      const members = committed.isr.filter(id => proposed.every(({ state }) => state.isr.includes(id)))
      for (const member of members) {
        const end = told.get(member) ?? 0
        if (member === leader || end >= highWatermark) continue
        throw new Error(
          `node ${leader} tells a high watermark of ${highWatermark} for ${topicId}/${partition} (epoch ${leaderEpoch}), and node ${member}, in sync, holds ${end}`,
        )
      }
    }
  }
}

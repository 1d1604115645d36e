import { expect } from 'vitest'
import { eachBatch } from '../../../../common/batch.ts'
import { decodePlain } from '../../../../common/batch-records.ts'
import { utf8Text } from '../../../../common/bytes.ts'
import { isTributaryError } from '../../../../common/errors.ts'
import { openSnapshots } from '../../../../common/log/snapshots.ts'
import type { Topic } from '../../../../hub/ports.ts'
import { createGapPlaces } from '../../../../hub/replica/gap-places.ts'
import { createLeaderEpochs } from '../../../../hub/replica/leader-epochs.ts'
import type { Partition } from '../../../../hub/replica/partition.ts'
import { decodeSnapshot } from '../../../../hub/replica/producer-snapshot.ts'
import { Producers } from '../../../../hub/replica/producers.ts'
import type { History } from '../../../../hub/replica/replay.ts'
import { replayBatches } from '../../../../hub/replica/replay.ts'
import type { Cluster, TestNode } from './cluster.ts'

/** A batch as a reader sees it. */
interface SeenBatch {
  lastOffset: number
  epoch: number
  crc: number
}

/** Reads a partition as a client does and keeps all that it saw. */
export class Reader {
  readonly #cluster: Cluster
  readonly #topic: Topic
  readonly #partition: number
  readonly seen = new Map<number, SeenBatch>()
  readonly wrongs: string[] = []
  #highWatermark = 0
  #epoch = 0

  constructor(cluster: Cluster, topic: Topic, partition: number) {
    this.#cluster = cluster
    this.#topic = topic
    this.#partition = partition
  }

  /** Looks at a leader's bounds, and at all that is committed there. */
  async look(leader: Partition): Promise<void> {
    try {
      const { startOffset, highWatermark, leaderEpoch } = leader.bounds()
      // A leader of before may still tell what was true then.
      if (leaderEpoch < this.#epoch) return
      this.#epoch = leaderEpoch
      if (highWatermark < this.#highWatermark) {
        this.wrongs.push(`the watermark went back from ${this.#highWatermark} to ${highWatermark}`)
      }
      this.#highWatermark = highWatermark
      for (let offset = startOffset; ; ) {
        const { batches, nextOffset } = await leader.read(offset, 16 * 1024)
        for (const { header } of eachBatch(batches)) this.#take(header)
        if (nextOffset <= offset) return
        offset = nextOffset
      }
    } catch (error) {
      if (!isTributaryError(error)) throw error
    }
  }

  #take(header: { baseOffset: number; lastOffset: number; leaderEpoch: number; crc: number }): void {
    const { baseOffset, lastOffset, leaderEpoch: epoch, crc } = header
    const known = this.seen.get(baseOffset)
    const batch = { lastOffset, epoch, crc }
    if (known === undefined) this.seen.set(baseOffset, batch)
    else if (known.crc !== crc || known.epoch !== epoch || known.lastOffset !== lastOffset) {
      const wrong = `offset ${baseOffset} was ${JSON.stringify(known)} and is ${JSON.stringify(batch)}`
      this.wrongs.push(wrong)
    }
  }

  /** Of whoever leads and can say. */
  async lookAround(): Promise<void> {
    for (const { table } of this.#cluster.nodes.values()) {
      const replica = table.peek(this.#topic.topicId, this.#partition)
      if (replica !== null && replica.actingEpoch('leader') !== null) await this.look(replica)
    }
  }
}

/** Whatever a leader takes for committed, every member of the in-sync set that runs has it durably. */
export class Committed {
  readonly #ends = new Map<string, number>()
  readonly wrongs: string[] = []

  check(cluster: Cluster): void {
    for (const { table } of cluster.nodes.values()) {
      for (const state of cluster.image.partitionStates()) {
        const key = table.logName(state.topicId, state.partition)
        const replica = table.heldAt(key)?.replica
        if (replica === undefined || replica.actingEpoch('leader') === null) continue
        this.#ends.set(key, Math.max(this.#ends.get(key) ?? 0, replica.told().highWatermark))
      }
    }
    for (const state of cluster.image.partitionStates()) {
      for (const nodeId of state.isr) {
        const node = cluster.nodes.get(nodeId)
        if (node === undefined) continue
        const key = node.table.logName(state.topicId, state.partition)
        const held = node.table.heldAt(key)
        if (held === null || (!held.replica.isOpen() && held.replica.actingEpoch('follower') === null))
          continue
        const { durableEnd } = held.replica.following.position()
        const end = this.#ends.get(key) ?? 0
        if (durableEnd < end) {
          this.wrongs.push(`node ${nodeId} is in sync with ${durableEnd} of ${end} of ${key}`)
        }
      }
    }
  }
}

/** All batches of a replica, from its start on. */
export async function batchesOf(
  replica: Partition,
): Promise<{ bytes: Uint8Array; start: number; end: number }> {
  const start = replica.told().startOffset
  const parts: Uint8Array[] = []
  let offset = start
  for (;;) {
    const { batches, nextOffset } = await replica.readForFollower(offset, 1 << 20)
    if (nextOffset <= offset) break
    parts.push(Uint8Array.from(batches))
    offset = nextOffset
  }
  return { bytes: Buffer.concat(parts), start, end: offset }
}

/** What a replica derives from its log, as it would write it down now; null where it has no log. */
export async function historyOf(node: TestNode, topic: Topic, partition: number): Promise<History | null> {
  const replica = node.table.peek(topic.topicId, partition)
  if (replica === null || !replica.isOpen()) return null
  // One that was begun before may be of less.
  for (let time = 0; time < 2; time++) await replica.snapshot(0)
  const folder = `/data/producers/${topic.topicId}/${partition}`
  const snapshots = await openSnapshots(node.disk, folder)
  const { offset } = replica.following.position()
  const found = await snapshots.loadAtOrBelow(offset)
  expect({ node: node.nodeId, offset: found?.offset ?? 0 }).toEqual({ node: node.nodeId, offset })
  return found === undefined ? null : decodeSnapshot(found.bytes)
}

export function replayed(bytes: Uint8Array): History {
  const history = { producers: new Producers(), epochs: createLeaderEpochs(), gaps: createGapPlaces() }
  replayBatches(history, bytes, 0, 0)
  return history
}

/** A history without the times at which clients were seen, and of epochs those that begin in a part of its log. */
export function plainHistory({ producers, epochs }: History, start: number, end: number): unknown {
  const byEdge = (left: { edge: string }, right: { edge: string }): number =>
    left.edge < right.edge ? -1 : 1
  const clients = [...producers.clients()]
    .map(([id, { epoch, batches }]) => ({ id, epoch, batches }))
    .toSorted((left, right) => left.id - right.id)
  return {
    lanes: [...producers.lanes()].toSorted(byEdge),
    clients,
    epochs: epochs.entries().filter(({ startOffset }) => startOffset >= start && startOffset < end),
  }
}

/** The values of a run in a log, in order. */
export function valuesOf(bytes: Uint8Array, run: number): string[] {
  const found: string[] = []
  for (const { at, header } of eachBatch(bytes)) {
    if (header.isControl || header.producerId !== run) continue
    for (const { value } of decodePlain(bytes, at)) found.push(utf8Text(value ?? new Uint8Array(0)))
  }
  return found
}

import { describe, expect, it } from 'vitest'
import { eachBatch } from '../../../../common/batch.ts'
import { isDiskFull, isTributaryError, systemErrorCode } from '../../../../common/errors.ts'
import type { Topic } from '../../../../hub/ports.ts'
import type { History } from '../../../../hub/replica/replay.ts'
import type { FakeDisk } from '../../../fake-disk.ts'
import { plainOf, runOf } from '../../replica/batches.ts'
import { batchesOf, Committed, historyOf, plainHistory, Reader, replayed, valuesOf } from './checks.ts'
import { Cluster, LAG_MS } from './cluster.ts'
import { Edge } from './edge.ts'

/**
 * Random histories of three or four nodes: edges and clients write, nodes crash, are killed, cut off, fenced, hear late, run out of
 * disk; leaders move, replicas too. REPLICA_SEEDS: how many; REPLICA_SEED: only this one.
 */

const SEEDS = Number(process.env.REPLICA_SEEDS ?? 25)
const FIRST = process.env.REPLICA_SEED === undefined ? 1 : Number(process.env.REPLICA_SEED)
const COUNT = process.env.REPLICA_SEED === undefined ? SEEDS : 1
const STEPS = 250

const totals = {
  cuts: 0,
  elections: 0,
  restarts: 0,
  shrinks: 0,
  expansions: 0,
  resumes: 0,
  acked: 0,
}

class Model {
  readonly cluster: Cluster
  readonly edges: Edge[] = []
  readonly readers: Reader[] = []
  readonly committed = new Committed()
  topics: Topic[] = []
  readonly #starting = new Set<number>()
  readonly #stalled = new Set<FakeDisk>()
  readonly #wrongs: string[] = []
  #clientNext = 0

  constructor(seed: number) {
    this.cluster = new Cluster(seed, { losesRequests: true })
  }

  async begin(): Promise<void> {
    const { cluster } = this
    for (const nodeId of [1, 2, 3]) await cluster.start(nodeId)
    const kept = cluster.topic('kept', 2)
    const short = cluster.topic('short', 1, { segmentBytes: 1024, retentionBytes: 1 })
    const thin = cluster.topic('thin', 1, { minInsyncReplicas: 1 })
    this.topics = [kept, short, thin]
    const written = [
      [kept, 0],
      [kept, 1],
      [short, 0],
      [thin, 0],
    ] as const
    for (const [index, [topic, partition]] of written.entries()) {
      this.edges.push(
        new Edge(cluster, topic, partition, 2 * index),
        new Edge(cluster, topic, partition, 2 * index + 1),
      )
      this.readers.push(new Reader(cluster, topic, partition))
    }
  }

  async step(): Promise<void> {
    const { cluster } = this
    const { rng } = cluster
    const dice = rng.below(100)
    const any = 1 + rng.below(3)
    if (dice < 50) for (const edge of this.edges) edge.step()
    else if (dice < 58) this.#client()
    else if (dice < 63) await this.#look()
    else if (dice < 68) await cluster.turns(rng.below(30))
    else if (dice < 71) cluster.clock.advance(rng.below(3) === 0 ? LAG_MS : 300)
    else if (dice < 75) this.#stop(any, rng.below(2) === 0 ? 'crash' : 'kill')
    else if (dice < 79) this.#restart()
    else if (dice < 82) this.#maintain()
    else if (dice < 83) this.#stall(any)
    else if (dice < 85) cluster.network.cut(any, 1 + (any % 3))
    else if (dice < 87) cluster.network.heal()
    else if (dice < 89) this.#fence(any)
    else if (dice < 92) this.#unfenceAll()
    else if (dice < 93) cluster.deaf.add(any)
    else if (dice < 95) cluster.deaf.clear()
    else if (dice < 97) this.#maintain()
    else if (dice < 98) cluster.call('balance', {})
    else this.#fill(any)
    await cluster.turns(rng.below(6))
    this.committed.check(cluster)
  }

  #client(): void {
    const [topic] = this.topics
    if (topic === undefined) return
    const leader = this.cluster.leader(topic, 0)
    const acks = ([0, 1, 'all'] as const)[this.cluster.rng.below(3)] ?? 'all'
    const isIdempotent = this.cluster.rng.below(2) === 0
    const batch = isIdempotent ? runOf(77, this.#clientNext, 2) : plainOf(['x'])
    if (isIdempotent) this.#clientNext += 2
    leader?.append(batch, acks).catch(error => this.#known(error))
  }

  #known(error: unknown): void {
    const isDisks = systemErrorCode(error) === 'EIO' || isDiskFull(error)
    if (!isTributaryError(error) && !isDisks) this.#wrongs.push(String(error))
  }

  async #look(): Promise<void> {
    for (const reader of this.readers) await reader.lookAround()
  }

  /** One node, or all of them: what was committed is synced. */
  #stop(nodeId: number, how: 'crash' | 'kill'): void {
    const { cluster } = this
    const all = cluster.rng.below(4) === 0
    for (const id of all ? [1, 2, 3] : [nodeId]) if (!this.#starting.has(id)) cluster.stop(id, how)
  }

  /** Its disk syncs nothing for a while, which often ends in a crash. */
  #stall(nodeId: number): void {
    const disk = this.cluster.nodes.get(nodeId)?.disk
    if (disk === undefined || this.#stalled.has(disk)) return
    this.#stalled.add(disk)
    const release = disk.holdSyncs()
    this.cluster.clock.setTimer(
      () => {
        this.#stalled.delete(disk)
        release()
      },
      this.cluster.rng.below(3 * LAG_MS),
    )
  }

  #restart(): void {
    const { cluster } = this
    for (const nodeId of [1, 2, 3]) {
      if (cluster.nodes.has(nodeId) || this.#starting.has(nodeId)) continue
      this.#starting.add(nodeId)
      cluster
        .startFenced(nodeId)
        .catch(error => this.#known(error))
        .finally(() => this.#starting.delete(nodeId))
    }
  }

  #fence(nodeId: number): void {
    const live = this.cluster.image.nodes().filter(({ fenced }) => !fenced)
    if (live.length > 1) this.cluster.fence(nodeId)
  }

  #unfenceAll(): void {
    this.cluster.unfence(...this.cluster.nodes.keys())
    this.cluster.tidy()
  }

  #maintain(): void {
    for (const { table } of this.cluster.nodes.values()) {
      for (const replica of table.open()) {
        const work = async (): Promise<void> => {
          await replica.snapshot(0)
          await replica.maintain(this.cluster.clock.nowMs())
        }
        work().catch(error => this.#known(error))
      }
    }
  }

  #fill(nodeId: number): void {
    const disk = this.cluster.nodes.get(nodeId)?.disk
    if (disk === undefined) return
    disk.setCapacity(disk.usedBytes() + 300)
    this.cluster.clock.setTimer(() => disk.setCapacity(Number.POSITIVE_INFINITY), 200)
  }

  /** Where all replicas stand, for a message. */
  #places(): string {
    const told = [...this.cluster.nodes.values()].flatMap(({ nodeId, table }) =>
      table.places().map(({ topicId, partition }) => {
        const replica = table.peek(topicId, partition)
        const stands = { ...replica?.following.position(), ...replica?.told() }
        return `${nodeId}: ${table.logName(topicId, partition)} ${JSON.stringify(stands)} ${JSON.stringify(replica?.role())}`
      }),
    )
    return told.join('\n')
  }

  /** All is well again: everything is in sync, and committed. */
  async heal(): Promise<void> {
    const { cluster } = this
    cluster.clock.advance(3 * LAG_MS)
    cluster.network.heal()
    cluster.deaf.clear()
    await cluster.until('starts', () => this.#starting.size === 0)
    this.#restart()
    await cluster.until('all up', () => this.#starting.size === 0 && cluster.nodes.size === 3)
    this.#unfenceAll()
    const places = this.topics.flatMap(topic =>
      Array.from({ length: topic.partitions }, (_, number) => ({ topic, number })),
    )
    await cluster.until(
      () => `all in sync ${this.#places()}`,
      () => places.every(({ topic, number }) => cluster.isInSync(topic, number)),
    )
    for (const edge of this.edges) edge.step()
    await cluster.until(
      () => `done: ${this.edges.join('; ')}; ${this.#places()}`,
      () => {
        for (const edge of this.edges) edge.settle()
        return this.edges.every(edge => edge.isDone())
      },
    )
    await cluster.until('all the same', () =>
      places.every(({ topic, number }) => {
        const ends = [...cluster.nodes.values()].map(node => {
          const replica = node.table.peek(topic.topicId, number)
          return replica?.following.position().durableEnd
        })
        return ends.every(end => end === cluster.leader(topic, number)?.told().highWatermark)
      }),
    )
    // Followers hear of the watermark a little later.
    for (let round = 0; round < 8; round++) {
      cluster.clock.advance(250)
      await cluster.turns(30)
    }
  }

  async judge(): Promise<void> {
    const { cluster } = this
    await this.#look()
    this.committed.check(cluster)
    const wrongs = [...this.edges, ...this.readers, this.committed].flatMap(each => each.wrongs)
    expect([...wrongs, ...this.#wrongs]).toEqual([])
    for (const topic of this.topics) {
      for (let number = 0; number < topic.partitions; number++) await this.#judgePartition(topic, number)
    }
  }

  async #judgePartition(topic: Topic, number: number): Promise<void> {
    const { cluster } = this
    const leader = cluster.leader(topic, number)
    if (leader === null) throw new Error('no leader in the end')
    const led = await batchesOf(leader)
    const histories: { history: History; start: number; end: number }[] = []
    for (const node of cluster.nodes.values()) {
      const replica = cluster.replica(node.nodeId, topic, number)
      const own = await batchesOf(replica)
      expect(own.end).toBe(led.end)
      const start = Math.max(own.start, led.start)
      expect(Buffer.compare(from(own, start), from(led, start))).toBe(0)
      const history = await historyOf(node, topic, number)
      if (history === null) continue
      histories.push({ history, end: own.end, start: own.start })
      const fresh = replayed(own.bytes)
      if (own.start === 0) expect(plainHistory(history, 0, own.end)).toEqual(plainHistory(fresh, 0, own.end))
    }
    const start = Math.max(...histories.map(each => each.start)) + 1
    const plain = histories.map(({ history, end }) => plainHistory(history, start, end))
    for (const history of plain) expect(history).toEqual(plain[0])
    for (const edge of this.edges) {
      if (edge.topic !== topic || edge.partition !== number) continue
      const values = valuesOf(led.bytes, edge.run)
      const last = values.length === 0 ? edge.committed : Number(values.at(-1)?.split(':')[1]) + 1
      expect(last).toBe(edge.committed)
      const first = edge.committed - values.length
      if (led.start === 0) expect(first).toBe(0)
      expect(values).toEqual(Array.from({ length: values.length }, (_, at) => `${edge.run}:${first + at}`))
    }
  }

  count(): void {
    for (const { cuts, restarts, shrinks, expansions, cutsBelowWatermark } of this.cluster.ended) {
      expect(cutsBelowWatermark).toBe(0)
      totals.cuts += cuts
      totals.restarts += restarts
      totals.shrinks += shrinks
      totals.expansions += expansions
    }
    for (const state of this.cluster.image.partitionStates()) totals.elections += state.leaderEpoch
    for (const edge of this.edges) {
      totals.resumes += edge.resumes
      totals.acked += edge.committed
    }
  }
}

function from({ bytes, start }: { bytes: Uint8Array; start: number }, offset: number): Uint8Array {
  if (start === offset) return bytes
  for (const { at, header } of eachBatch(bytes)) if (header.baseOffset >= offset) return bytes.subarray(at)
  return new Uint8Array(0)
}

describe('replicas', () => {
  for (let seed = FIRST; seed < FIRST + COUNT; seed++) {
    it(`hold what was acked, once and in order, whatever happens (seed ${seed})`, async () => {
      const model = new Model(seed)
      await model.begin()
      for (let step = 0; step < STEPS; step++) await model.step()
      await model.heal()
      await model.judge()
      await model.cluster.end()
      model.count()
    }, 60_000)
  }

  it('were cut, begun anew, out of sync and back, over many leaders, or nothing was shown', () => {
    if (process.env.REPLICA_TOTALS !== undefined) console.log(totals)
    if (COUNT < 20) return
    for (const [what, count] of Object.entries(totals))
      expect({ what, count: Math.min(count, 1) }).toEqual({ what, count: 1 })
  })
})

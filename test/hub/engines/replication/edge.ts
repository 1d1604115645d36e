import { isTributaryError } from '../../../../common/errors.ts'
import type { LaneTip } from '../../../../common/wire.ts'
import type { Topic } from '../../../../hub/ports.ts'
import type { Partition } from '../../../../hub/replica/partition.ts'
import { runOf } from '../../replica/batches.ts'
import type { Cluster } from './cluster.ts'

/** Sequences under way at once. */
const WINDOW = 40

/**
 * An edge with one lane in a partition: sends what it has in order, goes back to what the leader holds when anything fails, and
 * frees what was said to be committed. It may send to a leader of before, which must not commit what others don't have.
 */
export class Edge {
  readonly #cluster: Cluster
  readonly topic: Topic
  readonly partition: number
  readonly id: { edge: string; lane: number }
  readonly run: number
  /** Sent up to here, told to be committed up to here. */
  #next = 0
  committed = 0
  #resuming: Promise<void> | null = null
  #lost = true
  #life = 0
  resumes = 0
  /** Things that must not be. */
  readonly wrongs: string[] = []

  constructor(cluster: Cluster, topic: Topic, partition: number, number: number) {
    this.#cluster = cluster
    this.topic = topic
    this.partition = partition
    this.id = { edge: `e${number}`, lane: 0 }
    this.run = 2 ** 52 + number
  }

  /** Finds out where it stands, where it does not know. */
  settle(): void {
    if (this.#resuming !== null || !this.#lost) return
    this.#resuming = this.#resume().finally(() => {
      this.#resuming = null
    })
  }

  /** The next thing to do. */
  step(): void {
    this.settle()
    if (this.#resuming !== null || this.#lost) return
    if (this.#next - this.committed > WINDOW) return
    const leader = this.#anyLeader()
    if (leader === null) return
    const count = 1 + this.#cluster.rng.below(5)
    const life = this.#life
    const sent = leader.appendLane(this.id, runOf(this.run, this.#next, count))
    this.#next += count
    sent.then(
      tip => this.#told(tip),
      error => {
        if (!isTributaryError(error)) this.wrongs.push(`an append failed by ${error}`)
        if (life === this.#life) this.#lost = true
      },
    )
  }

  #told({ run, committed }: LaneTip): void {
    if (run === this.run) this.committed = Math.max(this.committed, committed)
  }

  async #resume(): Promise<void> {
    const leader = this.#cluster.leader(this.topic, this.partition)
    if (leader === null) return
    this.resumes++
    this.#life++
    try {
      const tip = leader.tip(this.id)
      if (tip !== null && (tip.run !== this.run || tip.committed < this.committed)) {
        this.wrongs.push(`the leader holds ${JSON.stringify(tip)}, ${this.committed} was committed`)
      }
      if (tip === null && this.committed > 0) this.wrongs.push('a leader forgot the lane')
      // An edge frees what it is told here, too.
      if (tip !== null) this.#told(tip)
      const settled = await leader.startRun(this.id, { run: this.run, prev: null, reason: 'first' })
      this.#told(settled)
      this.#next = settled.next
      this.#lost = false
    } catch (error) {
      if (!isTributaryError(error)) throw error
    }
  }

  /** Whoever takes itself for the leader, mostly who is. */
  #anyLeader(): Partition | null {
    const { rng, nodes } = this.#cluster
    if (rng.below(8) > 0) return this.#cluster.leader(this.topic, this.partition)
    const claiming = [...nodes.values()].flatMap(({ table }) => {
      const replica = table.peek(this.topic.topicId, this.partition)
      return replica !== null && replica.actingEpoch('leader') !== null ? [replica] : []
    })
    return claiming[rng.below(Math.max(1, claiming.length))] ?? null
  }

  /** Where it stands, for messages. */
  toString(): string {
    const { topic, partition, committed } = this
    const doing = this.#resuming !== null ? 'resuming' : this.#lost ? 'lost' : 'sending'
    return `${this.id.edge} on ${topic.name}/${partition}: ${doing}, ${committed} of ${this.#next} committed`
  }

  /** Nothing is under way and all that was sent is committed. */
  isDone(): boolean {
    return this.#resuming === null && !this.#lost && this.committed === this.#next
  }
}

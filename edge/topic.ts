import { must } from '../common/assert.ts'
import { utf8 } from '../common/bytes.ts'
import type { TopicPolicy } from '../common/config-edge.ts'
import type { Codec } from '../common/env.ts'
import type { StateEntry } from '../common/log/types.ts'
import type { Generation, LaneContext } from './lane.ts'
import { Lane, parsed } from './lane.ts'
import { freeableEnd } from './ledger.ts'

/** A hub topic at the edge: its lanes, and the generations of local logs that changes of `lanes` left behind. */
export class Topic {
  readonly name: string
  readonly policy: TopicPolicy
  readonly lanes: Lane[]
  /** Oldest first; the last one is written. */
  #generations: Generation[]

  private constructor(name: string, policy: TopicPolicy, generations: Generation[], lanes: Lane[]) {
    this.name = name
    this.policy = policy
    this.#generations = generations
    this.lanes = lanes
  }

  /** Opens the topic's logs as stored, and a new generation where the policy lays lanes out in another way. */
  static async open(
    name: string,
    policy: TopicPolicy,
    context: LaneContext & { codec: Codec },
  ): Promise<{ topic: Topic; isNew: boolean }> {
    const generations = parsed<Generation[]>(context.state.get(`topic/${name}`)) ?? []
    const { lanes, partitionBy } = policy
    const last = generations.at(-1)
    const isNew = last === undefined || last.lanes !== lanes || last.partitionBy !== partitionBy
    const current = isNew ? { generation: (last?.generation ?? 0) + 1, lanes, partitionBy } : last
    if (isNew) generations.push(current)
    const count = Math.max(...generations.map(generation => generation.lanes))
    const opened: Lane[] = []
    for (let index = 0; index < count; index++) {
      const lane = new Lane(context, name, index, current, policy.priority)
      await lane.open(index < lanes ? current : null, context.codec)
      opened.push(lane)
    }
    const topic = new Topic(name, policy, generations, opened)
    topic.updateSendable()
    return { topic, isNew }
  }

  /** The generation that is written. */
  generation(): number {
    return must(this.#generations.at(-1), 'a topic has a generation').generation
  }

  entry(): StateEntry {
    return { key: `topic/${this.name}`, value: utf8(JSON.stringify(this.#generations)) }
  }

  /**
   * Sets how far each lane may be sent: records of a generation wait until all lanes of the one before are drained,
   * since a key may have changed its lane. Returns the lanes that may send more than before.
   */
  updateSendable(): Lane[] {
    const open = this.#generations.find(({ generation }, index) => {
      if (index === this.#generations.length - 1) return true
      return this.lanes.some(lane => freeableEnd(lane.ledger) < endOf(lane, generation))
    })
    const generation = open?.generation ?? 0
    return this.lanes.filter(lane => {
      const before = lane.ledger.sendableEnd
      lane.ledger.sendableEnd = endOf(lane, generation)
      return lane.ledger.sendableEnd > before
    })
  }

  /** Forgets generations of which no log is left; true where some were. */
  forgetDrained(): boolean {
    const oldest = Math.min(...this.lanes.map(lane => lane.oldestGeneration()))
    const kept = this.#generations.filter(
      ({ generation }, index) => generation >= oldest || index === this.#generations.length - 1,
    )
    const forgot = kept.length < this.#generations.length
    this.#generations = kept
    return forgot
  }
}

/** Where `generation` ends in a lane, as far as it is durable. */
function endOf(lane: Lane, generation: number): number {
  return Math.min(lane.endOfGeneration(generation), lane.ledger.durableEnd)
}

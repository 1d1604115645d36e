import type { BatchHeader } from '../../../common/batch.ts'
import { eachBatch } from '../../../common/batch.ts'
import type { RecordsFrame } from '../../../common/wire.ts'
import { SUBSCRIBE_PATH } from '../../../common/wire.ts'
import { decodeFrame } from '../../../common/wire-codec.ts'
import type { Connection, Pipe } from '../pipe.ts'

/**
 * What any node ever served to any reader stays what it is: an offset holds one batch for ever, whoever serves it, and no
 * batch reaches beyond the high watermark it came with.
 */

interface ServedBatch {
  lastOffset: number
  crc: number
  leaderEpoch: number
}

interface Subscription {
  topicId: string
  partition: number
  /** What its client had heard of when it subscribed, then the last frame. */
  floor: Mark
}

/** A high watermark, and the epoch of the leader that told it. */
interface Mark {
  highWatermark: number
  leaderEpoch: number
}

const NOTHING: Mark = { highWatermark: 0, leaderEpoch: -1 }

/** What a client heard of high watermarks, by partition. */
type Heard = Map<string, Mark>

/** What was asked over a connection and is answered there. */
interface Asked {
  subscriptions: Map<number, Subscription>
  /** What the client had heard when it asked for a topic, by request. */
  topics: Map<number, Heard>
}

export class ServedChecker {
  /** By partition, by base offset. */
  readonly #served = new Map<string, Map<number, ServedBatch>>()
  readonly #asked = new WeakMap<Connection, Asked>()
  /** By client. */
  readonly #heard = new Map<string, Heard>()
  batches = 0
  #isOver = false
  readonly #isAlone: boolean

  /** `isAlone`: there is one node, which knows of all that was told before. */
  constructor(isAlone: boolean) {
    this.#isAlone = isAlone
  }

  /** All is read now: what is served from here on may be newer than that. */
  over(): void {
    this.#isOver = true
  }

  /** Takes what a client sends. */
  onSend(data: Uint8Array, { connection, from }: Pipe): void {
    if (connection.path !== SUBSCRIBE_PATH || from !== connection.there.from) return
    const asked = this.#asked.get(connection)
    if (asked === undefined) {
      // The first frame is a hello.
      this.#asked.set(connection, { subscriptions: new Map(), topics: new Map() })
      return
    }
    const frame = decodeFrame(data, 'client')
    const heard = this.#heardBy(from.process.name)
    if (frame.t === 'subscribe') {
      const { sub, topicId, partition } = frame
      const floor = heard.get(`${topicId}/${partition}`) ?? NOTHING
      asked.subscriptions.set(sub, { topicId, partition, floor })
    } else if (frame.t === 'request' && frame.op === 'topic') asked.topics.set(frame.id, new Map(heard))
  }

  /** Takes what arrives at a client; throws what is wrong. */
  onArrival(data: Uint8Array, { connection, to, from }: Pipe): void {
    if (connection.path !== SUBSCRIBE_PATH || to !== connection.there.from) return
    const asked = this.#asked.get(connection)
    if (asked === undefined) return
    const client = to.process.name
    const node = from.process.name
    const frame = decodeFrame(data, 'client-hub')
    if (frame.t === 'records') this.#records(frame, asked, client, node)
    if (frame.t !== 'response' || frame.result === undefined || !('partitions' in frame.result)) return
    const { topicId, partitions } = frame.result
    const before = asked.topics.get(frame.id)
    for (const { partition, highWatermark, leaderEpoch } of partitions) {
      // No leader was reached: nothing is said of where the partition stands.
      if (leaderEpoch < 0) continue
      const key = `${topicId}/${partition}`
      this.#hear(client, node, key, { highWatermark, leaderEpoch }, before?.get(key) ?? NOTHING)
    }
  }

  #records(frame: RecordsFrame, asked: Asked, client: string, node: string): void {
    const subscription = asked.subscriptions.get(frame.sub)
    if (subscription === undefined) throw new Error(`${node} serves a subscription that ${client} never made`)
    const { topicId, partition, floor } = subscription
    const { highWatermark, leaderEpoch, batches } = frame
    // A new leader that does not know yet how far all is committed tells none.
    if (highWatermark !== undefined) {
      const mark = { highWatermark, leaderEpoch }
      // The epoch is that of the records: whoever told the watermark may lead under a later one, which another node need not have heard of.
      if (this.#isAlone) this.#hear(client, node, `${topicId}/${partition}`, mark, floor)
      else compare(client, node, `${topicId}/${partition}`, mark, floor)
      if (leaderEpoch >= floor.leaderEpoch) subscription.floor = mark
    }
    for (const { header } of eachBatch(batches)) {
      if (highWatermark !== undefined && header.lastOffset >= highWatermark) {
        const place = `${topicId}/${partition} up to offset ${header.lastOffset}`
        throw new Error(`${node} served ${place}, beyond its high watermark ${highWatermark}`)
      }
      this.note(topicId, partition, header, node)
    }
  }

  #heardBy(client: string): Heard {
    const known = this.#heard.get(client)
    if (known !== undefined) return known
    const made: Heard = new Map()
    this.#heard.set(client, made)
    return made
  }

  /**
   * `floor`: what the client had heard before it asked. A leader that does not know yet that there is another one may tell less: its
   * epoch says that it is the older one.
   */
  #hear(client: string, node: string, key: string, mark: Mark, floor: Mark): void {
    const { highWatermark, leaderEpoch } = mark
    compare(client, node, key, mark, floor)
    const heard = this.#heardBy(client)
    const known = heard.get(key) ?? NOTHING
    if (leaderEpoch < known.leaderEpoch) return
    heard.set(key, { leaderEpoch, highWatermark: Math.max(known.highWatermark, highWatermark) })
  }

  /** A batch as served, or as found at the end. */
  note(topicId: string, partition: number, header: BatchHeader, where: string): void {
    this.batches++
    const key = `${topicId}/${partition}`
    let known = this.#served.get(key)
    if (known === undefined) {
      known = new Map()
      this.#served.set(key, known)
    }
    const { baseOffset, lastOffset, crc, leaderEpoch } = header
    const before = known.get(baseOffset)
    if (before === undefined) {
      if (!this.#isOver) known.set(baseOffset, { lastOffset, crc, leaderEpoch })
    } else if (before.lastOffset !== lastOffset || before.crc !== crc || before.leaderEpoch !== leaderEpoch) {
      const now = { lastOffset, crc, leaderEpoch }
      throw new Error(
        `offset ${baseOffset} of ${key} was served as ${JSON.stringify(before)} and is ${JSON.stringify(now)} at ${where}`,
      )
    }
  }

  /** All that was served is there at the end; `found`: base offsets. */
  checkAllThere(topicId: string, partition: number, startOffset: number, found: ReadonlySet<number>): void {
    for (const baseOffset of this.#served.get(`${topicId}/${partition}`)?.keys() ?? []) {
      if (baseOffset < startOffset || found.has(baseOffset)) continue
      throw new Error(`offset ${baseOffset} of ${topicId}/${partition} was served, and is gone`)
    }
  }
}

function compare(client: string, node: string, key: string, mark: Mark, floor: Mark): void {
  const { highWatermark, leaderEpoch } = mark
  if (leaderEpoch < floor.leaderEpoch || highWatermark >= floor.highWatermark) return
  const heard = `is ${highWatermark} now (epoch ${leaderEpoch}), as ${client} hears from ${node}`
  throw new Error(
    `the high watermark of ${key} was ${floor.highWatermark} (epoch ${floor.leaderEpoch}) and ${heard}`,
  )
}

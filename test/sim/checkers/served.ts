import type { BatchHeader } from '../../../common/batch.ts'
import { eachBatch } from '../../../common/batch.ts'
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
}

export class ServedChecker {
  /** By partition, by base offset. */
  readonly #served = new Map<string, Map<number, ServedBatch>>()
  readonly #subscriptions = new WeakMap<Connection, Map<number, Subscription>>()
  /** The highest watermark that each client was told, by client and partition. */
  readonly #watermarks = new Map<string, number>()
  batches = 0

  /** Takes what arrives at a client or comes from one; throws what is wrong. */
  onArrival(data: Uint8Array, { connection, to, from }: Pipe): void {
    if (connection.path !== SUBSCRIBE_PATH) return
    if (to === connection.there.to) this.#asked(connection, data)
    else this.#answered(connection, data, to.process.name, from.process.name)
  }

  #asked(connection: Connection, data: Uint8Array): void {
    // The first frame is a hello.
    const known = this.#subscriptions.get(connection)
    if (known === undefined) {
      this.#subscriptions.set(connection, new Map())
      return
    }
    const frame = decodeFrame(data, 'client')
    if (frame.t === 'subscribe') known.set(frame.sub, frame)
  }

  #answered(connection: Connection, data: Uint8Array, client: string, node: string): void {
    const frame = decodeFrame(data, 'client-hub')
    if (frame.t === 'response' && frame.result !== undefined && 'partitions' in frame.result) {
      const { topicId, partitions } = frame.result
      for (const { partition, highWatermark } of partitions) {
        this.#watermark(client, node, topicId, partition, highWatermark)
      }
    }
    if (frame.t !== 'records') return
    const subscription = this.#subscriptions.get(connection)?.get(frame.sub)
    if (subscription === undefined) throw new Error(`${node} serves a subscription that ${client} never made`)
    const { topicId, partition } = subscription
    this.#watermark(client, node, topicId, partition, frame.highWatermark)
    for (const { header } of eachBatch(frame.batches)) {
      if (header.lastOffset >= frame.highWatermark) {
        throw new Error(
          `${node} served ${topicId}/${partition} up to offset ${header.lastOffset}, beyond its high watermark ${frame.highWatermark}`,
        )
      }
      this.note(topicId, partition, header, node)
    }
  }

  #watermark(client: string, node: string, topicId: string, partition: number, highWatermark: number): void {
    const key = `${client} ${topicId}/${partition}`
    const known = this.#watermarks.get(key) ?? 0
    if (highWatermark < known) {
      throw new Error(
        `the high watermark of ${topicId}/${partition} was ${known} and is ${highWatermark} now, as ${client} hears from ${node}`,
      )
    }
    this.#watermarks.set(key, highWatermark)
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
    if (before === undefined) known.set(baseOffset, { lastOffset, crc, leaderEpoch })
    else if (before.lastOffset !== lastOffset || before.crc !== crc || before.leaderEpoch !== leaderEpoch) {
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

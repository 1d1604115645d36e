import type { SdkBook, SdkRecord } from '../sdk-book.ts'

/** A leader may not know for so long that there is another one, and ack what that one lacks where no more was asked for. */
const DEPOSED_MS = 20_000

export interface SdkFacts {
  /** What lies below it is deleted by retention. */
  startOf(topic: string, partition: number): number
  /** When a leader took another one's place for the last time, -Infinity where none did. */
  electedMs(topic: string, partition: number): number
  /** When the leader that wrote what stands at `offset` took another one's place, -Infinity where it did not. */
  writerElectedMs(topic: string, partition: number, offset: number): number
  /** Nothing happened that records could be lost by. */
  isCalm: boolean
}

/**
 * What SDK producers were acked stands once, where they were told, in the order in which each sent; what they were not acked
 * stands once, before what was sent later, or not at all. What the leader alone acked may go with it; what was not to be acked, with anything.
 * Where the leader alone acked it may stand elsewhere, too: its successor had stored it, that answer was lost, and the retry reached
 * the deposed one. What lies there is the successor's then, from the lower of both places on.
 */
export class SdkRecordsChecker {
  readonly #book: SdkBook
  readonly #found = new Map<SdkRecord, { partition: number; offset: number }>()
  /** The newest record of each writer, by topic and partition. */
  readonly #newest = new Map<string, SdkRecord>()

  constructor(book: SdkBook) {
    this.#book = book
  }

  /** A record of the log, in the log's order. */
  found(topic: string, partition: number, offset: number, id: string): void {
    const place = `${topic}/${partition} at ${offset}`
    const record = this.#book.records.get(id)
    if (record === undefined) throw new Error(`"${id}", in ${place}, was never sent`)
    if (record.topic !== topic) throw new Error(`${id} of ${record.topic} is in ${place}`)
    const other = this.#found.get(record)
    if (other !== undefined) throw new Error(`${id} is in ${place} and at ${other.partition}/${other.offset}`)
    this.#found.set(record, { partition, offset })
    const key = `${record.writer} ${topic}/${partition}`
    const before = this.#newest.get(key)
    if (before !== undefined && before.order > record.order) {
      throw new Error(`${id}, in ${place}, comes after ${before.id}, which was sent later`)
    }
    this.#newest.set(key, record)
  }

  /** After all was found. */
  check({ startOf, electedMs, writerElectedMs, isCalm }: SdkFacts): void {
    for (const record of this.#book.records.values()) {
      if (record.outcome !== 'acked') continue
      const { id, topic, partition, offset, acks, sentMs } = record
      const place = this.#found.get(record)
      if (place === undefined) {
        const isLed = acks === 1 && electedMs(topic, partition) < sentMs - DEPOSED_MS
        const isSafe = acks === 'all' || isLed || (acks === 0 && isCalm)
        // Where nobody told the place it may be among what is deleted.
        if (isSafe && offset >= startOf(topic, partition)) {
          throw new Error(`${id}, acks=${acks}, acked at ${offset} of ${topic}/${partition}, is gone`)
        }
      } else if (offset !== -1 && (place.partition !== partition || place.offset !== offset)) {
        const wroteMs = writerElectedMs(topic, partition, Math.min(place.offset, offset))
        const isDeposed = acks !== 'all' && wroteMs >= sentMs - DEPOSED_MS
        if (isDeposed && place.partition === partition) continue
        const found = `partition ${place.partition} at ${place.offset}`
        throw new Error(`${id}, acks=${acks}, acked at ${offset} of ${topic}/${partition}, is in ${found}`)
      }
    }
  }
}

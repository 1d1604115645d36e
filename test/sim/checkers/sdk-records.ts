import type { SdkBook, SdkRecord } from '../sdk-book.ts'

/**
 * What SDK producers were acked stands once, where they were told, in the order in which each sent; what they were not acked
 * stands once, before what was sent later, or not at all.
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

  /** After all was found; `startOf`: what lies below is deleted by retention. */
  check(startOf: (topic: string, partition: number) => number): void {
    for (const record of this.#book.records.values()) {
      if (record.outcome !== 'acked') continue
      const { id, topic, partition, offset, isSafe } = record
      const place = this.#found.get(record)
      if (place === undefined) {
        if (isSafe && offset >= startOf(topic, partition))
          throw new Error(`${id}, acked at ${offset} of ${topic}/${partition}, is gone`)
      } else if (place.partition !== partition || place.offset !== offset) {
        const found = `${place.partition} at ${place.offset}`
        throw new Error(`${id}, acked at ${offset} of ${topic}/${partition}, is in partition ${found}`)
      }
    }
  }
}

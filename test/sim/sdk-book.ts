/** What SDK producers were told and what they sent: the other half of what the records are judged by, beside the spine's Book. */

/** One record of a writer. */
export interface SdkRecord {
  id: string
  writer: string
  topic: string
  /** Counts up with the sends of a writer. */
  order: number
  outcome: 'pending' | 'acked' | 'failed'
  partition: number
  offset: number
  /** Acks all: must be found. */
  isSafe: boolean
}

export class SdkBook {
  readonly records = new Map<string, SdkRecord>()
  #next = 0

  send(writer: string, topic: string, isSafe: boolean): SdkRecord {
    const order = this.#next++
    const id = `${writer}:${order}`
    const record: SdkRecord = {
      id,
      writer,
      topic,
      order,
      outcome: 'pending',
      partition: -1,
      offset: -1,
      isSafe,
    }
    this.records.set(id, record)
    return record
  }

  pending(): number {
    let count = 0
    for (const { outcome } of this.records.values()) if (outcome === 'pending') count++
    return count
  }
}

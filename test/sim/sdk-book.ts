/** What SDK producers were told and what they sent: the other half of what the records are judged by, beside the spine's Book. */

/** What was asked for: `all` must be found, 1 where no leader was replaced since, 0 where nothing happened at all. */
type Acks = 0 | 1 | 'all'

/** One record of a writer. */
export interface SdkRecord {
  id: string
  writer: string
  topic: string
  /** Counts up with the sends of a writer. */
  order: number
  outcome: 'pending' | 'acked' | 'failed'
  /** -1 where nobody told. */
  partition: number
  offset: number
  acks: Acks
  sentMs: number
}

export class SdkBook {
  readonly records = new Map<string, SdkRecord>()
  #next = 0

  send(writer: string, topic: string, acks: Acks, sentMs: number): SdkRecord {
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
      acks,
      sentMs,
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

/** Every reader got what the log holds in the end: each record once, in order, none left out, over all its interruptions. */
export class ReadersChecker {
  /** By reader and partition, in the order of reading. */
  readonly #seen = new Map<string, { offset: number; value: string }[]>()

  record(reader: string, partition: number, offset: number, value: string): void {
    const key = `${reader}/${partition}`
    let seen = this.#seen.get(key)
    if (seen === undefined) {
      seen = []
      this.#seen.set(key, seen)
    }
    const last = seen.at(-1)
    if (last !== undefined && offset <= last.offset) {
      throw new Error(`${reader} got offset ${offset} of partition ${partition} after ${last.offset}`)
    }
    seen.push({ offset, value })
  }

  /** How far it is. */
  last(reader: string, partition: number): number {
    return this.#seen.get(`${reader}/${partition}`)?.at(-1)?.offset ?? -1
  }

  /** `records`: what the partition holds at the end, below `end`; more may have come since. */
  check(
    reader: string,
    partition: number,
    records: readonly { offset: number; value: string }[],
    end: number,
  ): void {
    const seen = this.#seen.get(`${reader}/${partition}`) ?? []
    for (const [index, record] of records.entries()) {
      const got = seen[index]
      if (got?.offset === record.offset && got.value === record.value) continue
      const place = `partition ${partition} at offset ${record.offset}`
      throw new Error(
        `${reader} should have got ${JSON.stringify(record)} in ${place}, and got ${JSON.stringify(got)}`,
      )
    }
    const extra = seen[records.length]
    if (extra !== undefined && extra.offset < end) {
      throw new Error(`${reader} got ${JSON.stringify(extra)} of partition ${partition}, which is not there`)
    }
  }
}

/** An Ingest in memory whose commits, failures and crashes the test decides. */

import { assert } from '../../../common/assert.ts'
import type { TributaryError } from '../../../common/errors.ts'
import type { StateEntry } from '../../../common/log/types.ts'
import type { AppendDone, Ingest, RoutedRecord } from '../../../edge/ports.ts'

interface Pending {
  record: RoutedRecord | null
  session: readonly StateEntry[]
  done: AppendDone
  error: TributaryError | undefined
}

/** What outlives a crash. */
export interface FakeDisk {
  records: RoutedRecord[]
  session: Map<string, Uint8Array>
}

const newDisk = (): FakeDisk => ({ records: [], session: new Map() })

/** `auto` commits what has gathered at the end of each turn; `held` commits when told. */
export class FakeIngest implements Ingest {
  readonly disk: FakeDisk
  commits: 'auto' | 'held' = 'auto'
  /** Decides which appends fail. */
  fails: (record: RoutedRecord | null) => TributaryError | undefined = () => undefined
  /** Whether committed records are kept: a benchmark has no use for them. */
  keeps = true
  taken = 0
  /** Tells the broker that there is room again. */
  roomReturned: () => void = () => {}
  #memory: Map<string, Uint8Array>
  #pending: Pending[] = []
  #scheduled = false
  #dead = false

  constructor(disk: FakeDisk = newDisk()) {
    this.disk = disk
    this.#memory = new Map(disk.session)
  }

  get pending(): number {
    return this.#pending.length
  }

  append(record: RoutedRecord | null, session: readonly StateEntry[], done: AppendDone): void {
    if (this.#dead) return
    const error = this.fails(record)
    if (error === undefined) apply(this.#memory, session)
    this.#pending.push({ record, session, done, error })
    if (this.commits === 'held' || this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (this.commits === 'auto') this.commit()
    })
  }

  onRoom(listener: () => void): void {
    this.roomReturned = listener
  }

  /** Makes the oldest `count` appends durable (all where absent) and tells their owners in order. */
  commit(count = this.#pending.length): void {
    const batch = this.#pending.splice(0, count)
    for (const { record, session, error } of batch) {
      if (error !== undefined) continue
      this.taken++
      if (record !== null && this.keeps) this.disk.records.push(copyOf(record))
      apply(this.disk.session, session)
    }
    for (const { done, error } of batch) done(error)
  }

  /** kill -9: nothing that is not durable survives, and nobody is told. */
  crash(): FakeDisk {
    this.#dead = true
    this.#pending = []
    return this.disk
  }

  sessionEntries(prefix: string): [string, Uint8Array][] {
    return [...this.#memory]
      .filter(([key]) => key.startsWith(prefix))
      .sort(([left], [right]) => (left < right ? -1 : 1))
  }

  sessionEntry(key: string): Uint8Array | undefined {
    return this.#memory.get(key)
  }

  /** Payloads of the durable records, as text. */
  payloads(): string[] {
    return this.disk.records.map(({ value }) => {
      assert(value !== null, 'an MQTT record has a value')
      return Buffer.from(value).toString('utf8')
    })
  }
}

function apply(map: Map<string, Uint8Array>, entries: readonly StateEntry[]): void {
  for (const { key, value } of entries) {
    if (value === null) map.delete(key)
    else map.set(key, Buffer.from(value))
  }
}

/** The broker may reuse what it handed over once it is told. */
function copyOf(record: RoutedRecord): RoutedRecord {
  return { ...record, value: Buffer.from(record.value) }
}

/** What the MQTT side of an edge may ask of its store; keeps broker and log apart. */

import type { TributaryError } from '../common/errors.ts'
import type { StateEntry } from '../common/log/types.ts'

/** A record on its way into a local log, as the router made it. */
export interface RoutedRecord {
  /** The hub topic. */
  topic: string
  lane: number
  key: Uint8Array | null
  value: Uint8Array
  /** Event time. */
  timestampMs: number
  /** Headers in wire form (see batch.ts `encodeHeaders`) with their count; `edge.time` is added by the store. */
  headers: Uint8Array
  headerCount: number
}

/** Told once, when the append is durable or has failed. Calls come in the order of the appends. */
export type AppendDone = (error?: TributaryError) => void

export interface Ingest {
  /**
   * Takes a record (null: the rules drop it) and session changes into one commit. `done` fires after fdatasync.
   * Fails with `disk_full` where the topic's policy is `reject` and the budget used up, `not_available` where the disk itself is full, `disk_failed`, `record_too_large`, `limit_exceeded` (too many topics), `closed`.
   */
  append(record: RoutedRecord | null, session: readonly StateEntry[], done: AppendDone): void
  /** `listener` is called when there is room again for what was refused with `disk_full`; one listener. */
  onRoom(listener: () => void): void
  /** Live session entries under a prefix, as of the last append. */
  sessionEntries(prefix: string): [string, Uint8Array][]
  sessionEntry(key: string): Uint8Array | undefined
}

import { MIB } from '../limits.ts'
import type { SegmentIndex } from './indexes.ts'
import type { Segment, SegmentedLog } from './segmented-log.ts'

/** Memory for the indexes of closed segments, of all logs of a directory: those of about 8 GiB. */
const MAX_INDEX_BYTES = 32 * MIB

/**
 * The indexes of closed segments that are in memory; beyond the limit those go that were longest not read, and are
 * loaded again from their files by the next reader. A segment being written keeps its own: 16 bytes for each 4 KiB of it.
 */
export class IndexCache {
  readonly #limitBytes: number
  /** In order of last use, with what each took when it was used. */
  readonly #held = new Map<Segment, number>()
  #bytes = 0
  #evicted = 0

  constructor(limitBytes: number = MAX_INDEX_BYTES) {
    this.#limitBytes = limitBytes
  }

  /** The index of a segment was read, or its segment closed. */
  used(log: SegmentedLog, segment: Segment, index: SegmentIndex): void {
    this.forget(segment)
    if (log.active() === segment) return
    this.#held.set(segment, index.memoryBytes())
    this.#bytes += index.memoryBytes()
    for (const oldest of this.#held.keys()) {
      if (this.#bytes <= this.#limitBytes || oldest === segment) return
      this.forget(oldest)
      oldest.index = undefined
      oldest.readyIndex = undefined
      this.#evicted++
    }
  }

  /** The segment goes, or is written again: its index no longer counts. */
  forget(segment: Segment): void {
    this.#bytes -= this.#held.get(segment) ?? 0
    this.#held.delete(segment)
  }

  sizeBytes(): number {
    return this.#bytes
  }

  /** How many made room for others so far. */
  evicted(): number {
    return this.#evicted
  }
}

import { readI64OrNaN, readU32, writeI64, writeU32 } from '../bytes.ts'
import type { Disk } from '../env.ts'

/** About one entry for so many bytes of segment. */
export const INDEX_INTERVAL_BYTES = 4096

const INITIAL_ENTRIES = 16
const NO_TIME = Number.MIN_SAFE_INTEGER

/** A batch that the index knows: its offset less the segment's, and where it is. */
export interface IndexEntry {
  relativeOffset: number
  position: number
}

/**
 * The sparse index of one segment: for some batches the offset, the position, and the newest event time of all
 * batches before it. `.index` holds (offset - base u32, position u32) an entry, `.timeindex` the times (i64).
 * Never synced: what does not fit the segment is dropped and rebuilt by a scan.
 */
export class SegmentIndex {
  #offsets: Uint32Array
  #positions: Uint32Array
  #times: Float64Array
  #count = 0
  #maxTimeMs = NO_TIME
  /** Up to where batches were added. */
  #endPosition = 0
  /** Taken from files, which nothing protects. */
  fromFiles = false
  /** Entries already in the files. */
  #saved = 0

  /** Empty, with room for so many entries. */
  constructor(entries = INITIAL_ENTRIES) {
    const room = Math.max(entries, INITIAL_ENTRIES)
    this.#offsets = new Uint32Array(room)
    this.#positions = new Uint32Array(room)
    this.#times = new Float64Array(room)
  }

  /** Tells of a batch; batches come in order. */
  add(relativeOffset: number, position: number, sizeBytes: number, maxTimestampMs: number): void {
    const last = this.#count === 0 ? -INDEX_INTERVAL_BYTES : (this.#positions[this.#count - 1] ?? 0)
    if (position - last >= INDEX_INTERVAL_BYTES) this.#push(relativeOffset, position, this.#maxTimeMs)
    if (maxTimestampMs > this.#maxTimeMs) this.#maxTimeMs = maxTimestampMs
    this.#endPosition = position + sizeBytes
  }

  #push(relativeOffset: number, position: number, timeMs: number): void {
    if (this.#count === this.#offsets.length) {
      this.#offsets = grown(this.#offsets, new Uint32Array(this.#count * 2))
      this.#positions = grown(this.#positions, new Uint32Array(this.#count * 2))
      this.#times = grown(this.#times, new Float64Array(this.#count * 2))
    }
    this.#offsets[this.#count] = relativeOffset
    this.#positions[this.#count] = position
    this.#times[this.#count] = timeMs
    this.#count++
  }

  /** An indexed batch at or before the one holding the offset; the segment's start where damage hides what was first. */
  entryFor(relativeOffset: number): IndexEntry {
    const entry = this.entryAt(this.#lastWhere(at => (this.#offsets[at] ?? 0) <= relativeOffset))
    return entry.relativeOffset <= relativeOffset ? entry : { relativeOffset: 0, position: 0 }
  }

  /** An indexed batch from which the first one with event time >= `timeMs` is found by going on. */
  entryForTime(timeMs: number): IndexEntry {
    return this.entryAt(this.#lastWhere(at => (this.#times[at] ?? 0) < timeMs))
  }

  /** Newest event time of the batches added; very small where there is none. */
  maxTimeMs(): number {
    return this.#maxTimeMs
  }

  endPosition(): number {
    return this.#endPosition
  }

  entryCount(): number {
    return this.#count
  }

  unsavedEntries(): number {
    return this.#count - this.#saved
  }

  /** The last entry, for going on from there. */
  lastEntry(): IndexEntry | undefined {
    return this.#count === 0 ? undefined : this.entryAt(this.#count - 1)
  }

  /** The entry `at`, below `entryCount`. */
  entryAt(at: number): IndexEntry {
    return { relativeOffset: this.#offsets[at] ?? 0, position: this.#positions[at] ?? 0 }
  }

  memoryBytes(): number {
    return this.#offsets.length * 16
  }

  #lastWhere(holds: (at: number) => boolean): number {
    let low = 0
    let high = this.#count - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if (holds(middle)) low = middle
      else high = middle - 1
    }
    return low
  }

  /** Writes the entries that the files lack; `path` is the segment's without suffix. */
  async save(disk: Disk, path: string): Promise<void> {
    const from = this.#saved
    const count = this.#count - from
    if (count === 0) return
    const offsets = new Uint8Array(count * 8)
    const times = new Uint8Array(count * 8)
    for (let at = 0; at < count; at++) {
      writeU32(offsets, at * 8, this.#offsets[from + at] ?? 0)
      writeU32(offsets, at * 8 + 4, this.#positions[from + at] ?? 0)
      writeI64(times, at * 8, this.#times[from + at] ?? 0)
    }
    this.#saved = this.#count
    try {
      await writeAt(disk, `${path}.index`, offsets, from * 8)
      await writeAt(disk, `${path}.timeindex`, times, from * 8)
    } catch (error) {
      // The next save writes them again, or the files would have a hole that hides all behind it.
      this.#saved = from
      throw error
    }
  }

  /** What the files hold, as far as it makes sense for a segment of this size; entries rise strictly. */
  static async load(disk: Disk, path: string, segmentBytes: number): Promise<SegmentIndex> {
    try {
      const offsets = await disk.readFile(`${path}.index`)
      const times = await disk.readFile(`${path}.timeindex`)
      const count = Math.floor(Math.min(offsets.length, times.length) / 8)
      const index = new SegmentIndex(count)
      let lastOffset = -1
      let lastPosition = -1
      let lastTime = NO_TIME
      for (let at = 0; at < count; at++) {
        const offset = readU32(offsets, at * 8)
        const position = readU32(offsets, at * 8 + 4)
        const time = readI64OrNaN(times, at * 8)
        const rises = offset > lastOffset && position > lastPosition && time >= lastTime
        if (!rises || position >= segmentBytes) break
        index.#push(offset, position, time)
        lastOffset = offset
        lastPosition = position
        lastTime = time
      }
      index.#saved = index.#count
      index.fromFiles = index.#count > 0
      index.#maxTimeMs = lastTime
      index.#endPosition = Math.max(0, lastPosition)
      return index
    } catch {
      return new SegmentIndex()
    }
  }
}

function grown<T extends Uint32Array | Float64Array>(from: T, to: T): T {
  to.set(from)
  return to
}

async function writeAt(disk: Disk, path: string, bytes: Uint8Array, position: number): Promise<void> {
  const file = await disk.open(path, 'write')
  try {
    if (position === 0) await file.truncate(0)
    await file.writev([bytes], position)
  } finally {
    await file.close()
  }
}

import type { Clock, Timer } from '../env.ts'
import { isDiskFull } from '../errors.ts'
import type { FilePool } from './files.ts'
import type { Segment, SegmentedLog, SegmentWrite } from './segmented-log.ts'
import { eachAtMost } from './work.ts'

/** What has waited so long is written, so that little is to be replayed after a kill. */
const WRITE_WITHIN_MS = 50
/** On a full disk it is tried again so often. */
const RETRY_MS = 1_000
/** Writes under way at once: commits, and the pool's other users, must find a thread. */
const MAX_WRITES_AT_ONCE = 4

/** What writing to a segment takes. */
export interface SegmentWriting {
  files: FilePool
  /** The next checkpoint must sync this: a segment (without suffix), a folder. */
  touched(path: string | undefined, folder: string | undefined): void
}

/** Writes to a segment, without sync; false where the disk is full. */
export async function writeSegment(write: SegmentWrite, writing: SegmentWriting): Promise<boolean> {
  const { files, touched } = writing
  const { log, segment, isNew, buffers, position } = write
  try {
    const sealed = isNew ? log.before(segment) : undefined
    // What an earlier process cut off it may be in memory alone, and from here on no checkpoint says where it ends.
    if (sealed !== undefined) await files.distrust(`${sealed.path}.log`)
    touched(sealed?.path, undefined)
    await files.write(`${segment.path}.log`, file => file.writev(buffers, position))
    return true
  } catch (error) {
    if (!isDiskFull(error)) throw error
    return false
  } finally {
    touched(segment.path, isNew ? log.folder : undefined)
  }
}

export interface SegmentWriterOptions extends SegmentWriting {
  clock: Clock
  /** So many bytes are written at once, without waiting for more. */
  fromBytes: number
  /** It is in its file; called in order for each log. */
  filed(write: SegmentWrite): void
  /** There was no room for it; what was not written waits on. */
  full(): void
  failed(error: unknown): void
}

/**
 * Brings to the segments what commits made durable in the journal, after their acks: reads of it are served from memory until
 * then (SegmentedLog.unwritten), recovery has it from the journal. Many small commits become one write.
 */
export class SegmentWriter {
  readonly #options: SegmentWriterOptions
  /** Of each log in order, for it goes on in its last segment alone. */
  #waiting = new Map<Segment, SegmentWrite>()
  #bytes = 0
  #running: Promise<boolean> | undefined
  #timer: Timer | undefined
  #isFull = false
  #paused: Promise<void> | undefined
  #endPause: () => void = () => {}

  constructor(options: SegmentWriterOptions) {
    this.#options = options
  }

  /** Bytes that are not in their segments. */
  bytes(): number {
    return this.#bytes
  }

  /** The last try found the disk full. */
  isFull(): boolean {
    return this.#isFull
  }

  /** Takes what a commit made durable. */
  add(writes: readonly SegmentWrite[]): void {
    for (const write of writes) {
      this.#bytes += write.length
      this.#wait(write)
    }
    this.#schedule()
  }

  #wait(write: SegmentWrite): void {
    const before = this.#waiting.get(write.segment)
    if (before === undefined) {
      this.#waiting.set(write.segment, write)
      return
    }
    for (const buffer of write.buffers) before.buffers.push(buffer)
    before.length += write.length
    before.endOffset = write.endOffset
  }

  /** Resolves with true when nothing waits; with false where the disk is full, or failed. */
  async settle(): Promise<boolean> {
    for (;;) {
      await this.#paused
      if (this.#running === undefined && this.#waiting.size === 0) return true
      if (!(await this.#write())) return false
    }
  }

  /** Nothing is written from when it resolves until `resume`: segments may be cut and removed. */
  async pause(): Promise<void> {
    while (this.#running !== undefined) await this.#running
    this.#paused = new Promise(resolve => {
      this.#endPause = resolve
    })
  }

  resume(): void {
    this.#paused = undefined
    this.#endPause()
    this.#schedule()
  }

  /** What waits for these segments, which are gone, is not written. While paused. */
  forget(segments: readonly Segment[]): void {
    for (const segment of segments) {
      this.#bytes -= this.#waiting.get(segment)?.length ?? 0
      this.#waiting.delete(segment)
    }
  }

  /** Writes no more of itself. */
  close(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }

  #schedule(): void {
    if (this.#running !== undefined || this.#paused !== undefined || this.#waiting.size === 0) return
    if (!this.#isFull && this.#bytes >= this.#options.fromBytes) {
      void this.#write()
      return
    }
    this.#timer ??= this.#options.clock.setTimer(
      () => {
        this.#timer = undefined
        if (this.#running === undefined && this.#paused === undefined) void this.#write()
      },
      this.#isFull ? RETRY_MS : WRITE_WITHIN_MS,
    )
  }

  #write(): Promise<boolean> {
    this.#running ??= this.#writeWaiting().then(written => {
      this.#running = undefined
      this.#isFull = !written
      this.#schedule()
      return written
    })
    return this.#running
  }

  async #writeWaiting(): Promise<boolean> {
    const { filed, full, failed } = this.#options
    const writes = [...this.#waiting.values()]
    this.#waiting.clear()
    const unfinished = new Set<SegmentedLog>()
    try {
      await eachAtMost(MAX_WRITES_AT_ONCE, writes, async write => {
        if (!(await writeSegment(write, this.#options))) unfinished.add(write.log)
      })
    } catch (error) {
      failed(error)
      return false
    }
    const left = writes.filter(write => unfinished.has(write.log))
    for (const write of writes) {
      if (unfinished.has(write.log)) continue
      this.#bytes -= write.length
      filed(write)
    }
    if (left.length === 0) return true
    const since = this.#waiting
    this.#waiting = new Map()
    for (const write of [...left, ...since.values()]) this.#wait(write)
    full()
    return false
  }
}

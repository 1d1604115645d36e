import type { Disk } from '../env.ts'
import type { CommitCounters } from './commit-counters.ts'
import type { DataItem } from './commit-plan.ts'
import type { IndexCache } from './index-cache.ts'
import type { Segment, SegmentedLog, SegmentWrite } from './segmented-log.ts'
import { indexLags, saveMeta } from './segmented-log.ts'
import type { TailCache } from './tail-cache.ts'

/** What follows when a commit is durable: its batches are read from memory, then from their segments, whose indexes are brought up to date. */
export class Aftermath {
  readonly #options: { disk: Disk; tailCache: TailCache; indexes: IndexCache }
  readonly #counters: CommitCounters
  /** Index and sidecar writes that nothing waits for but the end. */
  #background: Promise<void> = Promise.resolve()

  constructor(options: { disk: Disk; tailCache: TailCache; indexes: IndexCache }, counters: CommitCounters) {
    this.#options = options
    this.#counters = counters
  }

  /** What is acked can be read from here on; `unwritten`: its segment does not hold it yet. */
  remember({ log, firstOffset, endOffset, bytes }: DataItem, unwritten: boolean): void {
    const chunk = { firstOffset, endOffset, bytes }
    this.#options.tailCache.add(log.tail, chunk)
    if (unwritten) log.keepUnwritten(chunk)
  }

  /** Its segment holds it. */
  filed(write: SegmentWrite): void {
    const { log, segment } = write
    log.filed(write)
    if (write.isNew) {
      const sealed = log.before(segment)
      if (sealed !== undefined) this.#seal(log, sealed)
    }
    const { readyIndex } = segment
    if (indexLags(segment)) this.inBackground(async () => readyIndex?.save(this.#options.disk, segment.path))
  }

  #seal(log: SegmentedLog, segment: Segment): void {
    const { disk, indexes } = this.#options
    const { readyIndex } = segment
    this.inBackground(async () => {
      await readyIndex?.save(disk, segment.path)
      await saveMeta(segment, disk)
    })
    if (readyIndex !== undefined) indexes.used(log, segment, readyIndex)
  }

  /** Queues work that nothing waits for; its failure costs a rebuild, nothing else. */
  inBackground(work: () => Promise<unknown>): void {
    this.#background = this.#background.then(async () => {
      try {
        await work()
      } catch {
        // A rebuildable file could not be written, or one that is no longer needed not removed before the next start.
        this.#counters.backgroundFailures++
      }
    })
  }

  /** Resolves when what was queued in the background so far is done. */
  done(): Promise<void> {
    return this.#background
  }
}

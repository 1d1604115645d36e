import type { Disk } from '../env.ts'
import { TributaryError } from '../errors.ts'
import type { Committer } from './committer.ts'
import type { FilePool } from './files.ts'
import type { IndexCache } from './index-cache.ts'
import { plainEntry } from './journal-format.ts'
import { resync, scanBatches } from './scan.ts'
import type { Segment, SegmentedLog } from './segmented-log.ts'
import { KNOWN, removeSegment, segmentIndex } from './segmented-log.ts'
import type { TailCache } from './tail-cache.ts'

/** Taking batches off a log's end, or all of them. Nobody appends to it meanwhile. */

/** What a cut needs of the directory. */
export interface CutDeps {
  disk: Disk
  files: FilePool
  committer: Committer
  tailCache: TailCache
  indexes: IndexCache
}

interface CutPlace {
  segment: Segment | undefined
  position: number
  /** The new end: where the last batch below the cut ends. */
  offset: number
}

/** See Log.truncateAfter. */
export async function cutAfter(log: SegmentedLog, offset: number, deps: CutDeps): Promise<void> {
  const { committer } = deps
  // What is under way goes first: the cut is of a durable log.
  await new Promise<void>((resolve, reject) => {
    committer.enqueue({ kind: 'fact', log, entry: undefined, after: () => {}, resolve, reject })
    committer.hurry()
  })
  await committer.settle()
  const found = await cutPlace(log, offset, deps)
  // Inside the batch that the log starts in: nothing of it is left.
  const place =
    found.offset < log.startOffset ? { segment: undefined, position: 0, offset: log.startOffset } : found
  // An entry behind the one that deletes the log would bring it back at the next start.
  if (log.deleted) throw new TributaryError('closed', `log ${log.name} is deleted`)
  const entry = plainEntry('cut', log.id, log.name, place.offset)
  entry.segmentBase = place.segment?.baseOffset ?? -1
  entry.position = place.position
  await new Promise<void>((resolve, reject) => {
    const after = (): Promise<void> => applyCut(log, place, deps)
    committer.enqueue({ kind: 'fact', log, entry, after, resolve, reject }, true)
    committer.hurry()
  })
}

/** See Log.restartAt. */
export async function restartLog(log: SegmentedLog, offset: number, deps: CutDeps): Promise<void> {
  const { committer } = deps
  await new Promise<void>((resolve, reject) => {
    const entry = plainEntry('restart', log.id, log.name, offset)
    const after = (): Promise<void> => applyRestart(log, offset, deps)
    committer.enqueue({ kind: 'fact', log, entry, after, resolve, reject }, true)
    committer.hurry()
  })
}

async function cutPlace(log: SegmentedLog, offset: number, deps: CutDeps): Promise<CutPlace> {
  const segment = log.segments[log.segmentAt(offset)]
  if (segment === undefined || offset <= segment.baseOffset) {
    const before = log.segments[log.segmentAt(offset) - 1]
    return {
      segment: before,
      position: before?.sizeBytes ?? 0,
      offset: Math.min(offset, log.durableEndOffset),
    }
  }
  const index = await segmentIndex(segment, log, deps)
  // One before: of a batch that jumped to `offset` the index does not say where the one before it ended.
  const entry = index.entryFor(offset - 1 - segment.baseOffset)
  return deps.files.use(`${segment.path}.log`, async file => {
    const toPosition = segment.sizeBytes
    let from = { position: entry.position, offset: segment.baseOffset + entry.relativeOffset }
    for (;;) {
      const range = { fromPosition: from.position, toPosition, offset: from.offset }
      const found = await scanBatches(file, range, false, header => header.lastOffset < offset)
      // What lies behind damage, and before the cut, stays.
      const good =
        found.bad === undefined
          ? undefined
          : await resync(file, found.position + 1, toPosition, found.offset, offset)
      if (good === undefined) return { segment, position: found.position, offset: found.offset }
      from = good
    }
  })
}

async function applyCut(log: SegmentedLog, place: CutPlace, deps: CutDeps): Promise<void> {
  const { disk, files, committer, tailCache } = deps
  log.cuts++
  tailCache.clear(log.tail)
  const keep = place.segment === undefined ? 0 : log.segments.indexOf(place.segment) + 1
  const gone = log.segments.slice(keep)
  log.segments = log.segments.slice(0, keep)
  log.endAt(place.offset)
  log.damage = log.damage.filter(damage => damage.fromOffset < place.offset)
  const { segment } = place
  for (const old of gone) deps.indexes.forget(old)
  if (segment !== undefined) {
    segment.sizeBytes = place.position
    segment.writtenBytes = place.position
    segment.endOffset = place.offset
    segment.index = undefined
    segment.readyIndex = undefined
    // It is written again from here on: what its sidecar says is of other batches.
    segment.metaLoaded = KNOWN
    deps.indexes.forget(segment)
    await files.write(`${segment.path}.log`, file => file.truncate(place.position))
    await disk.remove(`${segment.path}.index`)
    await disk.remove(`${segment.path}.timeindex`)
    await disk.remove(`${segment.path}.meta`)
    committer.touched(segment.path, log.folder)
  }
  for (const old of gone) await removeSegment(old, disk, files)
  committer.touched(undefined, log.folder)
}

async function applyRestart(log: SegmentedLog, offset: number, deps: CutDeps): Promise<void> {
  const { disk, files, committer, tailCache, indexes } = deps
  const gone = log.segments
  log.cuts++
  tailCache.clear(log.tail)
  log.segments = []
  log.startOffset = offset
  log.endAt(offset)
  committer.forget(gone)
  log.damage = []
  log.isolated.clear()
  log.rollNext = false
  for (const old of gone) indexes.forget(old)
  // Index files on their way to the folder would come too late to be removed with the rest.
  await committer.backgroundDone()
  for (const old of gone) await removeSegment(old, disk, files)
  // At once, before anything is appended: a new segment may have an old one's name, or lie between two.
  await disk.syncDir(log.folder)
}

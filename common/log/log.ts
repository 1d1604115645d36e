import { assert } from '../assert.ts'
import type { Clock, Disk } from '../env.ts'
import { TributaryError } from '../errors.ts'
import { stampRun } from './commit-plan.ts'
import type { Committer } from './committer.ts'
import type { FilePool } from './files.ts'
import type { IndexCache } from './index-cache.ts'
import { plainEntry } from './journal-format.ts'
import { offsetForEventTime, readLog } from './reader.ts'
import { retentionStart } from './retention.ts'
import { scanBatches } from './scan.ts'
import type { Segment, SegmentedLog } from './segmented-log.ts'
import { loadMeta, removeSegment, segmentIndex } from './segmented-log.ts'
import type { TailCache } from './tail-cache.ts'
import type { Appended, AppendOptions, Damage, Log } from './types.ts'

/** An active segment goes with what is truncated before its end only from this size on: making files costs too. */
const DROP_ACTIVE_FROM_BYTES = 1024 * 1024

/** What a log needs of its directory. */
export interface LogContext {
  clock: Clock
  disk: Disk
  files: FilePool
  committer: Committer
  tailCache: TailCache
  indexes: IndexCache
}

/** The Log that users see, over what the directory knows of it. */
export function logOver(log: SegmentedLog, context: LogContext): Log {
  const { committer, clock, disk, files } = context
  let cutting = false

  const append = (bytes: Uint8Array, options: AppendOptions = {}): Promise<Appended> =>
    new Promise((resolve, reject) => {
      // A throw rejects.
      assert(!cutting, `append to ${log.name} while it is truncated`)
      if (log.deleted) throw new TributaryError('closed', `log ${log.name} is deleted`)
      committer.admit(bytes.length)
      const leaderEpoch = options.leaderEpoch ?? 0
      const run = stampRun(bytes, log.endOffset, leaderEpoch, log.options.maxBatchBytes)
      committer.enqueue({
        kind: 'data',
        log,
        bytes,
        previousEnd: log.endOffset,
        firstOffset: run.firstOffset,
        endOffset: run.endOffset,
        jumps: run.jumps,
        appendTimeMs: Math.floor(options.appendTimeMs ?? clock.nowMs()),
        leaderEpoch,
        useReserve: options.useReserve ?? false,
        resolve,
        reject,
      })
      log.endOffset = run.endOffset
    })

  const moveStart = async (offset: number): Promise<void> => {
    if (offset <= log.startOffset) return
    assert(offset <= log.durableEndOffset, `truncateBefore ${offset} is past the durable end of ${log.name}`)
    await new Promise<void>((resolve, reject) => {
      committer.enqueue({
        kind: 'fact',
        entry: plainEntry('start', log.id, log.name, offset),
        after: () => {
          log.startOffset = Math.max(log.startOffset, offset)
          log.forgetDamageBelowStart()
          dropBelowStart(log, context)
        },
        resolve,
        reject,
      })
    })
  }

  return {
    name: log.name,
    startOffset: () => log.startOffset,
    endOffset: () => log.endOffset,
    durableEndOffset: () => log.durableEndOffset,
    sizeBytes: () => log.sizeBytes(),
    options: () => log.options,
    configure: options => {
      log.options = options
    },
    append,
    read: (offset, maxBytes, limitOffset = Number.MAX_SAFE_INTEGER) =>
      readLog(log, offset, maxBytes, limitOffset, context),
    damage: () => log.damage,
    isolate: (damage: Damage) => {
      if (!log.damage.includes(damage)) log.damage.push(damage)
      log.isolated.add(damage)
    },
    offsetForEventTime: timestampMs => offsetForEventTime(log, timestampMs, context),
    truncateBefore: moveStart,
    truncateAfter: async offset => {
      if (offset >= log.endOffset) return
      assert(!cutting, `${log.name} is already being truncated`)
      cutting = true
      try {
        await cutAfter(log, offset, context)
      } finally {
        cutting = false
      }
    },
    applyRetention: async (hubTimeMs, limitOffset) => {
      for (const segment of log.segments) await loadMeta(segment, disk)
      const start = retentionStart(
        retentionView(log),
        log.options,
        hubTimeMs,
        Math.min(limitOffset, log.durableEndOffset),
      )
      await moveStart(start)
      return log.startOffset
    },
    bytesBefore: offset => {
      let total = 0
      for (const segment of droppable(log, offset)) total += segment.sizeBytes
      return total
    },
    onDurable: listener => {
      assert(log.listener === undefined, `${log.name} has a listener already`)
      log.listener = listener
    },
  }

  async function cutAfter(target: SegmentedLog, offset: number, deps: LogContext): Promise<void> {
    // What is under way goes first: the cut is of a durable log.
    await new Promise<void>((resolve, reject) => {
      committer.enqueue({ kind: 'fact', entry: undefined, after: () => {}, resolve, reject })
      committer.hurry()
    })
    const place = await cutPlace(target, offset, deps)
    const entry = plainEntry('cut', target.id, target.name, place.offset)
    entry.segmentBase = place.segment?.baseOffset ?? -1
    entry.position = place.position
    await new Promise<void>((resolve, reject) => {
      const after = (): Promise<void> => applyCut(target, place, deps)
      committer.enqueue({ kind: 'fact', entry, after, resolve, reject }, true)
      committer.hurry()
    })
  }

  function dropBelowStart(target: SegmentedLog, deps: LogContext): void {
    const gone = droppable(target, target.startOffset)
    if (gone.length === 0) return
    target.segments = target.segments.slice(gone.length)
    for (const segment of gone) deps.indexes.forget(segment)
    if (target.segments.length === 0) deps.tailCache.clear(target.tail)
    committer.inBackground(async () => {
      for (const segment of gone) await removeSegment(segment, disk, files)
      committer.touched(undefined, target.folder)
    })
  }
}

/** Segments that hold nothing from `offset` on; the active one only if all of a sizeable one goes and nothing is on its way. */
function droppable(log: SegmentedLog, offset: number): Segment[] {
  const gone: Segment[] = []
  for (let at = 0; at < log.segments.length; at++) {
    const segment = log.segments[at]
    if (segment === undefined) break
    const next = log.segments[at + 1]
    if (next === undefined) {
      const idle = offset >= log.endOffset && segment.writtenBytes === segment.sizeBytes
      if (idle && segment.sizeBytes >= Math.min(DROP_ACTIVE_FROM_BYTES, log.options.segmentBytes))
        gone.push(segment)
      break
    }
    if (next.baseOffset > offset) break
    gone.push(segment)
  }
  return gone
}

function retentionView(
  log: SegmentedLog,
): { endOffset: number; sizeBytes: number; newestTimeMs: number | undefined }[] {
  return log.segments.map((segment, at) => ({
    endOffset: log.segments[at + 1]?.baseOffset ?? log.durableEndOffset,
    sizeBytes: segment.sizeBytes,
    // Without its sidecar a segment is at most as old as the next one's first append.
    newestTimeMs: segment.lastTimeMs ?? log.segments[at + 1]?.firstTimeMs,
  }))
}

interface CutPlace {
  segment: Segment | undefined
  position: number
  /** The new end: where the last batch below the cut ends. */
  offset: number
}

async function cutPlace(log: SegmentedLog, offset: number, deps: LogContext): Promise<CutPlace> {
  const segment = log.segments[log.segmentAt(offset)]
  if (segment === undefined || offset <= segment.baseOffset) {
    const before = log.segments[log.segmentAt(offset) - 1]
    const end = Math.max(log.startOffset, Math.min(offset, log.durableEndOffset))
    return { segment: before, position: before?.sizeBytes ?? 0, offset: end }
  }
  const index = await segmentIndex(segment, log, deps)
  const entry = index.entryFor(offset - segment.baseOffset)
  return deps.files.use(`${segment.path}.log`, async file => {
    const range = {
      fromPosition: entry.position,
      toPosition: segment.sizeBytes,
      offset: segment.baseOffset + entry.relativeOffset,
    }
    const found = await scanBatches(file, range, false, header => header.lastOffset < offset)
    return { segment, position: found.position, offset: found.offset }
  })
}

async function applyCut(log: SegmentedLog, place: CutPlace, deps: LogContext): Promise<void> {
  const { disk, files, committer, tailCache } = deps
  log.cuts++
  tailCache.clear(log.tail)
  const keep = place.segment === undefined ? 0 : log.segments.indexOf(place.segment) + 1
  const gone = log.segments.slice(keep)
  log.segments = log.segments.slice(0, keep)
  log.endOffset = place.offset
  log.durableEndOffset = place.offset
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
    segment.metaLoaded = true
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

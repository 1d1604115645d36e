import { assert } from '../assert.ts'
import type { Clock, Disk } from '../env.ts'
import { TributaryError } from '../errors.ts'
import type { WalkedRun } from './commit-plan.ts'
import { stampedRun, stampRun } from './commit-plan.ts'
import type { Committer } from './committer.ts'
import { cutAfter, restartLog } from './cut.ts'
import type { FilePool } from './files.ts'
import type { IndexCache } from './index-cache.ts'
import { plainEntry } from './journal-format.ts'
import { offsetForEventTime, readLog } from './reader.ts'
import { repairStretch } from './repair.ts'
import { retentionStart } from './retention.ts'
import type { Segment, SegmentedLog } from './segmented-log.ts'
import { loadMeta, removeSegment } from './segmented-log.ts'
import type { TailCache } from './tail-cache.ts'
import type { Appended, AppendOptions, Damage, Log, ReplicaOptions } from './types.ts'

/** An active segment goes with what is truncated before its end only from this size on: making files costs too. */
const DROP_ACTIVE_FROM_BYTES = 1024 * 1024

/** What a log needs of its directory. */
export interface LogContext {
  directory: string
  clock: Clock
  disk: Disk
  files: FilePool
  committer: Committer
  tailCache: TailCache
  indexes: IndexCache
}

interface Told {
  resolve(appended: Appended): void
  reject(error: unknown): void
}

/** The Log that users see, over what the directory knows of it. */
export function logOver(log: SegmentedLog, context: LogContext): Log {
  const { committer, clock, disk, files } = context
  /** A cut is asked for or under way: nothing may be appended. */
  let cutting = false
  /** The cut or repair under way. */
  let busy: Promise<unknown> | undefined

  const admit = (bytes: Uint8Array): void => {
    assert(!cutting, `append to ${log.name} while it is truncated`)
    if (log.deleted) throw new TributaryError('closed', `log ${log.name} is deleted`)
    committer.admit(bytes.length, log.goesFirst)
  }

  const enqueue = (bytes: Uint8Array, run: WalkedRun, options: AppendOptions, told: Told): void => {
    committer.enqueue({
      kind: 'data',
      log,
      bytes,
      previousEnd: run.previousEnd,
      firstOffset: run.firstOffset,
      endOffset: run.endOffset,
      jumps: run.jumps,
      appendTimeMs: Math.floor(options.appendTimeMs ?? clock.nowMs()),
      leaderEpoch: options.leaderEpoch,
      useReserve: options.useReserve ?? false,
      durable: options.durable ?? false,
      resolve: told.resolve,
      reject: told.reject,
    })
    log.endOffset = run.endOffset
  }

  const append = (bytes: Uint8Array, options: AppendOptions = {}): Promise<Appended> =>
    new Promise((resolve, reject) => {
      // A throw rejects.
      admit(bytes)
      const leaderEpoch = options.leaderEpoch ?? 0
      const run = stampRun(bytes, log.endOffset, leaderEpoch, log.options.maxBatchBytes)
      enqueue(bytes, run, { ...options, leaderEpoch }, { resolve, reject })
    })

  const appendReplica = (bytes: Uint8Array, options: ReplicaOptions = {}): Promise<Appended> =>
    new Promise((resolve, reject) => {
      admit(bytes)
      const { appendTimeMs, lostBefore = log.endOffset } = options
      const isEmpty = log.segments.length === 0 && log.endOffset === log.startOffset
      const run = stampedRun(bytes, Math.max(log.endOffset, lostBefore), isEmpty)
      enqueue(bytes, run, appendTimeMs === undefined ? {} : { appendTimeMs }, { resolve, reject })
    })

  const whenFree = async (): Promise<void> => {
    while (busy !== undefined) await busy
  }

  /** Cuts and repairs go one after another; what moves the start waits for them, or it might end up beyond the end. */
  const exclusive = async <T>(work: () => Promise<T>): Promise<T> => {
    await whenFree()
    if (log.deleted) throw new TributaryError('closed', `log ${log.name} is deleted`)
    const done = work()
    busy = done.catch(() => {})
    try {
      return await done
    } finally {
      busy = undefined
    }
  }

  const cut = async (work: () => Promise<void>): Promise<void> => {
    assert(!cutting, `${log.name} is already being truncated`)
    cutting = true
    try {
      await exclusive(work)
    } finally {
      cutting = false
    }
  }

  const moveStart = async (offset: number): Promise<void> => {
    if (offset <= log.startOffset || log.deleted) return
    await new Promise<void>((resolve, reject) => {
      committer.enqueue({
        kind: 'fact',
        log,
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
    appendReplica,
    restartAt: offset => cut(() => restartLog(log, offset, context)),
    hubTimeAt: async offset => {
      const segment = log.segments[log.segmentAt(offset)]
      if (segment === undefined) return null
      await loadMeta(segment, disk)
      return segment.lastTimeMs ?? null
    },
    read: (offset, maxBytes, limitOffset = Number.MAX_SAFE_INTEGER) =>
      readLog(log, offset, maxBytes, limitOffset, context),
    damage: () => log.damage,
    isolate: (damage: Damage) => {
      if (!log.damage.includes(damage)) log.damage.push(damage)
      log.isolated.add(damage)
    },
    repairStretch: (damage, batches) => exclusive(() => repairStretch(log, damage, batches, context)),
    offsetForEventTime: timestampMs => offsetForEventTime(log, timestampMs, context),
    truncateBefore: async offset => {
      assert(
        offset <= log.durableEndOffset,
        `truncateBefore ${offset} is past the durable end of ${log.name}`,
      )
      // In the caller's turn where nothing is in the way.
      if (busy !== undefined) await whenFree()
      await moveStart(Math.min(offset, log.durableEndOffset))
    },
    truncateAfter: async offset => {
      if (offset < log.endOffset) await cut(() => cutAfter(log, offset, context))
    },
    applyRetention: async (hubTimeMs, limitOffset) => {
      for (const segment of log.segments) await loadMeta(segment, disk)
      await whenFree()
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
      for (const segment of droppable(log, offset)) total += segment.writtenBytes
      return total
    },
    onDurable: listener => {
      assert(log.listener === undefined, `${log.name} has a listener already`)
      log.listener = listener
    },
  }

  function dropBelowStart(target: SegmentedLog, deps: LogContext): void {
    const gone = droppable(target, target.startOffset)
    if (gone.length === 0) return
    target.segments = target.segments.slice(gone.length)
    committer.forget(gone)
    target.forgetUnwritten(target.segments[0]?.baseOffset ?? target.filedEndOffset)
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
    sizeBytes: segment.writtenBytes,
    // Without its sidecar a segment is at most as old as the next one's first append.
    newestTimeMs: segment.lastTimeMs ?? log.segments[at + 1]?.firstTimeMs,
  }))
}

import type { Clock } from '../../common/env.ts'
import { HOUR_MS, MIB, MINUTE_MS } from '../../common/limits.ts'
import { encodeSnapshot } from './producer-snapshot.ts'
import type { ReplicaStore } from './store.ts'

/** When a replica's producers are written down, so that a start need not replay the whole log and retention may delete. */

/** Bytes appended after which a snapshot is due, so that a start replays no more. */
const SNAPSHOT_AFTER_BYTES = 64 * MIB
/** Time after which it is where whole segments wait for it to be deleted, so that retention is not late by more. */
const SNAPSHOT_FOR_RETENTION_MS = 10 * MINUTE_MS
/** Time after which it is wherever anything was appended. */
const SNAPSHOT_AFTER_MS = 6 * HOUR_MS

export interface SnapshotKeeper {
  /** Whether one is due, where segments below `deletable` might go once there is one. */
  due(deletable: number): boolean
  growthBytes(): number
  /**
   * Saves a snapshot of the log as it is now, once all of it is committed and durable here: then no cut will ever reach below it.
   * Resolves early where the log is cut before that.
   */
  save(): Promise<void>
  /** More is committed or durable, or the log was cut. */
  advanced(): void
  /** The log takes nothing more: what waits is given up. */
  giveUp(): void
  /** Resolves when none is being written. */
  idle(): Promise<void>
}

/** `covered`: the offset below which the log is committed and durable here. */
export function createSnapshotKeeper(
  { log, snapshots, reflected, ...store }: ReplicaStore,
  clock: Clock,
  covered: () => number,
): SnapshotKeeper {
  let atMs = clock.monotonicMs()
  let sizeBytesThen = snapshots.newestOffset() === log.endOffset() ? log.sizeBytes() : 0
  let saving: Promise<void> | null = null
  let writing: Promise<void> | null = null
  /** The one that waits to be covered. */
  let waiting: { offset: number; cuts: number; resolve(isCovered: boolean): void } | null = null

  /** About: what retention took meanwhile counts as if it had been appended. */
  const growthBytes = (): number => Math.abs(log.sizeBytes() - sizeBytesThen)

  function whenCovered(offset: number): Promise<boolean> {
    if (covered() >= offset) return Promise.resolve(true)
    return new Promise(resolve => {
      waiting = { offset, cuts: reflected.cuts, resolve }
    })
  }

  async function save(): Promise<void> {
    const offset = log.endOffset()
    if (offset === snapshots.newestOffset() || store.ahead() || store.wanting()) return
    if (!store.complete()) return
    const bytes = encodeSnapshot(store)
    sizeBytesThen = log.sizeBytes()
    atMs = clock.monotonicMs()
    if (!(await whenCovered(offset))) return
    writing = snapshots.save(offset, bytes).finally(() => {
      writing = null
    })
    await writing
  }

  function settle(isCovered: boolean): void {
    const resolve = waiting?.resolve
    waiting = null
    resolve?.(isCovered)
  }

  return {
    growthBytes,
    due: deletable => {
      const ageMs = clock.monotonicMs() - atMs
      if (growthBytes() >= SNAPSHOT_AFTER_BYTES || ageMs >= SNAPSHOT_AFTER_MS) return true
      if (ageMs < SNAPSHOT_FOR_RETENTION_MS) return false
      return log.bytesBefore(deletable) > log.bytesBefore(snapshots.newestOffset())
    },
    save: () => {
      // One at a time: two of the same offset would write the same file.
      saving ??= save().finally(() => {
        saving = null
      })
      return saving
    },
    advanced: () => {
      if (waiting === null) return
      const isCut = waiting.cuts !== reflected.cuts
      if (!isCut && covered() < waiting.offset) return
      settle(!isCut)
    },
    giveUp: () => settle(false),
    idle: async () => {
      while (writing !== null) await writing.catch(() => {})
    },
  }
}

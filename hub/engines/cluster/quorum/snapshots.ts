import type { Clock } from '../../../../common/env.ts'
import { MIB } from '../../../../common/limits.ts'
import { encodeRecord } from '../../../controller/records.ts'
import type { Member } from './member.ts'
import type { StateMachine } from './state-machine.ts'
import type { QuorumStorage } from './storage.ts'

/** Snapshots of what is applied, so that the log stays short. */

/** When a snapshot is taken, and what is kept behind it. */
export interface SnapshotLimits {
  /** One is due when the log is larger than this and than so many times the last one. */
  readonly fromBytes: number
  readonly atRatio: number
  /** Entries kept behind one for members that are a little behind. */
  readonly keptEntries: number
}

export const SNAPSHOT_LIMITS: SnapshotLimits = { fromBytes: 4 * MIB, atRatio: 4, keptEntries: 1_000 }
/** Records encoded in one turn. */
const RECORDS_A_TURN = 2_000

export interface SnapshotKeeper {
  /** Called after entries were applied. */
  consider(): void
  failures(): number
  /** Resolves when none is under way. */
  idle(): Promise<void>
}

export interface SnapshotKeeperContext {
  clock: Clock
  storage: QuorumStorage
  member: Member
  machine: StateMachine
  limits: SnapshotLimits
}

export function createSnapshotKeeper(context: SnapshotKeeperContext): SnapshotKeeper {
  const { clock, storage, member, machine, limits } = context
  let lastBytes = 0
  let failures = 0
  let running: Promise<void> | null = null

  async function take(): Promise<void> {
    const mark = member.markAt(machine.appliedIndex())
    if (mark === null) return
    // The records are as of now; encoding them takes its time.
    const records = machine.image().records()
    const values: Uint8Array[] = []
    for (let from = 0; from < records.length; from += RECORDS_A_TURN) {
      for (const record of records.slice(from, from + RECORDS_A_TURN)) values.push(encodeRecord(record))
      await new Promise<void>(resolve => clock.soon(resolve))
    }
    lastBytes = await storage.saveSnapshot(mark, values)
    const others = member.isAlone() ? 0 : limits.keptEntries
    const keepFrom = Math.max(0, mark.index + 1 - others)
    if (member.snapshotted(mark.index, keepFrom)) await storage.forgetBefore(keepFrom)
  }

  return {
    consider: () => {
      if (running !== null) return
      if (storage.logBytes() <= Math.max(limits.fromBytes, limits.atRatio * lastBytes)) return
      running = take()
        .catch(() => {
          // The disk has no room for it: the log stays as it is, only longer, until it has grown as much again.
          failures++
          lastBytes = storage.logBytes()
        })
        .finally(() => {
          running = null
        })
    },
    failures: () => failures,
    idle: () => running ?? Promise.resolve(),
  }
}

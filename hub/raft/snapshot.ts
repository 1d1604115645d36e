import { assert, must } from '../../common/assert.ts'
import { RaftLog } from './log.ts'
import { Configs } from './membership.ts'
import { snapshotEnded } from './progress.ts'
import type { Raft } from './state.ts'
import { becomeFollower, promise } from './state.ts'
import type { Message, SnapshotMark } from './types.ts'

/** Snapshots: forgetting what one covers, and installing a leader's (paper section 7, Figure 13). */

/** A snapshot of all to `index` is durable at this member: entries below `keepFrom` go. */
export function onSnapshotted(raft: Raft, index: number, keepFrom: number): void {
  if (index <= raft.snapshot.index) return
  assert(index <= raft.applied, `entry ${index} was not applied and can't be in a snapshot`)
  assert(keepFrom <= index + 1, `entry ${index + 1} is not in the snapshot and must be kept`)
  const term = must(raft.log.termAt(index), `entry ${index} is not held`)
  raft.snapshot = { index, term, config: raft.configs.at(index) }
  raft.log.forgetBefore(keepFrom)
  raft.configs.forgetBefore(index)
}

/** The leader's snapshot has arrived whole; it replaces the log unless the log holds as much already (Figure 13, rules 5 to 8). */
export function onSnapshot(raft: Raft, message: Extract<Message, { t: 'snapshot' }>): void {
  const { from, snapshot } = message
  becomeFollower(raft, raft.term, from)
  if (snapshot.index > raft.commit) {
    if (raft.log.holds(snapshot)) raft.commit = snapshot.index
    else install(raft, snapshot)
  }
  promise(raft, from, { t: 'append-ok', match: raft.commit })
}

function install(raft: Raft, snapshot: SnapshotMark): void {
  raft.log = new RaftLog(snapshot, [])
  raft.configs = new Configs(snapshot.index, snapshot.config)
  raft.snapshot = snapshot
  raft.commit = snapshot.index
  raft.applied = snapshot.index
  raft.durability.replacedAll()
  raft.unwrittenFrom = snapshot.index + 1
  raft.installed = snapshot
}

/** The transfer of a snapshot to a follower ended. */
export function onSnapshotSent(raft: Raft, to: string, ok: boolean): void {
  const progress = raft.progress.get(to)
  if (progress !== undefined) snapshotEnded(progress, ok ? raft.snapshot.index + 1 : 0)
}

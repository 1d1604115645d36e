import type { DataDirStats } from './types.ts'

/** What a committer counts. */
export type CommitCounters = Omit<
  DataDirStats,
  'commitStuckMs' | 'fdatasyncP50Ms' | 'fdatasyncP99Ms' | 'indexBytes' | 'indexesEvicted'
>

/** All zero. */
export function newCommitCounters(): CommitCounters {
  return {
    commits: 0,
    committedBytes: 0,
    commitFailures: 0,
    pendingAppends: 0,
    pendingBytes: 0,
    diskFullRejections: 0,
    throttledRejections: 0,
    checkpoints: 0,
    segmentWaits: 0,
    backgroundFailures: 0,
  }
}

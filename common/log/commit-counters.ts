/** What a committer counts; see DataDirStats. */
export interface CommitCounters {
  commits: number
  committedBytes: number
  commitFailures: number
  pendingAppends: number
  pendingBytes: number
  diskFullRejections: number
  throttledRejections: number
  checkpoints: number
  backgroundFailures: number
}

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
    backgroundFailures: 0,
  }
}

import type { ErrorCode } from '../../common/errors.ts'

/** What a topic's partitions count, for metrics; only ever rises. */
export interface TopicCounters {
  recordsIn: number
  bytesIn: number
  batchesIn: number
  /** Batches not appended because they are held already. */
  duplicateBatches: number
  /** Offsets passed by reads, which is records less what compaction and control batches take. */
  recordsOut: number
  bytesOut: number
  /** Gaps declared, and records missing by those whose count is known. */
  gaps: number
  gapRecords: number
  /** Readings that policies of edges dropped, by their summaries. */
  summarised: number
  runs: number
  /** Appends, runs and gaps refused, by code. */
  refused: Partial<Record<ErrorCode, number>>
}

/** Counters at zero. */
export function newTopicCounters(): TopicCounters {
  return {
    recordsIn: 0,
    bytesIn: 0,
    batchesIn: 0,
    duplicateBatches: 0,
    recordsOut: 0,
    bytesOut: 0,
    gaps: 0,
    gapRecords: 0,
    summarised: 0,
    runs: 0,
    refused: {},
  }
}

/** Counts a refusal. */
export function countRefusal(counters: TopicCounters, code: ErrorCode): void {
  counters.refused[code] = (counters.refused[code] ?? 0) + 1
}

import type { LocalGap } from './gaps.ts'
import { skipGaps } from './gaps.ts'
import type { BreakReason, Run } from './runs.ts'

/**
 * What an edge knows of one lane of one topic, as plain data: the store keeps and changes it, the forwarder reads it. Offsets
 * are the lane's own; they never restart, not even when a change of `lanes` opens a new generation of local logs.
 */
export interface Ledger {
  readonly topic: string
  readonly lane: number
  /** As the newest generation of local logs was made. */
  lanes: number
  partitionBy: 'edge' | 'key'
  /** 0 to 9; higher goes to the hub first. */
  priority: number
  runs: Run[]
  /** Set where the next run opened has no predecessor, and why. */
  breakReason: BreakReason | null
  /** Lost ranges the hub has not committed yet. */
  gaps: LocalGap[]
  /** Below it the hub committed everything, or said so of another topic id. */
  committed: number
  /** First offset that can be read. */
  startOffset: number
  /** One past the last durable record. */
  durableEnd: number
  /** What may be sent ends here: at `durableEnd`, or where a generation begins whose elders are not drained. */
  sendableEnd: number
  /** The hub's topic this lane last wrote to, null before the first. */
  topicId: string | null
}

/** The name of a lane in maps, state keys and logs; topic names have no slash. */
export function laneKey(topic: string, lane: number): string {
  return `${topic}/${lane}`
}

/** Everything below it may be deleted: committed, or declared lost right after what is. */
export function freeableEnd(ledger: Ledger): number {
  return Math.min(skipGaps(ledger.gaps, ledger.committed), ledger.durableEnd)
}

/** Whether the hub still lacks something of this lane. */
export function hasPending(ledger: Ledger): boolean {
  return ledger.committed < ledger.durableEnd
}

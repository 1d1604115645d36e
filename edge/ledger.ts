import type { LocalGap } from './gaps.ts'
import { addGap, skipGaps } from './gaps.ts'
import type { BreakReason, Run } from './runs.ts'
import { closeRun, openRun, recutRuns } from './runs.ts'

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
  /** One past the last record, durable or not. */
  endOffset: number
  /** One past the last durable record. */
  durableEnd: number
  /** What may be sent ends here: at `durableEnd`, or where a generation begins whose elders are not drained. */
  sendableEnd: number
  /** The hub's topic this lane last wrote to, null before the first. */
  topicId: string | null
}

/** Of a lane without records. */
export function newLedger(of: Pick<Ledger, 'topic' | 'lane' | 'lanes' | 'partitionBy' | 'priority'>): Ledger {
  return {
    ...of,
    runs: [],
    breakReason: null,
    gaps: [],
    committed: 0,
    startOffset: 0,
    endOffset: 0,
    durableEnd: 0,
    sendableEnd: 0,
    topicId: null,
  }
}

/** What a new session means for the lanes; `moved`: the hub belongs to another cluster than before. */
export type Verdict = 'ok' | 'fork' | 'moved' | 'hub-rollback'

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

/** Opens a run for the record at `start`. */
export function startRun(ledger: Ledger, run: number, start: number): void {
  openRun(ledger.runs, run, start, ledger.breakReason)
  ledger.breakReason = null
}

/** Ends the open run at `end`; the break of one that got no records passes to the next. */
export function endRun(ledger: Ledger, end: number): void {
  const dropped = closeRun(ledger.runs, end)
  if (dropped?.prev === null && dropped.reason !== 'next') ledger.breakReason = dropped.reason
}

/** Gives the records from `from` on to new runs without predecessor. */
export function recut(ledger: Ledger, from: number, reason: BreakReason, newId: () => number): void {
  // Runs of another topic or cluster mean nothing to the one they are sent to now.
  if (reason === 'moved') {
    ledger.runs = []
    ledger.committed = from
  }
  const began = recutRuns(ledger.runs, from, ledger.endOffset, reason, newId)
  ledger.breakReason = began ? null : reason
}

/** Declares a loss, as far as the hub may still lack it. */
export function declareLoss(ledger: Ledger, gap: LocalGap): void {
  const from = Math.max(gap.from, ledger.committed)
  const to = Math.min(gap.to, ledger.endOffset)
  if (from < to) ledger.gaps = addGap(ledger.gaps, { ...gap, from, to })
}

/**
 * The hub went back: nothing it once committed is known to be there still, until its tip says so. Kept with the session, or
 * a restart before the lane resumes would give back what only this edge has.
 */
export function forgetCommitted(ledger: Ledger): void {
  ledger.committed = Math.min(ledger.committed, ledger.runs[0]?.start ?? ledger.committed)
}

/** What a session's verdict does to a lane, in the commit that stores the session number. */
export function adoptVerdict(ledger: Ledger, verdict: Verdict, newId: () => number): void {
  if (verdict === 'fork') recut(ledger, ledger.committed, 'fork', newId)
  if (verdict === 'hub-rollback') forgetCommitted(ledger)
  if (verdict === 'moved') {
    ledger.topicId = null
    recut(ledger, Math.min(ledger.committed, ledger.startOffset), 'moved', newId)
  }
}

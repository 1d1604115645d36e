import { assert, assertOffset } from '../common/assert.ts'
import { MAX_SEQUENCE } from '../common/batch.ts'
import type { RunFrame } from '../common/wire.ts'

/**
 * Which run each record of a lane belongs to. A lane's offsets never restart; a run is a stretch of them under one
 * producer id, so that sequence = offset - run start. What stands in a batch on disk is only a hint: after a fork the
 * same records go out under another run, and this list decides.
 */

/** Why a run has no predecessor the hub could check. */
export type BreakReason = Exclude<RunFrame['reason'], 'next'>

/** A run of a lane. */
export interface Run {
  /** Producer id, in [2^52, 2^53). */
  run: number
  /** Offset of sequence 0. */
  start: number
  /** One past its last record's offset; null while records are still added to it. */
  end: number | null
  /** Predecessor with the number of its records; null where `reason` says why there is none. */
  prev: { run: number; end: number } | null
  reason: RunFrame['reason']
}

/** Smallest producer id of a run; below it are those of Kafka clients. */
export const FIRST_RUN_ID = 2 ** 52

/** Records in one run: it ends before sequence 2^31 - 1 (int32 in the batch header). */
export const MAX_RUN_RECORDS = MAX_SEQUENCE

/**
 * Runs remembered per lane below what was freed: a hub that went back by more agent starts than that is told of
 * a loss of unknown count instead of an exact one.
 */
export const MAX_FREED_RUNS = 64

/** Starts a run at `start`, the offset of its first record. `reason` null: it follows the last one. */
export function openRun(runs: Run[], run: number, start: number, reason: BreakReason | null): void {
  assertOffset(start, 'run start')
  assert(run >= FIRST_RUN_ID, 'run ids are at least 2^52')
  const last = runs.at(-1)
  if (last === undefined) {
    runs.push({ run, start, end: null, prev: null, reason: reason ?? 'first' })
    return
  }
  assert(last.end !== null && last.end <= start, 'a run opens when the one before is closed')
  const prev = reason === null ? { run: last.run, end: last.end - last.start } : null
  runs.push({ run, start, end: null, prev, reason: reason ?? 'next' })
}

/** Ends the open run, if any, at `end`; one without records goes and is returned. */
export function closeRun(runs: Run[], end: number): Run | undefined {
  const last = runs.at(-1)
  if (last === undefined || last.end !== null) return undefined
  if (end <= last.start) return runs.pop()
  last.end = end
  return undefined
}

/** The run that holds `offset`, or undefined between or outside runs. */
export function runAt(runs: readonly Run[], offset: number): Run | undefined {
  for (let index = runs.length - 1; index >= 0; index--) {
    const run = runs[index]
    if (run === undefined || run.start > offset) continue
    return run.end === null || offset < run.end ? run : undefined
  }
  return undefined
}

/** The first run that begins at or after `offset`. */
export function runFrom(runs: readonly Run[], offset: number): Run | undefined {
  return runs.find(run => run.start >= offset)
}

/** The run with that producer id. */
export function findRun(runs: readonly Run[], run: number): Run | undefined {
  return runs.find(candidate => candidate.run === run)
}

/**
 * Gives all records from `from` to `end` (the log's end) to new runs that have no predecessor, because of `reason`. What
 * lies below stays. Returns false where there are no such records yet: then the next run opened is the one to break.
 */
export function recutRuns(
  runs: Run[],
  from: number,
  end: number,
  reason: BreakReason,
  newId: () => number,
): boolean {
  while ((runs.at(-1)?.start ?? -1) >= from) runs.pop()
  const last = runs.at(-1)
  if (last !== undefined && (last.end === null || last.end > from)) last.end = from
  if (end <= from) return false
  let start = from
  openRun(runs, newId(), start, reason)
  while (end - start >= MAX_RUN_RECORDS) {
    start += MAX_RUN_RECORDS
    closeRun(runs, start)
    openRun(runs, newId(), start, null)
  }
  return true
}

/** Forgets the oldest of the runs that end at or below `freed`, keeping `MAX_FREED_RUNS` of them, and always the last run. */
export function pruneRuns(runs: Run[], freed: number): void {
  let done = 0
  while (done < runs.length - 1 && (runs[done]?.end ?? Number.POSITIVE_INFINITY) <= freed) done++
  if (done > MAX_FREED_RUNS) runs.splice(0, done - MAX_FREED_RUNS)
}

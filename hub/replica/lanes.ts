import type { BatchHeader } from '../../common/batch.ts'
import { MAX_SEQUENCE } from '../../common/batch.ts'
import { TributaryError } from '../../common/errors.ts'
import type { GapFrame, GapReason, PastRun, RunFrame } from '../../common/wire.ts'
import { WIRE_LIMITS } from '../../common/wire.ts'

/**
 * The rules of runs: an edge's lane in a partition is a chain of runs without holes. The hub remembers the tip (run and
 * next sequence), admits a run only behind what it holds, and takes nothing that would leave a hole undeclared.
 */

/** A lane of an edge within one partition. */
export interface LaneId {
  readonly edge: string
  readonly lane: number
}

/** The tip of a lane. */
export interface LaneState extends LaneId {
  readonly run: number
  /** Next sequence of `run`. */
  readonly next: number
  /** What `run` followed: all of it is held or declared. */
  readonly prev: { readonly run: number; readonly end: number } | null
  /** See LaneTip. */
  readonly past: readonly PastRun[]
}

/** Places of past runs, before the oldest, that are thinned out: a run stays in each for four times as long as in the one before. */
const THINNED_PLACES = 4
/** Past runs kept of a lane that one directory writes. Where several take turns each comes to a tip that it does not know: there it is WIRE_LIMITS.maxPastRuns. */
const CALM_PAST_RUNS = WIRE_LIMITS.exactPastRuns + THINNED_PLACES

/**
 * The runs before the next one, newest first; those without records tell nothing. When there are too many, one of the older ones goes, never the
 * oldest: whoever comes back after long finds one that it knows, if not the very last one.
 */
export function pastOf(tip: LaneState | undefined): readonly PastRun[] {
  if (tip === undefined) return []
  const { run, next, prev, past } = tip
  if (next === 0) return past
  const all = [{ run, next }, ...past]
  const isContested = prev === null || past.length > CALM_PAST_RUNS
  const bound = isContested ? WIRE_LIMITS.maxPastRuns : CALM_PAST_RUNS
  return all.length <= bound ? all : all.toSpliced(bound - THINNED_PLACES + drawPlace(run), 1)
}

/** 0 most often, each number above it a quarter as often. Run ids are random, and in the log, so that all replicas draw alike. */
function drawPlace(run: number): number {
  let place = 0
  for (let rest = run; rest % 4 === 0 && place < THINNED_PLACES - 1; rest /= 4) place++
  return place
}

/** See RunFrame. */
export type RunAnnouncement = Pick<RunFrame, 'run' | 'prev' | 'reason'>

/** See GapFrame. */
export type GapRange = Omit<GapFrame, 't' | 'log'>

/** What makes a lane unique in its partition. */
export function laneKey({ edge, lane }: LaneId): string {
  return `${lane}/${edge}`
}

/** The refusal of a run that is not the tip's; says what is, so that the edge can resume. */
export function unknownRun(id: LaneId, run: number, tip: LaneState | undefined): TributaryError {
  const held = tip === undefined ? 'nothing of this lane is held' : `run ${tip.run} is held to ${tip.next}`
  return new TributaryError(
    'unknown_run',
    `run ${run} of edge ${id.edge}, lane ${id.lane}, can't be taken: ${held}; open the lane again and announce the run`,
    { details: tip === undefined ? {} : { run: tip.run, next: tip.next } },
  )
}

function outOfOrder(tip: LaneState, got: number): TributaryError {
  return new TributaryError(
    'out_of_order_sequence',
    `edge ${tip.edge}, lane ${tip.lane}: run ${tip.run} goes on at ${tip.next}, not at ${got}: rewind, or cut the batch there`,
    { details: { run: tip.run, next: tip.next } },
  )
}

/** Whether a batch of the tip's run goes on where the tip ends, or is held already. Throws `out_of_order_sequence`. */
export function judgeRunBatch(tip: LaneState, header: BatchHeader): 'append' | 'duplicate' {
  const end = header.baseSequence + header.recordCount
  // Epochs are for clients that share an id; a run has one writer, and sequences end before they would wrap.
  if (header.producerEpoch !== 0 || end > MAX_SEQUENCE) {
    throw new TributaryError(
      'invalid_argument',
      `a batch of run ${tip.run} has epoch ${header.producerEpoch} and sequences to ${end}; runs have epoch 0 and end before 2^31 - 1`,
    )
  }
  if (header.baseSequence === tip.next) return 'append'
  if (end <= tip.next) return 'duplicate'
  throw outOfOrder(tip, header.baseSequence)
}

/**
 * Null where the run is the tip already; else what to declare with it (`gap`: the reason of a gap of unknown count, since
 * the edge can't say what lies between). Throws `unknown_run` or `out_of_order_sequence` where the predecessor isn't
 * held to its end.
 */
export function judgeRun(
  tip: LaneState | undefined,
  start: RunAnnouncement,
): { gap: GapReason | null } | null {
  const { run, prev, reason } = start
  if (tip?.run === run) return null
  // Said late, by a connection that is gone: begun again it would take its records once more.
  if (tip !== undefined && isBehind(tip, run)) throw unknownRun(tip, run, tip)
  if (prev === null) return { gap: gapWithoutPredecessor(tip !== undefined, reason) }
  if (tip === undefined || tip.run !== prev.run) throw unknownRunAfter(tip, start, prev.run)
  if (tip.next < prev.end) throw outOfOrder(tip, prev.end)
  // The hub holds more of the predecessor than the edge says there was: its directory was rolled back.
  return { gap: tip.next > prev.end || reason === 'fork' ? 'fork' : null }
}

function isBehind({ prev, past }: LaneState, run: number): boolean {
  return prev?.run === run || past.some(known => known.run === run)
}

function gapWithoutPredecessor(hasTip: boolean, reason: RunAnnouncement['reason']): GapReason | null {
  // The edge itself says that there was something before, whether or not this hub ever held it.
  if (reason === 'wiped' || reason === 'moved') return reason
  if (!hasTip) return null
  return reason === 'fork' ? 'fork' : 'wiped'
}

function unknownRunAfter(
  tip: LaneState | undefined,
  start: RunAnnouncement,
  predecessor: number,
): TributaryError {
  const held = tip === undefined ? 'nothing' : `run ${tip.run} to ${tip.next}`
  return new TributaryError(
    'unknown_run',
    `run ${start.run} follows run ${predecessor}, of this lane the hub holds ${held}: send what is kept of the runs before, or declare them missing`,
    { details: tip === undefined ? {} : { run: tip.run, next: tip.next } },
  )
}

/** The part of a gap that is not held yet, null where all is. Throws `unknown_run`, `out_of_order_sequence`, `invalid_argument`. */
export function gapLeft(id: LaneId, tip: LaneState | undefined, gap: GapRange): GapRange | null {
  const { run, from, to, localFrom, localTo } = gap
  if (from < 0 || to <= from || to > MAX_SEQUENCE || localTo - localFrom !== to - from) {
    throw new TributaryError(
      'invalid_argument',
      `gap [${from}, ${to}) with local offsets [${localFrom}, ${localTo}) is none`,
    )
  }
  if (tip === undefined) throw unknownRun(id, run, tip)
  if (tip.run !== run) {
    // Said again after the next run was admitted, which means that all of this one is settled.
    if (tip.prev?.run === run && to <= tip.prev.end) return null
    throw unknownRun(id, run, tip)
  }
  if (to <= tip.next) return null
  if (from > tip.next) throw outOfOrder(tip, from)
  return { ...gap, from: tip.next, localFrom: localFrom + tip.next - from }
}

import { must } from '../common/assert.ts'
import type { LaneTip, PastRun, RunFrame } from '../common/wire.ts'
import { WIRE_LIMITS } from '../common/wire.ts'
import type { ForwarderState, LaneState } from './forward-state.ts'
import { dropQueue, MAX_INFLIGHT_FRAMES, resetLane, retryLane } from './forward-state.ts'
import type { Input, LedgerChange, Output, StepContext } from './forward-types.ts'
import { gapAt, gapFrame, nextGapFrom, skipGaps, summaryGap } from './gaps.ts'
import type { Ledger } from './ledger.ts'
import type { BreakReason, Run } from './runs.ts'
import { findRun, runAt, runFrom } from './runs.ts'

/** One lane of the forwarder: where it resumes, and what it sends next. Pure. */

/** What a gap frame counts for in the window. */
const GAP_FRAME_BYTES = 128

/** Asks the shell to store a change; the lane waits for it and then goes on as `after` says. */
export function changeLane(
  lane: LaneState,
  change: LedgerChange,
  after: LaneState['after'],
  out: Output[],
): void {
  lane.phase = 'changing'
  lane.after = after
  out.push({ t: 'change', lane: lane.key, change })
}

/** The lane was opened: binds it to its topic, or goes on where the hub's tip says. */
export function bindLane(state: ForwarderState, lane: LaneState, out: Output[]): void {
  const { ledger } = lane
  const { topicId } = must(lane.opened, 'a lane is bound by an answer to open')
  // Another id in the same cluster is a topic the hub made anew after it went back and forgot the old one: what the edge
  // remembers stays true of the lane, and resuming finds that the hub knows less.
  if (ledger.topicId !== topicId) changeLane(lane, { kind: 'bind', topicId }, 'resume', out)
  else resumeLane(state, lane, out)
}

/** Finds the offset to go on at from the hub's tip, see "Resume" and "A hub that went back" in the design. */
export function resumeLane(state: ForwarderState, lane: LaneState, out: Output[]): void {
  const { ledger } = lane
  const { tip } = must(lane.opened, 'a lane resumes by an answer to open')
  lane.run = tip?.run ?? 0
  lane.sentRun = lane.run
  lane.forcedBreak = 0
  const place = tip === null ? fromNothing(lane) : fromTip(lane, tip)
  if (place === 'fork') {
    forkLane(lane, out)
    return
  }
  lane.next = place
  if (place < ledger.committed) {
    const message = `the hub lost what it had committed of ${lane.key} from offset ${place}: sending again what is kept`
    if (isSure(lane)) out.push({ t: 'alarm', alarm: { kind: 'hub-rollback', message, lane: lane.key } })
    out.push({ t: 'committed', lane: lane.key, offset: place })
  } else if (tip !== null) {
    noteTip(lane, tip, out, true)
    if (findRun(ledger.runs, tip.run) === undefined) noteHeld(lane, place, out)
  }
  lane.phase = 'ready'
  state.active.add(lane)
}

/** The hub holds everything below `offset`, whatever came after it there. */
function noteHeld({ key, ledger }: LaneState, offset: number, out: Output[]): void {
  if (offset > ledger.committed) out.push({ t: 'committed', lane: key, offset })
}

/** The hub's tip is not of this edge's past: what it may lack goes out under new runs, for old ones may stand in its log. */
function forkLane(lane: LaneState, out: Output[]): void {
  const { ledger, opened } = lane
  const known = findRun(ledger.runs, lane.run)
  const from = known?.end ?? heldEnd(ledger, opened?.tip?.past ?? [])
  const reason = known === undefined ? breakReason(lane, from) : 'fork'
  if (known === undefined) noteHeld(lane, from, out)
  if (reason === 'fork') {
    const message = `the hub holds more of run ${lane.run} than this edge: lane ${lane.key} forks`
    out.push({ t: 'alarm', alarm: { kind: 'fork', message, lane: lane.key } })
  }
  lane.forked = true
  changeLane(lane, { kind: 'recut', from, reason }, 'resume', out)
}

/** Why the records from `from` on have no predecessor that the hub knows. */
function breakReason(lane: LaneState, from: number): BreakReason {
  const { ledger } = lane
  if (!isRemembered(lane)) return 'fork'
  const run = runAt(ledger.runs, from) ?? runFrom(ledger.runs, from)
  if (run === undefined || run.prev !== null || run.reason === 'next') return 'fork'
  if (run.reason !== 'first') return run.reason
  return from === 0 && ledger.committed === 0 ? 'wiped' : 'fork'
}

/**
 * Up to where the hub has this lane's records for sure, though its tip is of another directory: to where the newest run ends that it
 * remembers and this one knows. What it once committed proves nothing: the hub may have gone back since.
 */
function heldEnd({ runs, committed, durableEnd }: Ledger, past: readonly PastRun[]): number {
  for (const { run: id, next } of past) {
    const run = findRun(runs, id)
    if (run !== undefined) return Math.min(run.start + next, run.end ?? durableEnd)
  }
  return Math.min(committed, runs[0]?.start ?? committed)
}

/** Whether the hub lacks what comes after the place where the lane resumed; of one that forks it may have it, and not remember. */
function isSure(lane: LaneState): boolean {
  return !lane.forked || isRemembered(lane)
}

/** Whether the hub would have told of newer runs of this directory, if it had any. */
function isRemembered({ ledger, opened }: LaneState): boolean {
  const past = opened?.tip?.past ?? []
  const known = past.findIndex(({ run }) => findRun(ledger.runs, run) !== undefined)
  return (known < 0 ? past.length : known) < WIRE_LIMITS.exactPastRuns
}

/** The hub has nothing of this lane: from the first record it could be told of. */
function fromNothing(lane: LaneState): number {
  const { runs, committed } = lane.ledger
  const oldest = runs[0]
  if (oldest === undefined) return committed
  lane.forcedBreak = oldest.run
  return oldest.start
}

function fromTip(lane: LaneState, tip: LaneTip): number | 'fork' {
  const { ledger } = lane
  const { runs } = ledger
  const run = findRun(runs, tip.run)
  if (run === undefined) {
    const held = heldEnd(ledger, tip.past ?? [])
    const pending = runAt(runs, held) ?? runFrom(runs, held)
    if (pending === undefined) return held
    return lane.forked ? pending.start : 'fork'
  }
  const end = run.end ?? ledger.durableEnd
  const place = run.start + tip.next
  if (place <= end) return place
  const following = runFrom(runs, end)
  const breaks = following === undefined ? ledger.breakReason !== null : following.prev === null
  return run.end !== null && breaks ? end : 'fork'
}

/** Takes an ack, or the tip of an answer to open (`isSettled`): what the hub committed need not be kept. */
export function noteTip(lane: LaneState, tip: LaneTip, out: Output[], isSettled = false): number {
  const { ledger } = lane
  const run = findRun(ledger.runs, tip.run)
  // An ack of a run of which nothing is committed says nothing about the end of the one before it.
  if (run === undefined || (tip.committed === 0 && !isSettled)) return ledger.committed
  const offset = Math.min(run.start + tip.committed, run.end ?? ledger.durableEnd)
  if (offset > ledger.committed) out.push({ t: 'committed', lane: lane.key, offset })
  return offset
}

/** Whether the lane could plan or send something now or once acks come. */
export function hasWork(lane: LaneState): boolean {
  return lane.queue.length > 0 || lane.next < lane.ledger.sendableEnd
}

/** Plans gap and run frames up to the next read, which it asks for; stops at a change or when nothing is left. */
export function planLane(state: ForwarderState, lane: LaneState, out: Output[]): void {
  const { ledger } = lane
  while (lane.phase === 'ready' && lane.reading === null && lane.next < ledger.sendableEnd) {
    if (lane.queue.length + lane.inflight.length >= MAX_INFLIGHT_FRAMES) return
    const run = runAt(ledger.runs, lane.next)
    if (run === undefined) {
      const following = runFrom(ledger.runs, lane.next)
      lane.next = Math.min(following?.start ?? ledger.sendableEnd, ledger.sendableEnd)
    } else if (gapAt(ledger.gaps, lane.next) !== undefined) planGap(lane, run)
    else if (lane.next < ledger.startOffset) {
      const to = Math.min(
        ledger.startOffset,
        nextGapFrom(ledger.gaps, lane.next),
        run.end ?? Number.POSITIVE_INFINITY,
      )
      const reason = isSure(lane) ? 'hub-rollback' : 'fork'
      changeLane(lane, { kind: 'lose', from: lane.next, to, reason }, 'plan', out)
    } else planRead(state, lane, run, out)
  }
}

function planGap(lane: LaneState, run: Run): void {
  const { ledger, next, log } = lane
  const gap = must(gapAt(ledger.gaps, next), 'a gap is planned where one is')
  const to = Math.min(gap.to, run.end ?? gap.to)
  announce(lane, run)
  lane.queue.push({ kind: 'gap', frame: gapFrame(log, run, gap, next, to), to })
  lane.next = to
}

function planRead(state: ForwarderState, lane: LaneState, run: Run, out: Output[]): void {
  const { ledger, next, log, key } = lane
  const { maxBatchBytes, maxRecordBytes } = must(lane.opened, 'only an opened lane reads')
  announce(lane, run)
  const limit = Math.min(ledger.sendableEnd, nextGapFrom(ledger.gaps, next), run.end ?? ledger.sendableEnd)
  const ticket = state.nextTicket++
  const item = { kind: 'append' as const, ticket, from: next, to: limit, bytes: null }
  lane.queue.push(item)
  lane.reading = ticket
  state.tickets.set(ticket, { lane, item })
  out.push({
    t: 'read',
    ticket,
    lane: key,
    log,
    run: run.run,
    runStart: run.start,
    from: next,
    limit,
    maxBytes: maxBatchBytes,
    maxRecordBytes,
  })
}

/** Queues the run's announcement unless the hub knows that it is the current one. */
function announce(lane: LaneState, run: Run): void {
  if (lane.run === run.run) return
  const isForced = lane.forcedBreak === run.run
  const prev = isForced ? null : run.prev
  lane.run = run.run
  lane.queue.push({
    kind: 'run',
    frame: { t: 'run', log: lane.log, run: run.run, prev, reason: announcedReason(lane, run, isForced) },
  })
}

function announcedReason(lane: LaneState, run: Run, isForced: boolean): RunFrame['reason'] {
  const hubHasTip = (lane.opened?.tip ?? null) !== null
  if (isForced) return hubHasTip || run.prev !== null ? 'wiped' : run.reason
  return run.reason === 'first' && hubHasTip ? 'wiped' : run.reason
}

/** Forgets what is planned and not sent, to plan it again: the ledger changed underneath. */
function replan(state: ForwarderState, lane: LaneState, out: Output[]): void {
  for (const item of lane.queue) {
    if (item.kind === 'run') continue
    lane.next = item.kind === 'gap' ? item.frame.localFrom : item.from
    break
  }
  dropQueue(state, lane, out)
  lane.run = lane.sentRun
}

/** What a gap or append costs in the window. */
export function itemBytes(item: LaneState['queue'][number]): number {
  if (item.kind === 'append') return item.bytes ?? 0
  return item.kind === 'gap' ? GAP_FRAME_BYTES : 0
}

/** Sends the next pending records to `_dead`; true where none are left and the lane may be opened again. */
export function buryMore(lane: LaneState, out: Output[]): boolean {
  const { ledger } = lane
  const why = must(lane.burying, 'a burial has a reason')
  const from = skipGaps(ledger.gaps, ledger.committed)
  if (from < ledger.sendableEnd) {
    changeLane(lane, { kind: 'bury', from, to: ledger.sendableEnd, why }, 'bury', out)
    return false
  }
  lane.burying = null
  if (ledger.topicId === null) return true
  const { committed } = ledger
  changeLane(lane, { kind: 'recut', from: committed, reason: 'moved', topicId: null }, 'reopen', out)
  return false
}

/** What became of a read. */
export function onTicket(
  state: ForwarderState,
  input: Extract<Input, { ticket: number }>,
  context: StepContext,
  out: Output[],
): void {
  const found = state.tickets.get(input.ticket)
  if (found === undefined) return
  const { lane, item } = found
  if (input.t === 'prepared') {
    item.bytes = input.bytes
    return
  }
  if (input.t === 'read') {
    item.to = input.to
    lane.next = input.to
    lane.reading = null
    if (hasWork(lane)) state.active.add(lane)
    return
  }
  if (input.t === 'summary') {
    // It goes out as a gap, in its place.
    const run = must(runAt(lane.ledger.runs, item.from), 'a read lies in a run')
    const to = item.from + 1
    const gap = summaryGap({ offset: item.from, summary: input.summary })
    const frame = gapFrame(lane.log, run, gap, item.from, to)
    lane.queue[lane.queue.indexOf(item)] = { kind: 'gap', frame, to }
    lane.next = to
    lane.reading = null
    state.tickets.delete(input.ticket)
    state.active.add(lane)
    return
  }
  replan(state, lane, out)
  if (input.t === 'oversize') {
    const { offset } = input
    const message = `a record of ${lane.key} at offset ${offset} is larger than the hub takes`
    out.push({ t: 'alarm', alarm: { kind: 'dead-letter', message, lane: lane.key } })
    changeLane(lane, { kind: 'bury', from: offset, to: offset + 1, why: 'record_too_large' }, 'plan', out)
  } else if (input.damage !== null) {
    changeLane(lane, { kind: 'lose', ...input.damage, reason: 'damage' }, 'plan', out)
  } else if (lane.ledger.startOffset > item.from) state.active.add(lane)
  else {
    resetLane(state, lane, out)
    retryLane(state, lane, false, context)
  }
}

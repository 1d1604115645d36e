import { must, unreachable } from '../common/assert.ts'
import type { AckFrame, OpenedFrame, RefusedFrame, WelcomeFrame } from '../common/wire.ts'
import {
  bindLane,
  buryMore,
  changeLane,
  hasWork,
  itemBytes,
  noteTip,
  onTicket,
  planLane,
  resumeLane,
} from './forward-lane.ts'
import type { ForwarderState, Item, LaneState } from './forward-state.ts'
import {
  backoffMs,
  MAX_INFLIGHT_FRAMES,
  MAX_OPENING,
  MAX_QUICK_RETRIES,
  MAX_READ_AHEAD,
  newConnection,
  newLane,
  reopenStalled,
  resetLane,
  retryLane,
} from './forward-state.ts'
import type { ForwarderOptions, Input, Output, SessionState, StepContext } from './forward-types.ts'
import type { Ledger } from './ledger.ts'
import { freeableEnd, hasPending, laneKey } from './ledger.ts'
import { findRun } from './runs.ts'

/**
 * Decides what an edge sends to its hub next: connections and sessions, where each lane resumes, the window, turns between
 * lanes, gaps, refusals. Pure: `step` changes the state it is given and says what is to be done; uplink.ts does it.
 *
 * A lane's life in one connection: open -> opened (tip) -> [bind, recut] -> runs, gaps and appends, pipelined -> acks.
 * Anything refused opens the lane anew: the hub drops what was pipelined behind a refusal, and the fresh tip says where to go on.
 */

/** The topic that takes what no topic takes. */
export const DEAD_TOPIC = '_dead'

/** Every so many turns the lane that waits longest goes first, whatever its priority: none starves. */
const FAIR_TURN = 8

/** How long records of a deleted topic gather before the hub is asked for it again. */
const DELETED_RETRY_MS = 60_000

export function createForwarder(
  options: ForwarderOptions,
  session: SessionState,
  nowMs: number,
): ForwarderState {
  return {
    options,
    session,
    connection: newConnection(nowMs),
    lanes: new Map(),
    byLog: new Map(),
    toOpen: new Set(),
    active: new Set(),
    tickets: new Map(),
    nextTicket: 1,
    turns: 0,
  }
}

/** Takes one input and says what to do now, in order. */
export function step(state: ForwarderState, input: Input, context: StepContext): Output[] {
  const out: Output[] = []
  apply(state, input, context, out)
  const { connection } = state
  if (connection.phase === 'waiting' && context.nowMs >= connection.dialAtMs) {
    connection.phase = 'dialing'
    out.push({ t: 'dial', ...state.session })
  }
  if (connection.phase !== 'up') return out
  reopenStalled(state, context, out)
  pump(state, context, out)
  return out
}

/** When the next `tick` is due at the latest; Infinity for never. */
export function wakeAtMs(state: ForwarderState, nowMs: number): number {
  const { connection, toOpen } = state
  if (connection.phase === 'waiting') return connection.dialAtMs
  if (connection.phase !== 'up') return Number.POSITIVE_INFINITY
  const isThrottled = connection.throttledUntilMs > nowMs && state.tickets.size > 0
  let at = isThrottled ? connection.throttledUntilMs : Number.POSITIVE_INFINITY
  if (connection.opening < MAX_OPENING) for (const lane of toOpen) at = Math.min(at, lane.retryAtMs)
  return connection.inflightBytes === 0 ? at : Math.min(at, connection.lookAtMs)
}

function apply(state: ForwarderState, input: Input, context: StepContext, out: Output[]): void {
  const { connection } = state
  switch (input.t) {
    case 'lane':
      addLane(state, input.ledger)
      break
    case 'wake':
      wakeLane(state, input.lane)
      break
    case 'welcome':
      onWelcome(state, input.welcome, out)
      break
    case 'adopted':
      onAdopted(state, input.ok, out)
      break
    case 'closed':
      onClosed(state, input, context, out)
      break
    case 'frame':
      onFrame(state, input.frame, context, out)
      break
    case 'changed':
      onChanged(state, input.lane, input.ok, context, out)
      break
    case 'read':
    case 'prepared':
    case 'unreadable':
    case 'summary':
    case 'oversize':
      onTicket(state, input, context, out)
      break
    case 'blocked':
      connection.blocked = true
      break
    case 'drained':
      connection.blocked = false
      break
    case 'stop':
      connection.phase = 'stopped'
      out.push({ t: 'close' })
      break
    case 'tick':
      break
    default:
      unreachable(input)
  }
}

// ------------------------------------------------------------------------------------------- connection

function onWelcome(state: ForwarderState, welcome: WelcomeFrame, out: Output[]): void {
  const { connection, session } = state
  if (connection.phase !== 'dialing') return
  if (welcome.edge === undefined) {
    const message = 'the hub granted no session: is this address a hub for edges?'
    out.push({ t: 'alarm', alarm: { kind: 'protocol', message } }, { t: 'close' })
    return
  }
  const { clusterId } = welcome
  const moved = session.clusterId !== null && session.clusterId !== clusterId
  // A directory without a session has nothing in it that could have been sent twice: it is new, or wiped.
  const forks = !moved && welcome.edge.verdict === 'fork' && session.session > 0
  const wentBack = !moved && welcome.edge.verdict === 'hub-rollback'
  const verdict = moved ? 'moved' : forks ? 'fork' : wentBack ? 'hub-rollback' : 'ok'
  if (moved) {
    const message = `the hub belongs to another cluster (${clusterId}): every log starts again at its beginning`
    out.push({ t: 'alarm', alarm: { kind: 'moved', message } })
  } else if (forks) {
    const message = 'the hub knows a newer session: this directory is a copy or was rolled back; it forks'
    out.push({ t: 'alarm', alarm: { kind: 'fork', message } })
  } else if (wentBack) {
    const message = 'the hub forgot sessions of this edge: its directory went back'
    out.push({ t: 'alarm', alarm: { kind: 'hub-rollback', message } })
  }
  connection.phase = 'adopting'
  connection.grant = { session: welcome.edge.session, clusterId, verdict }
  out.push({ t: 'adopt', ...connection.grant })
}

function onAdopted(state: ForwarderState, ok: boolean, out: Output[]): void {
  const { connection } = state
  if (connection.phase !== 'adopting') return
  if (!ok) {
    out.push({ t: 'close' })
    return
  }
  const { session, clusterId } = must(connection.grant, 'a session is adopted after its grant')
  state.session = { session, clusterId }
  connection.phase = 'up'
  out.push({ t: 'send', frame: { t: 'start', session } })
  const lanes = [...state.lanes.values()].filter(lane => lane.phase === 'closed')
  for (const lane of lanes.sort(openFirst)) state.toOpen.add(lane)
}

/** Lanes with records to send open first, those of higher priority before others. */
function openFirst(left: LaneState, right: LaneState): number {
  const pending = Number(hasPending(right.ledger)) - Number(hasPending(left.ledger))
  return pending !== 0 ? pending : right.ledger.priority - left.ledger.priority
}

function onClosed(
  state: ForwarderState,
  { reason, fenced, next }: Extract<Input, { t: 'closed' }>,
  context: StepContext,
  out: Output[],
): void {
  const { connection, options } = state
  if (fenced) {
    const message = `a newer connection with this edge's id took over (${reason}): is its directory used twice?`
    out.push({ t: 'alarm', alarm: { kind: 'fenced', message } })
  }
  for (const lane of state.lanes.values()) {
    resetLane(state, lane, out)
    lane.failures = 0
    lane.retryAtMs = 0
    lane.burying = null
  }
  state.toOpen.clear()
  if (connection.phase === 'stopped') return
  const attempts = connection.progressed && !fenced ? 0 : connection.attempts
  if (next && !fenced) {
    state.connection = { ...newConnection(context.nowMs), attempts }
    return
  }
  const delayMs = backoffMs(options, attempts, context.random)
  state.connection = { ...newConnection(context.nowMs + delayMs), attempts: attempts + 1 }
}

// ------------------------------------------------------------------------------------------------ lanes

function addLane(state: ForwarderState, ledger: Ledger): void {
  const lane = newLane(laneKey(ledger.topic, ledger.lane), state.lanes.size + 1, ledger)
  state.lanes.set(lane.key, lane)
  state.byLog.set(lane.log, lane)
  if (state.connection.phase === 'up') state.toOpen.add(lane)
}

function wakeLane(state: ForwarderState, key: string): void {
  const lane = state.lanes.get(key)
  if (lane?.phase === 'ready' && hasWork(lane)) state.active.add(lane)
}

function onFrame(
  state: ForwarderState,
  frame: Extract<Input, { t: 'frame' }>['frame'],
  context: StepContext,
  out: Output[],
): void {
  if (state.connection.phase !== 'up') return
  if (frame.t === 'throttle') {
    state.connection.throttledUntilMs = context.nowMs + frame.delayMs
    return
  }
  const lane = state.byLog.get(frame.log)
  if (lane === undefined) {
    const message = `the hub answered for handle ${frame.log}, which was never opened`
    out.push({ t: 'alarm', alarm: { kind: 'protocol', message } })
  } else if (frame.t === 'opened') onOpened(state, lane, frame, out)
  else if (frame.t === 'ack') onAck(state, lane, frame, context, out)
  else onRefused(state, lane, frame, context, out)
}

function onOpened(state: ForwarderState, lane: LaneState, frame: OpenedFrame, out: Output[]): void {
  if (lane.phase !== 'opening') return
  state.connection.opening--
  lane.opened = frame
  bindLane(state, lane, out)
}

function onAck(
  state: ForwarderState,
  lane: LaneState,
  frame: AckFrame,
  context: StepContext,
  out: Output[],
): void {
  const committed = noteTip(lane, frame, out)
  let done = 0
  while ((lane.inflight[done]?.to ?? Number.POSITIVE_INFINITY) <= committed) {
    const { bytes } = must(lane.inflight[done], 'it was just looked at')
    lane.inflightBytes -= bytes
    state.connection.inflightBytes -= bytes
    done++
  }
  if (done === 0) return
  lane.inflight.splice(0, done)
  lane.progressAtMs = context.nowMs
  lane.failures = 0
  state.connection.progressed = true
  if (hasWork(lane)) state.active.add(lane)
}

function onRefused(
  state: ForwarderState,
  lane: LaneState,
  frame: RefusedFrame,
  context: StepContext,
  out: Output[],
): void {
  if (lane.phase === 'closed') return
  const { sentRun } = lane
  // What was in flight when its ledger began to change: without a new open the hub would take nothing more and say nothing.
  if (lane.phase === 'changing') {
    resetLane(state, lane, out)
    return
  }
  resetLane(state, lane, out)
  const alarm = (kind: 'refused' | 'dead-letter') => {
    const message = `the hub refused ${lane.key}: ${frame.code}: ${frame.message}`
    out.push({ t: 'alarm', alarm: { kind, message, lane: lane.key } })
  }
  const isGone = frame.code === 'topic_deleted' || frame.code === 'unknown_topic'
  const { ledger } = lane
  if (isGone && ledger.topic !== DEAD_TOPIC) {
    if (freeableEnd(lane.ledger) < lane.ledger.sendableEnd) alarm('dead-letter')
    lane.retryAtMs = lane.ledger.topicId === null ? context.nowMs + DELETED_RETRY_MS : context.nowMs
    lane.burying = frame.code
    if (buryMore(lane, out)) state.toOpen.add(lane)
    return
  }
  if (isGone && lane.ledger.topicId !== null) {
    const from = lane.ledger.committed
    changeLane(lane, { kind: 'recut', from, reason: 'moved', topicId: null }, 'reopen', out)
    return
  }
  if (frame.code === 'record_too_large' && frame.sequence !== undefined) {
    const run = findRun(ledger.runs, frame.run ?? sentRun)
    const offset = run === undefined ? -1 : run.start + frame.sequence
    if (offset >= lane.ledger.committed && offset < lane.ledger.sendableEnd) {
      alarm('dead-letter')
      lane.retryAtMs = context.nowMs
      changeLane(lane, { kind: 'bury', from: offset, to: offset + 1, why: frame.code }, 'reopen', out)
      return
    }
  }
  // A partition without a leader for a moment is no news: the next open is answered when there is one.
  const passes = frame.code === 'out_of_order_sequence' || frame.code === 'not_available'
  const isLasting = frame.code === 'not_available' && lane.failures >= MAX_QUICK_RETRIES
  if (!passes || isLasting) alarm('refused')
  retryLane(state, lane, passes, context)
}

function onChanged(
  state: ForwarderState,
  key: string,
  ok: boolean,
  context: StepContext,
  out: Output[],
): void {
  const lane = must(state.lanes.get(key), 'changes are asked for on known lanes')
  const isUp = state.connection.phase === 'up'
  lane.phase = 'closed'
  // The connection in which it was asked for is gone: everything starts with a new open.
  if (!isUp || (lane.opened === null && lane.after !== 'reopen' && lane.after !== 'bury') || !ok) {
    resetLane(state, lane, out)
    lane.burying = null
    if (isUp) retryLane(state, lane, ok, context)
    return
  }
  if (lane.after === 'resume') resumeLane(state, lane, out)
  else if (lane.after === 'plan') {
    lane.phase = 'ready'
    state.active.add(lane)
  } else if (lane.burying === null || buryMore(lane, out)) state.toOpen.add(lane)
}

// ------------------------------------------------------------------------------------------------- pump

function pump(state: ForwarderState, context: StepContext, out: Output[]): void {
  openLanes(state, context, out)
  sendReady(state, context, out)
  while (canPlan(state)) {
    const lane = pick(state)
    if (lane === undefined) break
    state.active.delete(lane)
    const before = lane.queue.length
    planLane(state, lane, out)
    // Back to the end of the queue; a lane without progress comes back when it is woken.
    if (lane.phase === 'ready' && (lane.queue.length > before || lane.reading !== null))
      state.active.add(lane)
  }
  sendReady(state, context, out)
}

function openLanes(state: ForwarderState, context: StepContext, out: Output[]): void {
  const { connection, toOpen } = state
  for (const lane of toOpen) {
    if (connection.opening >= MAX_OPENING) return
    if (lane.retryAtMs > context.nowMs) continue
    toOpen.delete(lane)
    const { topic, topicId, lane: index, lanes, partitionBy } = lane.ledger
    lane.phase = 'opening'
    connection.opening++
    out.push({
      t: 'send',
      frame: { t: 'open', log: lane.log, topic, topicId, lane: index, lanes, partitionBy },
    })
  }
}

function canPlan(state: ForwarderState): boolean {
  const { connection, options, tickets } = state
  return (
    tickets.size < MAX_READ_AHEAD && connection.inflightBytes < options.windowBytes && !connection.blocked
  )
}

/** A lane may fill the window alone; with others about it leaves them half, or one stalled partition would stop all. */
function hasRoom(state: ForwarderState, lane: LaneState): boolean {
  const share = state.active.size > 1 ? state.options.windowBytes / 2 : state.options.windowBytes
  return lane.inflightBytes < share && lane.queue.length + lane.inflight.length < MAX_INFLIGHT_FRAMES
}

/**
 * Whose turn it is: the highest priority, and among equals who waited longest. While a read of a higher priority is under way
 * lower ones wait for it, except on the fair turn; a lane whose window is full keeps nobody waiting.
 */
function pick(state: ForwarderState): LaneState | undefined {
  const isFairTurn = (state.turns + 1) % FAIR_TURN === 0
  let best: LaneState | undefined
  let highest = -1
  for (const lane of state.active) {
    const { priority, sendableEnd } = lane.ledger
    if (lane.phase !== 'ready' || !hasRoom(state, lane)) continue
    if (lane.reading !== null) {
      highest = Math.max(highest, priority)
      continue
    }
    if (lane.next >= sendableEnd) continue
    if (best === undefined || (!isFairTurn && priority > best.ledger.priority)) best = lane
  }
  if (best === undefined || (!isFairTurn && best.ledger.priority < highest)) return undefined
  state.turns++
  return best
}

function sendReady(state: ForwarderState, context: StepContext, out: Output[]): void {
  for (const lane of state.active) {
    while (lane.phase === 'ready' && sendHead(state, lane, lane.queue[0], context, out)) lane.queue.shift()
    if (lane.phase !== 'ready' || !hasWork(lane)) state.active.delete(lane)
  }
}

/** Sends the head of a lane's queue if it is ready and fits the window. */
function sendHead(
  state: ForwarderState,
  lane: LaneState,
  item: Item | undefined,
  context: StepContext,
  out: Output[],
): boolean {
  if (item === undefined) return false
  if (item.kind === 'run') {
    lane.sentRun = item.frame.run
    out.push({ t: 'send', frame: item.frame })
    return true
  }
  const { connection, options } = state
  if (item.kind === 'append') {
    if (item.bytes === null || connection.blocked || context.nowMs < connection.throttledUntilMs) return false
    if (connection.inflightBytes > 0 && connection.inflightBytes + item.bytes > options.windowBytes)
      return false
    state.tickets.delete(item.ticket)
    out.push({ t: 'append', ticket: item.ticket })
  } else out.push({ t: 'send', frame: item.frame })
  const bytes = itemBytes(item)
  if (lane.inflight.length === 0) lane.progressAtMs = context.nowMs
  lane.inflight.push({ to: item.to, bytes })
  lane.inflightBytes += bytes
  connection.inflightBytes += bytes
  return true
}

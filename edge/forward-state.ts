import type { GapFrame, OpenedFrame, RunFrame } from '../common/wire.ts'
import type { ForwarderOptions, Output, SessionState, StepContext } from './forward-types.ts'
import type { Ledger, Verdict } from './ledger.ts'

/** The forwarder's state; forwarder.ts says what it means, forward-lane.ts moves one lane. */

/** Frames read or compressed ahead, over all lanes: enough that compression overlaps sending. */
export const MAX_READ_AHEAD = 4

/** Sent and uncommitted frames of one lane, however small. */
export const MAX_INFLIGHT_FRAMES = 1_024

/** `open` frames without an answer. */
export const MAX_OPENING = 64

/** After so many refusals without progress a lane waits as if the hub had asked it to. */
export const MAX_QUICK_RETRIES = 3

/**
 * A lane whose oldest frame in flight got no ack for so long is opened again, for a hub that is slow answers the open when
 * it has caught up, and one that waits for something else is asked where to go on. Above any throttle and commit.
 */
export const STALL_MS = 90_000

/** Something planned for a lane, to be sent in this order. */
export type Item =
  | { kind: 'run'; frame: RunFrame }
  | { kind: 'gap'; frame: GapFrame; to: number }
  | { kind: 'append'; ticket: number; from: number; to: number; bytes: number | null }

/** What happens when a change of the lane's ledger is durable. */
export type AfterChange = 'resume' | 'plan' | 'reopen' | 'bury'

export interface LaneState {
  readonly key: string
  readonly ledger: Ledger
  /** `closed`: no handle; `opening`: the hub was asked; `changing`: its ledger is being stored; `ready`: may send. */
  phase: 'closed' | 'opening' | 'changing' | 'ready'
  /** The handle, one per lane for the life of the agent. */
  readonly log: number
  opened: OpenedFrame | null
  after: AfterChange
  /** Offset to plan next. */
  next: number
  /** Planned and not sent. */
  queue: Item[]
  /** The ticket whose end is not known yet. */
  reading: number | null
  /** Sent and not committed, by end offset. */
  inflight: { to: number; bytes: number }[]
  inflightBytes: number
  /** When the first of them was sent, or the last was acked. */
  progressAtMs: number
  /** The run planned last, and the one the hub was last told of: the tip's or the last announced; 0 for none. */
  run: number
  sentRun: number
  /** The run to announce without predecessor, because the hub lost or never had what was before; 0 for none. */
  forcedBreak: number
  /** Its records got new runs since it was opened, because the hub's tip is of another past. */
  forked: boolean
  retryAtMs: number
  /** Refusals since the last progress. */
  failures: number
  /** The hub's code while the whole lane goes to `_dead`. */
  burying: string | null
}

export interface Connection {
  /** `waiting` for `dialAtMs`; `dialing` until the welcome; `adopting` the session; `up`. */
  phase: 'waiting' | 'dialing' | 'adopting' | 'up' | 'stopped'
  dialAtMs: number
  /** Connections that failed one after another. */
  attempts: number
  /** Whether the hub took anything in this connection. */
  progressed: boolean
  grant: { session: number; clusterId: string; verdict: Verdict } | null
  blocked: boolean
  throttledUntilMs: number
  opening: number
  inflightBytes: number
  /** When to look for stalled lanes next. */
  lookAtMs: number
}

export interface ForwarderState {
  readonly options: ForwarderOptions
  session: SessionState
  connection: Connection
  lanes: Map<string, LaneState>
  byLog: Map<number, LaneState>
  /** Lanes waiting to be opened in this connection. */
  toOpen: Set<LaneState>
  /** Lanes that may have something to plan or send, in the order in which they get their turn. */
  active: Set<LaneState>
  tickets: Map<number, { lane: LaneState; item: Extract<Item, { kind: 'append' }> }>
  nextTicket: number
  turns: number
}

export function newConnection(dialAtMs: number): Connection {
  return {
    phase: 'waiting',
    dialAtMs,
    attempts: 0,
    progressed: false,
    grant: null,
    blocked: false,
    throttledUntilMs: 0,
    opening: 0,
    inflightBytes: 0,
    lookAtMs: 0,
  }
}

export function newLane(key: string, log: number, ledger: Ledger): LaneState {
  return {
    key,
    ledger,
    phase: 'closed',
    log,
    opened: null,
    after: 'plan',
    next: 0,
    queue: [],
    reading: null,
    inflight: [],
    inflightBytes: 0,
    progressAtMs: 0,
    run: 0,
    sentRun: 0,
    forcedBreak: 0,
    forked: false,
    retryAtMs: 0,
    failures: 0,
    burying: null,
  }
}

/** Takes back everything planned or in flight on a lane: it must be opened again. */
export function resetLane(state: ForwarderState, lane: LaneState, out: Output[]): void {
  dropQueue(state, lane, out)
  state.connection.inflightBytes -= lane.inflightBytes
  lane.inflight = []
  lane.inflightBytes = 0
  if (lane.phase === 'opening') state.connection.opening--
  lane.opened = null
  lane.run = 0
  lane.sentRun = 0
  lane.forcedBreak = 0
  lane.forked = false
  if (lane.phase !== 'changing') lane.phase = 'closed'
  state.active.delete(lane)
}

/** Drops what is planned and not sent. */
export function dropQueue(state: ForwarderState, lane: LaneState, out: Output[]): void {
  for (const item of lane.queue) {
    if (item.kind !== 'append') continue
    state.tickets.delete(item.ticket)
    out.push({ t: 'drop', ticket: item.ticket })
  }
  lane.queue = []
  lane.reading = null
}

/** Exponential backoff with half of it random, so that a thousand edges do not come back at once. */
export function backoffMs(options: ForwarderOptions, attempts: number, random: number): number {
  const full = Math.min(options.backoffMaxMs, options.backoffMinMs * 2 ** Math.min(attempts, 30))
  return Math.max(options.backoffMinMs, full / 2 + (random * full) / 2)
}

/** An edge hears nothing on a lane that is blocked at the hub; by asking again neither can wait for the other for ever. */
export function reopenStalled(state: ForwarderState, context: StepContext, out: Output[]): void {
  const { connection } = state
  if (context.nowMs < connection.lookAtMs) return
  connection.lookAtMs = context.nowMs + STALL_MS / 4
  for (const lane of state.lanes.values()) {
    if (lane.phase !== 'ready' || lane.inflight.length === 0) continue
    if (context.nowMs < lane.progressAtMs + STALL_MS) continue
    const message = `no ack came for ${lane.key} for long: it is opened again`
    out.push({ t: 'alarm', alarm: { kind: 'stalled', message, lane: lane.key } })
    resetLane(state, lane, out)
    retryLane(state, lane, true, context)
  }
}

/** Opens the lane again: at once for the first few times where that is `quick` to help, else later and later. */
export function retryLane(
  state: ForwarderState,
  lane: LaneState,
  quick: boolean,
  context: StepContext,
): void {
  const attempt = quick ? lane.failures - MAX_QUICK_RETRIES : lane.failures
  const delayMs = attempt < 0 ? 0 : backoffMs(state.options, attempt, context.random)
  lane.failures++
  lane.retryAtMs = context.nowMs + delayMs
  state.toOpen.add(lane)
}

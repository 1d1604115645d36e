import { assert } from '../../../../common/assert.ts'
import type { Clock, Timer } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { MIB } from '../../../../common/limits.ts'
import type { AnswerFrame, CallFrame, PeerAnswer, PeerCall } from '../../../../common/wire-peer.ts'
import type { AnswerTo } from '../types.ts'

/** The calls of one link: numbered, held back where too much is under way, timed, and matched with their answers. */

/** Bytes of writes sent and not answered; those behind wait here, and so the connections they came from. */
const MAX_WRITE_BYTES_IN_FLIGHT = 32 * MIB
/** Bytes asked for by reads and not answered. */
const MAX_READ_BYTES_IN_FLIGHT = 32 * MIB
/** Calls of either kind waiting for room; beyond it, or beyond the bytes, they are refused as `throttled`. */
const MAX_WAITING_CALLS = 50_000
const MAX_WAITING_BYTES = 256 * MIB
/** Counted on top of each call's bytes. */
const CALL_COST_BYTES = 512
/** How late a timeout may be told. */
const SWEEP_MS = 200

export interface CallBook {
  /** Sends the call when its turn comes. Rejects with the answer's error, `timeout`, `throttled`, or what `fail` was given. */
  call<C extends PeerCall>(call: C, timeoutMs: number): Promise<AnswerTo<C['c']>>
  answered(frame: AnswerFrame): void
  /** There may be room on the link. */
  pump(): void
  /** The link is gone: so are all calls, done or not done. */
  fail(error: TributaryError): void
  stats(): { inFlight: number; waiting: number; bytesInFlight: number }
}

export interface CallBookHost {
  clock: Clock
  /** The node asked, for messages. */
  name: string
  /** Whether the link takes more now; asked before each call. */
  isRoomy(): boolean
  send(frame: CallFrame): void
  /** Counts a call refused because too many wait. */
  refused(): void
}

interface Asked {
  readonly id: number
  /** Null once sent: what is under way is not kept. */
  call: PeerCall | null
  readonly name: PeerCall['c']
  readonly cost: number
  readonly window: Window
  readonly deadlineMs: number
  readonly timeoutMs: number
  take(answer: PeerAnswer): void
  reject(error: TributaryError): void
}

/** Calls of one kind: they go out in order, while not too many bytes of them are under way. */
interface Window {
  readonly maxBytes: number
  bytesInFlight: number
  bytesWaiting: number
  waiting: Asked[]
}

/** Anything but writes and reads of bulk is small, rare, and what the others may be waiting for. */
const NO_BOUND = Number.POSITIVE_INFINITY

export function createCallBook(host: CallBookHost): CallBook {
  const { clock, name } = host
  const inFlight = new Map<number, Asked>()
  const writes = newWindow(MAX_WRITE_BYTES_IN_FLIGHT)
  const reads = newWindow(MAX_READ_BYTES_IN_FLIGHT)
  const prompt = newWindow(NO_BOUND)
  const windows = [prompt, writes, reads]
  let nextId = 1
  let sweeper: Timer | null = null

  function call<C extends PeerCall>(asked: C, timeoutMs: number): Promise<AnswerTo<C['c']>> {
    return new Promise((resolve, reject) => {
      const window = windowOf(asked)
      const cost = costOf(asked)
      const id = nextId++
      if (window.waiting.length >= MAX_WAITING_CALLS || window.bytesWaiting + cost > MAX_WAITING_BYTES) {
        host.refused()
        reject(new TributaryError('throttled', `too much waits for ${name}: try again soon`))
        return
      }
      const take = (answer: PeerAnswer): void => {
        if (isAnswerTo(answer, asked)) resolve(answer)
        else reject(new TributaryError('protocol_error', `${name} answered ${asked.c} with ${answer.c}`))
      }
      const deadlineMs = clock.monotonicMs() + timeoutMs
      window.waiting.push({
        id,
        call: asked,
        name: asked.c,
        cost,
        window,
        deadlineMs,
        timeoutMs,
        take,
        reject,
      })
      window.bytesWaiting += cost
      sweeper ??= clock.setTimer(sweep, SWEEP_MS)
      pumpWindow(window)
    })
  }

  function windowOf(asked: PeerCall): Window {
    switch (asked.c) {
      case 'append':
      case 'append-lane':
      case 'start-run':
      case 'declare-gap':
      case 'remove-lane':
      case 'lane-tip':
        return writes
      case 'read':
        return asked.maxWaitMs === 0 ? reads : prompt
      case 'stretch':
        return reads
      default:
        return prompt
    }
  }

  function pumpWindow(window: Window): void {
    while (host.isRoomy()) {
      const first = window.waiting[0]
      if (first === undefined) return
      // One may always be under way: a small bound must not stop everything.
      if (window.bytesInFlight > 0 && window.bytesInFlight + first.cost > window.maxBytes) return
      window.waiting.shift()
      window.bytesWaiting -= first.cost
      window.bytesInFlight += first.cost
      inFlight.set(first.id, first)
      const { call: asked } = first
      assert(asked !== null, 'a call is sent once')
      first.call = null
      host.send({ t: 'call', id: first.id, call: asked })
    }
  }

  function pump(): void {
    for (const window of windows) pumpWindow(window)
  }

  function done(asked: Asked): void {
    inFlight.delete(asked.id)
    asked.window.bytesInFlight -= asked.cost
  }

  /** An answer that comes after its timeout finds nobody; what it was for may be done all the same. */
  function sweep(): void {
    sweeper = null
    const nowMs = clock.monotonicMs()
    for (const asked of inFlight.values()) {
      if (asked.deadlineMs > nowMs) continue
      done(asked)
      asked.reject(timedOut(asked, 'done or not'))
    }
    for (const window of windows) {
      const late = window.waiting.filter(asked => asked.deadlineMs <= nowMs)
      if (late.length === 0) continue
      window.waiting = window.waiting.filter(asked => asked.deadlineMs > nowMs)
      for (const asked of late) {
        window.bytesWaiting -= asked.cost
        asked.reject(timedOut(asked, 'not sent'))
      }
    }
    if (isBusy()) sweeper = clock.setTimer(sweep, SWEEP_MS)
    pump()
  }

  function timedOut({ name: what, timeoutMs }: Asked, fate: string): TributaryError {
    return new TributaryError('timeout', `${name} did not answer ${what} in ${timeoutMs} ms: ${fate}`)
  }

  function isBusy(): boolean {
    return inFlight.size > 0 || windows.some(window => window.waiting.length > 0)
  }

  function fail(error: TributaryError): void {
    sweeper?.cancel()
    sweeper = null
    const lost = [...inFlight.values(), ...windows.flatMap(window => window.waiting)]
    inFlight.clear()
    for (const window of windows) {
      window.waiting = []
      window.bytesWaiting = 0
      window.bytesInFlight = 0
    }
    for (const asked of lost) asked.reject(error)
  }

  return {
    call,
    answered: ({ id, answer, error }) => {
      const asked = inFlight.get(id)
      if (asked === undefined) return
      done(asked)
      if (answer !== undefined) asked.take(answer)
      else if (error !== undefined) {
        asked.reject(new TributaryError(error.code, error.message, { details: error.details }))
      }
      pumpWindow(asked.window)
    },
    pump,
    fail,
    stats: () => ({
      inFlight: inFlight.size,
      waiting: windows.reduce((total, window) => total + window.waiting.length, 0),
      bytesInFlight: windows.reduce((total, window) => total + window.bytesInFlight, 0),
    }),
  }
}

function newWindow(maxBytes: number): Window {
  return { maxBytes, bytesInFlight: 0, bytesWaiting: 0, waiting: [] }
}

function isAnswerTo<C extends PeerCall>(answer: PeerAnswer, call: C): answer is AnswerTo<C['c']> {
  return answer.c === call.c
}

function costOf(call: PeerCall): number {
  switch (call.c) {
    case 'append':
    case 'append-lane':
      return CALL_COST_BYTES + call.batches.length
    case 'read':
    case 'stretch':
      return CALL_COST_BYTES + call.maxBytes
    case 'controller':
      return CALL_COST_BYTES + call.request.length
    default:
      return CALL_COST_BYTES
  }
}

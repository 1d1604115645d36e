import type { Clock } from '../../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../../common/errors.ts'
import { SECOND_MS } from '../../../../common/limits.ts'
import type { PeerCall } from '../../../../common/wire-peer.ts'
import type { Plan } from '../../../controller/controller.ts'
import type { Image } from '../../../controller/image.ts'
import type { CallName, CallRequest, CallResponse } from '../../../controller/requests.ts'
import { decodeRequest, decodeResponse, encodePlain, isCallName } from '../call-codec.ts'
import type { AnswerTo, Metadata, Peers } from '../types.ts'
import type { Attempts } from './attempts.ts'
import { within } from './attempts.ts'
import type { Member } from './member.ts'
import type { Judged, Speculation } from './speculation.ts'
import type { StateMachine } from './state-machine.ts'

/** Asking the active controller, wherever it is, and answering other nodes as it. */

/** What is asked is answered within so long, or `not_available`. */
const SUBMIT_TIMEOUT_MS = 10 * SECOND_MS

/** Requests that change nothing more when they are made again: asked again where it is not known whether they were taken. */
const REPEATABLE: ReadonlySet<CallName> = new Set([
  'topic-for-producer',
  'alter-topic',
  'connect-edge',
  'confirm-edge',
  'bind-lane',
  'reserve-producer-ids',
  'register-node',
  'leave',
  'change-isr',
  'drain-node',
  'balance',
  'sync',
])

export type ControllerCall = Extract<PeerCall, { c: 'controller' }>

/** Judges a request against an image: the controller's rules, with the time and chance they need. */
export type Judge = <Name extends CallName>(
  image: Image,
  name: Name,
  request: CallRequest<Name>,
) => Plan<CallResponse<Name>>

/** How the controller's node is reached. */
export type ControllerPeers = Pick<Peers, 'isUp' | 'hear'> & {
  call(nodeId: number, call: ControllerCall, timeoutMs: number): Promise<AnswerTo<'controller'>>
}

export interface AskingContext {
  clock: Clock
  nodeId: number
  judge: Judge
  peers: ControllerPeers
  /** Other nodes that may know the controller. */
  otherNodes(): readonly number[]
  /** Why nothing can be asked any more, or null. */
  stopped(): TributaryError | null
  controllerId(): number | null
  machine: StateMachine
  speculation: Speculation
  member: Pick<Member, 'isAlone' | 'standAlone'>
  attempts: Attempts
}

export interface Asking {
  submit: Metadata['submit']
  /** Answers another node. Rejects with the refusal; `judged` in its details tells whether it was one of the rules. */
  answer(call: ControllerCall): Promise<AnswerTo<'controller'>>
  requests(): number
}

export function createAsking(context: AskingContext): Asking {
  const { clock, nodeId, judge, peers, machine, speculation, member, attempts } = context
  let requests = 0
  let turn = 0
  /** Others said that this node is the controller. */
  let isTakenForIt = false

  async function judgeHere<Name extends CallName>(
    name: Name,
    request: CallRequest<Name>,
  ): Promise<Attempt<CallResponse<Name>>> {
    const judged = await speculation.request(image => judge(image, name, request))
    if (judged.t !== 'not-taken') return judged
    if (judged.reason !== null) throw judged.reason
    return { t: 'again' }
  }

  /** One try: here where this node is the controller, else where it is, or where somebody may know. */
  async function attempt<Name extends CallName>(
    name: Name,
    request: CallRequest<Name>,
    deadlineMs: number,
  ): Promise<Attempt<CallResponse<Name>>> {
    if (speculation.activeTerm() !== null) return judgeHere(name, request)
    const known = context.controllerId()
    if (known === nodeId || known === null) member.standAlone()
    const target = known === null ? anyone() : known
    if (target === null || target === nodeId || !peers.isUp(target)) return { t: 'again' }
    const asked: ControllerCall = { c: 'controller', name, request: encodePlain(request) }
    try {
      const answer = await peers.call(target, asked, Math.max(1, deadlineMs - clock.monotonicMs()))
      return { t: 'done', response: decodeResponse(name, answer.value), index: answer.index }
    } catch (error) {
      return told(error)
    }
  }

  function told(error: unknown): Attempt<never> {
    if (!isTributaryError(error) || error.details.judged === true) throw error
    const { leader, leaderAddress } = error.details
    isTakenForIt = leader === nodeId
    // Who is new here may not have been told of it.
    if (typeof leader === 'number' && typeof leaderAddress === 'string') peers.hear(leader, leaderAddress)
    // Told so by the controller's node, or not sent for want of room.
    if (error.details.judged === false || error.code === 'throttled') return { t: 'again' }
    // The link broke, or nothing came over it.
    return { t: 'unknown' }
  }

  function anyone(): number | null {
    const up = context.otherNodes().filter(peers.isUp)
    return up[turn++ % Math.max(1, up.length)] ?? null
  }

  async function submit<Name extends CallName>(
    name: Name,
    request: CallRequest<Name>,
    isWanted: () => boolean = () => true,
  ): Promise<CallResponse<Name>> {
    requests++
    if (member.isAlone() && speculation.activeTerm() !== null && context.stopped() === null) {
      const judged = await judgeHere(name, request)
      if (judged.t === 'done') return judged.response
      if (judged.t === 'unknown' && !REPEATABLE.has(name)) throw fateUnknown(name)
    }
    return insist(name, request, isWanted)
  }

  /** Tries until there is an answer or the time is over. */
  async function insist<Name extends CallName>(
    name: Name,
    request: CallRequest<Name>,
    isWanted: () => boolean,
  ): Promise<CallResponse<Name>> {
    const deadlineMs = clock.monotonicMs() + SUBMIT_TIMEOUT_MS
    for (;;) {
      const stopped = context.stopped()
      if (stopped !== null) throw stopped
      if (!isWanted()) throw new TributaryError('closed', `nobody waits for "${name}" any more`)
      const since = attempts.events()
      const result = await bounded(attempt(name, request, deadlineMs), deadlineMs)
      if (result.t === 'done') {
        if (machine.appliedIndex() < result.index) await appliedBy(result.index, deadlineMs)
        return result.response
      }
      if (result.t === 'unknown' && !REPEATABLE.has(name)) throw fateUnknown(name)
      if (clock.monotonicMs() >= deadlineMs)
        throw noController(context.controllerId(), isTakenForIt ? nodeId : null)
      await attempts.next(since)
    }
  }

  /** Alone there is no one to wait for but the disk. */
  function bounded<T>(running: Promise<Attempt<T>>, deadlineMs: number): Promise<Attempt<T>> {
    if (member.isAlone()) return running
    return within(clock, running, deadlineMs, () => ({ t: 'unknown' }))
  }

  async function appliedBy(index: number, deadlineMs: number): Promise<void> {
    const applied = machine.whenApplied(index).then(() => true)
    if (await within(clock, applied, deadlineMs, () => false)) return
    throw new TributaryError(
      'not_available',
      'it is done, but this node lags behind: try again or ask another',
    )
  }

  async function answer(call: ControllerCall): Promise<AnswerTo<'controller'>> {
    const { name } = call
    if (!isCallName(name)) {
      throw new TributaryError('unsupported_version', `the controller knows no request "${name}"`, {
        details: { judged: true },
      })
    }
    const request = decodeRequest(name, call.request)
    requests++
    const judged = await speculation
      .request(image => judge(image, name, request))
      .catch((error: unknown) => {
        throw withVerdict(error)
      })
    if (judged.t === 'done') {
      return { c: 'controller', value: encodePlain(judged.response), index: judged.index }
    }
    const leader = context.controllerId()
    if (judged.t === 'unknown') throw fateUnknown(name)
    throw new TributaryError('not_available', 'this node is not the active controller', {
      details: {
        judged: false,
        leader: leader === nodeId ? null : leader,
        leaderAddress: leader === null ? null : (machine.image().node(leader)?.peerAddress ?? null),
      },
    })
  }

  return { submit, answer, requests: () => requests }
}

/** What came of one try. */
type Attempt<Response> = Exclude<Judged<Response>, { t: 'not-taken' }> | { readonly t: 'again' }

/** A refusal that the asking node must hand on as it is. */
function withVerdict(error: unknown): unknown {
  if (!isTributaryError(error)) return error
  const details = { ...error.details, judged: true }
  return new TributaryError(error.code, error.message, { details, cause: error })
}

function fateUnknown(name: string): TributaryError {
  const message = `the controller did not answer: "${name}" may be done or not, look before trying again`
  return new TributaryError('not_available', message)
}

function noController(known: number | null, own: number | null): TributaryError {
  const unknown =
    own === null
      ? 'no controller is known: a majority of the voters must be up and reach each other; try again'
      : `other nodes take node ${own} for the controller, and this process is not: does another one run as node ${own}?`
  const message = known === null ? unknown : `the controller, node ${known}, does not answer; try again`
  return new TributaryError('not_available', message, { details: { leader: known } })
}

import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../common/env.ts'
import { isTributaryError, messageOf, TributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import { pause } from '../../../common/pause.ts'
import type { RegisterNode } from '../../controller/requests.ts'
import { nodeIdOf } from '../../raft/types.ts'
import type { QuorumMetadata } from './metadata.ts'
import { within } from './quorum/attempts.ts'
import type { Peers } from './types.ts'

/** A node's life in its cluster: it registers, tells that it lives, and leaves in order. */

/** Between two tries to register. */
const REGISTER_RETRY_MS = 250
/** While it is not taken for alive yet a node tells so more often. */
const HURRIED_HEARTBEAT_MS = 50
/** An orderly stop waits so long for others to take over what this node leads, and then as long for another controller. */
const LEAVE_TIMEOUT_MS = 3 * SECOND_MS
const HAND_OVER_TIMEOUT_MS = SECOND_MS
const HAND_OVER_POLL_MS = 10
/** A node that knows no controller for so many sessions serves nobody: another one may. */
const CONTROLLER_LOST_SESSIONS = 3

export interface LifecycleContext {
  clock: Clock
  log: Logger
  metadata: QuorumMetadata
  peers: Pick<Peers, 'send'>
  heartbeatMs: number
  sessionTimeoutMs: number
  nodeId: number
  /** Its disk hangs: others must not take it for alive, see disk-watch.ts. */
  isAside(): boolean
  /** The node can't go on as this one. */
  failed(error: TributaryError): void
  /** Told why it is not registered yet. */
  waiting(reason: string): void
}

export interface Lifecycle {
  /** Registers, as often as it takes; resolves with the incarnation when that is applied here. Rejects where it is refused for good, or `leave` came. */
  register(registration: RegisterNode): Promise<number>
  /** From now on it tells that it lives, and is given what to lead. */
  begin(): void
  /** Of this process, null before it is registered. */
  incarnation(): number | null
  /** The same while it tells that it lives, else null. */
  livingAs(): number | null
  /** Why the node can't serve, or null. */
  notReadyReason(): string | null
  /** Moves what this node leads to others, as far as they are there in a bounded time; resolves in any case. */
  leave(): Promise<void>
  /** Says nothing any more. */
  stop(): void
}

export function createLifecycle(context: LifecycleContext): Lifecycle {
  const { clock, log, metadata, peers, nodeId } = context
  let incarnation: number | null = null
  let timer: Timer | null = null
  let living = false
  let leaving = false
  let inquiring = false
  let controllerLostMs: number | null = null

  async function register(registration: RegisterNode): Promise<number> {
    let told = ''
    while (!leaving) {
      try {
        const given = await metadata.submit('register-node', registration)
        incarnation = given.incarnation
        context.waiting('the node opens its partitions')
        checkRegistration()
        return given.incarnation
      } catch (error) {
        if (!isTributaryError(error) || !error.retriable) throw error
        const reason = messageOf(error)
        if (reason !== told) log.warn({ reason }, 'the node is not registered yet')
        told = reason
        context.waiting(`the node is not registered in its cluster yet: ${reason}`)
      }
      await pause(clock, REGISTER_RETRY_MS)
    }
    throw new TributaryError('closed', 'the node is stopping')
  }

  /** Another process that registered as this node since is this node now. */
  function checkRegistration(): void {
    if (incarnation === null || leaving) return
    const node = metadata.image().node(nodeId)
    if (node?.incarnation !== incarnation) replaced(node === undefined)
  }

  function replaced(removed: boolean): void {
    stopBeating()
    const message = removed
      ? `node ${nodeId} was removed from the cluster: give it an empty directory to come back as a new one`
      : `another process registered as node ${nodeId}: two must not run under one node id`
    context.failed(new TributaryError('fenced', message, { details: { removed } }))
  }

  function isLive(): boolean {
    const node = metadata.image().node(nodeId)
    return node !== undefined && node.incarnation === incarnation && !node.fenced
  }

  function beat(): void {
    stopBeating()
    if (!living || leaving) return
    tell()
    inquire()
    timer = clock.setTimer(beat, isLive() ? context.heartbeatMs : HURRIED_HEARTBEAT_MS)
  }

  function tell(): void {
    const to = metadata.controllerId()
    if (!living || leaving || context.isAside()) return
    if (to === null || to === nodeId || incarnation === null) return
    const appliedIndex = metadata.appliedIndex()
    peers.send(to, { t: 'node-heartbeat', nodeId, incarnation, appliedIndex })
  }

  function lostForSessions(): number {
    if (controllerLostMs === null) return 0
    return (clock.monotonicMs() - controllerLostMs) / context.sessionTimeoutMs
  }

  /**
   * Who hears of no controller though others are there may be somebody else by now: whoever took this node's place gets what the
   * metadata says. The request changes nothing but is refused to all but the newest incarnation.
   */
  function inquire(): void {
    if (inquiring || leaving || incarnation === null || lostForSessions() < CONTROLLER_LOST_SESSIONS) return
    inquiring = true
    metadata
      .submit('change-isr', { nodeId, incarnation, changes: [] })
      .catch(error => {
        if (leaving || !isTributaryError(error)) return
        if (error.code === 'fenced') replaced(false)
        else if (error.code === 'not_found') replaced(true)
      })
      .finally(() => {
        inquiring = false
      })
  }

  function stopBeating(): void {
    timer?.cancel()
    timer = null
  }

  async function moveLeaders(): Promise<void> {
    if (incarnation === null || metadata.image().nodes().length < 2) return
    const left = metadata.submit('leave', { nodeId, incarnation }).then(
      () => true,
      error => {
        log.warn({ reason: messageOf(error) }, 'the cluster could not be told that this node stops')
        return true
      },
    )
    const done = await within(clock, left, clock.monotonicMs() + LEAVE_TIMEOUT_MS, () => false)
    if (!done) log.warn('the cluster did not take over in time: the node stops all the same')
  }

  /** Another voter takes over the metadata without an election timeout. */
  async function handOver(): Promise<void> {
    const { config, role } = metadata.status()
    const isThere = (id: number): boolean => metadata.image().node(id)?.fenced === false
    const to = config.voters.find(voter => {
      return nodeIdOf(voter) !== nodeId && isThere(nodeIdOf(voter)) && metadata.hasLog(voter)
    })
    if (role !== 'leader' || to === undefined) return
    metadata.transfer(to)
    for (let waitedMs = 0; waitedMs < HAND_OVER_TIMEOUT_MS; waitedMs += HAND_OVER_POLL_MS) {
      if (metadata.status().role !== 'leader') return
      await pause(clock, HAND_OVER_POLL_MS, true)
    }
  }

  metadata.onApplied(checkRegistration)
  // A new controller knows nothing of this node yet.
  metadata.onController(() => {
    if (metadata.controllerId() !== null) controllerLostMs = null
    else controllerLostMs ??= clock.monotonicMs()
    clock.soon(tell)
  })
  return {
    register,
    begin: () => {
      living = true
      beat()
    },
    incarnation: () => incarnation,
    livingAs: () => (living && !leaving && !context.isAside() ? incarnation : null),
    notReadyReason: () => {
      if (leaving) return 'the node is leaving its cluster'
      if (incarnation === null) return 'the node is not registered in its cluster yet'
      if (context.isAside()) return 'the disk does not answer'
      if (!isLive()) return 'the cluster does not take this node for alive yet'
      return lostForSessions() < CONTROLLER_LOST_SESSIONS ? null : 'no controller is known'
    },
    leave: async () => {
      if (leaving) return
      leaving = true
      stopBeating()
      await moveLeaders()
      await handOver()
    },
    stop: () => {
      leaving = true
      stopBeating()
    },
  }
}

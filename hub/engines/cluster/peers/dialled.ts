import type { Channel } from '../../../../common/channel.ts'
import { openChannel } from '../../../../common/channel.ts'
import type { DialOptions, Link, Timer } from '../../../../common/env.ts'
import { isTributaryError, messageOf, systemErrorCode, TributaryError } from '../../../../common/errors.ts'
import { SECOND_MS } from '../../../../common/limits.ts'
import { CLOSE } from '../../../../common/wire.ts'
import type { DiallerFrame, PeerCall, PeerHello, PeerWelcome } from '../../../../common/wire-peer.ts'
import { PEER_LIMITS, PEER_PATH, PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN } from '../../../../common/wire-peer.ts'
import { decodePeerFrame, encodePeerFrame } from '../../../../common/wire-peer-codec.ts'
import type { AnswerTo, LinkChange, PeerIdentity, SentFrame } from '../types.ts'
import type { CallBook } from './call-book.ts'
import { createCallBook } from './call-book.ts'
import type { PeerContext } from './context.ts'

/** The link that this node dials to another one, again and again for as long as it is wanted. */

/** The first retry comes at once, the next after so long, then twice as long each time up to the last; half of it is random. */
const RETRY_MIN_MS = 50
const RETRY_MAX_MS = SECOND_MS
/** A dial that nobody answers in this time is given up: addresses of dead machines swallow packets. */
const CONNECT_TIMEOUT_MS = 2 * SECOND_MS

/** Reasons of failed attempts that are logged, each once, before the node is reached again. */
const MAX_TOLD_REASONS = 10
/** How long `close` waits for the other end. */
export const CLOSE_WAIT_MS = SECOND_MS

export interface Dialled {
  readonly nodeId: number
  send(frame: SentFrame): boolean
  call<C extends PeerCall>(call: C, timeoutMs: number): Promise<AnswerTo<C['c']>>
  identity(): PeerIdentity | null
  /** The node is there: dials now if it waits for its next attempt. */
  hurry(): void
  /** Ends the connection, if any, and shakes hands anew. */
  restart(): void
  calls: CallBook
  /** Dials no more; resolves when the connection is gone. */
  close(): Promise<void>
}

/**
 * Dials the node at `address`, and by turns where it says itself that it is, if that is elsewhere; `changed` is told what becomes of it.
 */
export function dialNode(
  context: PeerContext,
  nodeId: number,
  address: string,
  saidAddress: () => string | null,
  changed: (change: LinkChange) => void,
): Dialled {
  const { env, log, service, counters } = context
  const { clock } = env
  const name = `node ${nodeId} (${address})`
  let channel: Channel<DiallerFrame | PeerHello> | null = null
  let identity: PeerIdentity | null = null
  let dialling = false
  let retry: Timer | null = null
  let failures = 0
  let closed = false
  let full = false
  let whenGone: () => void = () => {}
  const told = new Set<string>()

  const calls = createCallBook({
    clock,
    name,
    isRoomy: () => identity !== null && !full,
    send: frame => {
      counters.calls++
      send(frame)
    },
    refused: () => {
      counters.callsRefused++
    },
  })

  function send(frame: DiallerFrame): void {
    if (channel?.send(frame) === false) full = true
  }

  async function dial(): Promise<void> {
    retry?.cancel()
    retry = null
    if (dialling || channel !== null || closed) return
    dialling = true
    let link: Link | null = null
    const said = saidAddress() ?? address
    try {
      link = await env.net.dial(urlOf(context, failures % 2 === 0 ? address : said), dialOptions(context))
    } catch (error) {
      // Where it was before, nothing need listen.
      if (isRefused(error) && said === address && !closed) changed('refused')
      failed(isTributaryError(error, 'unauthorized') ? otherSecret(name, error) : error)
    } finally {
      dialling = false
    }
    if (link === null) return
    if (closed) link.terminate()
    else shakeHands(link)
  }

  /** Says so once for each reason, and comes again. */
  function failed(error: unknown): void {
    if (closed) return
    const reason = messageOf(error)
    if (!told.has(reason) && told.size < MAX_TOLD_REASONS) {
      told.add(reason)
      // Who is not there may come; what is set wrong stays wrong.
      const level = isTributaryError(error) && !error.retriable ? 'warn' : 'info'
      log[level]({ node: nodeId, address, reason }, 'another node is not reached')
    }
    const ceilingMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(failures - 1, 16))
    const delayMs = failures === 0 ? 0 : ceilingMs * (0.5 + env.rng.float() / 2)
    failures++
    retry?.cancel()
    retry = clock.setTimer(() => void dial(), delayMs)
  }

  function shakeHands(link: Link): void {
    const core = openChannel<DiallerFrame | PeerHello>(link, clock, PEER_LIMITS.maxFrameBytes, {
      encode: encodePeerFrame,
      message: data => {
        const frame = decodePeerFrame(data, 'server')
        if (frame.t === 'peer-welcome') {
          const limits = welcomed(frame)
          return core.startHeartbeat(limits)
        }
        if (identity === null && frame.t !== 'error') {
          throw new TributaryError('protocol_error', `${frame.t} came before peer-welcome`)
        }
        if (frame.t === 'answer') calls.answered(frame)
        else if (frame.t === 'fetched') service.replication.fetched(nodeId, frame)
        else core.handled(frame)
      },
      drain: () => {
        full = false
        calls.pump()
        changed('roomy')
      },
      closed: ({ error }) => gone(error),
    })
    core.expectWithin(context.deadMs, `${name} sent no welcome`)
    channel = core.channel
    channel.send(hello())
  }

  function hello(): PeerHello {
    const { directoryId, software, nodeId: own } = context.self()
    return {
      t: 'peer-hello',
      min: PEER_PROTOCOL_MIN,
      max: PEER_PROTOCOL_MAX,
      clusterId: context.clusterId(),
      nodeId: own,
      directoryId,
      software,
      peerAddress: context.address,
      memory: context.memoryOf(nodeId),
      to: nodeId,
    }
  }

  /** Checks who answered; the heartbeat to keep. */
  function welcomed(welcome: PeerWelcome): { heartbeatMs: number; deadMs: number } {
    const { nodeId: there, directoryId, clusterId, software, protocol, heartbeatMs, deadMs, memory } = welcome
    if (identity !== null) throw new TributaryError('protocol_error', 'peer-welcome came twice')
    if (protocol < PEER_PROTOCOL_MIN || protocol > PEER_PROTOCOL_MAX) {
      throw new TributaryError('unsupported_version', `${name} chose protocol ${protocol}, not offered`)
    }
    if (there !== nodeId) {
      throw new TributaryError('invalid_argument', `at ${address} is node ${there}, not node ${nodeId}`)
    }
    refuseOtherCluster(context.clusterId(), clusterId, name)
    identity = { nodeId, directoryId, clusterId, software }
    failures = 0
    told.clear()
    full = false
    log.info({ node: nodeId, address }, 'linked to another node')
    context.reminded(identity, memory)
    changed('up')
    calls.pump()
    // Not dead before it had to speak twice.
    return {
      heartbeatMs: Math.min(context.heartbeatMs, heartbeatMs),
      deadMs: Math.max(Math.min(context.deadMs, deadMs), 2 * heartbeatMs),
    }
  }

  function gone(error: TributaryError | null): void {
    const wasUp = identity !== null
    channel = null
    identity = null
    full = false
    const why = error?.message ?? 'the connection was closed'
    calls.fail(
      closed
        ? new TributaryError('closed', 'this node stops')
        : new TributaryError('not_available', `the link to ${name} broke (${why}): done or not done`),
    )
    if (wasUp) {
      if (!closed) counters.linksLost++
      changed('down')
    }
    whenGone()
    failed(error ?? why)
  }

  void dial()
  return {
    nodeId,
    calls,
    send: frame => {
      // Signs of life are few and small, and a link that is full for long must not look like a dead node.
      const isVital = frame.t === 'raft' || frame.t === 'node-heartbeat'
      if (identity === null || (full && !isVital)) return false
      send(frame)
      return true
    },
    call: (call, timeoutMs) => {
      if (identity !== null) return calls.call(call, timeoutMs)
      return Promise.reject(new TributaryError('not_available', `${name} is not reached: try again`))
    },
    identity: () => identity,
    hurry: () => {
      if (retry !== null) void dial()
    },
    restart: () => channel?.close(CLOSE.normal, 'shaking hands anew'),
    close: async () => {
      closed = true
      retry?.cancel()
      if (channel === null) return
      const ended = new Promise<void>(resolve => {
        whenGone = resolve
      })
      channel.close(CLOSE.goingAway, 'this node stops')
      // A node that does not answer any more is not waited for.
      const timer = clock.setTimer(whenGone, CLOSE_WAIT_MS, true)
      await ended
      timer.cancel()
    },
  }
}

/** Throws where both ends belong to clusters, and to different ones. */
export function refuseOtherCluster(own: string | null, other: string | null, who: string): void {
  if (own === null || other === null || own === other) return
  throw new TributaryError(
    'invalid_argument',
    `${who} belongs to cluster ${other}, this node to ${own}: check cluster.peers, or give it an empty data directory`,
  )
}

function urlOf({ access }: PeerContext, address: string): string {
  return `${access.tls === null ? 'ws' : 'wss'}://${address}${PEER_PATH}`
}

function dialOptions({ access }: PeerContext): DialOptions {
  const { secret, tls } = access
  return {
    maxFrameBytes: PEER_LIMITS.maxFrameBytes,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    unmasked: true,
    ...(secret === null ? {} : { token: secret }),
    ...(tls === null ? {} : { caPem: tls.caPem, identity: { certPem: tls.certPem, keyPem: tls.keyPem } }),
  }
}

/** What was sent instead of a token, in the words of who sets it. */
function otherSecret(name: string, cause: unknown): TributaryError {
  const message = `${name} does not take this node's secret: cluster.peerSecretFile (--peer-secret-file) must hold the same on all nodes`
  return new TributaryError('unauthorized', message, { cause })
}

/** Whether the machine answered that nothing listens there. */
function isRefused(error: unknown): boolean {
  return isTributaryError(error) && systemErrorCode(error.cause) === 'ECONNREFUSED'
}

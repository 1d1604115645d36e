import type { Channel } from '../../../../common/channel.ts'
import { openChannel } from '../../../../common/channel.ts'
import type { Link } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { SECOND_MS } from '../../../../common/limits.ts'
import { toTributaryError } from '../../../../common/session.ts'
import { CLOSE } from '../../../../common/wire.ts'
import type {
  AnswerFrame,
  CallFrame,
  PeerCall,
  PeerHello,
  ServerFrame,
} from '../../../../common/wire-peer.ts'
import { PEER_LIMITS, PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN } from '../../../../common/wire-peer.ts'
import { decodePeerFrame, encodePeerFrame } from '../../../../common/wire-peer-codec.ts'
import type { FetchService, PeerIdentity } from '../types.ts'
import type { PeerContext } from './context.ts'
import { refuseOtherCluster } from './dialled.ts'

/** A link that another node dialled: what it asks is answered on it. */

/** From connection to hello. */
const HELLO_TIMEOUT_MS = 5 * SECOND_MS
/** Calls of one link under way or waiting; a node of ours asks for no more, so one that does is cut. */
const MAX_CALLS = 200_000

export interface Served {
  /** Null before the hello. */
  identity(): PeerIdentity | null
  /** Ends it; another link of that node took over, or this node stops. */
  end(error: TributaryError | null): void
}

export interface ServedHost {
  /** Who dialled is known. */
  introduced(served: Served, identity: PeerIdentity, peerAddress: string | null): void
  gone(served: Served): void
}

export function serveLink(link: Link, context: PeerContext, host: ServedHost): Served {
  const { service, counters, log } = context
  const { clock } = context.env
  let identity: PeerIdentity | null = null
  let fetches: FetchService | null = null
  /** Reads that wait until the link takes more. */
  let waiting: (() => void)[] = []
  let under = 0
  let full = false

  const core = openChannel<ServerFrame>(link, clock, PEER_LIMITS.maxFrameBytes, {
    encode: encodePeerFrame,
    message: data => {
      if (identity === null) {
        const hello = decodePeerFrame(data, 'hello')
        if (hello.t === 'error') return core.peerError(hello)
        return welcome(hello)
      }
      const frame = decodePeerFrame(data, 'dialler')
      switch (frame.t) {
        case 'call':
          return take(identity, frame)
        case 'fetch':
          fetches ??= service.replication.serve(identity.nodeId, send)
          return fetches.fetch(frame)
        case 'raft':
        case 'node-heartbeat':
        case 'snapshot-chunk':
          return service.frame(identity, frame)
        default:
          core.handled(frame)
      }
    },
    drain: () => {
      full = false
      const ready = waiting
      waiting = []
      for (const run of ready) run()
    },
    closed: ({ error }) => {
      waiting = []
      fetches?.close()
      log.debug({ node: identity?.nodeId, remote: link.remote, error: error?.message }, 'a node is gone')
      host.gone(served)
    },
  })
  const channel: Channel<ServerFrame> = core.channel

  function send(frame: ServerFrame): void {
    if (!channel.send(frame)) full = true
  }

  function welcome(hello: PeerHello): void {
    const { heartbeatMs, deadMs } = context
    const self = context.self()
    const protocol = Math.min(hello.max, PEER_PROTOCOL_MAX)
    if (protocol < Math.max(hello.min, PEER_PROTOCOL_MIN)) {
      throw new TributaryError(
        'unsupported_version',
        `this node speaks protocol ${PEER_PROTOCOL_MIN} to ${PEER_PROTOCOL_MAX}, node ${hello.nodeId} ${hello.min} to ${hello.max}: update the older one`,
      )
    }
    const { nodeId, directoryId, clusterId, software, peerAddress } = hello
    if (hello.to !== self.nodeId || nodeId === self.nodeId) {
      throw new TributaryError(
        'invalid_argument',
        `node ${nodeId} looked for node ${hello.to} and found node ${self.nodeId}: check cluster.peers and the ids of nodes`,
      )
    }
    refuseOtherCluster(context.clusterId(), clusterId, `node ${nodeId}`)
    identity = { nodeId, directoryId, clusterId, software }
    channel.send({
      t: 'peer-welcome',
      protocol,
      clusterId: context.clusterId(),
      nodeId: self.nodeId,
      directoryId: self.directoryId,
      software: self.software,
      memory: context.memoryOf(nodeId),
      maxFrameBytes: PEER_LIMITS.maxFrameBytes,
      heartbeatMs,
      deadMs,
    })
    core.startHeartbeat({ heartbeatMs, deadMs })
    host.introduced(served, identity, peerAddress)
    context.reminded(identity, hello.memory)
  }

  /** Starts a call in its turn; one whose answer is bulk waits while the link is full, and others go on. */
  function take(from: PeerIdentity, { id, call }: CallFrame): void {
    if (under >= MAX_CALLS) throw new TributaryError('limit_exceeded', `${MAX_CALLS} calls are under way`)
    under++
    counters.callsServed++
    if (full && isBulk(call)) waiting.push(() => void answer(from, id, call))
    else void answer(from, id, call)
  }

  async function answer(from: PeerIdentity, id: number, call: PeerCall): Promise<void> {
    let frame: AnswerFrame
    try {
      frame = { t: 'answer', id, answer: await service.call(from, call) }
    } catch (thrown) {
      const { code, message, details } = toTributaryError(thrown)
      frame = { t: 'answer', id, error: { code, message, details: plainDetails(details) } }
    }
    under--
    send(frame)
  }

  core.expectWithin(HELLO_TIMEOUT_MS, 'no hello came')
  const served: Served = {
    identity: () => identity,
    end: error => {
      if (error === null) channel.close(CLOSE.goingAway, 'this node stops')
      else channel.fail(error)
    },
  }
  return served
}

function isBulk(call: PeerCall): boolean {
  return call.c === 'read' || call.c === 'stretch' || call.c === 'producer-snapshot'
}

type Details = NonNullable<AnswerFrame['error']>['details']

function plainDetails(details: Readonly<Record<string, unknown>>): Details {
  const plain: Details = {}
  for (const [key, value] of Object.entries(details)) {
    if (
      typeof value === 'number' ||
      typeof value === 'string' ||
      typeof value === 'boolean' ||
      value === null
    )
      plain[key] = value
  }
  return plain
}

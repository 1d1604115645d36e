import { pino } from 'pino'
import type { Clock, Net } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type {
  FetchedFrame,
  FetchFrame,
  PeerAnswer,
  PeerCall,
  PeerMemory,
} from '../../../../common/wire-peer.ts'
import { createPeers } from '../../../../hub/engines/cluster/peers/peers.ts'
import type { LinkChange, PeerIdentity, Peers, SentFrame } from '../../../../hub/engines/cluster/types.ts'
import { FakeClock, seededRng } from '../../../fake-clock.ts'
import type { LinkPair } from '../../../links.ts'
import { linkPair } from '../../../links.ts'

/** Nodes that know nothing but their links, over a network in memory. */

/** Who answers where, and the connections made. */
export class PeerNet {
  readonly listening = new Map<string, (link: LinkPair['right']) => void>()
  readonly pairs: { from: number; address: string; pair: LinkPair }[] = []
  dials = 0

  net(from: number): Net {
    return {
      dial: async url => {
        this.dials++
        const address = url.replace(/^ws:\/\//, '').replace(/\/v1\/peer$/, '')
        const accept = this.listening.get(address)
        if (accept === undefined) {
          const cause = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
          throw new TributaryError('not_available', `${url}: refused`, { cause })
        }
        const pair = linkPair({ highWaterBytes: 4 * 1024 * 1024 })
        this.pairs.push({ from, address, pair })
        accept(pair.right)
        return pair.left
      },
    }
  }

  /** Connections from one node to another's address that are not closed. */
  open(from: number, to: number): LinkPair[] {
    return this.pairs.flatMap(({ from: dialler, address, pair }) =>
      dialler === from && address === addressOf(to) && !pair.isClosed() ? [pair] : [],
    )
  }
}

export function addressOf(nodeId: number): string {
  return `n${nodeId}:7700`
}

export interface Node {
  nodeId: number
  peers: Peers
  changes: [number, LinkChange][]
  frames: { from: PeerIdentity; frame: Exclude<SentFrame, FetchFrame> }[]
  fetches: { nodeId: number; frame: FetchFrame; reply(frame: FetchedFrame): void }[]
  closedFetches: number[]
  fetched: { nodeId: number; frame: FetchedFrame }[]
  calls: PeerCall[]
  warnings: string[]
  reminders: { from: number; memory: PeerMemory | null }[]
  clusterId: string | null
  /** What calls are answered by; default: `remove-lane`. */
  answer: (call: PeerCall, from: PeerIdentity) => Promise<PeerAnswer>
}

export interface NodeOptions {
  clock?: Clock
  clusterId?: string | null
  directoryId?: string
  /** Listens there; default by its id. */
  address?: string
  /** What it knows of others. */
  memories?: Map<number, PeerMemory>
}

export function startNode(net: PeerNet, nodeId: number, options: NodeOptions = {}): Node {
  const warnings: string[] = []
  const stream = { write: (line: string) => void warnings.push(line) }
  const node: Omit<Node, 'peers'> = {
    nodeId,
    changes: [],
    frames: [],
    fetches: [],
    closedFetches: [],
    fetched: [],
    calls: [],
    warnings,
    reminders: [],
    clusterId: options.clusterId === undefined ? 'c' : options.clusterId,
    answer: async () => ({ c: 'remove-lane' }),
  }
  const clock = options.clock ?? new FakeClock()
  const peers = createPeers({
    env: { clock, rng: seededRng(nodeId), net: net.net(nodeId) },
    log: pino({ level: 'info' }, stream),
    self: () => ({ nodeId, directoryId: options.directoryId ?? `d${nodeId}`, software: 'test' }),
    address: options.address ?? addressOf(nodeId),
    memoryOf: other => options.memories?.get(other) ?? null,
    reminded: (from, memory) => void node.reminders.push({ from: from.nodeId, memory }),
    clusterId: () => node.clusterId,
    access: { secret: null, tls: null },
    heartbeatMs: 1_000,
    deadMs: 3_000,
    service: {
      frame: (from, frame) => void node.frames.push({ from, frame }),
      call: (from, call) => {
        node.calls.push(call)
        return node.answer(call, from)
      },
      replication: {
        serve: (from, reply) => ({
          fetch: frame => void node.fetches.push({ nodeId: from, frame, reply }),
          close: () => void node.closedFetches.push(from),
        }),
        fetched: (from, frame) => void node.fetched.push({ nodeId: from, frame }),
      },
    },
  })
  peers.onLink((other, change) => node.changes.push([other, change]))
  const started = Object.assign(node, { peers })
  listen(net, started, options.address)
  return started
}

export function listen(net: PeerNet, node: Node, address = addressOf(node.nodeId)): void {
  net.listening.set(address, link => node.peers.accept(link))
}

/** Lets what is under way in memory happen, until `condition`. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  for (let turn = 0; turn < 5_000; turn++) {
    if (condition()) return
    await new Promise(resolve => setImmediate(resolve))
  }
  throw new Error(`waited in vain for ${what}`)
}

/** Both dial each other, and are linked both ways. */
export async function linked(...nodes: Node[]): Promise<void> {
  for (const node of nodes) {
    for (const other of nodes) if (other !== node) node.peers.locate(other.nodeId, addressOf(other.nodeId))
  }
  await until(
    () => nodes.every(node => nodes.every(other => other === node || node.peers.isUp(other.nodeId))),
    'all links',
  )
}

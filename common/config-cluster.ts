import { isAnyHost, isLoopback, parseAddress } from './address.ts'
import * as value from './config-values.ts'
import { DAY_MS, GIB, KIB, MIB, SECOND_MS } from './limits.ts'

/** The settings of a node among nodes: the section `cluster` of a hub's config. */
export interface HubClusterConfig {
  /**
   * Nodes to found or join the cluster with, ID@HOST:PORT; this node may be among them. Used while the directory knows no
   * others: from then on the cluster's own metadata says who is there.
   */
  peers: string[]
  /** HOST:PORT to listen on for other nodes; null: this node's entry in `peers`, or not at all. */
  peerListen: string | null
  /** What nodes prove to each other that they belong together by, read from `peerSecretFile`; null: links stay on loopback. */
  peerSecret: string | null
  /** Mutual TLS between nodes. */
  peerTls: { certFile: string; keyFile: string; caFile: string } | null
  /** HOST:PORT told to clients and edges; null: where `http` listens. */
  advertisedHttp: string | null
  /** Replicas of a partition go to different racks where there are enough. */
  rack: string | null
  /** Replicas of new topics, as far as there are nodes. */
  defaultReplication: number
  /** A node tells the controller so often that it lives. */
  heartbeatMs: number
  /** Silence after which the controller fences a node. */
  sessionTimeoutMs: number
  /** A voter waits from so long up to twice as long for the controller before it stands for election. */
  electionTimeoutMs: number
  /** A replica that has not caught up for so long leaves the in-sync set (Kafka's replica.lag.time.max.ms). */
  replicaLagMaxMs: number
  /** What replicas that are being added may fetch, all of a node's together. */
  reassignBytesPerSecond: number
}

/** Defaults: a hub without peers is a cluster of one. */
export const CLUSTER_DEFAULTS: Readonly<HubClusterConfig> = {
  peers: [],
  peerListen: null,
  peerSecret: null,
  peerTls: null,
  advertisedHttp: null,
  rack: null,
  defaultReplication: 3,
  heartbeatMs: 300,
  sessionTimeoutMs: 1_500,
  electionTimeoutMs: 800,
  replicaLagMaxMs: 10 * SECOND_MS,
  reassignBytesPerSecond: 50 * MIB,
}

/** A node to find the cluster by. */
export interface PeerEntry {
  nodeId: number
  /** HOST:PORT. */
  address: string
}

/** ID@HOST:PORT, or null where it is none. */
export function parsePeer(text: string): PeerEntry | null {
  const at = text.indexOf('@')
  const id = text.slice(0, Math.max(at, 0))
  const address = text.slice(at + 1)
  if (!/^[1-9]\d{0,9}$/.test(id) || Number(id) > MAX_NODE_ID || parseAddress(address) === null) return null
  return { nodeId: Number(id), address }
}

/** Node ids are positive 32-bit integers, as Kafka's. */
export const MAX_NODE_ID = 2_147_483_647
/** Entries of `peers`. */
const MAX_PEERS = 100

const peers = value.leaf(
  `nodes as ID@HOST:PORT, each id once, such as 1@10.0.0.1:7700,2@10.0.0.2:7700,3@10.0.0.3:7700 (at most ${MAX_PEERS})`,
  raw => {
    const list: unknown = typeof raw === 'string' ? raw.split(',').map(entry => entry.trim()) : raw
    if (!Array.isArray(list) || list.length > MAX_PEERS) return undefined
    const entries = list.flatMap((entry: unknown) =>
      typeof entry === 'string' && parsePeer(entry) !== null ? [entry] : [],
    )
    const ids = new Set(entries.map(entry => parsePeer(entry)?.nodeId))
    return entries.length === list.length && ids.size === list.length ? entries : undefined
  },
)

const defaults = CLUSTER_DEFAULTS
const beat = { min: 10, max: DAY_MS }

/** What a file's `hub.cluster:` section holds; `peerSecretFile` is read by config.ts. */
export const clusterSection = value
  .section({
    peers: peers.default(defaults.peers),
    peerListen: value.listenOrOff.default(defaults.peerListen),
    peerSecretFile: value.pathOrOff.default(null),
    peerTls: value
      .section({ certFile: value.path, keyFile: value.path, caFile: value.path })
      .nullable()
      .default(null),
    advertisedHttp: value.listenOrOff.default(defaults.advertisedHttp),
    rack: value.textOrOff('a name of at most 100 characters', /^.{1,100}$/).default(defaults.rack),
    defaultReplication: value.count({ min: 1, max: 15 }).default(defaults.defaultReplication),
    heartbeatMs: value.duration(beat).default(defaults.heartbeatMs),
    sessionTimeoutMs: value.duration(beat).default(defaults.sessionTimeoutMs),
    electionTimeoutMs: value.duration(beat).default(defaults.electionTimeoutMs),
    replicaLagMaxMs: value.duration(beat).default(defaults.replicaLagMaxMs),
    reassignBytesPerSecond: value
      .size({ min: 64 * KIB, max: 1_024 * GIB })
      .default(defaults.reassignBytesPerSecond),
  })
  .superRefine((parsed, context) => {
    const { heartbeatMs, sessionTimeoutMs } = parsed
    if (sessionTimeoutMs < 2 * heartbeatMs) {
      const message = 'at least twice cluster.heartbeatMs, so that one late heartbeat fences nobody'
      context.addIssue({ code: 'custom', path: ['sessionTimeoutMs'], message })
    }
  })

/** Where a node listens for the others: told, or by its own entry among the peers; null for a node alone. */
export function peerListenOf(nodeId: number, { peers, peerListen }: HubClusterConfig): string | null {
  if (peerListen !== null) return peerListen
  return peers.map(parsePeer).find(peer => peer?.nodeId === nodeId)?.address ?? null
}

/** What is wrong with settings that only make sense together, as [key, what is allowed]. */
export function clusterIssue(
  nodeId: number,
  cluster: Pick<HubClusterConfig, 'peers' | 'peerListen' | 'peerTls'> & { peerSecretFile: string | null },
): [string, string] | null {
  const listen = peerListenOf(nodeId, { ...CLUSTER_DEFAULTS, ...cluster })
  if (cluster.peers.length > 0 && listen === null) {
    return [
      'peerListen',
      `an address, or an entry ${nodeId}@HOST:PORT in cluster.peers (--peers), to be found at`,
    ]
  }
  const told = cluster.peers.map(parsePeer).find(peer => peer?.nodeId === nodeId)?.address ?? listen
  if (told !== null && isAnyHost(parseAddress(told)?.host ?? '')) {
    const key = told === cluster.peerListen ? 'peerListen' : 'peers'
    return [
      key,
      `an address that other nodes can dial, or an entry ${nodeId}@HOST:PORT in cluster.peers (--peers) that is`,
    ]
  }
  if (listen === null || isLoopback(parseAddress(listen)?.host ?? '')) return null
  if (cluster.peerSecretFile !== null || cluster.peerTls !== null) return null
  return [
    'peerListen',
    'a loopback address, unless cluster.peerSecretFile (--peer-secret-file) or cluster.peerTls proves who a node is',
  ]
}

import type { EdgeConfig } from '../../common/config-edge.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { HubConfig } from '../../common/config-hub.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import { KIB, MIB } from '../../common/limits.ts'
import { PEER_PATH } from '../../common/wire-peer.ts'
import type { Ports } from '../../hub/ports.ts'
import { FakeDisk } from '../fake-disk.ts'
import { Book } from '../spine/book.ts'
import { AdminChecker } from './checkers/admin.ts'
import { peerTag } from './checkers/peer-frames.ts'
import { ClientHost } from './client-host.ts'
import { simCodec } from './codec.ts'
import { EdgeHost } from './edge-host.ts'
import { HTTP_PORT, HubHost, PEER_PORT } from './hub-host.ts'
import type { Fate } from './network.ts'
import { Network } from './network.ts'
import { SdkBook } from './sdk-book.ts'
import type { EdgePlan, SwarmPlan } from './swarm.ts'
import { World } from './world.ts'

/** All machines of one seed, and who asks them for what. */

const EDGE_JOURNAL_BYTES = 128 * KIB
export const PLENTY_BYTES = 64 * MIB
/** Takes records up to 1,024 bytes. */
export const SMALL_TOPIC = 'small'
export const DOOMED_TOPIC = 'doomed'
/** Keeps little: its logs start late. */
export const BRIEF_TOPIC = 'brief'
/** Topics that are never deleted, each with its readers. */
export const READ_TOPICS = ['alpha', 'beta', 'gamma'] as const
/** The name that edges and clients dial: any of the nodes. */
const HUB_NAME = 'hub'
/** For the trace. */
const TWIN_IDS = 50

export class Sim {
  readonly plan: SwarmPlan
  readonly world: World
  readonly network: Network
  readonly book = new Book()
  readonly sdk = new SdkBook()
  readonly admin = new AdminChecker()
  readonly codec = simCodec
  readonly nodes: HubHost[] = []
  readonly edges: EdgeHost[] = []
  readonly clients: ClientHost[] = []
  /** Nodes that stay away for good. */
  readonly away = new Set<HubHost>()
  /** Whether messages that may be lost are. */
  isUnreliable = true
  /** For the trace. */
  #ids = 100

  constructor(plan: SwarmPlan, log: ((line: string) => void) | null) {
    this.plan = plan
    this.world = new World(plan.seed, log)
    const { world } = this
    this.network = new Network(world)
    const { latencyMs, jitterMs } = plan
    this.network.latencyMs = () => latencyMs + world.rng.float() * jitterMs
    this.network.resolve = name => {
      return name === HUB_NAME ? (this.nodes[world.rng.below(this.nodes.length)]?.host ?? '') : name
    }
    this.network.fate = (path, data) => this.#fate(path, data)
    for (let nodeId = 1; nodeId <= plan.nodes; nodeId++) this.addNode(nodeId)
    for (let index = 1; index <= plan.edges; index++) this.addEdge(`e${index}`, `e${index}`, plan.edge)
    for (let index = 1; index <= plan.clients; index++) this.#addClient(`c${index}`)
  }

  /** Only what the consensus and heartbeats say may be lost, doubled and late; all else rides on what TCP promises. */
  #fate(path: string, data: Uint8Array): Fate {
    const { drop, twice, late } = this.plan.unreliable
    if (path !== PEER_PATH || drop + twice + late === 0 || !this.isUnreliable) return 'pass'
    const tag = peerTag(data)
    if (tag !== 'raft' && tag !== 'node-heartbeat') return 'pass'
    const chance = this.world.rng.float()
    if (chance >= drop + twice + late) return 'pass'
    const fate = chance < drop ? 'drop' : chance < drop + twice ? 'twice' : 'late'
    this.world.count(`message ${fate}`)
    return fate
  }

  addNode(nodeId: number): HubHost {
    const host = this.#node(nodeId, `n${nodeId}`, nodeId)
    this.nodes.push(host)
    return host
  }

  /** Another machine that will run as the same node; it is in no list. */
  twin({ nodeId }: HubHost): HubHost {
    return this.#node(nodeId, `n${nodeId}b`, TWIN_IDS + nodeId)
  }

  #node(nodeId: number, host: string, id: number): HubHost {
    const disk = new FakeDisk({ rng: this.world.stream(), isTimed: true })
    const options = { nodeId, host, id, disk, config: this.#hubConfig(nodeId), codec: simCodec }
    return new HubHost(this.world, this.network, options)
  }

  /** The machine is gone for good. */
  forgetNode(node: HubHost): void {
    node.kill()
    const at = this.nodes.indexOf(node)
    if (at !== -1) this.nodes.splice(at, 1)
  }

  #hubConfig(nodeId: number): HubConfig {
    const { hub, partitions, nodes, replication } = this.plan
    const founders = Array.from({ length: nodes }, (_, index) => index + 1)
    const known = new Set([...founders, nodeId])
    const peers = nodes === 1 ? [] : [...known].map(id => `${id}@n${id}:${PEER_PORT}`)
    const { journalBytes, segmentBytes, tailCacheBytes, commitMs, maxInflightBytesPerConnection } = hub
    return defaultHubConfig({
      data: '/hub',
      nodeId,
      defaultPartitions: partitions,
      http: `n${nodeId}:${HTTP_PORT}`,
      cluster: {
        peers,
        defaultReplication: replication,
        peerSecret: nodes === 1 ? null : 'simulated',
        replicaLagMaxMs: this.plan.hub.replicaLagMaxMs,
        reassignBytesPerSecond: this.plan.hub.reassignBytesPerSecond,
      },
      storage: { journalBytes, segmentBytes, tailCacheBytes, commitMs, reserveBytes: 64 * KIB },
      limits: { maxInflightBytesPerConnection },
    })
  }

  addEdge(edgeId: string, host: string, plan: EdgePlan): EdgeHost {
    const disk = new FakeDisk({ rng: this.world.stream(), isTimed: true })
    const config = edgeConfig(edgeId, plan)
    const options = { edgeId, host, id: this.#ids++, disk, config, codec: simCodec, book: this.book }
    const edge = new EdgeHost(this.world, this.network, options)
    this.edges.push(edge)
    return edge
  }

  #addClient(host: string): void {
    const options = { host, id: this.#ids++, hub: `http://${HUB_NAME}:7600`, codec: simCodec, book: this.sdk }
    this.clients.push(new ClientHost(this.world, this.network, options))
  }

  /** Of a node that is up, by chance. */
  ports(): Ports | null {
    const up = this.nodes.filter(node => {
      return node.running !== null && node.process?.isPaused === false && !this.away.has(node)
    })
    return up[this.world.rng.below(Math.max(1, up.length))]?.running?.engine.ports ?? null
  }

  /** Of the node that is the active controller, as it believes itself. */
  controllerPorts(): Ports | null {
    let newest: { ports: Ports; term: number } | null = null
    for (const node of this.nodes) {
      const { nodeId, running } = node
      if (running === null || this.away.has(node)) continue
      const { ports } = running.engine
      const { controllerId, term } = ports.cluster.status()
      if (controllerId === nodeId && term > (newest?.term ?? -1)) newest = { ports, term }
    }
    return newest?.ports ?? null
  }

  isTopic(name: string): boolean {
    return (
      this.ports()
        ?.topics.list()
        .some(topic => topic.name === name) ?? false
    )
  }

  /** Waits in simulated time; fails loudly where it is in vain. */
  async until(what: string, isSo: () => boolean, patienceMs: number, everyMs = 50): Promise<void> {
    const startMs = this.world.nowMs()
    while (!isSo()) {
      if (this.world.nowMs() - startMs > patienceMs) {
        throw new Error(`waited ${patienceMs} ms in vain: ${what}; ${this.describe()}`)
      }
      await this.world.sleep(everyMs)
    }
  }

  /** A request that may never be answered, as its node may be gone; null then. Other errors are thrown. */
  async ask<T>(request: (ports: Ports) => Promise<T>, patienceMs = 15_000): Promise<T | null> {
    const ports = this.ports()
    if (ports === null) return null
    return Promise.race([request(ports), this.world.sleep(patienceMs).then(() => null)])
  }

  describe(): string {
    const isTopic = (name: string): boolean => this.isTopic(name)
    const edges = this.edges.filter(edge => !edge.isDrained(isTopic)).map(edge => edge.describe())
    const nodes = this.nodes.map(node => {
      const { nodeId, running, failure } = node
      const notReady = running?.engine.ports.notReadyReason()
      return { nodeId, isUp: running !== null, isAway: this.away.has(node), failure, notReady }
    })
    const clients = this.clients.map(({ host, pending }) => ({ host, pending }))
    const cluster = this.controllerPorts()?.cluster
    const status = cluster?.status() ?? null
    const places = this.controllerPorts()
      ?.topics.list()
      .flatMap(({ name, topicId }) => cluster?.placements(topicId).map(place => ({ name, ...place })) ?? [])
      .filter(({ isr, replicas, leader }) => leader === null || isr.length < replicas.length)
    return JSON.stringify({ status, places, nodes, clients, edges })
  }
}

/** How an edge is set up. */
export function edgeConfig(edgeId: string, plan: EdgePlan, budgetBytes = PLENTY_BYTES): EdgeConfig {
  const { lanes, keepAckedMs, windowBytes, maxBatchBytes, compression, commitMs } = plan
  const partitionBy = lanes > 1 ? ('key' as const) : ('edge' as const)
  return defaultEdgeConfig({
    id: edgeId,
    data: '/edge',
    hub: `ws://${HUB_NAME}:7600`,
    topics: {
      '*': { lanes, partitionBy, keepAckedMs },
      beta: { onFull: 'reject' as const, priority: 5 },
    },
    storage: {
      budgetBytes,
      commitMs,
      segmentBytes: plan.segmentBytes,
      journalBytes: EDGE_JOURNAL_BYTES,
      tailCacheBytes: 64 * KIB,
    },
    uplink: { windowBytes, maxBatchBytes, compression, backoffMinMs: 50, backoffMaxMs: 2_000 },
  })
}

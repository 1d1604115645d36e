import { pino } from 'pino'
import { must } from '../../../../common/assert.ts'
import { nodeCodec } from '../../../../common/compression.ts'
import type { Rng } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { DAY_MS } from '../../../../common/limits.ts'
import { openDataDir } from '../../../../common/log/data-dir.ts'
import type { Damage, DataDir } from '../../../../common/log/types.ts'
import { evaluate } from '../../../../hub/controller/evaluate.ts'
import type { Image, ImageRecord } from '../../../../hub/controller/image.ts'
import { emptyImage } from '../../../../hub/controller/image.ts'
import { fenceNodes, unfenceNodes } from '../../../../hub/controller/nodes.ts'
import type { CallName, CallRequest, CallResponse } from '../../../../hub/controller/requests.ts'
import { tidy } from '../../../../hub/controller/tidy.ts'
import type { PartitionState } from '../../../../hub/controller/types.ts'
import type { PartitionTable } from '../../../../hub/engines/cluster/partitions.ts'
import { createPartitionTable } from '../../../../hub/engines/cluster/partitions.ts'
import type { NodeReplication, ReplicationStats } from '../../../../hub/engines/cluster/replication.ts'
import { startReplication } from '../../../../hub/engines/cluster/replication.ts'
import type { Topic } from '../../../../hub/ports.ts'
import { createHubTime } from '../../../../hub/replica/hub-time.ts'
import type { Partition } from '../../../../hub/replica/partition.ts'
import { FakeClock, seededRng } from '../../../fake-clock.ts'
import { FakeDisk } from '../../../fake-disk.ts'
import { SETTINGS } from '../../controller/stage.ts'
import { Network } from './network.ts'

/**
 * Nodes with real replicas on disks in memory, among which a controller without consensus decides by the real rules: one image, whose
 * records reach each node in order, sooner or later.
 */

const STORAGE = { commitMs: 0, journalBytes: 256 * 1024, reserveBytes: 16 * 1024, tailCacheBytes: 8 * 1024 }
export const LAG_MS = 1_000
const logger = pino({ level: process.env.REPLICA_LOG ?? 'silent' })

export interface ClusterOptions {
  reassignBytesPerSecond?: number
  /** Requests and answers to the controller get lost. */
  losesRequests?: boolean
}

/** A running process. */
export interface TestNode {
  nodeId: number
  disk: FakeDisk
  dataDir: DataDir
  incarnation: number
  image: Image
  applied: number
  table: PartitionTable
  replication: NodeReplication
  damage: Damage[]
}

export class Cluster {
  readonly rng: Rng
  readonly clock = new FakeClock()
  readonly image = emptyImage()
  readonly network: Network
  readonly nodes = new Map<number, TestNode>()
  /** What became of processes that are no more. */
  readonly ended: ReplicationStats[] = []
  readonly #log: (readonly ImageRecord[])[] = []
  readonly #disks = new Map<number, FakeDisk>()
  readonly #listeners = new Map<number, ((records: readonly ImageRecord[]) => void)[]>()
  readonly #waiting: { nodeId: number; index: number; resolve(): void; reject(error: Error): void }[] = []
  readonly #options: ClusterOptions
  #topicIds = 0
  /** Nodes that hear of new records late. */
  readonly deaf = new Set<number>()

  constructor(seed: number, options: ClusterOptions = {}) {
    this.rng = seededRng(seed)
    this.network = new Network(this.rng)
    this.#options = options
  }

  // ------------------------------------------------------------------------------------- controller

  commit(records: readonly ImageRecord[]): void {
    if (records.length === 0) return
    for (const record of records) this.image.replay(record)
    this.#log.push(records)
  }

  call<Name extends CallName>(name: Name, request: CallRequest<Name>): CallResponse<Name> {
    const freshTopicId = String(++this.#topicIds).padStart(32, '0')
    const context = { nowMs: this.clock.nowMs(), freshTopicId, controllerId: 1 }
    const { records, response } = evaluate(this.image, SETTINGS, name, request, context)
    this.commit(records)
    return response
  }

  tidy(): void {
    for (let round = 0; round < 20; round++) {
      const records = tidy(this.image, SETTINGS, this.clock.nowMs())
      if (records.length === 0) return
      this.commit(records)
    }
  }

  fence(...nodeIds: number[]): void {
    this.commit(fenceNodes(this.image, nodeIds, this.clock.nowMs()))
  }

  unfence(...nodeIds: number[]): void {
    this.commit(unfenceNodes(this.image, nodeIds, this.clock.nowMs()))
  }

  /** A topic on three nodes; segments and what is kept of them may be smaller than the controller allows. */
  topic(name: string, partitions: number, config: Partial<Topic['config']> = {}): Topic {
    const topic = this.call('create-topic', { name, partitions })
    const { topicId, replication } = topic
    const altered = { ...topic.config, segmentBytes: 65_536, ...config }
    this.commit([{ type: 'topic_altered', topicId, partitions, replication, config: altered }])
    this.tidy()
    return must(this.image.topicById(topicId), 'a topic that was made is not there')
  }

  /** Makes a node lead, with these in sync: as the controller might, but when the test wants it. */
  lead(topic: Topic, nodeId: number, isr: readonly number[]): void {
    const state = this.state(topic)
    const leaderIncarnation = this.image.node(nodeId)?.incarnation ?? 0
    const { leaderEpoch, partitionEpoch } = state
    const next = { leader: nodeId, isr, leaderIncarnation }
    const raised = { leaderEpoch: leaderEpoch + 1, partitionEpoch: partitionEpoch + 1, unclean: false }
    this.commit([{ type: 'partition_changed', ...state, ...next, ...raised }])
  }

  state(topic: Topic, partition = 0): PartitionState {
    return must(this.image.partition(topic.topicId, partition), 'a partition without a place')
  }

  // ------------------------------------------------------------------------------------------- nodes

  /** Starts the node's process on what its disk holds, registers it and lets it live. */
  async start(nodeId: number): Promise<TestNode> {
    const node = await this.startFenced(nodeId)
    this.unfence(nodeId)
    return node
  }

  async startFenced(nodeId: number): Promise<TestNode> {
    const disk = this.#disks.get(nodeId) ?? new FakeDisk({ rng: this.rng })
    this.#disks.set(nodeId, disk)
    const env = { clock: this.clock, rng: this.rng, disk, codec: nodeCodec(), net: NO_NET }
    const dataDir = await openDataDir('/data', STORAGE, env)
    const given = { directoryId: dataDir.directoryId, lostData: dataDir.recovery.belowDurableEnd }
    const at = {
      peerAddress: `n${nodeId}:1`,
      httpAddress: `n${nodeId}:2`,
      rack: null,
      software: 's',
      startId: null,
    }
    const { incarnation } = this.call('register-node', { nodeId, ...at, ...given })
    const image = emptyImage()
    for (const records of this.#log) for (const record of records) image.replay(record)
    const damage: Damage[] = []
    const hubTime = createHubTime(this.clock.nowMs(), this.clock.monotonicMs())
    const table = createPartitionTable({
      env,
      dataDir,
      gaps: {
        declared: () => {},
        damaged: (_topic, _partition, found) => void damage.push(found),
      },
      hubTime,
      maxBatchBytes: 64 * 1024,
      producerIdExpirationMs: 7 * DAY_MS,
      topic: topicId => image.topicById(topicId),
      log: logger,
      role: () => null,
    })
    const listeners: ((records: readonly ImageRecord[]) => void)[] = []
    this.#listeners.set(nodeId, listeners)
    const replication = startReplication({
      clock: this.clock,
      nodeId,
      incarnation,
      metadata: {
        image: () => image,
        onApplied: listener => void listeners.push(listener),
        submit: (name, request) => this.#submit(nodeId, name, request),
      },
      peers: this.network.peersOf(nodeId),
      partitions: table,
      replicaLagMaxMs: LAG_MS,
      reassignBytesPerSecond: this.#options.reassignBytesPerSecond ?? 1_000_000_000,
      log: logger.child({ node: nodeId }),
    })
    const applied = this.#log.length
    const node = { nodeId, disk, dataDir, incarnation, image, applied, table, replication, damage }
    this.nodes.set(nodeId, node)
    this.network.join(nodeId, replication)
    return node
  }

  /** Ends the node's process: `crash` cuts power, `kill` leaves the page cache. */
  stop(nodeId: number, how: 'crash' | 'kill'): void {
    const node = this.nodes.get(nodeId)
    if (node === undefined) return
    this.nodes.delete(nodeId)
    this.network.leave(nodeId)
    node.replication.close()
    this.ended.push(node.replication.stats())
    this.#listeners.delete(nodeId)
    // Whoever waits for it hears that the connection broke.
    for (const { topicId, partition } of node.table.places()) {
      node.table.peek(topicId, partition)?.shut(new TributaryError('closed', `node ${nodeId} stopped`))
    }
    const disk = how === 'crash' ? node.disk.crash() : node.disk.kill()
    disk.setCapacity(Number.POSITIVE_INFINITY)
    this.#disks.set(nodeId, disk)
    for (const waiting of this.#waiting) if (waiting.nodeId === nodeId) waiting.reject(new Error('stopped'))
  }

  /** The node has another directory, an empty one. */
  wipe(nodeId: number): void {
    this.stop(nodeId, 'kill')
    this.#disks.delete(nodeId)
  }

  /** Ends it all, so that nothing of it goes on beside the next one. */
  async end(): Promise<void> {
    for (const nodeId of [...this.nodes.keys()]) this.stop(nodeId, 'kill')
    await this.#pause(50)
  }

  /** What a node that is down has left. */
  diskOf(nodeId: number): FakeDisk {
    return must(this.#disks.get(nodeId), `node ${nodeId} never ran`)
  }

  node(nodeId: number): TestNode {
    return must(this.nodes.get(nodeId), `node ${nodeId} is down`)
  }

  replica(nodeId: number, topic: Topic, partition = 0): Partition {
    return must(this.node(nodeId).table.peek(topic.topicId, partition), `no replica on node ${nodeId}`)
  }

  /** Who leads as the controller has it, and knows it; null where nobody does. */
  leader(topic: Topic, partition = 0): Partition | null {
    const state = this.image.partition(topic.topicId, partition)
    const node = state?.leader == null ? undefined : this.nodes.get(state.leader)
    const replica = node?.table.peek(topic.topicId, partition) ?? null
    return replica?.actingEpoch('leader') === state?.leaderEpoch ? replica : null
  }

  // -------------------------------------------------------------------------------------------- time

  async #submit<Name extends CallName>(
    nodeId: number,
    name: Name,
    request: CallRequest<Name>,
  ): Promise<CallResponse<Name>> {
    const isLossy = this.#options.losesRequests === true
    await this.#pause(this.rng.below(4))
    const lost = new TributaryError('not_available', 'no controller answers in time')
    if (isLossy && this.rng.below(8) === 0) throw lost
    const response = this.call(name, request)
    const index = this.#log.length
    if (isLossy && this.rng.below(8) === 0) throw lost
    const node = this.nodes.get(nodeId)
    if (node === undefined) throw new Error('stopped')
    if (node.applied < index) {
      await new Promise<void>((resolve, reject) => this.#waiting.push({ nodeId, index, resolve, reject }))
    }
    return response
  }

  async #pause(turns: number): Promise<void> {
    for (let turn = 0; turn < turns; turn++) await new Promise(resolve => setImmediate(resolve))
  }

  #apply(node: TestNode, all: boolean): void {
    const upTo = all ? this.#log.length : Math.min(this.#log.length, node.applied + this.rng.below(3))
    if (upTo === node.applied) return
    const records = this.#log.slice(node.applied, upTo).flat()
    for (const record of records) node.image.replay(record)
    node.applied = upTo
    for (const listener of this.#listeners.get(node.nodeId) ?? []) listener(records)
    for (const waiting of this.#waiting.filter(
      ({ nodeId, index }) => nodeId === node.nodeId && index <= upTo,
    )) {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
      waiting.resolve()
    }
  }

  /** Lets so many turns of the event loop pass, in which messages and records arrive. */
  async turns(count: number): Promise<void> {
    for (let turn = 0; turn < count; turn++) {
      await new Promise(resolve => setImmediate(resolve))
      this.network.deliver()
      for (const node of this.nodes.values()) if (!this.deaf.has(node.nodeId)) this.#apply(node, false)
    }
  }

  /** Waits for something to come true, while time passes a little with each turn. */
  async until(what: string | (() => string), isTrue: () => boolean, limit = 3_000): Promise<void> {
    for (let turn = 0; turn < limit; turn++) {
      if (isTrue()) return
      await this.turns(1)
      if (turn % 4 === 3) this.clock.advance(25)
    }
    throw new Error(`in vain: ${typeof what === 'string' ? what : what()}`)
  }

  isInSync(topic: Topic, partition = 0): boolean {
    const { isr, replicas, leader } = this.state(topic, partition)
    return leader !== null && isr.length === replicas.length
  }
}

const NO_NET = { dial: () => Promise.reject(new Error('no network here')) }

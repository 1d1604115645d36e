import { pino } from 'pino'
import { eachBatch } from '../../../../common/batch.ts'
import { decodePlain } from '../../../../common/batch-records.ts'
import { utf8Text } from '../../../../common/bytes.ts'
import { nodeCodec } from '../../../../common/compression.ts'
import { defaultHubConfig } from '../../../../common/config-hub.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { DAY_MS } from '../../../../common/limits.ts'
import { openDataDir } from '../../../../common/log/data-dir.ts'
import { evaluate } from '../../../../hub/controller/evaluate.ts'
import type { Image, ImageRecord } from '../../../../hub/controller/image.ts'
import { emptyImage } from '../../../../hub/controller/image.ts'
import { createCalls } from '../../../../hub/engines/cluster/calls.ts'
import { settingsOf } from '../../../../hub/engines/cluster/engine.ts'
import type { ClusterFleet } from '../../../../hub/engines/cluster/fleet.ts'
import { createFleet, freshTopicId } from '../../../../hub/engines/cluster/fleet.ts'
import type { Gaps } from '../../../../hub/engines/cluster/gaps.ts'
import { createGaps } from '../../../../hub/engines/cluster/gaps.ts'
import { createLogs } from '../../../../hub/engines/cluster/logs.ts'
import type { PartitionTable } from '../../../../hub/engines/cluster/partitions.ts'
import { createPartitionTable } from '../../../../hub/engines/cluster/partitions.ts'
import { createPeers } from '../../../../hub/engines/cluster/peers/peers.ts'
import type { Routes } from '../../../../hub/engines/cluster/routes.ts'
import { createRoutes } from '../../../../hub/engines/cluster/routes.ts'
import { createTails } from '../../../../hub/engines/cluster/tails.ts'
import type { Metadata, Peers } from '../../../../hub/engines/cluster/types.ts'
import type { Logs } from '../../../../hub/ports.ts'
import { createHubTime } from '../../../../hub/replica/hub-time.ts'
import type { Role } from '../../../../hub/replica/role.ts'
import { seededRng } from '../../../fake-clock.ts'
import { FakeDisk } from '../../../fake-disk.ts'
import { liveClock } from '../../../live-clock.ts'
import { addressOf, PeerNet } from '../peers/stage.ts'
import { storage } from '../stage.ts'

/** Nodes with partitions of one replica each and metadata that a test dictates, linked in memory: what endpoints see of a cluster. */

export const TOPIC = 'topic-1'

export interface TestNode {
  nodeId: number
  image: Image
  partitions: PartitionTable
  peers: Peers
  routes: Routes
  logs: Logs
  fleet: ClusterFleet
  gaps: Gaps
  /** Takes over records as committed metadata. */
  apply(...records: ImageRecord[]): void
  /** Calls of others that came. */
  called: string[]
  close(): Promise<void>
}

/** Where a partition is led. */
export function ledBy(
  partition: number,
  nodeId: number | null,
  leaderEpoch: number,
  topicId = TOPIC,
): ImageRecord {
  return {
    type: 'partition_changed',
    topicId,
    partition,
    replicas: [nodeId ?? 1],
    isr: [nodeId ?? 1],
    adding: [],
    removing: [],
    leader: nodeId,
    leaderIncarnation: 1,
    leaderEpoch,
    partitionEpoch: leaderEpoch,
    unclean: false,
  }
}

export function created(partitions: number, topicId = TOPIC, name = 'numbers'): ImageRecord {
  return {
    type: 'topic_created',
    topicId,
    name,
    partitions,
    replication: 1,
    internal: false,
    config: {
      retentionMs: null,
      retentionBytes: null,
      segmentBytes: 1024 * 1024,
      maxRecordBytes: 100_000,
      minInsyncReplicas: null,
      uncleanLeaderElection: false,
    },
    atMs: 1,
  }
}

export class Nodes {
  readonly net = new PeerNet()
  readonly all = new Map<number, TestNode>()
  /** Commits what whoever makes sure hears of only then. */
  beforeSync: () => void = () => {}

  /** The node of that id. */
  node(nodeId: number): TestNode {
    const node = this.all.get(nodeId)
    if (node === undefined) throw new Error(`there is no node ${nodeId}`)
    return node
  }

  /** Commits records on all nodes, or on those named. */
  commit(records: ImageRecord[], on: readonly number[] = [...this.all.keys()]): void {
    for (const nodeId of on) this.node(nodeId).apply(...records)
  }

  async start(...nodeIds: number[]): Promise<void> {
    const submit = this.#submit()
    for (const nodeId of nodeIds) this.all.set(nodeId, await startNode(this.net, nodeId, submit))
    for (const from of nodeIds) {
      for (const to of nodeIds) if (from !== to) this.node(from).peers.locate(to, addressOf(to))
    }
    await eventually(
      () => nodeIds.every(from => nodeIds.every(to => to === from || this.node(from).peers.isUp(to))),
      'all links',
    )
  }

  /** The controller's rules upon what the first node knows; what comes of it is committed everywhere at once. */
  #submit(): Metadata['submit'] {
    const rng = seededRng(99)
    return async (name, request) => {
      if (name === 'sync') this.beforeSync()
      const settings = settingsOf(defaultHubConfig())
      const context = { nowMs: 1, freshTopicId: freshTopicId({ rng }), controllerId: 1 }
      const { records, response } = evaluate(this.node(1).image, settings, name, request, context)
      this.commit([...records])
      return response
    }
  }

  /** Breaks all links between two nodes, and keeps them from being made again until `join`. */
  part(one: number, other: number): void {
    for (const address of [addressOf(one), addressOf(other)]) this.net.listening.delete(address)
    for (const pair of [...this.net.open(one, other), ...this.net.open(other, one)]) pair.cut()
  }

  join(): void {
    for (const node of this.all.values()) {
      this.net.listening.set(addressOf(node.nodeId), link => node.peers.accept(link))
    }
  }

  async close(): Promise<void> {
    for (const node of this.all.values()) await node.close()
  }
}

async function startNode(net: PeerNet, nodeId: number, submit: Metadata['submit']): Promise<TestNode> {
  const log = pino({ level: 'silent' })
  const disk = new FakeDisk({ rng: seededRng(nodeId) })
  const env = { disk, clock: liveClock, rng: seededRng(nodeId), codec: nodeCodec(), net: net.net(nodeId) }
  const dataDir = await openDataDir('/hub', storage, env)
  const image = emptyImage()
  const listeners: ((records: readonly ImageRecord[] | null) => void)[] = []
  const onApplied: Metadata['onApplied'] = listener => void listeners.push(listener)
  const roleOf = (topicId: string, partition: number): Role | null => {
    const state = image.partition(topicId, partition)
    if (state === undefined || !state.replicas.includes(nodeId)) return null
    const { leader, leaderEpoch, partitionEpoch, replicas, isr } = state
    if (leader !== nodeId) return { kind: 'idle', leader, leaderEpoch }
    return {
      kind: 'leader',
      self: nodeId,
      seats: { replicas, isr, leaderEpoch, partitionEpoch },
      required: 1,
    }
  }
  const gaps = createGaps(await dataDir.openState('__damage_told', 100_000), liveClock, log)
  const partitions = createPartitionTable({
    env,
    dataDir,
    gaps,
    hubTime: createHubTime(liveClock.nowMs(), liveClock.monotonicMs()),
    maxBatchBytes: 500_000,
    producerIdExpirationMs: 7 * DAY_MS,
    topic: topicId => image.topicById(topicId),
    log,
    role: roleOf,
  })
  const called: string[] = []
  const peers = createPeers({
    env,
    log,
    self: () => ({ nodeId, directoryId: `d${nodeId}`, software: 'test' }),
    address: null,
    memoryOf: () => null,
    reminded: () => {},
    clusterId: () => 'c',
    access: { secret: null, tls: null },
    heartbeatMs: 10_000,
    deadMs: 30_000,
    service: {
      frame: () => {},
      call: (_, call) => {
        called.push(call.c)
        if (call.c === 'controller' || call.c === 'producer-snapshot' || call.c === 'stretch') {
          return Promise.reject(new TributaryError('not_available', 'not here'))
        }
        return calls(call)
      },
      replication: { serve: () => ({ fetch: () => {}, close: () => {} }), fetched: () => {} },
    },
  })
  const clock = liveClock
  const metadata = {
    image: () => image,
    onApplied,
    submit,
  }
  const routes = createRoutes({ clock, nodeId, metadata, peers, partitions })
  const tails = createTails({ clock, routes, peers })
  const logs = createLogs({ clock, metadata, partitions, routes, tails, peers })
  const fleet = createFleet({ env, nodeId, metadata, logs, peers, log })
  const { presences } = fleet
  const calls = createCalls({ clock, partitions, routes, presences, gapLog: gaps.log })
  gaps.begin({ nodeId, metadata, routes, peers, partitions })
  net.listening.set(addressOf(nodeId), link => peers.accept(link))

  function assign(record: ImageRecord): void {
    if (record.type !== 'partition_changed') return
    const role = roleOf(record.topicId, record.partition)
    const known = partitions.peek(record.topicId, record.partition)
    if (role !== null) partitions.assign(record.topicId, record.partition, role)
    else known?.assign({ kind: 'idle', leader: record.leader, leaderEpoch: record.leaderEpoch })
  }

  return {
    nodeId,
    image,
    partitions,
    peers,
    routes,
    logs,
    fleet,
    gaps,
    called,
    apply: (...records) => {
      for (const record of records) {
        image.replay(record)
        assign(record)
      }
      for (const listener of listeners) listener(records)
    },
    close: async () => {
      gaps.close()
      routes.close()
      await peers.close()
      await dataDir.close()
    },
  }
}

/** Waits for a condition with a time limit. */
export async function eventually(condition: () => boolean, what: string): Promise<void> {
  const giveUpAtMs = performance.now() + 10_000
  while (!condition()) {
    if (performance.now() > giveUpAtMs) throw new Error(`waited in vain for ${what}`)
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

/** All values of a partition, as a node reads them. */
export async function valuesOf(logs: Logs, partition: number, topicId = TOPIC): Promise<string[]> {
  const found: string[] = []
  const { highWatermark, startOffset } = await logs.bounds(topicId, partition)
  for (let offset = startOffset; offset < highWatermark; ) {
    const { batches, nextOffset } = await logs.read(topicId, partition, offset, 100_000)
    for (const { at, header } of eachBatch(batches)) {
      if (header.isControl) continue
      for (const { value } of decodePlain(batches, at)) found.push(utf8Text(value ?? new Uint8Array(0)))
    }
    offset = nextOffset
  }
  return found
}

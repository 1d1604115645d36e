import type { Logger } from 'pino'
import { utf8Text } from '../../../common/bytes.ts'
import type { HubConfig } from '../../../common/config-hub.ts'
import type { Disk, Env, Link } from '../../../common/env.ts'
import { isTributaryError, messageOf, TributaryError } from '../../../common/errors.ts'
import { KIB, MIB } from '../../../common/limits.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { Damage, DataDir, DataDirStats } from '../../../common/log/types.ts'
import { eachAtMost } from '../../../common/log/work.ts'
import type { Reading } from '../../../common/metrics.ts'
import { certificatesFrom } from '../../../common/tls.ts'
import type { ControllerSettings } from '../../controller/controller.ts'
import { DEAD_TOPIC, GAPS_TOPIC } from '../../controller/names.ts'
import type { Ports, Topic } from '../../ports.ts'
import { createHubTime } from '../../replica/hub-time.ts'
import type { Role } from '../../replica/role.ts'
import type { TopicCounters } from '../../replica/stats.ts'
import { clientAddresses } from './addresses.ts'
import { createCalls } from './calls.ts'
import { claimDirectory, markRemoved, refuseOthersDirectory } from './claim.ts'
import type { ClusterNode } from './cluster-node.ts'
import { openClusterNode } from './cluster-node.ts'
import { createFleet } from './fleet.ts'
import { createGaps } from './gaps.ts'
import { createLogs } from './logs.ts'
import { startMaintenance } from './maintenance.ts'
import type { MetadataStats, QuorumMetadata } from './metadata.ts'
import { createCluster } from './overview.ts'
import { countPartitionChanges } from './partition-changes.ts'
import type { PartitionTable } from './partitions.ts'
import {
  createPartitionTable,
  MAX_OPENING_AT_ONCE,
  removeSnapshots,
  topicsWithSnapshots,
} from './partitions.ts'
import type { PeerAccess } from './peers/context.ts'
import { linkReadings } from './peers/readings.ts'
import { openQuorumStorage } from './quorum/storage.ts'
import { engineReadings } from './readings.ts'
import { roleIn, startReplication } from './replication.ts'
import { replicationReadings } from './replication-readings.ts'
import { createRoutes } from './routes.ts'
import { createTails } from './tails.ts'
import { createTopics } from './topics.ts'

/** Damage told of, so that it is told once. */
const DAMAGE_LOG = '__damage_told'
/** A hundred thousand stretches; beyond it they are told again at each start. */
const MAX_DAMAGE_BYTES = 16 * MIB
/** Edges the hub remembers. */
const MAX_EDGES = 100_000
/** Counting edges and producers takes a moment, and a scrape asks for each metric by itself. */
const STATS_KEPT_MS = 100
/** Less than this is replayed at the next start sooner than a snapshot is written now. */
const SNAPSHOT_AT_CLOSE_BYTES = MIB
/** A frame's room beside its batches. */
const FRAME_ROOM_BYTES = 64 * KIB

/** What `/metrics` shows of the engine. */
export interface EngineStats {
  data: DataDirStats
  metadata: MetadataStats
  topics: { topic: string; topicId: string; partitions: number; internal: boolean; counters: TopicCounters }[]
  edges: { known: number; connected: number; alarms: number }
  /** Gaps that could not be told of in `_gaps`. */
  gapNoticeFailures: number
  /** How far the wall clock jumped, while that pauses retention. */
  clockJumpMs: number | null
  producers: { clients: number; lanes: number; evicted: number }
}

/** The engine of one hub node. */
export interface ClusterEngine {
  ports: Ports
  stats(): EngineStats
  /** The same, for `/metrics`. */
  readings: Reading[]
  /** Called once when nothing can be made durable any more: the process must exit non-zero. */
  onFailed(listener: (error: TributaryError) => void): void
  /** First of an orderly stop: what this node leads moves to others, as far as they take it in a bounded time. */
  leave(): Promise<void>
  /** Snapshots, flushes, releases the directory. */
  close(): Promise<void>
}

export interface EngineOptions {
  /** Called when links of other nodes can be accepted, which may be long before the engine is open. */
  onPeers?: (accept: (link: Link) => void, access: PeerAccess) => Promise<void>
  /** Told what the node waits for, before it is open. */
  onWaiting?: (reason: string) => void
  /** Ends the wait for other nodes: opening rejects with `closed` then. */
  stop?: AbortSignal
}

/**
 * Opens the data directory and all in it, and makes the node part of its cluster: with an empty directory and other nodes configured it
 * waits for them. Rejects as openDataDir does, and with `directory_newer_format` for metadata of a newer version.
 */
export async function openClusterEngine(
  config: HubConfig,
  env: Env,
  log: Logger,
  options: EngineOptions = {},
): Promise<ClusterEngine> {
  const { commitMs, journalBytes, reserveBytes, tailCacheBytes, flush } = config.storage
  const dirOptions = { commitMs, journalBytes, reserveBytes, tailCacheBytes, flush }
  const dataDir = await openDataDir(config.data, dirOptions, env)
  try {
    return await openOver(dataDir, config, env, log, options)
  } catch (error) {
    await dataDir.close()
    throw error
  }
}

/** What the controller goes by. */
export function settingsOf(config: HubConfig): ControllerSettings {
  const { retentionMs, retentionBytes, segmentBytes, maxRecordBytes } = config.storage
  return {
    autoCreateTopics: config.autoCreateTopics,
    defaultPartitions: config.defaultPartitions,
    maxTopics: config.maxTopics,
    maxPartitions: config.maxPartitions,
    maxEdges: MAX_EDGES,
    defaultReplication: config.cluster.defaultReplication,
    topicDefaults: {
      retentionMs,
      retentionBytes,
      segmentBytes,
      maxRecordBytes,
      minInsyncReplicas: null,
      uncleanLeaderElection: false,
    },
    maxRecordBytesCeiling: config.limits.maxFrameBytes - FRAME_ROOM_BYTES,
  }
}

async function openOver(
  dataDir: DataDir,
  config: HubConfig,
  env: Env,
  log: Logger,
  options: EngineOptions,
): Promise<ClusterEngine> {
  const { clock } = env
  const settings = settingsOf(config)
  const failure = failureOf(dataDir)
  const onDamage = (damage: Damage): void => {
    log.error(
      damage,
      'metadata is damaged: topics, bindings or sessions may be missing; restore a backup if they are',
    )
  }
  const { nodeId } = config
  await refuseOthersDirectory(env.disk, dataDir.path, nodeId)
  const storage = await openQuorumStorage({ dataDir, disk: env.disk, clock, rng: env.rng, nodeId, onDamage })
  const access = await readPeerAccess(config, env.disk)
  const node = await openClusterNode({
    config,
    env,
    log,
    dataDir,
    storage,
    settings,
    access,
    failed: failure.fail,
    onPeers: async accept => options.onPeers?.(accept, access),
    waiting: reason => options.onWaiting?.(reason),
    stop: options.stop ?? new AbortController().signal,
  })
  const { metadata, clusterId, lifecycle } = node
  const enter = async (): Promise<number> => {
    const { config: members } = metadata.status()
    await claimDirectory(env.disk, dataDir.path, nodeId, storage.seatId(), members, log)
    // Who votes alone has all of the metadata at hand; others learn it when they register.
    if (metadata.isAlone()) await whenTrue(metadata, failure, () => metadata.activeTerm() !== null)
    return node.register()
  }
  const incarnation = await enter().catch(async (error: unknown) => {
    await node.close()
    throw error
  })
  // From here on the metadata is as it was when this node came, or later.
  const told = await dataDir.openState(DAMAGE_LOG, MAX_DAMAGE_BYTES)
  const gaps = createGaps(told, clock, log)
  const hubTime = createHubTime(clock.nowMs(), clock.monotonicMs())
  const maxBatchBytes = config.limits.maxFrameBytes
  const topicNow = (topicId: string): Topic | undefined => metadata.image().topicById(topicId)
  const role = (topicId: string, partition: number): Role | null =>
    roleIn(metadata.image(), topicId, partition, nodeId, incarnation)
  const { producerIdExpirationMs } = config.storage
  const partitions = createPartitionTable({
    env,
    dataDir,
    gaps,
    hubTime,
    maxBatchBytes,
    producerIdExpirationMs,
    topic: topicNow,
    log,
    role,
  })
  tellRecovery(dataDir, log)
  await openExisting(dataDir, metadata, partitions, log)
  for (const topicId of await topicsWithSnapshots(env.disk, dataDir.path)) {
    const wasDeleted = metadata.image().deletedTopic(topicId) !== undefined
    if (wasDeleted) await removeSnapshots(env.disk, dataDir.path, topicId)
  }

  const { peers } = node
  const { replicaLagMaxMs, reassignBytesPerSecond } = config.cluster
  const replication = startReplication({
    clock,
    nodeId,
    incarnation,
    metadata,
    peers,
    partitions,
    replicaLagMaxMs,
    reassignBytesPerSecond,
    log,
  })
  const changes = countPartitionChanges(metadata, nodeId)
  const replicas = replicationReadings({
    clock,
    nodeId,
    image: metadata.image,
    partitions,
    replication: replication.stats,
    changes,
  })
  const topics = createTopics(metadata, partitions)
  const routes = createRoutes({ clock, nodeId, metadata, peers, partitions })
  const tails = createTails({ clock, routes, peers })
  const logs = createLogs({ clock, metadata, partitions, routes, tails, peers })
  const fleet = createFleet({ env, nodeId, metadata, logs, peers, log })
  const { presences } = fleet
  const answer = createCalls({ clock, partitions, routes, presences, gapLog: gaps.log })
  node.serve({
    call: (_, call) => {
      if (call.c === 'producer-snapshot' || call.c === 'stretch') return replication.answer(call)
      if (call.c !== 'controller') return answer(call)
      return Promise.reject(new TributaryError('not_available', `this node does not answer ${call.c}`))
    },
    replication,
  })
  node.begin()
  if (metadata.isAlone()) await whenTrue(metadata, failure, () => isSettled(node))
  const gapsTopic = metadata.image().topicByName(GAPS_TOPIC)
  // So that a gap and its notice share a commit from the first one on, where no other node leads `_gaps`.
  if (gapsTopic !== undefined && metadata.isAlone()) {
    await partitions.use(gapsTopic, 0, async () => undefined).catch(unlessRetriable)
  }
  gaps.begin({ nodeId, metadata, routes, peers, partitions })
  const maintenance = startMaintenance(env, hubTime, partitions, log)
  let closing: Promise<void> | null = null
  let marked = Promise.resolve()
  failure.listen(({ code, details }) => {
    if (code === 'fenced' && details.removed === true) marked = markRemoved(env.disk, dataDir.path, log)
  })

  async function close(): Promise<void> {
    await maintenance.stop()
    gaps.close()
    routes.close()
    replication.close()
    await eachAtMost(MAX_OPENING_AT_ONCE, [...partitions.open()], async partition => {
      await partition
        .snapshot(SNAPSHOT_AT_CLOSE_BYTES)
        .catch(error => log.warn({ reason: messageOf(error) }, 'no producer snapshot'))
    })
    await node.close()
    await marked
    await dataDir.close()
  }

  function stats(): EngineStats {
    const edges = fleet.local()
    const producers = { clients: 0, lanes: 0, evicted: 0 }
    for (const partition of partitions.open()) {
      const counted = partition.producerStats()
      producers.clients += counted.clients
      producers.lanes += counted.lanes
      producers.evicted += counted.evicted
    }
    return {
      data: dataDir.stats(),
      metadata: metadata.stats(),
      topics: topics.list().map(({ name, topicId, partitions: count, internal }) => {
        return { topic: name, topicId, partitions: count, internal, counters: partitions.counters(topicId) }
      }),
      edges: {
        known: edges.length,
        connected: edges.filter(edge => edge.connected).length,
        alarms: edges.reduce((total, edge) => total + edge.alarms.length, 0),
      },
      gapNoticeFailures: gaps.failures(),
      clockJumpMs: hubTime.jumpMs(),
      producers,
    }
  }

  let cached: { stats: EngineStats; atMs: number } | null = null
  const current = (): EngineStats => {
    const atMs = clock.monotonicMs()
    if (cached === null || atMs - cached.atMs > STATS_KEPT_MS) cached = { stats: stats(), atMs }
    return cached.stats
  }

  return {
    ports: {
      clusterId,
      nodeId: config.nodeId,
      topics,
      logs,
      fleet,
      cluster: createCluster(metadata),
      addresses: () => clientAddresses(metadata.image()),
      notReadyReason: () => {
        if (closing !== null) return 'the hub is stopping'
        return failure.error()?.message ?? lifecycle.notReadyReason()
      },
    },
    stats: current,
    readings: [...engineReadings(current), ...replicas, ...linkReadings(peers, routes, tails)],
    onFailed: failure.listen,
    leave: lifecycle.leave,
    close: () => {
      closing ??= close()
      return closing
    },
  }
}

function failureOf(dataDir: DataDir) {
  let failed: TributaryError | null = null
  const listeners: ((error: TributaryError) => void)[] = []
  function fail(error: TributaryError): void {
    if (failed !== null) return
    failed = error
    for (const listener of listeners.splice(0)) listener(error)
  }
  dataDir.onFailed(fail)
  return {
    fail,
    error: (): TributaryError | null => failed,
    listen: (listener: (error: TributaryError) => void): void => {
      if (failed === null) listeners.push(listener)
      else listener(failed)
    },
  }
}

/** Resolves when it is so, which only changes of the metadata make it. Rejects where the node fails. */
function whenTrue(
  metadata: QuorumMetadata,
  failure: ReturnType<typeof failureOf>,
  isSo: () => boolean,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const consider = (): void => {
      if (isSo()) resolve()
    }
    failure.listen(reject)
    metadata.onController(consider)
    metadata.onApplied(consider)
    consider()
  })
}

/** A node alone serves when it leads all there is, the hub's own topics too. */
function isSettled({ metadata, lifecycle }: ClusterNode): boolean {
  const image = metadata.image()
  const own = [GAPS_TOPIC, DEAD_TOPIC].every(name => image.topicByName(name) !== undefined)
  return own && lifecycle.notReadyReason() === null && image.todo().unplaced().size === 0
}

/** What nodes prove to each other that they belong together by. Rejects with `config_invalid` where a file can't be read. */
async function readPeerAccess({ cluster }: HubConfig, disk: Disk): Promise<PeerAccess> {
  const { peerSecret: secret, peerTls } = cluster
  if (peerTls === null) return { secret, tls: null }
  const pem = async (file: string): Promise<string> => {
    try {
      return utf8Text(await disk.readFile(file))
    } catch (cause) {
      throw new TributaryError('config_invalid', `${file} of cluster.peerTls can't be read`, { cause })
    }
  }
  const { certFile, keyFile, caFile } = peerTls
  const [certPem, keyPem, caPem] = await Promise.all([pem(certFile), pem(keyFile), pem(caFile)])
  return { secret, tls: { certPem: certificatesFrom(certFile, certPem), keyPem, caPem } }
}

function unlessRetriable(error: unknown): void {
  if (!isTributaryError(error) || !error.retriable) throw error
}

function tellRecovery({ recovery }: DataDir, log: Logger): void {
  for (const torn of recovery.tornTails) log.warn(torn, 'what a crash left unfinished was cut and kept aside')
  if (recovery.uncleanAsync)
    log.warn('the hub was not stopped in order under storage.flush async: what it acked last may be gone')
  if (recovery.belowDurableEnd) {
    log.error('the data directory ends before what it had acked: edges will send again what they still keep')
  }
}

/** Opens the partitions that have logs; removes what an interrupted deletion left. */
async function openExisting(
  dataDir: DataDir,
  metadata: QuorumMetadata,
  partitions: PartitionTable,
  log: Logger,
): Promise<void> {
  const image = metadata.image()
  await eachAtMost(MAX_OPENING_AT_ONCE, dataDir.logNames(), async name => {
    const [folder, topicId, number] = name.split('/')
    if (folder !== 't' || topicId === undefined) return
    const topic = image.topicById(topicId)
    if (topic === undefined) {
      if (image.deletedTopic(topicId) !== undefined) await deleteLeftover(dataDir, name, log)
      else log.error({ log: name }, 'a log belongs to no topic the metadata knows; it is left alone')
      return
    }
    const partition = Number(number)
    try {
      await partitions.openStored(topicId, partition)
    } catch (error) {
      log.error({ topic: topic.name, partition, reason: messageOf(error) }, 'a partition could not be opened')
    }
  })
}

/** A disk that can't remove files must not keep the hub from serving what it has. */
async function deleteLeftover(dataDir: DataDir, name: string, log: Logger): Promise<void> {
  try {
    await dataDir.deleteLog(name)
  } catch (error) {
    log.error(
      { log: name, reason: messageOf(error) },
      'the log of a deleted topic stays until the next start',
    )
  }
}

import type { Logger } from 'pino'
import { must } from '../../../common/assert.ts'
import type { HubConfig } from '../../../common/config-hub.ts'
import type { Env, Link } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { DataDir } from '../../../common/log/types.ts'
import { VERSION } from '../../../common/version.ts'
import type { PeerAnswer, PeerCall } from '../../../common/wire-peer.ts'
import type { ControllerSettings } from '../../controller/controller.ts'
import { watchDisk } from './disk-watch.ts'
import type { Duties } from './duties.ts'
import { createDuties } from './duties.ts'
import { freshTopicId } from './fleet.ts'
import { createJudge } from './judge.ts'
import { createLateReplication } from './late-replication.ts'
import type { Lifecycle } from './lifecycle.ts'
import { createLifecycle } from './lifecycle.ts'
import type { QuorumMetadata } from './metadata.ts'
import { createQuorumMetadata } from './metadata.ts'
import type { PeerAccess } from './peers/context.ts'
import { createPeers } from './peers/peers.ts'
import { whenDecided } from './quorum/joining.ts'
import type { LoadedMember } from './quorum/opening.ts'
import { foundCluster, joinCluster, loadMember } from './quorum/opening.ts'
import { createPast } from './quorum/past.ts'
import { SNAPSHOT_LIMITS } from './quorum/snapshots.ts'
import type { QuorumStorage } from './quorum/storage.ts'
import type { PeerIdentity, Peers, Replication } from './types.ts'

/** A node among nodes: its links, its part in the quorum, its registration; partitions are others'. */

export interface ClusterNodeContext {
  config: HubConfig
  env: Env
  log: Logger
  dataDir: DataDir
  storage: QuorumStorage
  settings: ControllerSettings
  access: PeerAccess
  /** The node can't go on. */
  failed(error: TributaryError): void
  /** Links of other nodes can be accepted from now on. */
  onPeers(accept: (link: Link) => void): Promise<void>
  /** Told what the node waits for, before it is registered. */
  waiting?: (reason: string) => void
  /** Ends the wait for others. */
  stop: AbortSignal
}

/** What the node's partitions do for other nodes. */
export interface NodeService {
  /** Any call but `controller`. */
  call(from: PeerIdentity, call: PeerCall): Promise<PeerAnswer>
  replication: Replication
}

export interface ClusterNode {
  clusterId: string
  metadata: QuorumMetadata
  peers: Peers
  lifecycle: Lifecycle
  /** Other nodes are served from now on. */
  serve(service: NodeService): void
  /** Registers the node; resolves with its incarnation when that is applied here, and with it all that was committed before. */
  register(): Promise<number>
  /** Its partitions are open: it tells that it lives, and is given what to lead. */
  begin(): void
  close(): Promise<void>
}

/** A link to another node, as configured. */
interface PeerAddress {
  readonly nodeId: number
  readonly address: string
}

/**
 * Opens this node's part in its cluster, founding or joining one where the directory is empty, which waits for others. Resolves when the
 * metadata follows. Rejects with `directory_newer_format`, `corrupt_log`, `config_invalid`, `closed`.
 */
export async function openClusterNode(context: ClusterNodeContext): Promise<ClusterNode> {
  const { config, env, log, storage, settings, failed, waiting = () => {} } = context
  const { clock } = env
  const { nodeId, cluster } = config
  const configured = cluster.peers.map(peerAddress)
  const loaded = await loadMember(storage)
  const past = createPast(
    {
      clock,
      log,
      nodeId,
      storage,
      configured: new Map(configured.map(peer => [peer.nodeId, peer.address])),
      timeoutMs: cluster.sessionTimeoutMs,
      stop: context.stop,
    },
    loaded,
  )
  const late = createLateReplication()
  let service: NodeService | null = null
  let metadata: QuorumMetadata | null = null
  let duties: Duties | null = null

  const peers = createPeers({
    env,
    log,
    self: () => ({ nodeId, directoryId: storage.seatId(), software: `tributary ${VERSION}` }),
    address: ownPeerAddress(config, configured),
    memoryOf: other => past.memoryOf(other),
    reminded: (from, memory) => past.reminded(from.nodeId, memory),
    clusterId: storage.clusterId,
    access: context.access,
    heartbeatMs: cluster.heartbeatMs,
    deadMs: cluster.sessionTimeoutMs,
    service: {
      frame: (from, frame) => {
        if (frame.t !== 'node-heartbeat') metadata?.receive(frame)
        else if (frame.nodeId === from.nodeId) duties?.heard(frame)
      },
      call: (from, call) => {
        if (call.c === 'controller' && metadata !== null) return metadata.answer(call)
        if (call.c !== 'controller' && service !== null) return service.call(from, call)
        const details = { judged: false, leader: null }
        return Promise.reject(new TributaryError('not_available', `node ${nodeId} is starting`, { details }))
      },
      replication: late.replication,
    },
  })

  async function founded(): Promise<LoadedMember> {
    const ids = configured.map(peer => peer.nodeId)
    const step = await whenDecided({
      clock,
      nodeId,
      peers: ids,
      links: peers,
      log,
      waiting,
      stop: context.stop,
    })
    if (step.t === 'join') {
      log.info({ clusterId: step.clusterId }, 'joining the cluster')
      return joinCluster(storage, step.clusterId)
    }
    const clusterId = freshTopicId(env)
    log.info({ clusterId }, 'founding a cluster')
    return foundCluster(storage, clusterId)
  }

  /** The directory as it is, or with another seat where it turns out to be an older copy. */
  async function trusted(found: LoadedMember): Promise<LoadedMember> {
    if (await past.isNewest(peers)) return found
    log.error(
      'the data directory is older than what the cluster knows of this node (put back from a copy, or a copy itself): it gives up its seat and takes from the others what it lacks',
    )
    await storage.forfeitSeat()
    return must(await loadMember(storage), 'a seat that was given up is followed by another one')
  }

  try {
    await context.onPeers(peers.accept)
    for (const [other, address] of past.addresses()) peers.locate(other, address)
    const member = loaded === null ? await founded() : await trusted(loaded)
    if (member !== loaded) peers.reintroduce()
    return over(member)
  } catch (error) {
    await peers.close()
    throw error
  }

  function over(member: LoadedMember): ClusterNode {
    const clusterId = storage.clusterId() ?? freshTopicId(env)
    const disk = watchDisk({ clock, log, dataDir: context.dataDir, isAlone: () => made.isAlone() })
    const { isAside } = disk
    const made = createQuorumMetadata(
      {
        clock,
        rng: env.rng,
        nodeId,
        electionTimeoutMs: cluster.electionTimeoutMs,
        storage,
        snapshots: SNAPSHOT_LIMITS,
        judge: createJudge(env, settings, nodeId),
        isAside,
        peers,
        otherNodes: peers.nodes,
      },
      member,
    )
    metadata = made
    past.follow(made, member, () => lifecycle.incarnation() !== null)
    const lifecycle = createLifecycle({
      clock,
      log,
      metadata: made,
      peers,
      heartbeatMs: cluster.heartbeatMs,
      sessionTimeoutMs: cluster.sessionTimeoutMs,
      nodeId,
      isAside,
      failed,
      waiting,
    })
    const times = { heartbeatMs: cluster.heartbeatMs, sessionTimeoutMs: cluster.sessionTimeoutMs }
    const { livingAs } = lifecycle
    const tasks = createDuties({
      env,
      log,
      nodeId,
      livingAs,
      isAside,
      clusterId,
      settings,
      times,
      metadata: made,
    })
    duties = tasks
    followAddresses(made, peers, configured, nodeId)
    made.onFailed(failed)
    peers.onLink((other, change) => {
      if (change === 'refused') {
        made.suspect(other)
        tasks.refused(other)
      } else if (change === 'up') {
        made.back(other)
        tasks.back(other)
      }
    })
    made.start()
    return {
      clusterId,
      metadata: made,
      peers,
      lifecycle,
      serve: given => {
        service = given
        late.serve(given.replication)
      },
      register: async () => {
        const startId = await past.beginStart()
        const registered = lifecycle.register({
          nodeId,
          startId,
          directoryId: storage.seatId(),
          peerAddress: ownPeerAddress(config, configured),
          httpAddress: cluster.advertisedHttp ?? config.http,
          rack: cluster.rack,
          software: `tributary ${VERSION}`,
          lostData: storage.lostData(),
        })
        const incarnation = await unlessStopped(registered, context.stop)
        await storage.forgetLoss()
        return incarnation
      },
      begin: () => {
        lifecycle.begin()
        tasks.kick()
      },
      close: async () => {
        disk.stop()
        lifecycle.stop()
        const idle = tasks.stop()
        // What a round has proposed may never be committed: it ends with the metadata.
        await made.close()
        await idle
        await peers.close()
      },
    }
  }
}

/** Rejects with `closed` as soon as the node is told to stop: who waits for a controller may wait for ever. */
async function unlessStopped<T>(running: Promise<T>, stop: AbortSignal): Promise<T> {
  let end = (): void => {}
  const stopped = new Promise<never>((_, reject) => {
    end = () => reject(new TributaryError('closed', 'stopped before the node was part of its cluster'))
  })
  if (stop.aborted) end()
  stop.addEventListener('abort', end)
  try {
    return await Promise.race([running, stopped])
  } finally {
    stop.removeEventListener('abort', end)
    running.catch(() => {})
  }
}

/** Dials the nodes that the metadata knows, and those configured that it does not know yet. */
function followAddresses(
  metadata: QuorumMetadata,
  peers: Peers,
  configured: readonly PeerAddress[],
  nodeId: number,
): void {
  const known = new Set<number>()

  function follow(): void {
    const wanted = new Map(configured.map(peer => [peer.nodeId, peer.address]))
    for (const node of metadata.image().nodes()) {
      if (node.peerAddress !== null) wanted.set(node.nodeId, node.peerAddress)
    }
    wanted.delete(nodeId)
    for (const gone of known) {
      if (wanted.has(gone)) continue
      known.delete(gone)
      peers.locate(gone, null)
    }
    for (const [other, address] of wanted) {
      known.add(other)
      peers.locate(other, address)
    }
  }

  metadata.onApplied(records => {
    if (records === null || records.some(({ type }) => ADDRESS_TYPES.has(type))) follow()
  })
  follow()
}

const ADDRESS_TYPES: ReadonlySet<string> = new Set(['node_registered', 'node_removed'])

function ownPeerAddress({ nodeId, cluster }: HubConfig, configured: readonly PeerAddress[]): string | null {
  return configured.find(peer => peer.nodeId === nodeId)?.address ?? cluster.peerListen
}

/** ID@HOST:PORT, as the configuration was checked to be. */
function peerAddress(text: string): PeerAddress {
  const at = text.indexOf('@')
  return { nodeId: Number(text.slice(0, at)), address: text.slice(at + 1) }
}

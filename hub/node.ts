import type { Logger } from 'pino'
import type { Address } from '../common/address.ts'
import { formatAddress, isAnyHost, parseAddress } from '../common/address.ts'
import { peerListenOf } from '../common/config-cluster.ts'
import type { HubConfig } from '../common/config-hub.ts'
import type { Env, Link } from '../common/env.ts'
import { messageOf, TributaryError } from '../common/errors.ts'
import type { PeerListener } from '../common/listen-node.ts'
import { listenForPeers } from '../common/listen-node.ts'
import type { Reading } from '../common/metrics.ts'
import { createMetrics } from '../common/metrics.ts'
import { wsLink } from '../common/net-node.ts'
import { VERSION } from '../common/version.ts'
import { SUBSCRIBE_PATH, UPLINK_PATH } from '../common/wire.ts'
import { PEER_LIMITS, PEER_PATH } from '../common/wire-peer.ts'
import { refuseOpenListener } from './endpoints/http/auth.ts'
import type { HttpEndpoint } from './endpoints/http/server.ts'
import { startHttp } from './endpoints/http/server.ts'
import type { StartingListener } from './endpoints/http/starting.ts'
import { listenWhileStarting } from './endpoints/http/starting.ts'
import type { AcceptSocket } from './endpoints/http/upgrade.ts'
import { acceptSubscriber, createSubscribeCounters } from './endpoints/subscribe/subscriber.ts'
import { acceptUplink, createUplinkCounters } from './endpoints/uplink/uplink.ts'
import type { EngineOptions } from './engines/cluster/engine.ts'
import { openClusterEngine } from './engines/cluster/engine.ts'
import type { PeerAccess } from './engines/cluster/peers/context.ts'
import type { Ports } from './ports.ts'

/** Puts a hub node together: the engine, and the endpoints in front of it. */

/** A running hub node. */
export interface Hub {
  /** Where edges, clients and REST find it. */
  address: Address
  ports: Ports
  /** Stops accepting, finishes what is in flight, closes connections with 1001, flushes and releases the data directory. Idempotent. */
  close(): Promise<void>
  /** Resolves where the hub can't go on, such as after a failed fdatasync: the process must exit non-zero. */
  failed: Promise<TributaryError>
}

/** What stands behind the endpoints. */
export interface Engine {
  ports: Ports
  readings: Reading[]
  onFailed(listener: (error: TributaryError) => void): void
  /** First of an orderly stop: others take over what it leads. */
  leave(): Promise<void>
  close(): Promise<void>
}

/**
 * Opens the data directory and serves it. Rejects with `config_invalid` where the hub would be open to a network without having
 * been told so, `port_in_use`, and as openClusterEngine does (`directory_in_use`, `directory_newer_format`; `closed` where `stop`
 * ended its wait for other nodes); nothing is left open then.
 */
export async function startHub(config: HubConfig, env: Env, log: Logger, stop?: AbortSignal): Promise<Hub> {
  refuseOpenListener({ ...config, address: listenAddress(config) })
  if (await env.disk.exists(`${config.data}/logs/edge`)) {
    const message = `${config.data} is the data directory of an edge: give the hub one of its own with --data`
    throw new TributaryError('config_invalid', message)
  }
  const { peers: others, advertisedHttp } = config.cluster
  if (others.length > 0 && advertisedHttp === null && isAnyHost(listenAddress(config).host))
    log.warn(
      { http: config.http },
      'clients are not told of this node: set cluster.advertisedHttp (--advertised-http)',
    )
  let peers: PeerListener | null = null
  let starting: StartingListener | null = null
  let reason = 'the node is starting'
  const onWaiting = (why: string): void => {
    reason = why
  }
  const onPeers: EngineOptions['onPeers'] = async (accept, access) => {
    starting = await answerWhileStarting(config, () => reason)
    peers = await listenToNodes(config, accept, access)
    if (peers !== null) log.info({ peers: formatAddress(peers.address) }, 'other nodes are listened for')
  }
  const releasePort = async (): Promise<void> => starting?.close()
  const stopListening = async (): Promise<void> => {
    await Promise.all([releasePort(), peers?.close()])
  }
  try {
    const options: EngineOptions = { onPeers, onWaiting, ...(stop === undefined ? {} : { stop }) }
    const engine = await openClusterEngine(config, env, log, options)
    try {
      await releasePort()
      const hub = await serveEngine(engine, config, env, log)
      return { ...hub, close: () => hub.close().finally(stopListening) }
    } catch (error) {
      await engine.close()
      throw error
    }
  } catch (error) {
    await stopListening()
    throw error
  }
}

/** Null where nobody could know the port yet. */
function answerWhileStarting(config: HubConfig, reason: () => string): Promise<StartingListener> | null {
  const address = listenAddress(config)
  return address.port === 0 ? null : listenWhileStarting(address, reason)
}

/** Null for a node alone. */
async function listenToNodes(
  { nodeId, cluster }: HubConfig,
  accept: (link: Link) => void,
  { secret, tls }: PeerAccess,
): Promise<PeerListener | null> {
  const place = peerListenOf(nodeId, cluster)
  if (place === null) return null
  const address = parseAddress(place)
  if (address === null) {
    throw new TributaryError('config_invalid', `cluster.peerListen is "${place}"; it must be HOST:PORT`)
  }
  const { maxFrameBytes } = PEER_LIMITS
  return listenForPeers({ address, path: PEER_PATH, secret, tls, maxFrameBytes, accept })
}

/** Serves an engine, which it closes at the end. Rejects as `startHttp` does, with the engine left open. */
export async function serveEngine(engine: Engine, config: HubConfig, env: Env, log: Logger): Promise<Hub> {
  const failed = new Promise<TributaryError>(resolve => engine.onFailed(resolve))
  const http = await listen(engine, config, env, log)
  const { ports } = engine
  log.info(
    { http: formatAddress(http.address), data: config.data, clusterId: ports.clusterId },
    'the hub is ready',
  )
  let closing: Promise<void> | null = null
  return {
    address: http.address,
    ports,
    failed,
    close: () => {
      closing ??= engine
        .leave()
        .catch(error => log.warn({ reason: messageOf(error) }, 'others must find out that this node is gone'))
        .then(() => http.close())
        .finally(() => engine.close())
      return closing
    },
  }
}

function listen(engine: Engine, config: HubConfig, env: Env, log: Logger): Promise<HttpEndpoint> {
  const { ports } = engine
  const { limits } = config
  const uplink = createUplinkCounters()
  const subscribe = createSubscribeCounters()
  const metrics = createMetrics()
  metrics.add(engine.readings)
  metrics.add(counterReadings('uplink', uplink))
  metrics.add(counterReadings('subscribe', subscribe))
  const acceptEdge: AcceptSocket = (socket, remote) =>
    acceptUplink(wsLink(socket, remote), { ports, env, log, limits, counters: uplink })
  const acceptClient: AcceptSocket = (socket, remote) =>
    acceptSubscriber(wsLink(socket, remote), { ports, env, log, limits, counters: subscribe })
  return startHttp({
    ports,
    clock: env.clock,
    codec: env.codec,
    log,
    metrics,
    software: { name: 'tributary', version: VERSION },
    address: listenAddress(config),
    tokens: config.tokens,
    allowAnonymous: config.allowAnonymous,
    limits: {
      maxConnections: limits.maxConnections,
      maxFrameBytes: limits.maxFrameBytes,
      maxBodyBytes: limits.maxBodyBytes,
    },
    upgrades: { [UPLINK_PATH]: acceptEdge, [SUBSCRIBE_PATH]: acceptClient },
  })
}

function listenAddress(config: HubConfig): Address {
  const address = parseAddress(config.http)
  if (address !== null) return address
  throw new TributaryError(
    'config_invalid',
    `http is "${config.http}"; it must be HOST:PORT, such as 127.0.0.1:7600`,
  )
}

/** Counters that are of now. */
const GAUGES: ReadonlySet<string> = new Set(['open', 'subscriptions'])

/** The plain counters of an endpoint as metrics. */
function counterReadings(endpoint: string, counters: object): Reading[] {
  return Object.keys(counters).map(key => {
    const gauge = GAUGES.has(key)
    const snake = key.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)
    return {
      name: `tributary_${endpoint}_${snake}${gauge ? '' : '_total'}`,
      help: `${snake.replaceAll('_', ' ')} of the ${endpoint} endpoint, see ${endpoint}'s counters.`,
      kind: gauge ? 'gauge' : 'counter',
      read: () => Number(Reflect.get(counters, key)),
    }
  })
}

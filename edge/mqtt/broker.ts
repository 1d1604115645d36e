/**
 * The MQTT 3.1.1 broker of an edge: aedes 1.2.0 between guards and the session log. What is taken is durable before it is acked;
 * local subscribers are served whether the hub is there or not. `$SYS` topics are off.
 */

import type { Socket } from 'node:net'
import type { Address } from '../../common/address.ts'
import type { EdgeMqttConfig } from '../../common/config-edge.ts'
import type { Env } from '../../common/env.ts'
import { isTributaryError, TributaryError } from '../../common/errors.ts'
import type { Ingest } from '../ports.ts'
import type { Router } from '../router.ts'
import { turnClock } from '../turn-clock.ts'
import { AedesBroker } from './aedes-broker.ts'
import { Bridge } from './bridge.ts'
import { guardHost, openConnections } from './connections.ts'
import { createHooks, listenToAedes } from './hooks.ts'
import { checkExposure, listen } from './listeners.ts'
import type { Logger } from './logger.ts'
import { limitLog } from './logger.ts'
import { openOpenIds } from './open-ids.ts'
import { createPersistence } from './persistence.ts'
import { openRetained } from './retained.ts'
import { OPEN_PREFIX, openSessionLog } from './session-log.ts'
import { Sessions } from './sessions.ts'
import type { MqttStats } from './stats.ts'
import { newCounters } from './stats.ts'
import type { Users } from './users.ts'
import { parseUsers } from './users.ts'
import { openWills } from './wills.ts'

/** Tells the wills of this start from those of earlier ones. */
const START_ID_BYTES = 6

export interface BrokerOptions {
  env: Env
  config: EdgeMqttConfig
  edgeId: string
  ingest: Ingest
  router: Router
  log: Logger
}

export interface Broker {
  mqttAddress: Address | null
  tlsAddress: Address | null
  stats(): MqttStats
  /** Takes a connection that did not come through the listeners. */
  accept(socket: Socket): void
  /** Stops listening and reading, acks what is on its way into the log, ends all connections. Wills stay stored. */
  close(): Promise<void>
}

/** Starts the broker; throws `config_invalid` or `port_in_use`. */
export async function createBroker(options: BrokerOptions): Promise<Broker> {
  const { config, env } = options
  checkExposure(config)
  const users = await readUsers(options)
  const log = limitLog(options.log, env.clock)
  const core = createCore({ ...options, log }, users)
  await core.aedes.listen()
  const listeners = await listen({ config, disk: env.disk, log, accept: core.accept }).catch(
    async (error: unknown) => {
      await core.close()
      throw error
    },
  )
  const mqttAddress = listeners.tcp?.address ?? null
  const tlsAddress = listeners.tls?.address ?? null
  log.info({ edge: options.edgeId, mqttAddress, tlsAddress }, 'MQTT is listening')
  return {
    mqttAddress,
    tlsAddress,
    stats: core.stats,
    accept: core.accept,
    close: async () => {
      const closed = Promise.all([listeners.tcp?.close(), listeners.tls?.close()])
      await core.close()
      await closed
    },
  }
}

async function readUsers({ config, env }: BrokerOptions): Promise<Users | null> {
  if (config.usersFile === null) return null
  try {
    return parseUsers(config.usersFile, await env.disk.readFile(config.usersFile))
  } catch (error) {
    if (isTributaryError(error)) throw error
    throw new TributaryError('config_invalid', `--mqtt-users: ${config.usersFile} can't be read`, {
      cause: error,
    })
  }
}

/** All of the broker but its listeners. */
function createCore(options: BrokerOptions, users: Users | null) {
  const { config, env, log } = options
  const counters = newCounters()
  const sessionLog = openSessionLog(options.ingest)
  const sessions = new Sessions(sessionLog, config.maxSessionStateBytes, counters)
  const retained = openRetained(sessionLog, config.maxRetainedBytes, counters)
  const openIds = openOpenIds(sessionLog.entries(OPEN_PREFIX))
  const bridge = new Bridge({
    router: options.router,
    log: sessionLog,
    sessions,
    retained,
    openIds,
    counters,
    maxStateBytes: config.maxSessionStateBytes,
    nowMs: turnClock(env.clock),
    failed: (guard, topic, error) => {
      const facts = { client: guard.client?.id, remote: guard.remote, topic, err: error.message }
      log.warn(facts, 'connection closed: its message could not be stored')
      guard.destroy(error)
    },
    resend: guard => {
      const facts = { client: guard.client?.id, remote: guard.remote, withheld: guard.withheld }
      log.info(facts, 'connection closed: there is room again for what it has no ack for')
      guard.destroy()
    },
  })
  options.ingest.onRoom(() => bridge.roomReturned())
  const wills = openWills({
    log: sessionLog,
    nowMs: env.clock.monotonicMs(),
    startId: Buffer.from(env.rng.bytes(START_ID_BYTES)).toString('hex'),
    publish: (will, done) => bridge.publishWill(will, done),
  })
  const host = guardHost({ config, clock: env.clock, log, counters, bridge })
  const parts = { config, users, log, clock: env.clock, host, counters, sessionLog, sessions, bridge, wills }
  const aedes = new AedesBroker({
    ...createHooks(parts),
    persistence: createPersistence({
      log: sessionLog,
      sessions,
      openIds,
      retained,
      bridge,
      holder: clientId => aedes.clients[clientId],
    }),
  })
  listenToAedes(aedes, parts)
  const connections = openConnections(aedes, parts)

  function stats(): MqttStats {
    return {
      ...counters,
      published: [...counters.published],
      connections: connections.count,
      inflight: connections.inflight(),
      subscriptions: sessions.index.size,
      sessions: sessions.count,
      queuedMessages: sessions.queuedMessages,
      openQos2: openIds.count,
      retainedMessages: retained.count,
      retainedBytes: sessionLog.retainedBytes,
      sessionStateBytes: sessionLog.stateBytes,
      wills: wills.count,
    }
  }

  async function close(): Promise<void> {
    await connections.close()
    await new Promise<void>(resolve => aedes.close(() => resolve()))
  }

  return { aedes, stats, close, accept: (socket: Socket) => connections.accept(socket) }
}

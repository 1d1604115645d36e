/**
 * The MQTT 3.1.1 broker of an edge: aedes 1.2.0 between guards and the session log. What is taken is durable before it is acked;
 * local subscribers are served whether the hub is there or not. `$SYS` topics are off.
 */

import type { Socket } from 'node:net'
import type { AuthenticateError, Client, ConnectPacket } from 'aedes'
import type { Address } from '../../common/address.ts'
import { assert } from '../../common/assert.ts'
import type { EdgeMqttConfig } from '../../common/config-edge.ts'
import type { Env } from '../../common/env.ts'
import { isTributaryError, messageOf, TributaryError } from '../../common/errors.ts'
import type { Ingest } from '../ports.ts'
import type { Router } from '../router.ts'
import { AedesBroker, internalClient } from './aedes-broker.ts'
import { Bridge } from './bridge.ts'
import { admitter, authenticate, openSession, SERVER_UNAVAILABLE, willFault } from './connect.ts'
import type { GuardHost } from './guard.ts'
import { Guard } from './guard.ts'
import { checkExposure, listen } from './listeners.ts'
import { openOpenIds } from './open-ids.ts'
import type { InboundPublish } from './packets.ts'
import { createPersistence } from './persistence.ts'
import { openRetained } from './retained.ts'
import { OPEN_PREFIX, openSessionLog } from './session-log.ts'
import { Sessions } from './sessions.ts'
import type { MqttCounters, MqttStats } from './stats.ts'
import { newCounters } from './stats.ts'
import { isReserved } from './topic-filter.ts'
import type { Users } from './users.ts'
import { parseUsers } from './users.ts'
import type { StoredWill, Will } from './wills.ts'
import { openWills } from './wills.ts'

/** Keepalive, CONNECT timeouts and due wills are looked after this often. */
const SWEEP_MS = 500
/** Filters one client may subscribe to; further ones are refused with 0x80 (MQTT 3.1.1 section 3.9.3). */
export const MAX_SUBSCRIPTIONS_PER_CLIENT = 1_000
/** Tells the wills of this start from those of earlier ones. */
const START_ID_BYTES = 6

/** What we need of pino. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
}

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
  /** Stops listening and ends all connections; what is on its way into the log is still acked if it can be. Wills stay stored. */
  close(): Promise<void>
}

/** Starts the broker; throws `config_invalid` or `port_in_use`. */
export async function createBroker(options: BrokerOptions): Promise<Broker> {
  const { config, env } = options
  checkExposure(config)
  const users = await readUsers(options)
  const core = createCore(options, users)
  await core.aedes.listen()
  const listeners = await listen({ config, disk: env.disk, log: options.log, accept: core.accept }).catch(
    async (error: unknown) => {
      await core.close()
      throw error
    },
  )
  const mqttAddress = listeners.tcp?.address ?? null
  const tlsAddress = listeners.tls?.address ?? null
  options.log.info({ edge: options.edgeId, mqttAddress, tlsAddress }, 'MQTT is listening')
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
  const { clock } = env
  const counters = newCounters()
  const sessionLog = openSessionLog(options.ingest)
  const sessions = new Sessions(sessionLog, config.maxSessionStateBytes, counters)
  const retained = openRetained(sessionLog, config.maxRetainedBytes, counters)
  const openIds = openOpenIds(sessionLog.entries(OPEN_PREFIX))
  const guards = new Set<Guard>()
  let closing = false

  const bridge = new Bridge({
    router: options.router,
    log: sessionLog,
    sessions,
    retained,
    openIds,
    counters,
    maxStateBytes: config.maxSessionStateBytes,
    nowMs: () => clock.nowMs(),
    nextCounter: () => aedes.nextCounter(),
    failed: (guard, topic, error) => {
      log.warn(
        { client: guard.client?.id, remote: guard.remote, topic, err: error.message },
        'connection closed: its message could not be stored',
      )
      guard.destroy(error)
    },
  })
  const wills = openWills({
    log: sessionLog,
    nowMs: clock.monotonicMs(),
    startId: Buffer.from(env.rng.bytes(START_ID_BYTES)).toString('hex'),
    publish: (will, done) => bridge.publishWill(will, done),
  })
  const openingParts = { log: sessionLog, sessions, wills, maxStateBytes: config.maxSessionStateBytes }

  const aedes = new AedesBroker({
    persistence: createPersistence({
      log: sessionLog,
      sessions,
      openIds,
      retained,
      bridge,
      nextCounter: () => aedes.nextCounter(),
      holder: clientId => aedes.clients[clientId],
    }),

    preConnect: (client, packet, done) => {
      const guard = guardOf(client)
      const will = willOf(packet)
      const fault = will === null ? null : willFault(will)
      if (fault !== null) {
        host.violated(guard, fault)
        done(new Error(fault), false)
        return
      }
      guard.connecting(packet.keepalive ?? 0, will)
      // aedes must keep neither: the guard knows when silence is not the client's, and for wills see wills.ts.
      packet.keepalive = 0
      delete packet.will
      done(null, true)
    },

    authenticate: (client, user, password, done) => {
      const guard = guardOf(client)
      const refuse = (returnCode: number) => {
        counters.refusedConnects++
        log.warn({ client: client.id, remote: guard.remote, user, returnCode }, 'connection refused')
        done(refusalError(returnCode), false)
      }
      authenticate(config, users, user, password).then(
        returnCode => {
          if (returnCode !== 0) {
            refuse(returnCode)
            return
          }
          if (client.closed) return
          openSession(openingParts, guard, client.id, client.clean, code =>
            code === 0 ? done(null, true) : refuse(code),
          )
        },
        (error: unknown) => {
          log.warn({ client: client.id, err: messageOf(error) }, 'credentials could not be checked')
          refuse(SERVER_UNAVAILABLE)
        },
      )
    },

    authorizePublish: (client, packet, done) => {
      if (client === null || !isInbound(packet)) {
        done(new Error('not from a guard'))
        return
      }
      // QoS 2 is appended in incomingStorePacket, after aedes has asked whether it is a resend.
      if (packet.qos === 2) done(null)
      else bridge.store(guardOf(client), client.id, packet, () => done(null))
    },

    authorizeSubscribe: (client, subscription, done) => {
      const refused =
        isReserved(subscription.topic) ||
        Object.keys(internalClient(client).subscriptions).length >= MAX_SUBSCRIPTIONS_PER_CLIENT ||
        (!client.clean && sessionLog.stateBytes > config.maxSessionStateBytes)
      done(null, refused ? null : subscription)
    },

    authorizeForward: (client, packet) => {
      // Retained messages come here with the QoS of their publisher (MQTT-3.8.4-6).
      if (packet.retain) packet.qos = sessions.lowerQos(internalClient(client), packet.topic, packet.qos)
      return packet
    },
  })

  aedes.on('connackSent', (connack, client) => {
    // aedes marks the client as connected right after this event; its packets must not come before.
    if (connack.returnCode === 0) clock.soon(() => guardOf(client).open())
  })
  aedes.on('clientReady', client => {
    const internal = internalClient(client)
    if (internal.closed) return
    const subscriber = sessions.attach(internal)
    for (const message of subscriber.queue) {
      if (message.sentTo !== internal) bridge.deliverQueued(internal, message)
    }
  })
  aedes.on('subscribe', (subscriptions, client) => {
    for (const { topic, qos } of subscriptions) {
      if (qos <= 2) sessions.subscribed(internalClient(client), topic, qos)
    }
  })
  aedes.on('unsubscribe', (filters, client) => {
    for (const filter of filters) sessions.unsubscribed(internalClient(client), filter)
  })
  aedes.on('clientDisconnect', client => sessions.detach(internalClient(client)))
  for (const event of ['clientError', 'connectionError'] as const) {
    aedes.on(event, (client, error) => {
      log.debug(
        { client: client.id, remote: guardOf(client).remote, err: error.message },
        'MQTT connection failed',
      )
    })
  }

  const host = guardHost(options, counters, config.maxInflight)

  function accept(socket: Socket): void {
    if (closing || guards.size >= config.maxConnections) {
      counters.connectionsRefused++
      socket.destroy()
      return
    }
    const guard = new Guard(socket, host)
    guards.add(guard)
    guard.client = internalClient(aedes.handle(guard))
    guard.once('close', () => {
      guards.delete(guard)
      if (guard.will !== null && !closing) endWill(guard, guard.will)
    })
  }

  function endWill(guard: Guard, will: StoredWill): void {
    // MQTT-3.1.2-8, MQTT-3.1.2-10; a connection that was never accepted has no will.
    if (guard.accepted && !guard.disconnected) wills.publish(will, clock.monotonicMs())
    else sessionLog.append(null, [{ key: will.key, value: null }], () => {})
  }

  function sweep(): void {
    const nowMs = clock.monotonicMs()
    for (const guard of guards) {
      if (guard.fresh && nowMs - guard.createdAtMs > config.connectTimeoutMs) {
        counters.connectTimeouts++
        guard.destroy(new Error('no CONNECT in time'))
      } else if (guard.keepaliveMs > 0 && !guard.paused && nowMs - guard.activeAtMs > guard.keepaliveMs) {
        // MQTT-3.1.2-24
        counters.keepaliveTimeouts++
        log.info({ client: guard.client?.id, remote: guard.remote }, 'connection closed: keepalive timeout')
        guard.destroy(new Error('keepalive timeout'))
      }
    }
    wills.sweep(nowMs)
    timer = clock.setTimer(sweep, SWEEP_MS)
  }
  let timer = clock.setTimer(sweep, SWEEP_MS)

  function stats(): MqttStats {
    let inflight = 0
    for (const guard of guards) inflight += guard.inflight
    return {
      ...counters,
      published: [...counters.published],
      connections: guards.size,
      inflight,
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
    closing = true
    timer.cancel()
    const ended = [...guards].map(guard => new Promise<void>(resolve => guard.once('close', () => resolve())))
    for (const guard of guards) guard.destroy()
    await Promise.all(ended)
    await new Promise<void>(resolve => aedes.close(() => resolve()))
  }

  return { aedes, accept, stats, close }
}

function guardHost(
  { config, env: { clock }, log }: BrokerOptions,
  counters: MqttCounters,
  maxInflight: number,
): GuardHost {
  let dirty: Guard[] = []
  const flushAll = () => {
    const guards = dirty
    dirty = []
    for (const guard of guards) guard.flush()
  }
  return {
    clock,
    counters,
    maxInflight,
    maxPacketBytes: config.maxPacketBytes,
    flushSoon: guard => {
      if (dirty.push(guard) === 1) clock.soon(flushAll)
    },
    admit: admitter(log, counters),
    violated: (guard, reason) => {
      log.warn({ client: guard.client?.id, remote: guard.remote }, `connection closed: ${reason}`)
    },
  }
}

function guardOf(client: Client): Guard {
  const { conn } = client
  assert(conn instanceof Guard, 'every connection comes through a guard')
  return conn
}

function willOf({ will }: ConnectPacket): Will | null {
  if (will === undefined) return null
  const { topic, payload, qos = 0, retain = false } = will
  return { topic, payload: Buffer.from(payload), qos, retain }
}

function isInbound(packet: object): packet is InboundPublish {
  return 'body' in packet
}

function refusalError(returnCode: number): AuthenticateError {
  return Object.assign(new Error('connection refused'), { returnCode })
}

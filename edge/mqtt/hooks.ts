/** What aedes asks us and tells us. */

import type { AedesOptions, AuthenticateError, Client, ConnectPacket } from 'aedes'
import { assert } from '../../common/assert.ts'
import type { EdgeMqttConfig } from '../../common/config-edge.ts'
import type { Clock } from '../../common/env.ts'
import { messageOf } from '../../common/errors.ts'
import type { AedesBroker } from './aedes-broker.ts'
import { internalClient } from './aedes-broker.ts'
import type { Bridge } from './bridge.ts'
import { authenticate, openSession, SERVER_UNAVAILABLE, willFault } from './connect.ts'
import type { GuardHost } from './guard.ts'
import { Guard } from './guard.ts'
import type { Logger } from './logger.ts'
import type { SessionLog } from './session-log.ts'
import type { Sessions } from './sessions.ts'
import { MAX_SUBSCRIPTIONS_PER_CLIENT } from './sessions.ts'
import type { MqttCounters } from './stats.ts'
import { isReserved } from './topic-filter.ts'
import type { Users } from './users.ts'
import type { Will, Wills } from './wills.ts'

export interface HooksParts {
  config: EdgeMqttConfig
  users: Users | null
  clock: Clock
  log: Logger
  host: GuardHost
  counters: MqttCounters
  sessionLog: SessionLog
  sessions: Sessions
  bridge: Bridge
  wills: Wills
}

type Hooks = Required<
  Pick<AedesOptions, 'preConnect' | 'authenticate' | 'authorizeSubscribe' | 'authorizeForward'>
>

export function createHooks(parts: HooksParts): Hooks {
  const { config, sessionLog, sessions } = parts
  return {
    preConnect: (client, packet, done) => {
      const guard = guardOf(client)
      const will = willOf(packet)
      const fault = will === null ? null : willFault(will)
      if (fault !== null) {
        parts.host.violated(guard, fault)
        done(new Error(fault), false)
        return
      }
      guard.connecting(packet.keepalive ?? 0, will)
      // aedes must keep neither: the guard knows when silence is not the client's, and for wills see wills.ts.
      packet.keepalive = 0
      delete packet.will
      done(null, true)
    },

    authenticate: authenticator(parts),

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
  }
}

function authenticator(parts: HooksParts): Hooks['authenticate'] {
  const { config, users, log, counters, sessionLog, sessions, wills } = parts
  const opening = { log: sessionLog, sessions, wills, maxStateBytes: config.maxSessionStateBytes }
  return (client, user, password, done) => {
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
        openSession(opening, guard, client.id, client.clean, code =>
          code === 0 ? done(null, true) : refuse(code),
        )
      },
      (error: unknown) => {
        log.warn({ client: client.id, err: messageOf(error) }, 'credentials could not be checked')
        refuse(SERVER_UNAVAILABLE)
      },
    )
  }
}

/** Keeps guards and subscriptions in step with aedes. */
export function listenToAedes(aedes: AedesBroker, parts: HooksParts): void {
  const { sessions, bridge, clock, log } = parts
  aedes.on('connackSent', (connack, client) => {
    if (connack.returnCode !== 0) return
    const guard = guardOf(client)
    guard.accepted = true
    // aedes marks the client as connected right after this event; its packets must not come before.
    clock.soon(() => guard.open())
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
      const facts = { client: client.id, remote: guardOf(client).remote, err: error.message }
      log.debug(facts, 'MQTT connection failed')
    })
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

function refusalError(returnCode: number): AuthenticateError {
  return Object.assign(new Error('connection refused'), { returnCode })
}

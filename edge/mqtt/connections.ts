/** The connections of a broker: lets them in, watches over keepalive and CONNECT timeouts, ends them. */

import type { Socket } from 'node:net'
import type { EdgeMqttConfig } from '../../common/config-edge.ts'
import type { Clock } from '../../common/env.ts'
import { pause } from '../../common/pause.ts'
import type { AedesBroker } from './aedes-broker.ts'
import { internalClient } from './aedes-broker.ts'
import type { Bridge } from './bridge.ts'
import { admitter } from './connect.ts'
import type { GuardHost } from './guard.ts'
import { Guard } from './guard.ts'
import type { Logger } from './logger.ts'
import type { SessionLog } from './session-log.ts'
import type { MqttCounters } from './stats.ts'
import type { StoredWill, Wills } from './wills.ts'

/** Keepalive, CONNECT timeouts and due wills are looked after this often. */
const SWEEP_MS = 500
/** How long `close` waits for what is on its way into the log, so that it is acked. */
const DRAIN_MS = 1_000
const DRAIN_POLL_MS = 5

export interface ConnectionsParts {
  config: EdgeMqttConfig
  clock: Clock
  log: Logger
  counters: MqttCounters
  host: GuardHost
  sessionLog: SessionLog
  wills: Wills
}

export interface Connections {
  readonly count: number
  /** Publishes of all connections taken and not yet durable. */
  inflight(): number
  accept(socket: Socket): void
  /** Ends all connections once what they sent is acked; their wills stay stored, for the next start to decide on. */
  close(): Promise<void>
}

export function openConnections(aedes: AedesBroker, parts: ConnectionsParts): Connections {
  const { config, clock, counters, log, wills } = parts
  const guards = new Set<Guard>()
  let closing = false
  let timer = clock.setTimer(sweep, SWEEP_MS)

  function accept(socket: Socket): void {
    if (closing || guards.size >= config.maxConnections) {
      counters.connectionsRefused++
      socket.destroy()
      return
    }
    const guard = new Guard(socket, parts.host)
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
    else parts.sessionLog.append(null, [{ key: will.key, value: null }], () => {})
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

  function inflight(): number {
    let sum = 0
    for (const guard of guards) sum += guard.inflight
    return sum
  }

  async function drained(): Promise<void> {
    const deadlineMs = clock.monotonicMs() + DRAIN_MS
    while (inflight() > 0 && clock.monotonicMs() < deadlineMs) {
      await pause(clock, DRAIN_POLL_MS)
    }
  }

  return {
    get count() {
      return guards.size
    },
    inflight,
    accept,
    close: async () => {
      closing = true
      timer.cancel()
      for (const guard of guards) guard.stopReading()
      await drained()
      const ended = [...guards].map(
        guard => new Promise<void>(resolve => guard.once('close', () => resolve())),
      )
      for (const guard of guards) guard.destroy()
      await Promise.all(ended)
    },
  }
}

/** What the guards share: one flush a turn for all that have output. */
export function guardHost(
  parts: Pick<ConnectionsParts, 'config' | 'clock' | 'log' | 'counters'> & { bridge: Bridge },
): GuardHost {
  const { config, clock, log, counters, bridge } = parts
  let dirty: Guard[] = []
  const flushAll = () => {
    const guards = dirty
    dirty = []
    for (const guard of guards) guard.flush()
  }
  return {
    clock,
    counters,
    maxInflight: config.maxInflight,
    maxPacketBytes: config.maxPacketBytes,
    flushSoon: guard => {
      if (dirty.push(guard) === 1) clock.soon(flushAll)
    },
    publish: (guard, client, packet) => bridge.publish(guard, client, packet),
    release: (guard, client, packetId) => bridge.release(guard, client, packetId),
    admit: admitter(log, counters),
    violated: (guard, reason) => {
      log.warn({ client: guard.client?.id, remote: guard.remote }, `connection closed: ${reason}`)
    },
  }
}

/**
 * From MQTT to the local log and to local subscribers: routes each message to its record, appends it in one commit with what it
 * changes in session state, and only when that is durable acks it and serves local subscribers.
 *
 * A failed append means no ack: the connection is closed and counted. Where the topic is full and its policy is to reject, only
 * that ack is withheld and the connection is served on; over MAX_WITHHELD it is closed. Clients send again what they have no ack for
 * when they connect (MQTT-4.4.0-1), so once there is room these connections are closed.
 */

import type { TributaryError } from '../../common/errors.ts'
import { isTributaryError } from '../../common/errors.ts'
import type { StateEntry } from '../../common/log/types.ts'
import type { RoutedRecord } from '../ports.ts'
import type { Publish, Router } from '../router.ts'
import type { InternalClient } from './aedes-broker.ts'
import { BROKER_ID } from './aedes-broker.ts'
import type { Guard } from './guard.ts'
import type { OpenId, OpenIds } from './open-ids.ts'
import type { InboundPublish } from './packets.ts'
import { ACK } from './packets.ts'
import type { Retained } from './retained.ts'
import type { Message, SessionLog } from './session-log.ts'
import { contentDigest, openKey } from './session-log.ts'
import type { Enqueued, QueuedMessage, Sessions } from './sessions.ts'
import type { MqttCounters } from './stats.ts'
import type { StoredWill } from './wills.ts'

/** Withheld acks on one connection before it is closed: the client's window is long full by then. */
export const MAX_WITHHELD = 1_000

export interface BridgeOptions {
  router: Router
  log: SessionLog
  sessions: Sessions
  retained: Retained
  openIds: OpenIds
  counters: MqttCounters
  maxStateBytes: number
  nowMs(): number
  /** Tells of a connection that is closed because its message could not be stored. */
  failed(guard: Guard, topic: string, error: TributaryError): void
  /** Tells of a connection that is closed so that its client sends again what was withheld. */
  resend(guard: Guard): void
}

const NO_ENTRIES: readonly StateEntry[] = []

export class Bridge {
  readonly #options: BridgeOptions
  #counter = 0
  /** Open connections with withheld acks. */
  readonly #withheld = new Set<Guard>()
  /** Reused for every message, for the router keeps none. */
  readonly #routing: Publish = { topic: '', payload: new Uint8Array(0), clientId: '', nowMs: 0 }

  constructor(options: BridgeOptions) {
    this.#options = options
  }

  /** Takes a PUBLISH. Its ack leaves once the record is durable, and never where it is not; acks leave in order (MQTT-4.6.0-2). */
  publish(guard: Guard, client: InternalClient, packet: InboundPublish): void {
    if (packet.qos === 2) {
      this.#publishQos2(guard, client, packet)
      return
    }
    // The packet itself must not wait for the commit: it holds the chunk that it came in.
    const { topic, qos, packetId } = packet
    this.#append(packet, client.id, NO_ENTRIES, error => {
      if (error !== undefined) this.#failed(guard, topic, qos, error)
      else if (qos === 1) guard.acknowledge(ACK.puback, packetId)
      guard.completed()
    })
  }

  #publishQos2(guard: Guard, client: InternalClient, packet: InboundPublish): void {
    const { openIds, counters } = this.#options
    const { packetId } = packet
    const digest = contentDigest(packet.body ?? packet.payload, packet.retain)
    // Decided and reserved in the turn in which the packet came, so that a resend in flight waits for the first.
    const verdict = openIds.claim(client.id, packetId, digest)
    if (verdict.kind === 'new') {
      this.#storeQos2(guard, client, packet, verdict.id)
    } else if (verdict.kind === 'too-many') {
      counters.protocolViolations++
      guard.destroy(new Error('the client releases none of its QoS 2 packet ids'))
    } else {
      counters.duplicates++
      const answer = (durable: boolean) => {
        if (durable) guard.acknowledge(ACK.pubrec, packetId)
        guard.completed()
      }
      if (verdict.id.durable) answer(true)
      else verdict.id.waiting.push(answer)
    }
  }

  /** Stores record and packet id in one commit. */
  #storeQos2(guard: Guard, client: InternalClient, packet: InboundPublish, id: OpenId): void {
    const { openIds, log, maxStateBytes, counters } = this.#options
    const { topic, qos, packetId } = packet
    if (!client.clean && log.stateBytes > maxStateBytes) {
      openIds.abandon(client.id, packetId, id)
      counters.appendFailures++
      guard.destroy(new Error('no room for session state (mqtt.maxSessionStateBytes)'))
      return
    }
    const entries = client.clean ? NO_ENTRIES : [{ key: openKey(client.id, packetId), value: id.digest }]
    this.#append(packet, client.id, entries, error => {
      if (error === undefined) {
        guard.acknowledge(ACK.pubrec, packetId)
        openIds.settle(id)
      } else {
        openIds.abandon(client.id, packetId, id)
        this.#failed(guard, topic, qos, error)
      }
      guard.completed()
    })
  }

  /** Takes a PUBREL. PUBCOMP waits for the removal: a client that has it may use the id again, with the same content. */
  release(guard: Guard, client: InternalClient, packetId: number): void {
    const { openIds, log } = this.#options
    openIds.release(client.id, packetId)
    if (client.clean) {
      guard.acknowledge(ACK.pubcomp, packetId)
      return
    }
    // Also for an id that is not open, so that PUBCOMP never overtakes a removal on its way.
    log.append(null, [{ key: openKey(client.id, packetId), value: null }], error => {
      if (error === undefined) guard.acknowledge(ACK.pubcomp, packetId)
      else guard.destroy(error)
    })
  }

  /** Appends a will's record and removes the will in one commit. */
  publishWill(will: StoredWill, done: (published: boolean) => void): void {
    const entries = [{ key: will.key, value: null }]
    this.#append(will.message, will.clientId, entries, error => {
      if (error === undefined) this.#options.counters.willsPublished++
      done(error === undefined)
    })
  }

  #append(
    message: Message,
    clientId: string,
    fixed: readonly StateEntry[],
    done: (error?: TributaryError) => void,
  ): void {
    const { router, log, sessions, retained, counters } = this.#options
    const routing = this.#routing
    routing.topic = message.topic
    routing.payload = message.payload
    routing.clientId = clientId
    routing.nowMs = this.#options.nowMs()
    const record = router(routing)
    const retainedChange = message.retain ? retained.change(message) : null
    if (retainedChange !== null || sessions.index.size > 0) {
      this.#appendAndRoute(message, record, retainedChange, fixed, done)
      return
    }
    // Nothing here may hold the message, or what waits for a commit would be chunks of sockets.
    log.append(record, fixed, error => {
      if (error === undefined) counters.durable++
      done(error)
    })
  }

  /** The append of a message that is retained or may have local subscribers. */
  #appendAndRoute(
    message: Message,
    record: RoutedRecord | null,
    retainedChange: StateEntry | null,
    fixed: readonly StateEntry[],
    done: (error?: TributaryError) => void,
  ): void {
    const { log, sessions, retained, counters } = this.#options
    const entries = retainedChange === null ? [...fixed] : [...fixed, retainedChange]
    const enqueued = message.qos > 0 ? sessions.enqueue(message, entries) : []
    log.append(record, entries, error => {
      if (error === undefined) {
        counters.durable++
        if (retainedChange !== null) retained.apply(retainedChange)
        this.#route(message, enqueued)
      } else {
        for (const one of enqueued) sessions.arrived(one, true)
      }
      done(error)
    })
  }

  #failed(guard: Guard, topic: string, qos: number, error: TributaryError): void {
    const { counters, failed } = this.#options
    if (isTributaryError(error, 'disk_full')) {
      counters.withheld++
      if (qos > 0) this.#withhold(guard, topic, error)
      return
    }
    counters.appendFailures++
    failed(guard, topic, error)
  }

  #withhold(guard: Guard, topic: string, error: TributaryError): void {
    guard.withheld++
    if (guard.withheld > MAX_WITHHELD) this.#options.failed(guard, topic, error)
    if (guard.destroyed || this.#withheld.has(guard)) return
    this.#withheld.add(guard)
    guard.once('close', () => this.#withheld.delete(guard))
  }

  /** There is room for what was withheld. */
  roomReturned(): void {
    for (const guard of this.#withheld) {
      if (guard.destroyed) continue
      this.#options.counters.closedToResend++
      this.#options.resend(guard)
    }
  }

  // ------------------------------------------------------------------------------------ local subscribers

  /** A counter for a new message: aedes tells by it whether a client has had the message already. */
  nextCounter(): number {
    return ++this.#counter
  }

  #route(message: Message, enqueued: readonly Enqueued[]): void {
    const { sessions } = this.#options
    const matches = sessions.index.match(message.topic)
    if (matches.length === 0 && enqueued.length === 0) return
    const brokerCounter = this.nextCounter()
    for (const one of enqueued) {
      one.message.brokerCounter = brokerCounter
      if (sessions.arrived(one, false) && one.subscriber.client !== null) {
        this.deliverQueued(one.subscriber.client, one.message)
      }
    }
    for (const { key: subscriber, qos: granted } of matches) {
      const client = subscriber.client
      if (client === null || enqueued.some(one => one.subscriber === subscriber)) continue
      this.#deliver(client, message.topic, message.payload, Math.min(granted, message.qos), brokerCounter)
    }
  }

  /** Sends a queued message to a client that is connected. */
  deliverQueued(client: InternalClient, message: QueuedMessage): void {
    message.sentTo = client
    if (message.brokerCounter === 0) message.brokerCounter = this.nextCounter()
    this.#deliver(client, message.topic, message.payload, message.qos, message.brokerCounter)
  }

  #deliver(
    client: InternalClient,
    topic: string,
    payload: Uint8Array,
    qos: number,
    brokerCounter: number,
  ): void {
    this.#options.counters.delivered++
    // MQTT-3.3.1-9: to a subscription that existed before, RETAIN is 0.
    const delivery = {
      cmd: 'publish' as const,
      brokerId: BROKER_ID,
      brokerCounter,
      topic,
      payload,
      qos,
      retain: false,
      dup: false,
    }
    if (qos === 0) client.deliver0(delivery, nothing)
    else client.deliverQoS(delivery, nothing)
  }
}

function nothing(): void {}

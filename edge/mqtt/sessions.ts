/**
 * Local subscribers: who subscribes to what, and for sessions with clean=0 the messages they have not acked. A message for such a
 * session goes into the session log in one commit with its record, before the publisher's ack, so that a crash in between
 * loses nothing that was acked. Messages of QoS 0 are not queued for clients that are away.
 */

import type { StateEntry } from '../../common/log/types.ts'
import type { InternalClient } from './aedes-broker.ts'
import type { Message, SessionLog } from './session-log.ts'
import {
  decodeMessage,
  encodeMessage,
  QUEUE_PREFIX,
  queueKey,
  SESSION_PREFIX,
  sessionKey,
  splitKey,
} from './session-log.ts'
import type { MqttCounters } from './stats.ts'
import { SubscriptionIndex } from './topic-filter.ts'

/** Filters one client may subscribe to; further ones are refused with 0x80 (MQTT 3.1.1 section 3.9.3). */
export const MAX_SUBSCRIPTIONS_PER_CLIENT = 1_000
/** Messages held for one session, sent or not; further ones are not queued, and counted. */
export const MAX_QUEUED_PER_SESSION = 1_000
/** Room that queues leave to session state that is more urgent: open QoS 2 ids, wills, subscriptions. */
const QUEUE_SHARE = 0.5

export interface QueuedMessage {
  number: number
  topic: string
  payload: Uint8Array
  qos: number
  /** aedes' name for the message; 0 until it has one. */
  brokerCounter: number
  /** Set once sent. */
  messageId: number | undefined
  /** QoS 2: PUBREC came. */
  released: boolean
  /** The connection it was last sent on. */
  sentTo: InternalClient | null
}

/** A connected client or a session with clean=0, connected or not. */
export interface Subscriber {
  clientId: string
  persistent: boolean
  /** Null while away. */
  client: InternalClient | null
  subscriptions: Map<string, number>
  queue: QueuedMessage[]
  /** Queued, but not durable yet. */
  arriving: number
  nextNumber: number
  /** No CONNACK told the client of this session yet. */
  isNew: boolean
}

/** A message on its way into a session's queue. */
export interface Enqueued {
  subscriber: Subscriber
  message: QueuedMessage
}

export class Sessions {
  readonly index = new SubscriptionIndex<Subscriber>()
  readonly #log: SessionLog
  readonly #maxStateBytes: number
  readonly #counters: MqttCounters
  readonly #persistent = new Map<string, Subscriber>()
  readonly #connected = new Map<InternalClient, Subscriber>()

  constructor(log: SessionLog, maxStateBytes: number, counters: MqttCounters) {
    this.#log = log
    this.#maxStateBytes = maxStateBytes
    this.#counters = counters
    for (const [key, value] of log.entries(SESSION_PREFIX)) {
      const subscriber = this.#create(key.slice(SESSION_PREFIX.length), true)
      subscriber.isNew = false
      for (const [filter, qos] of readSubscriptions(value)) this.#subscribe(subscriber, filter, qos)
    }
    for (const [key, value] of log.entries(QUEUE_PREFIX)) this.#restoreMessage(key, value)
  }

  #restoreMessage(key: string, value: Uint8Array): void {
    const { clientId, rest } = splitKey(key, QUEUE_PREFIX)
    const subscriber = this.#persistent.get(clientId)
    if (subscriber === undefined) return
    const { topic, payload, qos, number: messageId, released } = decodeMessage(value)
    const number = Number(rest)
    subscriber.nextNumber = number + 1
    subscriber.queue.push({
      number,
      topic,
      payload,
      qos,
      brokerCounter: 0,
      messageId: messageId === 0 ? undefined : messageId,
      released,
      sentTo: null,
    })
  }

  #create(clientId: string, persistent: boolean): Subscriber {
    const subscriber: Subscriber = {
      clientId,
      persistent,
      client: null,
      subscriptions: new Map(),
      queue: [],
      arriving: 0,
      nextNumber: 0,
      isNew: true,
    }
    if (persistent) this.#persistent.set(clientId, subscriber)
    return subscriber
  }

  get count(): number {
    return this.#persistent.size
  }

  get queuedMessages(): number {
    let sum = 0
    for (const { queue } of this.#persistent.values()) sum += queue.length
    return sum
  }

  session(clientId: string): Subscriber | undefined {
    return this.#persistent.get(clientId)
  }

  // ------------------------------------------------------------------------------------------ sessions

  /** The entry that makes a session with clean=0 known, to be appended before CONNACK; null where it is already. */
  begin(clientId: string): StateEntry | null {
    if (this.#persistent.has(clientId)) return null
    return subscriptionsEntry(this.#create(clientId, true))
  }

  /** The entries that end a session (CONNECT with clean=1, MQTT-3.1.2-6), its open inbound ids apart. */
  end(clientId: string): StateEntry[] {
    const subscriber = this.#persistent.get(clientId)
    if (subscriber === undefined) return []
    this.#persistent.delete(clientId)
    this.#unsubscribeAll(subscriber)
    const removals = subscriber.queue.map(message => ({
      key: queueKey(clientId, message.number),
      value: null,
    }))
    return [{ key: sessionKey(clientId), value: null }, ...removals]
  }

  /** A session whose CONNECT failed before it became durable. */
  forget(clientId: string): void {
    const subscriber = this.#persistent.get(clientId)
    if (subscriber?.isNew) this.#persistent.delete(clientId)
  }

  // ------------------------------------------------------------------------------------- subscriptions

  /** Changes subscriptions of a session; the entry to append, null where nothing changes. */
  change(
    clientId: string,
    added: readonly [string, number][],
    removed: readonly string[],
  ): StateEntry | null {
    const subscriber = this.#persistent.get(clientId)
    if (subscriber === undefined) return null
    let changed = false
    for (const [filter, qos] of added) {
      const { subscriptions } = subscriber
      if (subscriptions.get(filter) === qos) continue
      if (subscriptions.size >= MAX_SUBSCRIPTIONS_PER_CLIENT && !subscriptions.has(filter)) continue
      this.#subscribe(subscriber, filter, qos)
      changed = true
    }
    for (const filter of removed) {
      if (!subscriber.subscriptions.delete(filter)) continue
      this.index.delete(filter, subscriber)
      changed = true
    }
    return changed ? subscriptionsEntry(subscriber) : null
  }

  /** A connected client subscribed; sessions with clean=0 have been told by `change` before. */
  subscribed(client: InternalClient, filter: string, qos: number): void {
    if (client.closed) return
    const subscriber = this.#connected.get(client) ?? this.attach(client)
    this.#subscribe(subscriber, filter, qos)
    const own = client.subscriptions[filter]
    // aedes lowers QoS by the subscription to the very topic, after we have computed it over all that match.
    if (own !== undefined) own.qos = 2
  }

  unsubscribed(client: InternalClient, filter: string): void {
    const subscriber = this.#connected.get(client)
    if (subscriber?.subscriptions.delete(filter)) this.index.delete(filter, subscriber)
  }

  #subscribe(subscriber: Subscriber, filter: string, qos: number): void {
    subscriber.subscriptions.set(filter, qos)
    this.index.set(filter, subscriber, qos)
  }

  #unsubscribeAll(subscriber: Subscriber): void {
    for (const filter of subscriber.subscriptions.keys()) this.index.delete(filter, subscriber)
  }

  /** The client is connected and gets messages from now on. */
  attach(client: InternalClient): Subscriber {
    const session = client.clean ? undefined : this.#persistent.get(client.id)
    // A SUBSCRIBE may have come before aedes was done with CONNECT.
    const subscriber = this.#connected.get(client) ?? session ?? this.#create(client.id, false)
    subscriber.client = client
    this.#connected.set(client, subscriber)
    for (const filter of Object.keys(client.subscriptions)) {
      const own = client.subscriptions[filter]
      if (own !== undefined) own.qos = 2
    }
    return subscriber
  }

  /** The QoS at which a client gets a message of `qos` by its subscriptions (MQTT-3.3.5-1). */
  lowerQos<Qos extends number>(client: InternalClient, topic: string, qos: Qos): Qos | 0 | 1 {
    const match = this.index.match(topic).find(({ key }) => key.client === client)
    if (match === undefined || match.qos >= qos) return qos
    return match.qos === 0 ? 0 : 1
  }

  detach(client: InternalClient): void {
    const subscriber = this.#connected.get(client)
    if (subscriber === undefined) return
    this.#connected.delete(client)
    if (subscriber.client === client) subscriber.client = null
    if (!subscriber.persistent) this.#unsubscribeAll(subscriber)
  }

  // -------------------------------------------------------------------------------------------- queues

  /** Queues a message for every session with clean=0 that subscribes to it, adding the entries to append. */
  enqueue(publish: Message, entries: StateEntry[]): Enqueued[] {
    const enqueued: Enqueued[] = []
    for (const { key: subscriber, qos: granted } of this.index.match(publish.topic)) {
      const qos = Math.min(granted, publish.qos)
      if (!subscriber.persistent || qos === 0) continue
      if (
        subscriber.queue.length + subscriber.arriving >= MAX_QUEUED_PER_SESSION ||
        this.#log.stateBytes > this.#maxStateBytes * QUEUE_SHARE
      ) {
        this.#counters.sessionQueueDropped++
        continue
      }
      const message: QueuedMessage = {
        number: subscriber.nextNumber++,
        topic: publish.topic,
        // The payload is a slice of a socket's chunk, which must not live as long as the queue.
        payload: Buffer.from(publish.payload),
        qos,
        brokerCounter: 0,
        messageId: undefined,
        released: false,
        sentTo: null,
      }
      subscriber.arriving++
      entries.push(messageEntry(subscriber, message))
      enqueued.push({ subscriber, message })
    }
    return enqueued
  }

  /** The commit that held queued messages is done. False where the session has ended meanwhile. */
  arrived({ subscriber, message }: Enqueued, failed: boolean): boolean {
    subscriber.arriving--
    if (failed) return false
    if (this.#persistent.get(subscriber.clientId) !== subscriber) {
      this.#log.append(null, [{ key: queueKey(subscriber.clientId, message.number), value: null }], () => {})
      return false
    }
    subscriber.queue.push(message)
    return true
  }

  /** Notes what a message was sent with. For QoS 2 the entry to append before it is sent, so that a crash resends it under the same id. */
  sent(subscriber: Subscriber, message: QueuedMessage, messageId: number): StateEntry | null {
    message.messageId = messageId
    return message.qos === 2 ? messageEntry(subscriber, message) : null
  }

  /** PUBREC came: PUBREL is what is resent from now on. Null where the id is not in the queue. */
  released(subscriber: Subscriber, messageId: number): StateEntry | null {
    const message = subscriber.queue.find(queued => queued.messageId === messageId && queued.qos === 2)
    if (message === undefined || message.released) return null
    message.released = true
    message.payload = Buffer.alloc(0)
    return messageEntry(subscriber, message)
  }

  /** PUBACK (QoS 1) or PUBCOMP (QoS 2) came: the message is done. */
  acked(subscriber: Subscriber, messageId: number, qos: 1 | 2): void {
    const at = subscriber.queue.findIndex(queued => queued.messageId === messageId && queued.qos === qos)
    const message = subscriber.queue[at]
    if (message === undefined) return
    subscriber.queue.splice(at, 1)
    const entry = { key: queueKey(subscriber.clientId, message.number), value: null }
    this.#log.append(null, [entry], () => {})
  }
}

function subscriptionsEntry(subscriber: Subscriber): StateEntry {
  const text = JSON.stringify([...subscriber.subscriptions])
  return { key: sessionKey(subscriber.clientId), value: Buffer.from(text) }
}

function readSubscriptions(value: Uint8Array): [string, number][] {
  const parsed: [string, number][] = JSON.parse(Buffer.from(value).toString('utf8'))
  return parsed
}

function messageEntry(subscriber: Subscriber, message: QueuedMessage): StateEntry {
  const { topic, payload, qos, messageId, released } = message
  const value = encodeMessage({ topic, payload, qos, retain: false, number: messageId ?? 0, released })
  return { key: queueKey(subscriber.clientId, message.number), value }
}

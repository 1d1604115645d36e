/**
 * aedes 1.2.0 with its routing replaced. What we use beyond its documented interface is typed here and checked at
 * runtime, so that another aedes fails at once and plainly. Read in its code:
 *
 * - `Client._parser` emits 'packet' to the handlers; it is fed by the guard instead of by aedes' own reading.
 * - `broker.publish` is called once a publish is stored, and not at all where the client has gone before its PUBACK. The bridge
 *   routes to local subscribers as soon as a record is durable, so ours does nothing and calls back at once: PUBREC must
 *   leave in the order of the PUBLISHes (MQTT-4.6.0-3), and a slow subscriber must not hold up a publisher.
 * - aedes lowers QoS by a client's subscription to the very topic and not by filters with wildcards; ours computes the
 *   QoS (MQTT-3.8.4-6, MQTT-3.3.5-1).
 * - `registerClient` would enter a client that closed while it connected, and `unregisterClient` removes whoever has
 *   that id by now.
 */

import type { EventEmitter } from 'node:events'
import type { AedesOptions, Client } from 'aedes'
import { Aedes } from 'aedes'
import { writeToStream } from 'mqtt-packet'
import { assert } from '../../common/assert.ts'
import { MAX_TOPIC_LEVELS } from './topic-filter.ts'

/** A message for a local subscriber, as aedes' `deliver` functions take it. */
export interface Delivery {
  cmd: 'publish'
  brokerId: string
  brokerCounter: number
  topic: string
  payload: Uint8Array
  qos: number
  retain: boolean
  dup: boolean
}

/** aedes' client with the internals we rely on. */
export interface InternalClient extends Client {
  _parser: EventEmitter & { parse(bytes: Uint8Array): number }
  _nextId: number
  /** Packets handed over and not done; the first is handled only where it makes this 1. */
  _parsingBatch: number
  subscriptions: Record<string, { qos: number } | undefined>
  deliver0(message: Delivery, done: () => void): void
  deliverQoS(message: Delivery, done: () => void): void
}

/** True where `client` is what aedes 1.2.0 makes. */
function isInternalClient(client: Client): client is InternalClient {
  return (
    '_parser' in client &&
    '_nextId' in client &&
    '_parsingBatch' in client &&
    'subscriptions' in client &&
    'deliver0' in client &&
    'deliverQoS' in client
  )
}

/** Asserts that a client is the aedes we know. */
export function internalClient(client: Client): InternalClient {
  assert(isInternalClient(client), 'this is not the aedes 1.2.0 that edge/mqtt was written against')
  return client
}

/** aedes' in-process event bus; nothing travels on it, for routing is ours. */
const NO_BUS = {
  on: (_topic: string, _listener: unknown, done?: () => void) => done?.(),
  removeListener: (_topic: string, _listener: unknown, done?: () => void) => done?.(),
  emit: (_packet: unknown, done?: () => void) => done?.(),
  close: (done?: () => void) => done?.(),
}

/** Sessions of our own outlive the process under this name; nothing else tells brokers apart. */
export const BROKER_ID = 'tributary'
/** aedes' heartbeat does nothing here; it only has to tick. */
const HEARTBEAT_MS = 3_600_000
/** The guard's sweep closes connections without CONNECT; aedes' own timer must not. */
const NEVER_MS = 0x7fffffff

// It would keep a buffer for each of 65,536 numbers, 8 MB from the first connection on; few packets go through it.
writeToStream.cacheNumbers = false

export type AedesBrokerOptions = Pick<
  AedesOptions,
  'preConnect' | 'authenticate' | 'authorizeSubscribe' | 'authorizeForward' | 'persistence'
>

export class AedesBroker extends Aedes {
  declare clients: Record<string, InternalClient | undefined>
  declare connectedClients: number

  constructor(options: AedesBrokerOptions) {
    super({
      ...options,
      id: BROKER_ID,
      mq: NO_BUS,
      heartbeatInterval: HEARTBEAT_MS,
      connectTimeout: NEVER_MS,
      maxTopicLevels: MAX_TOPIC_LEVELS,
      maxInflightInbound: 0,
      concurrency: 0,
    })
  }

  /** Called by aedes for what clients published, which the bridge has stored and routed already, and for its own `$SYS` messages. */
  override publish(_packet: unknown, client?: unknown, done?: unknown): void {
    const callback = typeof client === 'function' ? client : done
    if (typeof callback === 'function') callback(null)
  }

  /** Replaces aedes' own: a client that closed while it connected is not entered. */
  registerClient(client: InternalClient): void {
    const enter = () => {
      if (client.closed) return
      this.connectedClients++
      this.clients[client.id] = client
      this.emit('client', client)
    }
    const holder = this.clients[client.id]
    // MQTT-3.1.4-2
    if (holder === undefined) enter()
    else holder.close(enter)
  }

  /** Replaces aedes' own: only the holder of an id gives it up. */
  unregisterClient(client: InternalClient): void {
    if (this.clients[client.id] !== client) return
    this.deleteClient(client.id)
    this.emit('clientDisconnect', client)
  }

  /** Removes whoever holds the id. */
  deleteClient(clientId: string): void {
    this.connectedClients--
    delete this.clients[clientId]
  }
}

/**
 * aedes' persistence on top of the session log. aedes waits for these promises before it sends SUBACK and outbound QoS 2 packets, so
 * each resolves only when its change is durable. What clients publish, wills and retained messages are not stored through it: they go
 * into the commit of a record (bridge.ts) or of a CONNECT (connect.ts).
 */

import { Readable } from 'node:stream'
import type { StateEntry } from '../../common/log/types.ts'
import type { InternalClient } from './aedes-broker.ts'
import { BROKER_ID } from './aedes-broker.ts'
import type { Bridge } from './bridge.ts'
import { Guard } from './guard.ts'
import type { OpenIds } from './open-ids.ts'
import { removalOf } from './open-ids.ts'
import type { Retained } from './retained.ts'
import type { SessionLog } from './session-log.ts'
import type { Sessions } from './sessions.ts'
import { isReserved } from './topic-filter.ts'

/** Stands for "there is a session" among its subscriptions: aedes sets Session Present by their number. Refused on restore, as all of `$SYS`. */
const SESSION_PRESENT = { topic: '$SYS/session', qos: 0 }

export interface PersistenceParts {
  log: SessionLog
  sessions: Sessions
  openIds: OpenIds
  retained: Retained
  bridge: Bridge
  /** The connected client of that id. */
  holder(clientId: string): InternalClient | undefined
}

interface Subscription {
  topic: string
  qos: number
}

/** An outbound packet of aedes. */
interface OutboundPacket {
  cmd: string
  messageId?: number
  brokerCounter?: number
}

/** What aedes calls of a persistence; see aedes-persistence 11. */
export function createPersistence(parts: PersistenceParts) {
  const { log, sessions, openIds, retained } = parts

  const durable = (entries: readonly StateEntry[]) =>
    new Promise<void>((resolve, reject) => {
      log.append(null, entries, error => (error === undefined ? resolve() : reject(error)))
    })

  const guardOf = (client: InternalClient) => (client.conn instanceof Guard ? client.conn : null)

  return {
    // aedes wants this one to be an async function.
    async setup(): Promise<void> {},

    createRetainedStreamCombi: (filters: readonly string[]) => Readable.from(retainedOf(retained, filters)),

    async addSubscriptions(client: InternalClient, subscriptions: readonly Subscription[]): Promise<void> {
      const allowed = subscriptions.filter(({ topic }) => !isReserved(topic))
      const added = allowed.map(({ topic, qos }): [string, number] => [topic, qos])
      const entry = sessions.change(client.id, added, [])
      // Also where nothing changes: aedes asks once per filter, and the first change may still be on its way.
      await durable(entry === null ? [] : [entry])
    },

    async removeSubscriptions(client: InternalClient, filters: readonly string[]): Promise<void> {
      const entry = sessions.change(client.id, [], filters)
      if (entry !== null) await durable([entry])
    },

    /** At a CONNECT with clean=0, after connect.ts made sure of the session. */
    async subscriptionsByClient({ id }: { id: string }): Promise<Subscription[]> {
      const session = sessions.session(id)
      if (session === undefined) return []
      const subscriptions = [...session.subscriptions].map(([topic, qos]) => ({ topic, qos }))
      if (session.isNew) {
        session.isNew = false
        return subscriptions
      }
      return [SESSION_PRESENT, ...subscriptions]
    },

    /** At a CONNECT with clean=1: whatever session there was ends (MQTT-3.1.2-6). */
    async cleanSubscriptions(client: InternalClient): Promise<void> {
      const entries = sessions.end(client.id)
      if (entries.length === 0) return
      await durable([...entries, ...removalOf(client.id, openIds.releaseAll(client.id))])
    },

    /** aedes calls it when any client with clean=1 connects or closes, also one that was never let in. */
    async cleanIncoming(client: InternalClient): Promise<void> {
      const holder = parts.holder(client.id)
      const mayClean = holder === undefined ? guardOf(client)?.accepted === true : holder === client
      if (mayClean && sessions.session(client.id) === undefined) openIds.releaseAll(client.id)
    },

    // ----------------------------------------------------------------------------- outbound queues

    async outgoingUpdate(client: InternalClient, packet: OutboundPacket): Promise<void> {
      const session = client.clean ? undefined : sessions.session(client.id)
      if (session === undefined || packet.messageId === undefined) return
      let entry: StateEntry | null = null
      if (packet.cmd === 'pubrel') {
        entry = sessions.released(session, packet.messageId)
      } else {
        const message = session.queue.findLast(queued => queued.brokerCounter === packet.brokerCounter)
        if (message !== undefined) entry = sessions.sent(session, message, packet.messageId)
      }
      if (entry !== null) await durable([entry])
    },

    async outgoingClearMessageId(client: InternalClient, packet: OutboundPacket): Promise<void> {
      const session = client.clean ? undefined : sessions.session(client.id)
      if (session === undefined || packet.messageId === undefined) return
      sessions.acked(session, packet.messageId, packet.cmd === 'puback' ? 1 : 2)
    },

    outgoingStream: (client: InternalClient) => Readable.from(unacked(parts, client)),

    // ----------------------------------------------------------------- not ours: see the file's head

    async delWill(): Promise<void> {},
    streamWill: () => Readable.from([]),
    async destroy(): Promise<void> {},
  }
}

function* retainedOf(retained: Retained, filters: readonly string[]) {
  for (const filter of filters) {
    for (const message of retained.matching(filter)) yield { cmd: 'publish', ...message }
  }
}

/** What a session has not acked, in order, also what is queued while this is read. */
function* unacked({ sessions, bridge }: PersistenceParts, client: InternalClient) {
  const session = client.clean ? undefined : sessions.session(client.id)
  if (session === undefined) return
  const ids = session.queue.map(message => message.messageId ?? 0)
  // New packet ids must not meet those that are resent.
  client._nextId = (Math.max(0, ...ids) % 65_535) + 1
  let sent = -1
  while (true) {
    const message = session.queue.find(queued => queued.number > sent)
    if (message === undefined) return
    sent = message.number
    message.sentTo = client
    if (message.brokerCounter === 0) message.brokerCounter = bridge.nextCounter()
    yield {
      cmd: message.released ? 'pubrel' : 'publish',
      brokerId: BROKER_ID,
      brokerCounter: message.brokerCounter,
      topic: message.topic,
      payload: message.payload,
      qos: message.qos,
      retain: false,
      // MQTT-3.3.1-1; PUBREL has no such flag.
      dup: !message.released && message.messageId !== undefined,
      messageId: message.messageId,
    }
  }
}

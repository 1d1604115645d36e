/**
 * Inbound QoS 2: packet ids between PUBLISH and PUBREL (MQTT 3.1.1 section 4.3.3), so that a resend is told from a new
 * message. An id carries a digest of its content; an open id that comes with other content is a new message, for
 * some clients use one packet id for all and forget what they left open.
 *
 * Ids of sessions with clean=0 are kept in the session log, in one commit with their record; those of clean sessions
 * end with their connection (MQTT-3.1.2-6) and stay in memory.
 */

import type { StateEntry } from '../../common/log/types.ts'
import { OPEN_PREFIX, openKey, splitKey } from './session-log.ts'

/** Ids one client may hold open. Packet ids end at 65,535; a client that opens so many and releases none is broken. */
const MAX_OPEN_IDS_PER_CLIENT = 10_000

export interface OpenId {
  digest: Uint8Array
  /** Its record is durable: a resend is answered with PUBREC at once. */
  durable: boolean
  /** Resends that arrived before its outcome was known; told whether it is durable. */
  waiting: ((durable: boolean) => void)[]
}

/** What a PUBLISH of QoS 2 is: `new` has been reserved for the caller, `duplicate` must not be stored again. */
export type Verdict = { kind: 'new'; id: OpenId } | { kind: 'duplicate'; id: OpenId } | { kind: 'too-many' }

export interface OpenIds {
  readonly count: number
  /** Decides and, for a new message, reserves the id in the same turn. */
  claim(clientId: string, packetId: number, digest: Uint8Array): Verdict
  /** The record of a reserved id is durable. */
  settle(id: OpenId): void
  /** The record could not be stored: the id is free again. */
  abandon(clientId: string, packetId: number, id: OpenId): void
  /** Forgets an id; false where it is not open. */
  release(clientId: string, packetId: number): boolean
  /** Forgets all ids of a client; returns them. */
  releaseAll(clientId: string): number[]
}

/** Starts from the ids that the session log holds. */
export function openOpenIds(stored: readonly [string, Uint8Array][]): OpenIds {
  const clients = new Map<string, Map<number, OpenId>>()
  let count = 0

  function put(clientId: string, packetId: number, id: OpenId): void {
    let ids = clients.get(clientId)
    if (ids === undefined) {
      ids = new Map()
      clients.set(clientId, ids)
    }
    if (!ids.has(packetId)) count++
    ids.set(packetId, id)
  }

  function release(clientId: string, packetId: number): boolean {
    const ids = clients.get(clientId)
    if (!ids?.delete(packetId)) return false
    count--
    if (ids.size === 0) clients.delete(clientId)
    return true
  }

  for (const [key, digest] of stored) {
    const { clientId, rest } = splitKey(key, OPEN_PREFIX)
    put(clientId, Number(rest), { digest, durable: true, waiting: [] })
  }

  return {
    get count() {
      return count
    },
    claim: (clientId, packetId, digest) => {
      const ids = clients.get(clientId)
      const open = ids?.get(packetId)
      if (open !== undefined && Buffer.compare(open.digest, digest) === 0) {
        return { kind: 'duplicate', id: open }
      }
      if (open === undefined && ids !== undefined && ids.size >= MAX_OPEN_IDS_PER_CLIENT) {
        return { kind: 'too-many' }
      }
      const id: OpenId = { digest, durable: false, waiting: [] }
      put(clientId, packetId, id)
      return { kind: 'new', id }
    },
    settle: id => {
      id.durable = true
      tellWaiting(id, true)
    },
    abandon: (clientId, packetId, id) => {
      tellWaiting(id, false)
      if (clients.get(clientId)?.get(packetId) === id) release(clientId, packetId)
    },
    release,
    releaseAll: clientId => {
      const ids = [...(clients.get(clientId)?.keys() ?? [])]
      clients.delete(clientId)
      count -= ids.length
      return ids
    },
  }
}

function tellWaiting(id: OpenId, durable: boolean): void {
  const waiting = id.waiting
  id.waiting = []
  for (const resend of waiting) resend(durable)
}

/** The entries that remove ids from the session log. */
export function removalOf(clientId: string, packetIds: readonly number[]): StateEntry[] {
  return packetIds.map(packetId => ({ key: openKey(clientId, packetId), value: null }))
}

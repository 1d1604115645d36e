/**
 * Wills (MQTT 3.1.1 section 3.1.2.5), taken out of aedes' hands, which erases a successor's will on client takeover and publishes those of
 * a crashed broker late. Each connection's will has a key of its own in the session log, put there before CONNACK and
 * removed in the commit that publishes it. After a crash of the edge a stored will is published unless its client comes back
 * within 1.5 x keepalive; so it is after a clean stop, which leaves wills alone.
 */

import type { StateEntry } from '../../common/log/types.ts'
import type { SessionLog, StoredMessage } from './session-log.ts'
import { decodeMessage, encodeMessage, splitKey, WILL_PREFIX, willKey } from './session-log.ts'

/** How long a client without keepalive has to come back after a crash before its will is published. */
const GRACE_WITHOUT_KEEPALIVE_MS = 60_000
/** A will that could not be appended (disk full) is tried again after this. */
const RETRY_MS = 5_000

/** A will as CONNECT gives it. */
export interface Will {
  topic: string
  payload: Uint8Array
  qos: number
  retain: boolean
}

export interface StoredWill {
  clientId: string
  key: string
  message: StoredMessage
  /** Monotonic time at which it is published. */
  dueMs: number
}

export interface Wills {
  readonly count: number
  /** A connection's will: the entry to append before CONNACK. */
  prepare(clientId: string, will: Will, keepaliveSeconds: number): { will: StoredWill; entry: StateEntry }
  /** The client is back: entries that remove wills left over from before, to be appended before CONNACK. */
  cancel(clientId: string): StateEntry[]
  /** Publishes a will; it is tried again later where that fails. */
  publish(will: StoredWill, nowMs: number): void
  /** Publishes what is due. */
  sweep(nowMs: number): void
}

export interface WillsOptions {
  log: SessionLog
  nowMs: number
  /** Unique among this edge's starts. */
  startId: string
  /** Appends the record of a will and removes its entry in one commit, then routes it; told whether that worked. */
  publish(will: StoredWill, done: (published: boolean) => void): void
}

export function openWills(options: WillsOptions): Wills {
  const waiting = new Set<StoredWill>()
  let connections = 0
  for (const [key, value] of options.log.entries(WILL_PREFIX)) {
    const message = decodeMessage(value)
    const graceMs = message.number === 0 ? GRACE_WITHOUT_KEEPALIVE_MS : message.number * 1_500
    waiting.add({
      clientId: splitKey(key, WILL_PREFIX).clientId,
      key,
      message,
      dueMs: options.nowMs + graceMs,
    })
  }

  function publish(will: StoredWill, nowMs: number): void {
    waiting.delete(will)
    options.publish(will, published => {
      if (published) return
      will.dueMs = nowMs + RETRY_MS
      waiting.add(will)
    })
  }

  return {
    get count() {
      return waiting.size
    },
    prepare: (clientId, will, keepaliveSeconds) => {
      const key = willKey(clientId, `${options.startId}-${connections++}`)
      const message = { ...will, number: keepaliveSeconds, released: false }
      return {
        will: { clientId, key, message, dueMs: 0 },
        entry: { key, value: encodeMessage(message) },
      }
    },
    cancel: clientId => {
      const entries: StateEntry[] = []
      for (const will of waiting) {
        if (will.clientId !== clientId) continue
        waiting.delete(will)
        entries.push({ key: will.key, value: null })
      }
      return entries
    },
    publish,
    sweep: nowMs => {
      for (const will of waiting) if (will.dueMs <= nowMs) publish(will, nowMs)
    },
  }
}

/** Retained messages (MQTT 3.1.1 section 3.3.1.3): kept in memory as the session log holds them, bounded together. */

import type { StateEntry } from '../../common/log/types.ts'
import type { Message, SessionLog } from './session-log.ts'
import { decodeMessage, encodeMessage, entryBytes, RETAINED_PREFIX, retainedKey } from './session-log.ts'
import type { MqttCounters } from './stats.ts'
import { compileFilter } from './topic-filter.ts'

export interface Retained {
  readonly count: number
  /**
   * The change a publish with the retain flag makes, to be appended with its record; null for none. Over the bound the
   * message is taken as a record but not retained, and an older one of its topic goes, for it is outdated: counted.
   */
  change(publish: Message): StateEntry | null
  /** Makes a durable change visible to new subscribers. */
  apply(change: StateEntry): void
  /** Retained messages that match a filter. */
  matching(filter: string): Generator<Message>
}

export function openRetained(log: SessionLog, maxBytes: number, counters: MqttCounters): Retained {
  const messages = new Map<string, Uint8Array>()
  for (const [key, value] of log.entries(RETAINED_PREFIX)) {
    messages.set(key.slice(RETAINED_PREFIX.length), value)
  }

  function change(publish: Message): StateEntry | null {
    const key = retainedKey(publish.topic)
    const before = log.entry(key)
    let value = publish.payload.length === 0 ? null : encoded(publish)
    if (value !== null && log.retainedBytes - entryBytes(key, before) + entryBytes(key, value) > maxBytes) {
      counters.retainedRefused++
      value = null
    }
    return value === null && before === undefined ? null : { key, value }
  }

  function* matching(filter: string): Generator<Message> {
    if (!/[+#]/.test(filter)) {
      const value = messages.get(filter)
      if (value !== undefined) yield decodeMessage(value)
      return
    }
    const matches = compileFilter(filter)
    for (const [topic, value] of messages) if (matches(topic)) yield decodeMessage(value)
  }

  return {
    get count() {
      return messages.size
    },
    change,
    apply: ({ key, value }) => {
      const topic = key.slice(RETAINED_PREFIX.length)
      if (value === null) messages.delete(topic)
      else messages.set(topic, value)
    },
    matching,
  }
}

function encoded(publish: Message): Uint8Array {
  const { topic, payload, qos } = publish
  return encodeMessage({ topic, payload, qos, retain: true, number: 0, released: false })
}

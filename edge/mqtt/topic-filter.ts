/** MQTT topic names and filters (MQTT 3.1.1 section 4.7) and an index of filters. */

/** More levels than any sane topic has; bounds the work per match. */
export const MAX_TOPIC_LEVELS = 100

/** Counts levels without splitting: this runs per publish. */
function levelCount(topic: string): number {
  let levels = 1
  for (let at = topic.indexOf('/'); at !== -1; at = topic.indexOf('/', at + 1)) levels++
  return levels
}

/** Whether `text` is a topic name one may publish to: not empty, no wildcard, no U+0000 (MQTT-4.7.1-1, 4.7.3-1, 4.7.3-2). */
export function isTopicName(text: string): boolean {
  return text.length > 0 && !/[+#\0]/.test(text) && levelCount(text) <= MAX_TOPIC_LEVELS
}

/** Topics below `$SYS` are the broker's own (MQTT 3.1.1 section 4.7.2): nobody else may publish there, and we publish nothing. */
export function isReserved(topicOrFilter: string): boolean {
  return topicOrFilter.startsWith('$SYS/') || topicOrFilter === '$SYS'
}

/** Whether `text` is a topic filter (MQTT-4.7.1-2, 4.7.1-3, 4.7.3-1, 4.7.3-2). */
export function isTopicFilter(text: string): boolean {
  if (text.length === 0 || text.includes('\0') || levelCount(text) > MAX_TOPIC_LEVELS) return false
  const levels = text.split('/')
  return levels.every((level, index) => {
    if (level === '#') return index === levels.length - 1
    return level === '+' || !/[+#]/.test(level)
  })
}

/** Compiles a filter into a test of topic names. */
export function compileFilter(filter: string): (topic: string) => boolean {
  const pattern = filter.split('/')
  const open = pattern.at(-1) === '#'
  const fixed = open ? pattern.slice(0, -1) : pattern
  const startsWild = pattern[0] === '+' || pattern[0] === '#'
  return topic => {
    // MQTT-4.7.2-1
    if (startsWild && topic.startsWith('$')) return false
    const levels = topic.split('/')
    if (open ? levels.length < fixed.length : levels.length !== fixed.length) return false
    return fixed.every((level, index) => level === '+' || level === levels[index])
  }
}

interface Node<Key> {
  children: Map<string, Node<Key>>
  /** QoS by subscriber. */
  values: Map<Key, number>
}

/** Topics whose matches are remembered; above it the oldest goes. */
const MAX_CACHED_MATCHES = 10_000
/** Topics longer than this are matched anew each time, so that the cache stays small. */
const MAX_CACHED_TOPIC_LENGTH = 512

/** A subscriber that matches a topic, with the highest QoS over its matching filters (MQTT-3.3.5-1). */
export interface Match<Key> {
  key: Key
  qos: number
}

/** Who subscribes to what. Matches are cached per topic until any subscription changes. */
export class SubscriptionIndex<Key> {
  #root: Node<Key> = { children: new Map(), values: new Map() }
  #cache = new Map<string, readonly Match<Key>[]>()
  #size = 0

  /** Number of (filter, subscriber) pairs. */
  get size(): number {
    return this.#size
  }

  set(filter: string, key: Key, qos: number): void {
    this.#cache.clear()
    let node = this.#root
    for (const level of filter.split('/')) {
      let child = node.children.get(level)
      if (child === undefined) {
        child = { children: new Map(), values: new Map() }
        node.children.set(level, child)
      }
      node = child
    }
    if (!node.values.has(key)) this.#size++
    node.values.set(key, qos)
  }

  delete(filter: string, key: Key): void {
    this.#cache.clear()
    this.#deleteBelow(this.#root, filter.split('/'), 0, key)
  }

  #deleteBelow(node: Node<Key>, levels: readonly string[], at: number, key: Key): void {
    const level = levels[at]
    if (level === undefined) {
      if (node.values.delete(key)) this.#size--
      return
    }
    const child = node.children.get(level)
    if (child === undefined) return
    this.#deleteBelow(child, levels, at + 1, key)
    if (child.values.size === 0 && child.children.size === 0) node.children.delete(level)
  }

  match(topic: string): readonly Match<Key>[] {
    if (this.#size === 0) return NO_MATCHES
    const cached = this.#cache.get(topic)
    if (cached !== undefined) return cached
    const found = new Map<Key, number>()
    collect(this.#root, topic.split('/'), 0, found)
    const matches = [...found].map(([key, qos]) => ({ key, qos }))
    if (topic.length <= MAX_CACHED_TOPIC_LENGTH) this.#remember(topic, matches)
    return matches
  }

  #remember(topic: string, matches: readonly Match<Key>[]): void {
    if (this.#cache.size >= MAX_CACHED_MATCHES) {
      for (const oldest of this.#cache.keys()) {
        this.#cache.delete(oldest)
        break
      }
    }
    this.#cache.set(topic, matches)
  }
}

const NO_MATCHES: readonly never[] = []

function collect<Key>(node: Node<Key>, levels: readonly string[], at: number, found: Map<Key, number>): void {
  // MQTT-4.7.2-1
  const wildcardsApply = at > 0 || !levels[0]?.startsWith('$')
  if (wildcardsApply) take(node.children.get('#'), found)
  const level = levels[at]
  if (level === undefined) {
    take(node, found)
    return
  }
  const exact = node.children.get(level)
  if (exact !== undefined && level !== '+' && level !== '#') collect(exact, levels, at + 1, found)
  const any = wildcardsApply ? node.children.get('+') : undefined
  if (any !== undefined) collect(any, levels, at + 1, found)
}

function take<Key>(node: Node<Key> | undefined, found: Map<Key, number>): void {
  if (node === undefined) return
  for (const [key, qos] of node.values) {
    if (qos > (found.get(key) ?? -1)) found.set(key, qos)
  }
}

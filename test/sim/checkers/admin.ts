import { isTributaryError } from '../../../common/errors.ts'
import type { Ports } from '../../../hub/ports.ts'

/**
 * What administrators were told is done stays done: settings, topics, nodes. Each setting is a register: in the end it holds the value
 * of a request that no acked one came after, from its sending to its answer.
 */

interface Write {
  value: string
  from: number
  /** Infinite while nobody knows what became of it. */
  to: number
}

interface Created {
  name: string
  from: number
}

/** A request that failed so may have been carried out, or may yet be. */
export function isPassing(error: unknown): boolean {
  return isTributaryError(error) && (error.retriable || error.code === 'disk_failed')
}

export class AdminChecker {
  readonly #registers = new Map<string, Write[]>()
  readonly #created = new Map<string, Created>()
  /** Topic ids whose deletion was acked. */
  readonly #deleted = new Set<string>()
  /** When each name was last asked to be deleted. */
  readonly #deletions = new Map<string, number>()
  #now = 0

  /** Makes a request that is to set these keys; null where it was not answered. */
  async set<T>(
    values: Readonly<Record<string, string>>,
    request: () => Promise<T | null>,
  ): Promise<T | null> {
    const writes = Object.entries(values).map(([key, value]) => {
      const write: Write = { value, from: this.#now++, to: Number.POSITIVE_INFINITY }
      const known = this.#registers.get(key)
      if (known === undefined) this.#registers.set(key, [write])
      else known.push(write)
      return { key, write }
    })
    try {
      const answer = await request()
      if (answer !== null) for (const { write } of writes) write.to = this.#now++
      return answer
    } catch (error) {
      if (!isPassing(error)) for (const each of writes) this.#withdraw(each.key, each.write)
      throw error
    }
  }

  #withdraw(key: string, write: Write): void {
    const others = (this.#registers.get(key) ?? []).filter(other => other !== write)
    this.#registers.set(key, others)
  }

  /** A topic was made; `from`: the result of `mark` before it was asked for. */
  created(topicId: string, name: string, from: number): void {
    this.#created.set(topicId, { name, from })
  }

  mark(): number {
    return this.#now++
  }

  /** Whoever has this name is asked to be deleted. Call the result when that is acked, with those that had it before. */
  deleting(name: string): (topicIds: readonly string[]) => void {
    this.#deletions.set(name, this.#now++)
    return topicIds => {
      for (const topicId of topicIds) this.#deleted.add(topicId)
    }
  }

  /** Throws what an up-to-date node has not. */
  check(ports: Ports): void {
    for (const [key, writes] of this.#registers) this.#checkRegister(key, writes, settingOf(ports, key))
    const listed = new Set(ports.topics.list().map(({ topicId }) => topicId))
    for (const [topicId, { name, from }] of this.#created) {
      if (listed.has(topicId) || (this.#deletions.get(name) ?? -1) > from) continue
      throw new Error(`topic ${name} (${topicId}) was made, nobody deleted it, and it is not there`)
    }
    for (const topicId of this.#deleted) {
      if (listed.has(topicId)) throw new Error(`topic ${topicId} was deleted, and is there`)
    }
  }

  #checkRegister(key: string, writes: readonly Write[], value: string | null): void {
    const isLast = ({ to }: Write): boolean =>
      !writes.some(({ from, to: end }) => end !== Number.POSITIVE_INFINITY && from > to)
    const isFirst = writes.every(({ to }) => to === Number.POSITIVE_INFINITY)
    if (value === null || isFirst || writes.some(write => write.value === value && isLast(write))) return
    throw new Error(`${key} is ${value} in the end, after ${JSON.stringify(writes)}`)
  }
}

/** Null where it is not there, or a node that is not alive hides it. */
function settingOf({ topics, cluster }: Ports, key: string): string | null {
  const [what = '', which = '', setting = ''] = key.split(' ')
  if (what === 'node') {
    const node = cluster.nodes().find(({ nodeId }) => String(nodeId) === which)
    return node === undefined || node.state === 'fenced' ? null : node.state
  }
  const topic = topics.list().find(({ name, topicId }) => name === which || topicId === which)
  if (topic === undefined) return null
  if (setting === 'partitions') return String(topic.partitions)
  if (setting === 'replication') return String(topic.replication)
  if (setting === 'maxRecordBytes') return String(topic.config.maxRecordBytes)
  throw new Error(`nobody knows how to read "${key}"`)
}

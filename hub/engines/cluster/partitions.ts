import type { Logger } from 'pino'
import type { Disk, Env } from '../../../common/env.ts'
import { messageOf, TributaryError } from '../../../common/errors.ts'
import { DAY_MS, SECOND_MS } from '../../../common/limits.ts'
import type { Snapshots } from '../../../common/log/snapshots.ts'
import { openSnapshots } from '../../../common/log/snapshots.ts'
import type { DataDir, Log, LogOptions } from '../../../common/log/types.ts'
import type { Topic } from '../../ports.ts'
import type { HubTime } from '../../replica/hub-time.ts'
import { Partition } from '../../replica/partition.ts'
import type { Role } from '../../replica/role.ts'
import { UNASSIGNED } from '../../replica/role.ts'
import type { TopicCounters } from '../../replica/stats.ts'
import { newTopicCounters } from '../../replica/stats.ts'
import type { GapWriter } from './gaps.ts'

/**
 * The replicas that this node has. One without records has no log: it is made at the first append or fetch, so that a thousand empty
 * partitions cost nothing. Those with a log are open from the start on.
 */

/** Logs of partitions; others are the node's own. */
const LOG_FOLDER = 't'
/** After which a partition whose log could not be opened is tried again. */
const OPEN_RETRY_MS = 5 * SECOND_MS
/** Partitions opened, or maintained, at once. */
export const MAX_OPENING_AT_ONCE = 16

export interface PartitionTable {
  /** This node's replica; null where the partition has no place here. */
  peek(topicId: string, partition: number): Partition | null
  /** Runs `use` at once where this node leads and the log is open, else when it is, in the order of the calls. Rejects with `not_available` where it does not lead. */
  use<T>(topic: Topic, partition: number, use: (partition: Partition) => Promise<T>): Promise<T>
  /** As Partition.whenPast. */
  whenPast(topic: Topic, partition: number, offset: number, listener: () => void): () => void
  /** Takes over altered settings. */
  configure(topic: Topic): void
  /** Removes what the topic has on disk. */
  remove(topic: Pick<Topic, 'topicId' | 'name'>): Promise<void>
  /** Those with a log. */
  open(): Iterable<Partition>
  counters(topicId: string): TopicCounters
  logName(topicId: string, partition: number): string
  /** Opens the log that there is of a partition, before it is known what this node is to it. */
  openStored(topicId: string, partition: number): Promise<void>
  /** Sets what this node is to a partition. */
  assign(topicId: string, partition: number, role: Role): void
  /** The partition has no place here any more: removes what there is of it. */
  drop(topicId: string, partition: number): Promise<void>
  /** Whether there is a replica of it here, or a log of one. */
  isHere(topicId: string, partition: number): boolean
  /** All of which there is. */
  places(): { topicId: string; partition: number }[]
  /** The replica whose log has this name; null where there is none. */
  heldAt(key: string): Held | null
  /** Tells what becomes of replicas; one watcher. */
  watch(watcher: HeldWatcher): void
}

/** A replica in the table. */
export interface Held {
  /** Unique among the node's replicas. */
  readonly key: string
  readonly topicId: string
  readonly number: number
  readonly replica: Partition
}

/** See ReplicaEvents. */
export interface HeldWatcher {
  acting(held: Held): void
  durable(held: Held): void
  watermark(held: Held): void
  damaged(held: Held): void
  /** It is no replica of this node any more. */
  gone(held: Held): void
}

export interface PartitionTableContext {
  env: Env
  dataDir: DataDir
  gaps: GapWriter
  hubTime: HubTime
  maxBatchBytes: number
  /** See ReplicaContext. */
  producerIdExpirationMs: number
  /** The topic as it is now, or undefined when deleted. */
  topic(topicId: string): Topic | undefined
  log: Logger
  /** What this node is to a partition that was not assigned yet; null where it has none of it. */
  role(topicId: string, partition: number): Role | null
}

interface Slot extends Held {
  log: Log | null
}

/** No partition open yet. */
export function createPartitionTable(context: PartitionTableContext): PartitionTable {
  const { env, dataDir, gaps, hubTime, log } = context
  const { clock } = env
  const slots = new Map<string, Slot>()
  const countersByTopic = new Map<string, TopicCounters>()
  const onDisk = new Set(dataDir.logNames())
  /** Files on their way off the disk; whoever makes them anew waits. */
  const removals = new Map<string, Promise<void>>()
  let watcher: HeldWatcher | null = null

  function counters(topicId: string): TopicCounters {
    const known = countersByTopic.get(topicId)
    if (known !== undefined) return known
    const made = newTopicCounters()
    countersByTopic.set(topicId, made)
    return made
  }

  /** The replica, made where it has a role. */
  function slotOf(topicId: string, number: number): Slot | null {
    const known = slots.get(logNameOf(topicId, number))
    if (known !== undefined) return known
    const role = context.role(topicId, number)
    return role === null ? null : addSlot(topicId, number, role)
  }

  function addSlot(topicId: string, number: number, role: Role): Slot {
    const key = logNameOf(topicId, number)
    const named = (): string => `${context.topic(topicId)?.name ?? topicId}/${number}`
    const withTopic = (tell: (topic: Topic) => void): void => {
      const topic = context.topic(topicId)
      if (topic !== undefined) tell(topic)
    }
    const replica = new Partition({
      name: named(),
      clock,
      codec: env.codec,
      exists: () => onDisk.has(key),
      open: () => openFiles(slot),
      limits: () => ({
        maxBatchBytes: context.maxBatchBytes,
        maxRecordBytes: context.topic(topicId)?.config.maxRecordBytes ?? 0,
      }),
      producerIdExpirationMs: context.producerIdExpirationMs,
      hubTimeMs: () => hubTime.appendTimeMs(clock.nowMs(), clock.monotonicMs()),
      onGap: (gap, offset) => withTopic(topic => gaps.declared(topic, number, offset, gap)),
      onDamage: damage => withTopic(topic => gaps.damaged(topic, number, damage)),
      counters: counters(topicId),
      events: {
        acting: () => watcher?.acting(slot),
        failed: error => failed(slot, error),
        damaged: () => watcher?.damaged(slot),
        durable: () => watcher?.durable(slot),
        watermark: () => watcher?.watermark(slot),
      },
    })
    const slot: Slot = { key, topicId, number, replica, log: null }
    slots.set(key, slot)
    replica.assign(role)
    return slot
  }

  /** It can't act before its log is open; that what is in the way may pass. */
  function failed(slot: Slot, error: unknown): void {
    log.error(
      { log: slot.key, reason: messageOf(error) },
      'a partition could not be opened; it is tried again',
    )
    clock.setTimer(() => slot.replica.retry(), OPEN_RETRY_MS)
  }

  async function openFiles(slot: Slot): Promise<{ log: Log; snapshots: Snapshots }> {
    const { topicId, number, key } = slot
    await removals.get(key)
    const topic = context.topic(topicId)
    if (topic === undefined) throw new TributaryError('topic_deleted', `topic ${topicId} was deleted`)
    slot.log ??= await dataDir.openLog(key, logOptions(topic, context.maxBatchBytes))
    // It may have been altered meanwhile.
    slot.log.configure(logOptions(context.topic(topicId) ?? topic, context.maxBatchBytes))
    onDisk.add(key)
    const snapshots = await openSnapshots(env.disk, snapshotFolder(dataDir.path, topicId, number))
    return { log: slot.log, snapshots }
  }

  /** Out of the table in this turn: a replica that is made from now on is another one. The result removes its files. */
  function takeOut(key: string, error: TributaryError): () => Promise<void> {
    const slot = slots.get(key)
    const wasOnDisk = onDisk.delete(key)
    slots.delete(key)
    slot?.replica.shut(error)
    if (slot !== undefined) watcher?.gone(slot)
    return async () => {
      await slot?.replica.idle()
      if (wasOnDisk || slot?.log != null) await dataDir.deleteLog(key)
    }
  }

  /** One after another, so that what is removed twice is gone when either says so. */
  function removal(key: string, remove: () => Promise<void>): Promise<void> {
    const before = removals.get(key) ?? Promise.resolve()
    const done = before.catch(() => {}).then(remove)
    const settled = done
      .catch(() => {})
      .finally(() => {
        if (removals.get(key) === settled) removals.delete(key)
      })
    removals.set(key, settled)
    return done
  }

  const told = (work: Promise<void>, what: Record<string, unknown>): Promise<void> =>
    work.catch(error => {
      // The next start removes what is left.
      log.error(
        { ...what, reason: messageOf(error) },
        'what is on the disk of a partition that has no place here stays',
      )
    })

  return {
    peek: (topicId, partition) => slotOf(topicId, partition)?.replica ?? null,
    use: (topic, number, use) => {
      const slot = slotOf(topic.topicId, number)
      if (slot === null) return Promise.reject(notHere(topic, number))
      return slot.replica.use(() => use(slot.replica))
    },
    whenPast: (topic, number, offset, listener) => {
      const slot = slotOf(topic.topicId, number)
      if (slot === null) throw notHere(topic, number)
      return slot.replica.whenPast(offset, listener)
    },
    configure: topic => {
      for (let number = 0; number < topic.partitions; number++) {
        const slot = slots.get(logNameOf(topic.topicId, number))
        slot?.log?.configure(logOptions(topic, context.maxBatchBytes))
      }
    },
    remove: async ({ topicId, name }) => {
      countersByTopic.delete(topicId)
      const error = new TributaryError('topic_deleted', `topic "${name}" was deleted`)
      const prefix = logNameOf(topicId, '')
      const keys = new Set([...slots.keys(), ...onDisk].filter(key => key.startsWith(prefix)))
      const removes = [...keys].map(key => ({ key, deleteLog: takeOut(key, error) }))
      for (const { key, deleteLog } of removes) await told(removal(key, deleteLog), { topic: name, log: key })
      await told(removeSnapshots(env.disk, dataDir.path, topicId), { topic: name })
    },
    open: () => [...slots.values()].flatMap(({ replica }) => (replica.isOpen() ? [replica] : [])),
    counters,
    logName: logNameOf,
    openStored: (topicId, number) => {
      const slot = slots.get(logNameOf(topicId, number)) ?? addSlot(topicId, number, UNASSIGNED)
      return slot.replica.open()
    },
    assign: (topicId, number, role) => {
      const known = slots.get(logNameOf(topicId, number))
      if (known === undefined) addSlot(topicId, number, role)
      else known.replica.assign(role)
    },
    drop: (topicId, number) => {
      const key = logNameOf(topicId, number)
      const error = new TributaryError('not_available', `${key} has no place on this node any more`)
      const deleteLog = takeOut(key, error)
      const work = removal(key, async () => {
        await deleteLog()
        await env.disk.remove(snapshotFolder(dataDir.path, topicId, number))
      })
      return told(work, { log: key })
    },
    isHere: (topicId, number) => {
      const key = logNameOf(topicId, number)
      return slots.has(key) || onDisk.has(key)
    },
    places: () =>
      [...new Set([...slots.keys(), ...onDisk])].flatMap(key => {
        const [folder, topicId, number] = key.split('/')
        return folder === LOG_FOLDER && topicId !== undefined ? [{ topicId, partition: Number(number) }] : []
      }),
    heldAt: key => slots.get(key) ?? null,
    watch: next => {
      watcher = next
    },
  }
}

function logNameOf(topicId: string, partition: number | ''): string {
  return `${LOG_FOLDER}/${topicId}/${partition}`
}

function notHere(topic: Topic, partition: number): TributaryError {
  return new TributaryError(
    'not_available',
    `this node has no replica of partition ${partition} of "${topic.name}"; try again`,
  )
}

/** Topics whose producers have snapshots, deleted ones of an interrupted deletion too. */
export function topicsWithSnapshots(disk: Disk, path: string): Promise<string[]> {
  return disk.list(`${path}/producers`)
}

/** Removes the producer snapshots of a topic that is no more; its logs must be gone first. */
export async function removeSnapshots(disk: Disk, path: string, topicId: string): Promise<void> {
  await disk.remove(`${path}/producers/${topicId}`)
}

function snapshotFolder(path: string, topicId: string, partition: number): string {
  return `${path}/producers/${topicId}/${partition}`
}

/** The log settings of a topic's partitions. A slow topic still gets a new segment a day, or nothing would ever grow old. */
function logOptions({ config }: Topic, maxBatchBytes: number): LogOptions {
  const retentionMs = config.retentionMs ?? Number.POSITIVE_INFINITY
  return {
    segmentBytes: config.segmentBytes,
    segmentMs: Math.min(DAY_MS, retentionMs),
    retentionBytes: config.retentionBytes ?? Number.POSITIVE_INFINITY,
    retentionMs,
    maxBatchBytes,
  }
}

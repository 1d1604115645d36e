import type { Logger } from 'pino'
import type { Disk, Env } from '../../../common/env.ts'
import { messageOf, TributaryError } from '../../../common/errors.ts'
import { DAY_MS } from '../../../common/limits.ts'
import { openSnapshots } from '../../../common/log/snapshots.ts'
import type { DataDir, Log, LogOptions } from '../../../common/log/types.ts'
import type { Topic } from '../../ports.ts'
import type { HubTime } from '../../replica/hub-time.ts'
import type { Partition } from '../../replica/partition.ts'
import { openPartition } from '../../replica/partition.ts'
import type { TopicCounters } from '../../replica/stats.ts'
import { newTopicCounters } from '../../replica/stats.ts'
import type { GapWriter } from './gaps.ts'

/**
 * The partitions of this node. One without records has no log: it is made at the first append, so that a thousand empty
 * partitions cost nothing. Those with a log are open from the start on.
 */

const LEADER_EPOCH = 0
/** Partitions opened, or maintained, at once. */
export const MAX_OPENING_AT_ONCE = 16

/** Readers waiting for one partition that is not open; the next is refused, as one more at an open partition is. */
const MAX_EARLY_READERS = 100_000
/** Operations waiting for one partition to be opened; beyond it they are refused as `throttled`. */
const MAX_WAITING_FOR_OPEN = 10_000

export interface PartitionTable {
  /** The partition where it is open; null where it has no log yet or is being opened. */
  peek(topicId: string, partition: number): Partition | null
  /** Runs `use` at once where the partition is open, else when it is, in the order of the calls. */
  use<T>(topic: Topic, partition: number, use: (partition: Partition) => Promise<T>): Promise<T>
  /** As Partition.whenPast, without making a log for a reader. */
  whenPast(topic: Topic, partition: number, offset: number, listener: () => void): () => void
  /** Takes over altered settings. */
  configure(topic: Topic): void
  /** Removes what the topic has on disk. */
  remove(topic: Topic): Promise<void>
  open(): Iterable<Partition>
  counters(topicId: string): TopicCounters
  logName(topicId: string, partition: number): string
}

export interface PartitionTableContext {
  env: Env
  dataDir: DataDir
  gaps: GapWriter
  hubTime: HubTime
  maxBatchBytes: number
  /** The topic as it is now, or undefined when deleted. */
  topic(topicId: string): Topic | undefined
  log: Logger
}

interface Slot {
  log: Log | null
  partition: Partition | null
  opening: Promise<void> | null
  /** Who asked meanwhile, in order. */
  waiting: { run(partition: Partition): void; reject(error: unknown): void }[]
  /** Readers that came before the partition was open. */
  early: Set<{ offset: number; listener: () => void; cancel: (() => void) | null }>
}

/** No partition open yet. */
export function createPartitionTable(context: PartitionTableContext): PartitionTable {
  const { env, dataDir, gaps, hubTime, log } = context
  const { clock } = env
  const slots = new Map<string, Slot>()
  const countersByTopic = new Map<string, TopicCounters>()
  const nameOf = (topicId: string, partition: number): string => `t/${topicId}/${partition}`

  function slotOf(topicId: string, partition: number): Slot {
    const name = nameOf(topicId, partition)
    const known = slots.get(name)
    if (known !== undefined) return known
    const slot: Slot = { log: null, partition: null, opening: null, waiting: [], early: new Set() }
    slots.set(name, slot)
    return slot
  }

  function counters(topicId: string): TopicCounters {
    const known = countersByTopic.get(topicId)
    if (known !== undefined) return known
    const made = newTopicCounters()
    countersByTopic.set(topicId, made)
    return made
  }

  async function openSlot(slot: Slot, topic: Topic, number: number): Promise<void> {
    const { topicId } = topic
    const name = nameOf(topicId, number)
    slot.log ??= await dataDir.openLog(name, logOptions(topic, context.maxBatchBytes))
    const snapshots = await openSnapshots(env.disk, snapshotFolder(dataDir.path, topicId, number))
    const partition = await openPartition({
      name: `${topic.name}/${number}`,
      log: slot.log,
      clock,
      codec: env.codec,
      snapshots,
      leaderEpoch: LEADER_EPOCH,
      limits: () => ({
        maxBatchBytes: context.maxBatchBytes,
        maxRecordBytes: (context.topic(topicId) ?? topic).config.maxRecordBytes,
      }),
      hubTimeMs: () => hubTime.appendTimeMs(clock.nowMs(), clock.monotonicMs()),
      onGap: (gap, offset) => gaps.declared(topic, number, offset, gap),
      onDamage: damage => gaps.damaged(topic, number, damage),
      counters: counters(topicId),
    })
    slot.partition = partition
    for (const reader of slot.early) reader.cancel = partition.whenPast(reader.offset, reader.listener)
    slot.early.clear()
    // In this turn, before anyone else can find the partition open and go first.
    for (const { run } of slot.waiting.splice(0)) run(partition)
  }

  /** Opens once for all who ask meanwhile; a failure is told to them and tried again by the next. */
  function whenOpen<T>(
    slot: Slot,
    topic: Topic,
    number: number,
    use: (partition: Partition) => Promise<T>,
  ): Promise<T> {
    if (slot.waiting.length >= MAX_WAITING_FOR_OPEN) {
      const message = `partition ${number} of "${topic.name}" is being opened; try again`
      return Promise.reject(new TributaryError('throttled', message))
    }
    return new Promise((resolve, reject) => {
      slot.waiting.push({ run: partition => void use(partition).then(resolve, reject), reject })
      slot.opening ??= openSlot(slot, topic, number)
        .catch(error => {
          for (const waiting of slot.waiting.splice(0)) waiting.reject(error)
        })
        .finally(() => {
          slot.opening = null
        })
    })
  }

  async function removePartition(topic: Topic, number: number, logs: ReadonlySet<string>): Promise<void> {
    const name = nameOf(topic.topicId, number)
    const slot = slots.get(name)
    await slot?.opening
    slots.delete(name)
    slot?.partition?.shut(new TributaryError('topic_deleted', `topic "${topic.name}" was deleted`))
    for (const reader of slot?.early ?? []) clock.soon(reader.listener)
    if (slot?.log || logs.has(name)) await dataDir.deleteLog(name)
  }

  return {
    peek: (topicId, partition) => slots.get(nameOf(topicId, partition))?.partition ?? null,
    use: async (topic, number, use) => {
      const slot = slotOf(topic.topicId, number)
      if (slot.partition !== null) return use(slot.partition)
      return whenOpen(slot, topic, number, use)
    },
    whenPast: (topic, number, offset, listener) => {
      const slot = slotOf(topic.topicId, number)
      if (slot.partition !== null) return slot.partition.whenPast(offset, listener)
      if (slot.early.size >= MAX_EARLY_READERS) {
        throw new TributaryError('limit_exceeded', `${MAX_EARLY_READERS} readers wait on this partition`)
      }
      const reader: { offset: number; listener: () => void; cancel: (() => void) | null } = {
        offset,
        listener,
        cancel: null,
      }
      slot.early.add(reader)
      return () => {
        slot.early.delete(reader)
        reader.cancel?.()
      }
    },
    configure: topic => {
      for (let number = 0; number < topic.partitions; number++) {
        slots.get(nameOf(topic.topicId, number))?.log?.configure(logOptions(topic, context.maxBatchBytes))
      }
    },
    remove: async topic => {
      countersByTopic.delete(topic.topicId)
      const logs = new Set(dataDir.logNames())
      for (let number = 0; number < topic.partitions; number++) {
        try {
          await removePartition(topic, number, logs)
        } catch (error) {
          // The next start removes what is left.
          log.error({ topic: topic.name, partition: number, reason: messageOf(error) }, 'a deleted log stays')
        }
      }
      await removeSnapshots(env.disk, dataDir.path, topic.topicId)
    },
    open: () => [...slots.values()].flatMap(slot => slot.partition ?? []),
    counters,
    logName: nameOf,
  }
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

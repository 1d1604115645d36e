import type { Live } from './client-connection.ts'
import { TributaryError } from './errors.ts'
import type { EndedFrame, TopicInfo } from './wire.ts'

/** Where a reader stands in each partition of a topic, and what becomes of it when the topic or the offset is gone. */

/** Where to start reading a partition. */
export type StartFrom = 'earliest' | 'latest' | number | Date

export interface PartitionCursor {
  readonly partition: number
  /** The next offset to be read. */
  next: number
  /** Leader epoch of the record before it, -1 where that is not known. */
  epoch: number
  /** Where reading ends, Infinity for never. */
  end: number
  /** The subscription in force. */
  sub: number | null
}

export interface CursorOptions {
  from?: StartFrom | ReadonlyMap<number, StartFrom>
  partitions?: readonly number[]
  follow?: boolean
  onReset?: 'error' | 'earliest' | 'latest'
}

export interface Cursors {
  all(): readonly PartitionCursor[]
  topicId(): string
  isDone(cursor: PartitionCursor): boolean
  /** No partition is added to what is read. */
  areFixed(): boolean
  /**
   * Asks the hub for the topic: the first time to find the start, later to see that it is the same topic still. New partitions
   * of a topic that is followed whole are read from their start.
   */
  locate(live: Live): Promise<void>
  /**
   * After `ended`, by the reset policy: the cursor was `moved`, try `again` where it stands, `locate` the topic anew; throws otherwise.
   * Records that were read and are lost since are told of by `onLost`.
   */
  reset(
    cursor: PartitionCursor,
    frame: EndedFrame,
    onLost: (from: number, to: number) => void,
  ): 'moved' | 'again' | 'locate'
}

export function createCursors(topic: string, options: CursorOptions): Cursors {
  const follow = options.follow ?? true
  const policy = options.onReset ?? 'error'
  let cursors: PartitionCursor[] = []
  let topicId: string | null = null

  async function begin(live: Live, info: TopicInfo): Promise<void> {
    for (const partition of options.partitions ?? []) {
      if (info.partitions[partition] === undefined) {
        throw new TributaryError(
          'invalid_argument',
          `topic ${topic} has partitions 0 to ${info.partitions.length - 1}, not ${partition}`,
        )
      }
    }
    const wanted = info.partitions.filter(({ partition }) => options.partitions?.includes(partition) ?? true)
    const located: PartitionCursor[] = []
    for (const bounds of wanted) {
      const { partition, highWatermark } = bounds
      const next = await startOffset(live, info.topicId, bounds, startOf(options.from, partition))
      const cursor = {
        partition,
        next,
        epoch: -1,
        end: follow ? Number.POSITIVE_INFINITY : highWatermark,
        sub: null,
      }
      // Whoever follows is told by the hub, which makes sure first that it is not the one that is behind.
      if (!follow && next > bounds.endOffset) moveInRange(cursor, bounds.startOffset, highWatermark)
      located.push(cursor)
    }
    topicId = info.topicId
    cursors = located
  }

  function moveInRange(cursor: PartitionCursor, start: number, highWatermark: number): void {
    if (policy === 'error') throw outOfRange(topic, cursor, start, highWatermark)
    cursor.next = policy === 'earliest' ? start : highWatermark
  }

  const areFixed = (): boolean => !follow || options.partitions !== undefined

  function addPartitions(info: TopicInfo): void {
    if (areFixed()) return
    for (const { partition, startOffset: next } of info.partitions.slice(cursors.length)) {
      cursors.push({ partition, next, epoch: -1, end: Number.POSITIVE_INFINITY, sub: null })
    }
  }

  /** The topic was deleted and made again: another log under the same name. */
  function beginAnew(info: TopicInfo): void {
    if (policy === 'error') {
      throw new TributaryError(
        'topic_deleted',
        `topic ${topic} was deleted and made again while it was read: start anew, or set onReset to go on with the new one`,
        { details: { topicId, newTopicId: info.topicId } },
      )
    }
    topicId = info.topicId
    cursors = info.partitions
      .filter(({ partition }) => options.partitions?.includes(partition) ?? true)
      .map(({ partition, startOffset: start, highWatermark }) => ({
        partition,
        next: policy === 'earliest' ? start : highWatermark,
        epoch: -1,
        end: follow ? Number.POSITIVE_INFINITY : highWatermark,
        sub: null,
      }))
  }

  return {
    all: () => cursors,
    topicId: () => topicId ?? '',
    isDone: cursor => cursor.next >= cursor.end,
    areFixed,
    locate: async live => {
      const told = await live.topic(topic)
      const info = topicId === told.topicId ? told : await located(live, told)
      if (topicId === null) await begin(live, info)
      else if (topicId !== info.topicId) beginAnew(info)
      else addPartitions(info)
    },
    reset: (cursor, frame, onLost) => {
      const { code, message, startOffset: start, highWatermark, truncatedTo } = frame
      const error = new TributaryError(code, message, {
        details: {
          topic,
          partition: cursor.partition,
          offset: cursor.next,
          startOffset: start,
          highWatermark,
          ...(truncatedTo === undefined ? {} : { truncatedTo }),
        },
      })
      if (error.retriable) return 'again'
      if (code === 'topic_deleted' && policy !== 'error') return 'locate'
      if (code !== 'offset_out_of_range' || start === undefined || highWatermark === undefined) throw error
      cursor.epoch = -1
      if (truncatedTo !== undefined && truncatedTo >= start) {
        if (policy === 'error') throw error
        onLost(truncatedTo, cursor.next)
        cursor.next = truncatedTo
      } else moveInRange(cursor, start, highWatermark)
      return 'moved'
    },
  }
}

/** With the bounds of partitions whose leaders were not reached for it: asked for one by one they are waited for. */
async function located(live: Live, info: TopicInfo): Promise<TopicInfo> {
  const partitions: TopicInfo['partitions'] = []
  for (const bounds of info.partitions) {
    if (bounds.leaderEpoch >= 0) {
      partitions.push(bounds)
      continue
    }
    const { partition } = bounds
    const { offset: startOffset } = await live.offset(info.topicId, partition, 'earliest')
    const { offset, leaderEpoch } = await live.offset(info.topicId, partition, 'latest')
    partitions.push({ partition, startOffset, endOffset: offset, highWatermark: offset, leaderEpoch })
  }
  return { ...info, partitions }
}

function startOf(from: CursorOptions['from'], partition: number): StartFrom {
  if (from === undefined) return 'latest'
  if (typeof from === 'string' || typeof from === 'number' || from instanceof Date) return from
  return from.get(partition) ?? 'latest'
}

async function startOffset(
  live: Live,
  topicId: string,
  bounds: TopicInfo['partitions'][number],
  from: StartFrom,
): Promise<number> {
  if (from === 'earliest') return bounds.startOffset
  if (from === 'latest') return bounds.highWatermark
  if (typeof from === 'number') {
    if (Number.isSafeInteger(from) && from >= 0) return from
    throw new TributaryError('invalid_argument', `an offset must be an integer from 0, but from is ${from}`)
  }
  const timeMs = from.getTime()
  if (Number.isNaN(timeMs)) throw new TributaryError('invalid_argument', 'from is an invalid Date')
  const { offset } = await live.offset(topicId, bounds.partition, { timeMs })
  return offset
}

function outOfRange(topic: string, cursor: PartitionCursor, start: number, end: number): TributaryError {
  const { partition, next: offset } = cursor
  const why =
    offset < start
      ? `retention deleted the records before ${start}`
      : `the log ends at ${end}; the offset was never there, or the hub went back`
  return new TributaryError(
    'offset_out_of_range',
    `${topic}/${partition} has no offset ${offset}: ${why}. Start at another, or set onReset to go on from an end of the log`,
    { details: { topic, partition, offset, startOffset: start, highWatermark: end } },
  )
}

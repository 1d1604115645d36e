import { TributaryError } from '../../../common/errors.ts'
import type { Topic } from '../../ports.ts'

/**
 * The id of a server-sent event: where to go on in every partition after it, so that a client that comes back with it
 * as Last-Event-ID misses nothing and gets nothing twice.
 *
 *   <first 8 digits of the topic id>;<partition>:<next offset>,...     a partition not named is at 0
 */

/** Next offsets by partition. */
export type NextOffsets = ReadonlyMap<number, number>

const TOPIC_DIGITS = 8

export function formatStreamId(topicId: string, nextOffsets: NextOffsets): string {
  let text = `${topicId.slice(0, TOPIC_DIGITS)};`
  let separator = ''
  for (const [partition, offset] of nextOffsets) {
    if (offset === 0) continue
    text += `${separator}${partition}:${offset}`
    separator = ','
  }
  return text
}

/** Reads an id that a stream of `topic` has given. Throws `invalid_argument`, or `topic_deleted` where it was another topic's. */
export function parseStreamId(text: string, topic: Topic): Map<number, number> {
  const match = /^([0-9a-f]{8});((?:\d{1,6}:\d{1,16}(?:,(?!$)|$))*)$/.exec(text)
  if (match === null) {
    throw new TributaryError(
      'invalid_argument',
      `Last-Event-ID is "${text.slice(0, 100)}", which is no id of this hub's streams: leave it out and say from= instead`,
    )
  }
  if (match[1] !== topic.topicId.slice(0, TOPIC_DIGITS)) {
    throw new TributaryError(
      'topic_deleted',
      `the topic "${topic.name}" that Last-Event-ID speaks of was deleted and made again: start anew without it`,
    )
  }
  const nextOffsets = new Map<number, number>()
  for (const part of (match[2] ?? '').split(',')) {
    if (part === '') continue
    const [partition = 0, offset = 0] = part.split(':').map(Number)
    if (partition >= topic.partitions || !Number.isSafeInteger(offset)) {
      throw new TributaryError(
        'invalid_argument',
        `Last-Event-ID names ${part}, which topic "${topic.name}" can't have`,
      )
    }
    nextOffsets.set(partition, offset)
  }
  return nextOffsets
}

import type { TributaryError } from '../../../common/errors.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import { toTributaryError } from '../../../common/session.ts'
import type { OffsetInfo, RequestFrame, ResponseFrame, TopicInfo } from '../../../common/wire.ts'
import type { Logs, Ports, Topic } from '../../ports.ts'

/** How long the answer about a topic waits for the leaders of its partitions. */
const TOPIC_WAIT_MS = SECOND_MS

/** Answers one request of a client; failures become the response's error. */
export async function answer(ports: Ports, request: RequestFrame): Promise<ResponseFrame> {
  try {
    return { t: 'response', id: request.id, result: await resultOf(ports, request) }
  } catch (error) {
    const { code, message, details }: TributaryError = toTributaryError(error)
    return { t: 'response', id: request.id, error: { code, message, details: { ...details } } }
  }
}

async function resultOf(ports: Ports, request: RequestFrame): Promise<NonNullable<ResponseFrame['result']>> {
  switch (request.op) {
    case 'topic':
      return topicInfo(ports, await named(ports, request))
    case 'offset':
      return offsetInfo(ports, request.topicId, request.partition, request.at)
    case 'producer':
      return { producerId: await ports.logs.allocateProducerId(), producerEpoch: 0 }
    case 'produce':
      return ports.logs.append(request.topicId, request.partition, request.batches, request.acks)
  }
}

async function named({ topics }: Ports, { topic, produce }: TopicRequest): Promise<Topic> {
  return produce === true ? topics.forProducer(topic) : topics.find(topic)
}

type TopicRequest = Extract<RequestFrame, { op: 'topic' }>

async function topicInfo(
  { logs }: Ports,
  { name: topic, topicId, partitions, config }: Topic,
): Promise<TopicInfo> {
  const asked = Array.from({ length: partitions }, async (_, partition) => {
    return { partition, ...(await boundsNow(logs, topicId, partition)) }
  })
  return { topic, topicId, partitions: await Promise.all(asked), maxRecordBytes: config.maxRecordBytes }
}

/** A partition without a leader must not keep clients from all others. */
async function boundsNow(
  logs: Logs,
  topicId: string,
  partition: number,
): Promise<Omit<TopicInfo['partitions'][number], 'partition'>> {
  try {
    const bounds = await logs.bounds(topicId, partition, TOPIC_WAIT_MS)
    const { startOffset, endOffset, highWatermark, leaderEpoch } = bounds
    return { startOffset, endOffset, highWatermark, leaderEpoch }
  } catch (error) {
    if (!isTributaryError(error) || !error.retriable) throw error
    return { startOffset: 0, endOffset: 0, highWatermark: 0, leaderEpoch: -1 }
  }
}

async function offsetInfo(
  { logs }: Ports,
  topicId: string,
  partition: number,
  at: 'earliest' | 'latest' | { timeMs: number },
): Promise<OffsetInfo> {
  const { startOffset, highWatermark, leaderEpoch } = await logs.bounds(topicId, partition)
  if (at === 'earliest') return { offset: startOffset, leaderEpoch }
  if (at === 'latest') return { offset: highWatermark, leaderEpoch }
  return { offset: await logs.offsetForTime(topicId, partition, at.timeMs), leaderEpoch }
}

import type { Clock } from '../../../common/env.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { Logs } from '../../ports.ts'

/**
 * Producer ids for REST: requests write under ids of this endpoint's, one request at a time under each, so that what it is not known
 * of whether it was stored can be written again without being stored twice (KIP-98).
 */

/** Ids kept for later requests; as many requests as there are can write at once, whatever this is. */
const MAX_IDLE = 64
/** Partitions that one id has written to; then it is given up, and with it what is remembered of it. */
const MAX_PARTITIONS = 10_000
/** An id is given up when it has numbered so many records of a partition: its numbers end at 2^31. */
const MAX_NUMBERED = 2 ** 30
/** A leader that is gone is replaced in less; whoever asked waits that long at most. */
const RETRY_FOR_MS = 20 * SECOND_MS
const RETRY_MS = 50

/** An id that nobody else uses meanwhile, and how far it has numbered each partition. */
export interface LentProducer {
  readonly producerId: number
  next(topicId: string, partition: number): number
  /** So many records more were numbered. */
  numbered(topicId: string, partition: number, count: number): void
}

export interface ProducerPool {
  take(): Promise<LentProducer>
  /** All that was numbered under it is stored: it may be used again. One that is not given back is forgotten. */
  giveBack(producer: LentProducer): void
}

export function createProducerPool(logs: Pick<Logs, 'allocateProducerId'>): ProducerPool {
  const idle: LentProducer[] = []
  const worn = new WeakSet<LentProducer>()

  function lend(producerId: number): LentProducer {
    const sequences = new Map<string, number>()
    const producer: LentProducer = {
      producerId,
      next: (topicId, partition) => sequences.get(`${topicId}/${partition}`) ?? 0,
      numbered: (topicId, partition, count) => {
        const next = producer.next(topicId, partition) + count
        sequences.set(`${topicId}/${partition}`, next)
        if (next > MAX_NUMBERED || sequences.size > MAX_PARTITIONS) worn.add(producer)
      },
    }
    return producer
  }

  return {
    take: async () => idle.pop() ?? lend(await logs.allocateProducerId()),
    giveBack: producer => {
      if (idle.length < MAX_IDLE && !worn.has(producer)) idle.push(producer)
    },
  }
}

/** Appends numbered batches, again where it is not known whether they were stored. Rejects with what the last attempt did. */
export async function appendSurely(
  logs: Pick<Logs, 'append'>,
  clock: Clock,
  topicId: string,
  partition: number,
  batches: Uint8Array,
): Promise<{ baseOffset: number }> {
  const deadlineMs = clock.monotonicMs() + RETRY_FOR_MS
  for (let attempt = batches; ; attempt = batches.slice()) {
    try {
      return await logs.append(topicId, partition, attempt, 'all')
    } catch (error) {
      const mayPass = isTributaryError(error, 'not_available') || isTributaryError(error, 'timeout')
      if (!mayPass || clock.monotonicMs() + RETRY_MS > deadlineMs) throw error
    }
    await new Promise<void>(resolve => {
      clock.setTimer(resolve, RETRY_MS, true)
    })
  }
}

import { TributaryError } from '../../../common/errors.ts'
import { GAPS_TOPIC } from '../../controller/names.ts'
import type { LaneKey, Logs, PartitionBounds, Topic } from '../../ports.ts'
import type { LaneId } from '../../replica/lanes.ts'
import type { PartitionTable } from './partitions.ts'
import { knownTopic } from './topics.ts'
import type { Metadata } from './types.ts'

/** A partition that has never been appended to. */
const NOTHING: PartitionBounds = {
  startOffset: 0,
  endOffset: 0,
  highWatermark: 0,
  leaderEpoch: 0,
  sizeBytes: 0,
}
const NO_BYTES = new Uint8Array(0)

/** Logs over the partitions of this node. */
export function createLogs(metadata: Metadata, partitions: PartitionTable): Logs {
  const allocate = producerIds(metadata)

  function topicWith(topicId: string, partition: number): Topic {
    const topic = knownTopic(metadata, topicId)
    if (Number.isSafeInteger(partition) && partition >= 0 && partition < topic.partitions) return topic
    throw new TributaryError(
      'unknown_topic',
      `topic "${topic.name}" has partitions 0 to ${topic.partitions - 1}, not ${partition}`,
    )
  }

  function writable(topicId: string, partition: number): Topic {
    const topic = topicWith(topicId, partition)
    if (topic.name !== GAPS_TOPIC) return topic
    throw new TributaryError('invalid_argument', `"${GAPS_TOPIC}" is written by the hub alone`)
  }

  const idOf = ({ edgeId, lane }: LaneKey): LaneId => ({ edge: edgeId, lane })

  return {
    bounds: async (topicId, partition) => {
      topicWith(topicId, partition)
      return partitions.peek(topicId, partition)?.bounds() ?? NOTHING
    },
    append: async (topicId, partition, batches, acks) =>
      partitions.use(writable(topicId, partition), partition, open => open.append(batches, acks)),
    appendLane: async (lane, batches) =>
      partitions.use(writable(lane.topicId, lane.partition), lane.partition, open =>
        open.appendLane(idOf(lane), batches),
      ),
    startRun: async (lane, start) =>
      partitions.use(writable(lane.topicId, lane.partition), lane.partition, open =>
        open.startRun(idOf(lane), start),
      ),
    declareGap: async (lane, gap) =>
      partitions.use(writable(lane.topicId, lane.partition), lane.partition, open =>
        open.declareGap(idOf(lane), gap),
      ),
    openLane: async lane => {
      topicWith(lane.topicId, lane.partition)
      const open = partitions.peek(lane.topicId, lane.partition)
      const tip = open?.tip(idOf(lane)) ?? null
      // Announcing the tip's own run writes nothing and resolves once all of it is committed.
      const start = tip === null ? null : { run: tip.run, prev: null, reason: 'next' as const }
      const settled = open === null || start === null ? tip : await open.startRun(idOf(lane), start)
      return { tip: settled, leaderEpoch: (open?.bounds() ?? NOTHING).leaderEpoch }
    },
    tip: lane => partitions.peek(lane.topicId, lane.partition)?.tip(idOf(lane)) ?? null,
    read: async (topicId, partition, offset, maxBytes) => {
      topicWith(topicId, partition)
      const open = partitions.peek(topicId, partition)
      if (open !== null) return { ...(await open.read(offset, maxBytes)), bounds: open.bounds() }
      if (offset === 0) return { batches: NO_BYTES, nextOffset: 0, bounds: NOTHING }
      throw new TributaryError(
        'offset_out_of_range',
        `partition ${partition} is empty, offset ${offset} is past it`,
        {
          details: { startOffset: 0, highWatermark: 0 },
        },
      )
    },
    offsetForTime: async (topicId, partition, timeMs) => {
      topicWith(topicId, partition)
      return partitions.peek(topicId, partition)?.offsetForTime(timeMs) ?? 0
    },
    whenPast: (topicId, partition, offset, listener) =>
      partitions.whenPast(topicWith(topicId, partition), partition, offset, listener),
    allocateProducerId: allocate,
  }
}

/** Hands out ids of a block that is durable before the first of them leaves. */
function producerIds(metadata: Metadata): () => Promise<number> {
  let next = 0
  let end = 0
  let reserving: Promise<void> | null = null

  async function reserve(): Promise<void> {
    const { from, to } = await metadata.submit('reserve-producer-ids', {})
    next = from
    end = to
  }

  return async () => {
    while (next >= end) {
      reserving ??= reserve().finally(() => {
        reserving = null
      })
      await reserving
    }
    return next++
  }
}

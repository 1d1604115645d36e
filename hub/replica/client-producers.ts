import type { BatchHeader } from '../../common/batch.ts'
import { MAX_SEQUENCE } from '../../common/batch.ts'
import { TributaryError } from '../../common/errors.ts'

/** Kafka's rules for idempotent producers (KIP-98, KIP-360; `ProducerAppendInfo` and `ProducerStateEntry` in Kafka). */

/** Batches remembered per producer: as many as a Kafka client has in flight. */
const REMEMBERED_BATCHES = 5

/** Where a batch went. */
export interface StoredBatch {
  readonly baseSequence: number
  readonly lastSequence: number
  readonly baseOffset: number
  readonly lastOffset: number
}

export interface ClientProducer {
  readonly epoch: number
  /** Of this epoch, oldest first, at least one. */
  readonly batches: readonly StoredBatch[]
  /** Hub time of the last append. */
  readonly lastMs: number
}

/** Sequences are int32 and go on at 0 after 2^31 - 1. */
function addSequence(sequence: number, count: number): number {
  const sum = sequence + count
  return sum > MAX_SEQUENCE ? sum - MAX_SEQUENCE - 1 : sum
}

function lastSequenceOf(header: BatchHeader): number {
  return addSequence(header.baseSequence, header.recordCount - 1)
}

/**
 * Null where the batch may be appended, or the batch held already that it repeats. A producer that is not known may
 * begin at any sequence: its earlier batches may have expired. Throws `fenced` for an older epoch,
 * `out_of_order_sequence` (`details.next`) else.
 */
export function judgeClientBatch(known: ClientProducer | undefined, header: BatchHeader): StoredBatch | null {
  if (known === undefined) return null
  const { producerId, producerEpoch, baseSequence } = header
  if (producerEpoch < known.epoch) {
    throw new TributaryError(
      'fenced',
      `producer ${producerId} came with epoch ${producerEpoch}, a newer instance has ${known.epoch}: stop this one`,
    )
  }
  if (producerEpoch > known.epoch) {
    if (baseSequence === 0) return null
    throw outOfOrder(header, 0)
  }
  const lastSequence = lastSequenceOf(header)
  for (const stored of known.batches) {
    if (stored.baseSequence === baseSequence && stored.lastSequence === lastSequence) return stored
  }
  const next = addSequence(known.batches.at(-1)?.lastSequence ?? -1, 1)
  if (baseSequence !== next) throw outOfOrder(header, next)
  return null
}

function outOfOrder(header: BatchHeader, next: number): TributaryError {
  return new TributaryError(
    'out_of_order_sequence',
    `producer ${header.producerId} sent sequence ${header.baseSequence}, ${next} is next: a batch before it was lost or is not held any more`,
    { details: { next } },
  )
}

/** The state after a batch. */
export function afterBatch(
  before: ClientProducer | undefined,
  header: BatchHeader,
  baseOffset: number,
  nowMs: number,
): ClientProducer {
  const stored = {
    baseSequence: header.baseSequence,
    lastSequence: lastSequenceOf(header),
    baseOffset,
    lastOffset: baseOffset + header.lastOffsetDelta,
  }
  const kept = before?.epoch === header.producerEpoch ? before.batches.slice(1 - REMEMBERED_BATCHES) : []
  return { epoch: header.producerEpoch, batches: [...kept, stored], lastMs: nowMs }
}

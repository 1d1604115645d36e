import { z } from 'zod'
import type { CborInput } from '../../common/cbor.ts'
import { decodeCbor, encodeCbor } from '../../common/cbor.ts'
import { messageOf, TributaryError } from '../../common/errors.ts'
import type { PastRun } from '../../common/wire.ts'
import type { ClientProducer, StoredBatch } from './client-producers.ts'
import { createGapPlaces } from './gap-places.ts'
import type { LaneState } from './lanes.ts'
import type { EpochStart } from './leader-epochs.ts'
import { createLeaderEpochs } from './leader-epochs.ts'
import { Producers } from './producers.ts'
import type { History } from './replay.ts'

/**
 * What a partition's log tells below an offset, as bytes: a CBOR map of the format, the starts of leader epochs, and producers in
 * parts, each the CBOR of up to PART_ENTRIES clients or lanes, since a partition may have a hundred thousand lanes and one CBOR value
 * holds so many items. Format 1 had no epochs: what it is of was all written under epoch 0. Before format 3 lanes had no past.
 */

const SNAPSHOT_FORMAT = 3
const PART_ENTRIES = 1_000

const count = z.int().min(0)
const snapshotSchema = z.object({
  format: z.int().min(1).max(SNAPSHOT_FORMAT),
  /** Epoch and start offset by turns. */
  epochs: z.array(count).default([0, 0]),
  clients: z.array(z.instanceof(Uint8Array)),
  lanes: z.array(z.instanceof(Uint8Array)),
  /** Where the newest gaps stand. */
  gaps: z.array(count).default([]),
})
/** Id, epoch, last seen, then four numbers per batch. */
const clientsSchema = z.array(z.array(z.int()))
/** Edge, lane, run, next; then the predecessor's run and end, 0 and 0 for none; then run and next of each past run. */
const lanesSchema = z.array(
  z.union([
    z.tuple([z.string(), count, count, count]),
    z.tuple([z.string(), count, count, count, count, count], count),
  ]),
)

/** All that `decodeSnapshot` needs. */
export function encodeSnapshot({ producers, epochs, gaps }: History): Uint8Array {
  const clients: CborInput[] = []
  for (const [producerId, { epoch, lastMs, batches }] of producers.clients()) {
    const fields = [producerId, epoch, Math.round(lastMs)]
    for (const batch of batches) {
      fields.push(batch.baseSequence, batch.lastSequence, batch.baseOffset, batch.lastOffset)
    }
    clients.push(fields)
  }
  const lanes: CborInput[] = []
  for (const { edge, lane, run, next, prev, past } of producers.lanes()) {
    const isPlain = prev === null && past.length === 0
    const before = [prev?.run ?? 0, prev?.end ?? 0, ...past.flatMap(each => [each.run, each.next])]
    lanes.push(isPlain ? [edge, lane, run, next] : [edge, lane, run, next, ...before])
  }
  const starts = epochs.entries().flatMap(({ epoch, startOffset }) => [epoch, startOffset])
  const parts = { clients: inParts(clients), lanes: inParts(lanes) }
  return encodeCbor({ format: SNAPSHOT_FORMAT, epochs: starts, ...parts, gaps: gaps.entries() })
}

function inParts(entries: readonly CborInput[]): Uint8Array[] {
  const parts: Uint8Array[] = []
  for (let at = 0; at < entries.length; at += PART_ENTRIES) {
    parts.push(encodeCbor(entries.slice(at, at + PART_ENTRIES)))
  }
  return parts
}

/** The history that a snapshot holds. Throws `corrupt_log` where it is none of a format known here. */
export function decodeSnapshot(bytes: Uint8Array): History {
  try {
    const map = decodeCbor(bytes)
    const { clients, lanes, epochs, gaps } = snapshotSchema.parse(
      map instanceof Map ? Object.fromEntries(map) : map,
    )
    const producers = new Producers()
    producers.restore(
      clients.flatMap(part => clientsSchema.parse(decodeCbor(part)).map(readClient)),
      lanes.flatMap(part => lanesSchema.parse(decodeCbor(part)).map(readLane)),
    )
    return { producers, epochs: createLeaderEpochs(readEpochs(epochs)), gaps: createGapPlaces(gaps) }
  } catch (cause) {
    throw new TributaryError('corrupt_log', `a producer snapshot can't be read: ${messageOf(cause)}`, {
      cause,
    })
  }
}

function readEpochs(numbers: readonly number[]): EpochStart[] {
  const starts: EpochStart[] = []
  for (let at = 0; at + 2 <= numbers.length; at += 2) {
    const [epoch = 0, startOffset = 0] = numbers.slice(at, at + 2)
    starts.push({ epoch, startOffset })
  }
  return starts
}

function readClient(fields: readonly number[]): [number, ClientProducer] {
  const [producerId = -1, epoch = 0, lastMs = 0] = fields
  const batches: StoredBatch[] = []
  for (let at = 3; at + 4 <= fields.length; at += 4) {
    const [baseSequence = 0, lastSequence = 0, baseOffset = 0, lastOffset = 0] = fields.slice(at, at + 4)
    batches.push({ baseSequence, lastSequence, baseOffset, lastOffset })
  }
  return [producerId, { epoch, lastMs, batches }]
}

function readLane(fields: z.infer<typeof lanesSchema>[number]): LaneState {
  const [edge, lane, run, next, prevRun = 0, prevEnd = 0, ...numbers] = fields
  const past: PastRun[] = []
  for (let at = 0; at + 2 <= numbers.length; at += 2) {
    const [pastRun = 0, pastNext = 0] = numbers.slice(at, at + 2)
    past.push({ run: pastRun, next: pastNext })
  }
  return { edge, lane, run, next, prev: prevRun === 0 ? null : { run: prevRun, end: prevEnd }, past }
}

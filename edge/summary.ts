import { eachBatch } from '../common/batch.ts'
import type { RecordHeader } from '../common/batch-builder.ts'
import { buildControlBatch, CONTROL_SUMMARY, readControl } from '../common/batch-control.ts'
import { utf8, utf8Text } from '../common/bytes.ts'
import { TributaryError } from '../common/errors.ts'
import { MIB } from '../common/limits.ts'
import type { SummaryReason } from '../common/wire.ts'
import type { Lane } from './lane.ts'

/**
 * Summaries: a control batch in the local log for what a policy dropped in one window of a lane. It takes one sequence, which keeps
 * its place among the records around it and lets the hub count it once; there it becomes a gap, see GapFrame.
 */

/** Readings dropped in a window. */
export interface Tally {
  count: number
  /** Of so many keys. */
  keys: number
  /** Edge times: when the first of them was taken, and when the last one was dropped. */
  firstMs: number
  lastMs: number
}

export interface Summary extends Tally {
  reason: SummaryReason
}

/** The batch of a summary, at `sequence` of `run`. */
export function summaryBatch(
  summary: Summary,
  place: { run: number; sequence: number; headers: readonly RecordHeader[] },
): Uint8Array {
  return buildControlBatch({
    type: CONTROL_SUMMARY,
    value: encodeSummary(summary),
    producerId: place.run,
    baseSequence: place.sequence,
    timestampMs: summary.lastMs,
    headers: place.headers,
  })
}

/** What the control batch at `at` of a local log says. Throws `corrupt_batch`. */
export function readSummary(batches: Uint8Array, at: number): Summary {
  const { type, value } = readControl(batches, at)
  if (type !== CONTROL_SUMMARY) {
    throw new TributaryError('corrupt_batch', `a control batch of type ${type} stands in a local log`)
  }
  return decodeSummary(value)
}

/** What `encodeSummary` wrote; the CRC of its batch vouches for the shape. */
export function decodeSummary(value: Uint8Array): Summary {
  const summary: Summary = JSON.parse(utf8Text(value))
  return summary
}

export function encodeSummary(summary: Summary): Uint8Array {
  return utf8(JSON.stringify(summary))
}

/** A summary where it stands. */
export interface PlacedSummary {
  offset: number
  summary: Summary
}

/** Read at once in search of summaries. */
const SCAN_BYTES = 1 * MIB

/** Summaries in [from, to) of a lane, as far as it can be read. */
export async function findSummaries(lane: Lane, from: number, to: number): Promise<PlacedSummary[]> {
  const found: PlacedSummary[] = []
  for (let at = from; lane.isSummarised && at < to; ) {
    try {
      const { batches, base, nextOffset, release } = await lane.read(at, SCAN_BYTES)
      for (const { at: position, header } of eachBatch(batches)) {
        const offset = base + header.baseOffset
        if (!header.isControl || offset < from || offset >= to) continue
        found.push({ offset, summary: readSummary(batches, position) })
      }
      release?.()
      if (base + nextOffset <= at) return found
      at = base + nextOffset
    } catch {
      // Damaged: what it held is declared lost by its place.
      return found
    }
  }
  return found
}

/** One more that was dropped; `isFirstOfKey`: no other of its key was. */
export function addDrop(
  tally: Tally | null,
  takenMs: number,
  droppedMs: number,
  isFirstOfKey: boolean,
): Tally {
  const keys = isFirstOfKey ? 1 : 0
  if (tally === null) return { count: 1, keys, firstMs: takenMs, lastMs: droppedMs }
  return {
    count: tally.count + 1,
    keys: tally.keys + keys,
    firstMs: Math.min(tally.firstMs, takenMs),
    lastMs: Math.max(tally.lastMs, droppedMs),
  }
}

export function addTally(left: Tally | null, right: Tally | null): Tally | null {
  if (left === null || right === null) return left ?? right
  return {
    count: left.count + right.count,
    keys: left.keys + right.keys,
    firstMs: Math.min(left.firstMs, right.firstMs),
    lastMs: Math.max(left.lastMs, right.lastMs),
  }
}

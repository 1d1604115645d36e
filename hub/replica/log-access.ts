import { eachBatch } from '../../common/batch.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import type { Codec } from '../../common/env.ts'
import { isTributaryError } from '../../common/errors.ts'
import { MIB } from '../../common/limits.ts'
import type { Snapshots } from '../../common/log/snapshots.ts'
import type { Damage, Log, ReadResult } from '../../common/log/types.ts'
import { createGapPlaces } from './gap-places.ts'
import { createLeaderEpochs } from './leader-epochs.ts'
import { decodeSnapshot } from './producer-snapshot.ts'
import { Producers } from './producers.ts'
import type { History } from './replay.ts'
import { replayBatches } from './replay.ts'

/** Reading a log from within the hub: damage is passed over and told of, never a reason to stop. */

const CHUNK_BYTES = MIB
/** What a batch may unpack to while an offset is searched by time. */
const MAX_SEARCHED_BATCH_BYTES = 64 * MIB

/** Told of each damaged stretch once per process, in the order found. */
export type OnDamage = (damage: Damage) => void

/** Tells of what recovery found, before anything is read. */
export function tellKnownDamage(log: Log, onDamage: OnDamage): void {
  for (const damage of log.damage()) onDamage(damage)
}

/** `log.read`, isolating damage that it comes upon, so that what lies behind it can be read. */
export async function readPastDamage(
  log: Log,
  offset: number,
  maxBytes: number,
  limitOffset: number,
  onDamage: OnDamage,
): Promise<ReadResult> {
  for (;;) {
    try {
      return await log.read(offset, maxBytes, limitOffset)
    } catch (error) {
      if (!isTributaryError(error, 'corrupt_log')) throw error
      const { fromOffset, toOffset } = error.details
      const damage = log
        .damage()
        .find(known => known.fromOffset === fromOffset && known.toOffset === toOffset)
      if (damage === undefined) throw error
      onDamage(damage)
      log.isolate(damage)
    }
  }
}

/** A history, and whether it is all that there is to know. */
export interface Restored extends History {
  /** False where the log starts later than anything was written, and no snapshot tells of what came before. */
  complete: boolean
  /** Damage among the batches that were replayed: what those told is missing. */
  missed: Damage[]
}

/**
 * The history of a log from the newest snapshot that fits it, and the batches behind it. A snapshot from beyond the end would call
 * records duplicates that the log has lost; it is removed, or the log would grow past it and make it believed.
 */
export async function restoreHistory(
  log: Log,
  snapshots: Snapshots,
  nowMs: number,
  onDamage: OnDamage,
): Promise<Restored> {
  const end = log.durableEndOffset()
  await snapshots.dropAfter(end)
  const snapshot = await snapshots.loadAtOrBelow(end)
  const { producers, epochs, gaps } =
    snapshot === undefined
      ? { producers: new Producers(), epochs: createLeaderEpochs(), gaps: createGapPlaces() }
      : decodeSnapshot(snapshot.bytes)
  const start = log.startOffset()
  const from = Math.max(snapshot?.offset ?? 0, start)
  let offset = from
  while (offset < end) {
    const { batches, nextOffset, release } = await readPastDamage(log, offset, CHUNK_BYTES, end, onDamage)
    replayBatches({ producers, epochs, gaps }, batches, offset, nowMs)
    release?.()
    if (nextOffset <= offset) break
    offset = nextOffset
  }
  epochs.cutBefore(start)
  // A leader that wrote nothing may have been written down: its epoch begins where nobody has a batch of it.
  epochs.cutAfter(end)
  gaps.cutAfter(end)
  const missed = log.damage().filter(damage => damage.toOffset > from)
  // An older snapshot in place of a damaged one may end before the log starts: what lay between is told by neither.
  return { producers, epochs, gaps, complete: start === 0 || (snapshot?.offset ?? -1) >= start, missed }
}

/** First offset below `limitOffset` whose record has event time >= timeMs, else `limitOffset`. */
export async function searchByTime(
  log: Log,
  read: Log['read'],
  timeMs: number,
  limitOffset: number,
  codec: Codec,
): Promise<number> {
  let offset = Math.max(log.startOffset(), Math.min(await log.offsetForEventTime(timeMs), limitOffset))
  while (offset < limitOffset) {
    const { batches, nextOffset, release } = await read(offset, CHUNK_BYTES, limitOffset)
    for (const { at, header } of eachBatch(batches)) {
      if (header.isControl || header.lastOffset < offset || header.maxTimestampMs < timeMs) continue
      const found = await firstAtTime(batches, at, header.baseOffset, timeMs, offset, codec)
      if (found !== null) return found
    }
    release?.()
    if (nextOffset <= offset) break
    offset = nextOffset
  }
  return limitOffset
}

async function firstAtTime(
  bytes: Uint8Array,
  at: number,
  baseOffset: number,
  timeMs: number,
  from: number,
  codec: Codec,
): Promise<number | null> {
  try {
    const records = await decodeRecords(bytes, at, codec, MAX_SEARCHED_BATCH_BYTES)
    for (const { offset, timestampMs } of records) if (offset >= from && timestampMs >= timeMs) return offset
    return null
  } catch (error) {
    // snappy and lz4 are only moved here: the batch's first record stands for the one sought.
    if (isTributaryError(error, 'unsupported_version')) return Math.max(baseOffset, from)
    throw error
  }
}

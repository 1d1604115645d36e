import { assert } from '../assert.ts'
import { ATTRIBUTE_CONTROL, stampBatch } from '../batch.ts'
import { readI16, readI32, readI64OrNaN } from '../bytes.ts'
import { crc32c } from '../crc32c.ts'
import { TributaryError } from '../errors.ts'
import type { JournalEntry } from './journal-format.ts'
import { ENTRY_BYTES } from './journal-format.ts'
import type { SegmentedLog, SegmentWrite } from './segmented-log.ts'
import type { Appended } from './types.ts'

/** Appends, and facts about logs, on their way into a commit. */

export interface DataItem {
  kind: 'data'
  log: SegmentedLog
  bytes: Uint8Array
  /** The log's end before it; a new segment is named so, and jumps lie within segments. */
  previousEnd: number
  firstOffset: number
  endOffset: number
  appendTimeMs: number
  /** Undefined: the batches stand as another replica stamped them. */
  leaderEpoch: number | undefined
  useReserve: boolean
  durable: boolean
  /** Base offsets asked for by control batches that jump, in order. */
  jumps: readonly number[]
  resolve(appended: Appended): void
  reject(error: unknown): void
}

export interface FactItem {
  kind: 'fact'
  /** Whose turn it takes; absent: it comes behind all that waits. */
  log?: SegmentedLog
  /** Absent: only waits for its turn (flush). */
  entry: JournalEntry | undefined
  /** Runs right after the commit, before the next one starts. */
  after(): void | Promise<void>
  resolve(): void
  reject(error: unknown): void
}

/** What was appended in one synchronous turn: in one commit, or refused together. */
export interface Turn {
  items: (DataItem | FactItem)[]
  /** Journal bytes it takes at most. */
  costBytes: number
  dataBytes: number
  /** Shares its commit with nobody (a cut changes where later appends go). */
  alone: boolean
  arrivedMs: number
}

/** Journal bytes of one entry at most. */
export function entryCost(log: SegmentedLog | undefined): number {
  return ENTRY_BYTES + (log === undefined ? 0 : Buffer.byteLength(log.name))
}

/** Where the batches of an append go. */
export interface WalkedRun {
  /** Offset after what comes before it; a new segment is named so. */
  previousEnd: number
  endOffset: number
  firstOffset: number
  jumps: readonly number[]
}

const NO_JUMPS: readonly number[] = []

/**
 * Stamps a run of batches to follow `nextOffset`, checking that they are whole and none is over the limit. A control
 * batch with a base offset further on keeps it; with `jumps` (stamping again) only those do.
 */
export function stampRun(
  bytes: Uint8Array,
  nextOffset: number,
  leaderEpoch: number,
  maxBatchBytes: number,
  jumps?: readonly number[],
): WalkedRun {
  let at = 0
  let offset = nextOffset
  let first = -1
  let jumped: number[] | undefined
  // All is checked before anything is stamped: a refused append leaves the caller's bytes as they were.
  checkRun(bytes, maxBatchBytes)
  while (at < bytes.length) {
    if ((readI16(bytes, at + 21) & ATTRIBUTE_CONTROL) !== 0) {
      const wanted = readI64OrNaN(bytes, at)
      if (wanted > offset && (jumps === undefined || jumps.includes(wanted))) {
        offset = wanted
        jumped ??= []
        jumped.push(wanted)
      }
    }
    if (first < 0) first = offset
    stampBatch(bytes, at, offset, leaderEpoch)
    offset += readI32(bytes, at + 23) + 1
    at += readI32(bytes, at + 8) + 12
  }
  return { previousEnd: nextOffset, firstOffset: first, endOffset: offset, jumps: jumped ?? NO_JUMPS }
}

function checkRun(bytes: Uint8Array, maxBatchBytes: number): void {
  if (bytes.length === 0) throw new TributaryError('invalid_argument', 'an append without batches')
  for (let at = 0; at < bytes.length; ) {
    const sizeBytes = bytes.length - at < 61 ? 0 : readI32(bytes, at + 8) + 12
    if (sizeBytes < 61 || sizeBytes > bytes.length - at || readI32(bytes, at + 23) < 0) {
      throw new TributaryError('corrupt_batch', `an append must be whole batches; byte ${at} starts none`)
    }
    if (sizeBytes > maxBatchBytes) {
      throw new TributaryError(
        'record_too_large',
        `a batch of ${sizeBytes} bytes is over the log's maxBatchBytes of ${maxBatchBytes}`,
        { details: { sizeBytes, maxBatchBytes } },
      )
    }
    at += sizeBytes
  }
}

/**
 * Where a run of batches goes that another replica stamped: from `nextOffset` on without a hole, save where control
 * batches jump, or from the batch on that holds it where the log is empty. `maxBatchBytes` does not count: what the leader
 * took, its followers take.
 */
export function stampedRun(bytes: Uint8Array, nextOffset: number, isEmpty: boolean): WalkedRun {
  checkRun(bytes, Number.POSITIVE_INFINITY)
  const base = readI64OrNaN(bytes, 0)
  const previousEnd =
    isEmpty && base + readI32(bytes, 23) >= nextOffset ? Math.min(base, nextOffset) : nextOffset
  let offset = previousEnd
  let first = -1
  for (let at = 0; at < bytes.length; at += readI32(bytes, at + 8) + 12) {
    const baseOffset = readI64OrNaN(bytes, at)
    const jumps = baseOffset > offset && (readI16(bytes, at + 21) & ATTRIBUTE_CONTROL) !== 0
    if (baseOffset !== offset && !jumps) {
      throw new TributaryError(
        'corrupt_batch',
        `a replicated batch starts at offset ${baseOffset}, its log goes on at ${offset}: fetch from there`,
      )
    }
    if (first < 0) first = baseOffset
    offset = baseOffset + readI32(bytes, at + 23) + 1
  }
  return { previousEnd, firstOffset: first, endOffset: offset, jumps: NO_JUMPS }
}

/** What a commit writes to segments: neighbours in one segment are one write. */
export function planWrites(turns: readonly Turn[]): SegmentWrite[] {
  const latest = new Map<SegmentedLog, SegmentWrite>()
  const writes: SegmentWrite[] = []
  for (const turn of turns) {
    for (const item of turn.items) {
      if (item.kind !== 'data') continue
      const { log, bytes } = item
      // Offsets that are lost lie between segments.
      if (item.previousEnd > (latest.get(log)?.endOffset ?? log.durableEndOffset)) log.rollNext = true
      const { segment, isNew } = log.planSegment(
        item.previousEnd,
        item.endOffset,
        bytes.length,
        item.appendTimeMs,
      )
      let write = latest.get(log)
      if (write === undefined || write.segment !== segment) {
        write = {
          log,
          segment,
          isNew,
          position: segment.writtenBytes,
          buffers: [],
          length: 0,
          firstOffset: item.firstOffset,
          endOffset: item.endOffset,
          appendTimeMs: item.appendTimeMs,
        }
        latest.set(log, write)
        writes.push(write)
      }
      write.buffers.push(bytes)
      write.length += bytes.length
      write.endOffset = item.endOffset
      if (item.appendTimeMs > write.appendTimeMs) write.appendTimeMs = item.appendTimeMs
      segment.firstTimeMs ??= item.appendTimeMs
      segment.writtenBytes += bytes.length
    }
  }
  return writes
}

/** The journal's entries for a commit, and the payload they describe. */
export function journalEntries(
  turns: readonly Turn[],
  writes: readonly SegmentWrite[],
): { entries: JournalEntry[]; payload: Uint8Array[]; payloadBytes: number } {
  const entries: JournalEntry[] = []
  const payload: Uint8Array[] = []
  let payloadBytes = 0
  for (const turn of turns) {
    for (const item of turn.items)
      if (item.kind === 'fact' && item.entry !== undefined) entries.push(item.entry)
  }
  for (const write of writes) {
    let crc = 0
    for (const buffer of write.buffers) {
      crc = crc32c(buffer, crc)
      payload.push(buffer)
    }
    payloadBytes += write.length
    entries.push({
      kind: 'data',
      logId: write.log.id,
      name: write.log.name,
      segmentBase: write.segment.baseOffset,
      position: write.position,
      length: write.length,
      firstOffset: write.firstOffset,
      endOffset: write.endOffset,
      appendTimeMs: write.appendTimeMs,
      crc,
    })
  }
  return { entries, payload, payloadBytes }
}

/** Takes back what `planWrites` did to the logs' segments; the files are the caller's. */
export function unplan(writes: readonly SegmentWrite[]): void {
  for (const write of writes.toReversed()) {
    write.segment.writtenBytes = write.position
    if (!write.isNew) continue
    write.log.segments = write.log.segments.filter(segment => segment !== write.segment)
    // Should damage at the end have been why.
    write.log.rollNext = true
  }
}

/** Whether it may be written into the reserve on a full disk. */
export function mayUseReserve(turn: Turn): boolean {
  return turn.items.every(item => item.kind === 'fact' || item.useReserve)
}

/** Whether its commit is to be synced whatever the flush mode: what facts bring about can't be taken back. */
export function mustBeDurable(turn: Turn): boolean {
  return turn.items.some(item => item.kind === 'fact' || item.durable)
}

/** Tells all of the turns' callers that they failed. */
export function rejectAll(turns: readonly Turn[], error: TributaryError): void {
  for (const turn of turns) for (const item of turn.items) item.reject(error)
}

/**
 * Takes the offsets of `out` back and gives `left` new ones, from the durable ends of the logs on. Returns the number of
 * appends in `out`.
 */
export function stampAgain(out: readonly Turn[], left: readonly Turn[]): number {
  const refused = dataItems(out)
  const kept = dataItems(left)
  for (const { log } of [...refused, ...kept]) log.endOffset = log.durableEndOffset
  for (const { bytes, leaderEpoch, jumps } of refused) {
    // The caller may append the same bytes again: no stamp may look like a jump then.
    if (leaderEpoch !== undefined) stampRun(bytes, 0, leaderEpoch, bytes.length, jumps)
  }
  for (const item of kept) {
    const { bytes, leaderEpoch, jumps, log } = item
    // Replicated batches have no claim to the reserve, so none is kept while others are refused.
    assert(leaderEpoch !== undefined, 'replicated batches can not be stamped again')
    const run = stampRun(bytes, log.endOffset, leaderEpoch, bytes.length, jumps)
    item.previousEnd = log.endOffset
    item.firstOffset = run.firstOffset
    item.endOffset = run.endOffset
    log.endOffset = run.endOffset
  }
  return refused.length
}

function dataItems(turns: readonly Turn[]): DataItem[] {
  return turns.flatMap(turn => turn.items.filter(item => item.kind === 'data'))
}

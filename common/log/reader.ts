import type { BatchHeader } from '../batch.ts'
import { BATCH_HEADER_BYTES } from '../batch.ts'
import { concat, readI32, readI64 } from '../bytes.ts'
import type { DiskFile } from '../env.ts'
import { TributaryError } from '../errors.ts'
import { INDEX_INTERVAL_BYTES } from './indexes.ts'
import {
  crcFault,
  headerOr,
  jumpFault,
  MAX_SCANNED_BATCH_BYTES,
  NEEDS_NEXT,
  offsetFault,
  readFully,
  resync,
  scanBatches,
  scanBuffers,
} from './scan.ts'
import type { IndexDeps, Segment, SegmentedLog } from './segmented-log.ts'
import { dropIndex, loadMeta, segmentIndex } from './segmented-log.ts'
import type { Tail, TailChunk } from './tail-cache.ts'
import { chunkHolding } from './tail-cache.ts'
import type { Damage, ReadResult } from './types.ts'

/** Reading: from the tail cache where it holds the offset, else from segment files, whose CRCs are checked. */

export type ReadDeps = IndexDeps

const NOTHING = new Uint8Array(0)

/** See Log.read. */
export async function readLog(
  log: SegmentedLog,
  offset: number,
  maxBytes: number,
  limitOffset: number,
  deps: ReadDeps,
): Promise<ReadResult> {
  for (;;) {
    if (offset < log.startOffset || offset > log.durableEndOffset) {
      throw new TributaryError(
        'offset_out_of_range',
        `offset ${offset} of ${log.name} is outside ${log.startOffset}..${log.durableEndOffset}`,
        { details: { startOffset: log.startOffset, endOffset: log.durableEndOffset } },
      )
    }
    const limit = Math.min(limitOffset, log.durableEndOffset)
    if (offset >= limit) return { batches: NOTHING, nextOffset: offset }
    const warm = readTail(log, log.tail, chunkHolding(log.tail, offset), { offset, maxBytes, limit })
    if (warm !== undefined) return warm
    if (offset >= log.filedEndOffset) {
      const index = Math.max(log.unwritten.head, chunkHolding(log.unwritten, offset))
      const unwritten = readTail(log, log.unwritten, index, { offset, maxBytes, limit })
      if (unwritten !== undefined) return unwritten
    }
    const { cuts } = log
    try {
      const cold = await readCold(log, offset, maxBytes, limit, deps)
      if (log.cuts === cuts) return cold
    } catch (error) {
      if (log.deleted) throw new TributaryError('closed', `log ${log.name} is deleted`)
      if (log.cuts === cuts && offset >= log.startOffset) throw error
    }
  }
}

/** Reads on from the chunk at `from`; undefined where there is none. */
function readTail(
  log: SegmentedLog,
  tail: Tail,
  from: number,
  { offset, maxBytes, limit }: Omit<Walk, 'segment'>,
): ReadResult | undefined {
  const first = tail.chunks[from]
  if (first === undefined || skipsLost(log, offset, first)) return undefined
  let index = from
  const parts: Uint8Array[] = []
  let room = maxBytes
  let nextOffset = offset
  for (; index < tail.chunks.length; index++) {
    const chunk = tail.chunks[index]
    if (chunk === undefined || (parts.length > 0 && skipsLost(log, nextOffset, chunk))) break
    const { bytes } = chunk
    if (parts.length > 0 && chunk.endOffset <= limit && bytes.length <= room) {
      parts.push(bytes)
      room -= bytes.length
      nextOffset = chunk.endOffset
      continue
    }
    const slice = sliceChunk(bytes, nextOffset, room, limit, parts.length === 0)
    if (slice.end > slice.start) {
      parts.push(bytes.subarray(slice.start, slice.end))
      room -= slice.end - slice.start
      nextOffset = slice.nextOffset
    }
    if (slice.end < bytes.length) break
  }
  return { batches: parts.length === 0 ? NOTHING : concat(parts), nextOffset }
}

/** Whether what lies between `offset` and the chunk is no jump but lost. */
function skipsLost(log: SegmentedLog, offset: number, chunk: TailChunk): boolean {
  return chunk.firstOffset > offset && damageAt(log, offset) !== undefined
}

/** The batches of a chunk from the one holding `offset` on, as far as room and limit allow. */
function sliceChunk(
  bytes: Uint8Array,
  offset: number,
  room: number,
  limit: number,
  takeOne: boolean,
): { start: number; end: number; nextOffset: number } {
  let at = 0
  let start = -1
  let nextOffset = offset
  while (at < bytes.length) {
    const sizeBytes = readI32(bytes, at + 8) + 12
    const lastOffset = readI64(bytes, at) + readI32(bytes, at + 23)
    if (lastOffset >= offset) {
      const first = start < 0
      if (lastOffset >= limit || (at + sizeBytes - (first ? at : start) > room && !(first && takeOne))) break
      if (first) start = at
      nextOffset = lastOffset + 1
    }
    at += sizeBytes
  }
  return start < 0 ? { start: 0, end: 0, nextOffset } : { start, end: at, nextOffset }
}

/** Damage that covers `offset`, or undefined. */
function damageAt(log: SegmentedLog, offset: number): Damage | undefined {
  return log.damage.find(damage => offset >= damage.fromOffset && offset < damage.toOffset)
}

function refuse(damage: Damage): never {
  throw new TributaryError(
    'corrupt_log',
    `${damage.log} is damaged at offsets ${damage.fromOffset} to ${damage.toOffset} (${damage.reason}): read on from ${damage.toOffset}, and run tributary log verify`,
    { details: { ...damage } },
  )
}

async function readCold(
  log: SegmentedLog,
  offset: number,
  maxBytes: number,
  limit: number,
  deps: ReadDeps,
): Promise<ReadResult> {
  const known = damageAt(log, offset)
  if (known !== undefined) {
    if (!log.isolated.has(known)) refuse(known)
    return { batches: NOTHING, nextOffset: Math.min(known.toOffset, limit) }
  }
  // An offset jumped over at a segment's end is answered from the next one.
  for (let at = log.segmentAt(offset); at < log.segments.length; at++) {
    const segment = log.segments[at]
    // Without bytes it may be one whose bytes are lost.
    if (segment === undefined || segment.endOffset === segment.baseOffset) continue
    const result = await readSegment(log, segment, offset, maxBytes, limit, deps)
    if (result !== undefined) return result
  }
  return { batches: NOTHING, nextOffset: offset }
}

async function readSegment(
  log: SegmentedLog,
  segment: Segment,
  offset: number,
  maxBytes: number,
  limit: number,
  deps: ReadDeps,
): Promise<ReadResult | undefined> {
  const index = await segmentIndex(segment, log, deps)
  const from = index.entryFor(offset - segment.baseOffset)
  const walk = { segment, offset, maxBytes, limit }
  return deps.files.use(`${segment.path}.log`, async file => {
    let position = from.position
    let expected = segment.baseOffset + from.relativeOffset
    for (;;) {
      const step = await walkBatches(file, walk, position, expected)
      if (step.result !== undefined || step.fault === undefined) return step.result
      if (index.fromFiles && step.position === from.position) {
        // The index, not the segment, may be what is wrong: build it anew and see.
        await dropIndex(segment, deps.disk)
        return readSegment(log, segment, offset, maxBytes, limit, deps)
      }
      const damage =
        damageAt(log, step.expected) ??
        (await findDamage(log, segment, file, step.position, step.expected, step.fault))
      if (offset < damage.toOffset) {
        if (!log.isolated.has(damage)) refuse(damage)
        return { batches: NOTHING, nextOffset: Math.min(damage.toOffset, limit) }
      }
      if (damage.resumePosition < 0) return undefined
      position = damage.resumePosition
      expected = damage.toOffset
    }
  })
}

interface Walk {
  segment: Segment
  /** Wanted first. */
  offset: number
  maxBytes: number
  limit: number
}

interface WalkStep {
  /** What was read; undefined at the end of the segment or at a fault. */
  result?: ReadResult
  fault?: string
  position: number
  expected: number
}

/** Goes from an indexed batch to the one holding the offset and takes what fits. Faults before it are reported. */
async function walkBatches(
  file: DiskFile,
  walk: Walk,
  fromPosition: number,
  fromOffset: number,
): Promise<WalkStep> {
  const { segment, offset, maxBytes } = walk
  const size = segment.sizeBytes
  const { endOffset } = segment
  let position = fromPosition
  let expected = fromOffset
  let wanted = Math.max(2 * INDEX_INTERVAL_BYTES, maxBytes)
  let kept = false
  while (position < size) {
    const length = Math.min(wanted, size - position)
    const buffer = scanBuffers.take(length)
    try {
      const got = await readFully(file, buffer, length, position)
      const taken = takeBatches(buffer.subarray(0, got), expected, walk, {
        atEnd: position + got >= size,
        endOffset,
      })
      if (taken.end > taken.start) {
        kept = true
        const batches = buffer.subarray(taken.start, taken.end)
        return { result: releasable(batches, taken.expected, buffer), position, expected }
      }
      position += taken.at
      expected = taken.expected
      if (taken.fault !== undefined) return { fault: taken.fault, position, expected }
      if (taken.limited) return { result: { batches: NOTHING, nextOffset: offset }, position, expected }
      if (taken.needs > size - position || (taken.at === 0 && got < length)) {
        return { fault: 'the segment ends early', position, expected }
      }
      wanted = Math.max(wanted, taken.needs)
    } finally {
      if (!kept) scanBuffers.give(buffer)
    }
  }
  // Segments follow each other without a hole: the next one's name is this one's end.
  if (expected < endOffset)
    return { fault: `it ends at ${expected}, not at ${endOffset}`, position, expected }
  return { position, expected }
}

function releasable(batches: Uint8Array, nextOffset: number, buffer: Buffer): ReadResult {
  let held = true
  const release = (): void => {
    if (held) scanBuffers.give(buffer)
    held = false
  }
  return { batches, nextOffset, release }
}

interface Taken {
  /** Batches to return. */
  start: number
  end: number
  /** Where the walk stopped, and the offset expected there. */
  at: number
  expected: number
  /** Bytes wanted from `at` on for the next batch; 0 where it was all there. */
  needs: number
  limited: boolean
  fault?: string
}

function takeBatches(
  bytes: Uint8Array,
  from: number,
  walk: Walk,
  rest: { atEnd: boolean; endOffset: number },
): Taken {
  const { offset, maxBytes, limit } = walk
  const taken: Taken = { start: 0, end: 0, at: 0, expected: from, needs: 0, limited: false }
  while (taken.at < bytes.length) {
    const left = bytes.length - taken.at
    const header = left < BATCH_HEADER_BYTES ? undefined : headerOr(bytes, taken.at)
    if (header === undefined) {
      taken.needs = BATCH_HEADER_BYTES
      break
    }
    const fault =
      typeof header === 'string' ? header : faultOf(bytes, taken.at, header, taken.expected, offset, rest)
    if (fault === NEEDS_NEXT && typeof header !== 'string') {
      taken.needs = header.sizeBytes + BATCH_HEADER_BYTES
      break
    }
    if (fault !== undefined || typeof header === 'string') {
      if (taken.end === taken.start) taken.fault = fault ?? 'no batch'
      break
    }
    if (header.sizeBytes > left) {
      taken.needs = header.sizeBytes
      break
    }
    if (header.lastOffset >= offset) {
      if (header.lastOffset >= limit) {
        taken.limited = true
        break
      }
      const first = taken.end === taken.start
      if (first) taken.start = taken.at
      else if (taken.at + header.sizeBytes - taken.start > maxBytes) break
      taken.end = taken.at + header.sizeBytes
    }
    taken.at += header.sizeBytes
    taken.expected = header.lastOffset + 1
  }
  return taken
}

function faultOf(
  bytes: Uint8Array,
  at: number,
  header: BatchHeader,
  expected: number,
  offset: number,
  rest: { atEnd: boolean; endOffset: number },
): string | undefined {
  if (header.sizeBytes > MAX_SCANNED_BATCH_BYTES) return `a batch of ${header.sizeBytes} bytes`
  const fault = offsetFault(header, expected)
  if (fault !== undefined || header.sizeBytes > bytes.length - at) return fault
  const jump = jumpFault(bytes, at, header, expected, rest)
  return jump ?? (header.lastOffset < offset ? undefined : crcFault(bytes, at, header))
}

/** Takes note of damage that a read ran into. */
async function findDamage(
  log: SegmentedLog,
  segment: Segment,
  file: DiskFile,
  position: number,
  fromOffset: number,
  reason: string,
): Promise<Damage> {
  const { sizeBytes } = segment
  const next = log.segments[log.segments.indexOf(segment) + 1]
  // More is written behind what is lost, or will be.
  const goesOn = segment.writtenBytes > sizeBytes || (next === undefined && !log.rollNext)
  const endOffset = goesOn ? segment.endOffset : (next?.baseOffset ?? segment.endOffset)
  const good = await resync(file, position + 1, sizeBytes, fromOffset, endOffset)
  const end = log.damageEnd(segment, fromOffset, endOffset)
  const damage: Damage = {
    log: log.name,
    fromOffset,
    toOffset: good?.offset ?? end.offset,
    segment: `${segment.path}.log`,
    bytePosition: position,
    resumePosition: good?.position ?? (goesOn && end.position < 0 ? sizeBytes : end.position),
    reason,
  }
  const same = log.damage.find(known => known.fromOffset === fromOffset)
  if (same !== undefined) return same
  log.damage.push(damage)
  return damage
}

/** See Log.offsetForEventTime. */
export async function offsetForEventTime(
  log: SegmentedLog,
  timestampMs: number,
  deps: ReadDeps,
): Promise<number> {
  const unwritten = log.unwritten.chunks.slice(log.unwritten.head)
  for (const segment of [...log.segments]) {
    if (segment.sizeBytes === 0) continue
    await loadMeta(segment, deps.disk)
    if (segment.maxEventTimeMs !== undefined && segment.maxEventTimeMs < timestampMs) continue
    const index = await segmentIndex(segment, log, deps)
    if (index.maxTimeMs() < timestampMs) continue
    let found = -1
    const entry = index.entryForTime(timestampMs)
    const { bad, offset } = await deps.files.use(`${segment.path}.log`, file => {
      const range = {
        fromPosition: entry.position,
        toPosition: segment.sizeBytes,
        offset: segment.baseOffset + entry.relativeOffset,
      }
      return scanBatches(file, range, false, header => {
        if (header.maxTimestampMs < timestampMs || header.lastOffset < log.startOffset) return undefined
        found = header.baseOffset
        return false
      })
    })
    // Behind damage the index says there is such a batch: whoever goes on from here passes the damage and finds it.
    if (bad !== undefined && found < 0) found = offset
    if (found >= 0) return Math.min(Math.max(found, log.startOffset), log.durableEndOffset)
  }
  for (const chunk of unwritten) {
    const found = chunk === undefined ? -1 : baseOfEventTime(chunk.bytes, timestampMs, log.startOffset)
    if (found >= 0) return Math.min(Math.max(found, log.startOffset), log.durableEndOffset)
  }
  return log.durableEndOffset
}

/** Base offset of the first batch with a record that late, -1 where there is none. */
function baseOfEventTime(bytes: Uint8Array, timestampMs: number, startOffset: number): number {
  for (let at = 0; at < bytes.length; at += readI32(bytes, at + 8) + 12) {
    const lastOffset = readI64(bytes, at) + readI32(bytes, at + 23)
    if (lastOffset >= startOffset && readI64(bytes, at + 35) >= timestampMs) return readI64(bytes, at)
  }
  return -1
}

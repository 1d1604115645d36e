import type { BatchHeader } from '../batch.ts'
import { BATCH_HEADER_BYTES, readHeader, verifyCrc } from '../batch.ts'
import { BufferPool } from '../bytes.ts'
import type { DiskFile } from '../env.ts'
import { messageOf } from '../errors.ts'

/** Read at once when a segment is scanned: the event loop is free between two, which are a millisecond or so of small batches apart. */
const SCAN_CHUNK_BYTES = 256 * 1024
/** No batch may be larger than this, whatever its length field says. */
export const MAX_SCANNED_BATCH_BYTES = 256 * 1024 * 1024
const MAX_IDLE_SCAN_BYTES = 4 * 1024 * 1024

/** Buffers for scans and cold reads of this process. */
export const scanBuffers = new BufferPool(MAX_IDLE_SCAN_BYTES)

export interface ScanRange {
  fromPosition: number
  toPosition: number
  /** Offset expected at `fromPosition`. */
  offset: number
}

export interface ScanResult {
  /** Up to where all is well. */
  position: number
  /** Offset expected there. */
  offset: number
  /** Why it went no further than that; absent where the end of the range was reached. */
  bad?: string
}

/**
 * Why `header` can't follow offset `expected`, or undefined. The base offset lies outside the batch's CRC, so this is
 * what catches damage to it: only control batches (gaps) may jump.
 */
export function offsetFault(header: BatchHeader, expected: number): string | undefined {
  if (header.baseOffset === expected) return undefined
  if (header.isControl && header.baseOffset > expected) return undefined
  return `base offset ${header.baseOffset} where ${expected} was expected`
}

/** More bytes are needed to tell. */
export const NEEDS_NEXT = 'needs the next header'

/**
 * Why the batch at `at` can't be a jump to where its base offset says, or undefined. A flipped bit there looks like a
 * jump too: what follows must go on from it, the end of the segment (`endOffset`, where known) as well.
 */
export function jumpFault(
  bytes: Uint8Array,
  at: number,
  header: BatchHeader,
  expected: number,
  rest: { atEnd: boolean; endOffset: number | undefined },
): string | undefined {
  if (header.baseOffset === expected) return undefined
  const next = at + header.sizeBytes
  const end = header.lastOffset + 1
  if (next >= bytes.length && rest.atEnd) {
    return rest.endOffset === undefined || rest.endOffset === end
      ? undefined
      : `a jump to ${header.baseOffset}, which is not where the segment ends`
  }
  if (bytes.length - next < BATCH_HEADER_BYTES) return rest.atEnd ? undefined : NEEDS_NEXT
  const following = headerOr(bytes, next)
  if (typeof following === 'string' || following.baseOffset === end) return undefined
  if (following.isControl && following.baseOffset > end) return undefined
  return `a jump to ${header.baseOffset}, but ${following.baseOffset} follows`
}

/** Reads `length` bytes at `position`, fewer only at the end of the file. */
export async function readFully(
  file: DiskFile,
  target: Uint8Array,
  length: number,
  position: number,
): Promise<number> {
  let got = 0
  while (got < length) {
    const count = await file.read(target, got, length - got, position + got)
    if (count === 0) break
    got += count
  }
  return got
}

/**
 * Goes through the batches of a range, calling `onBatch` for each good one; stops at the first bad one. With
 * `verify` the CRCs are checked too.
 */
export async function scanBatches(
  file: DiskFile,
  range: ScanRange,
  verify: boolean,
  onBatch: (header: BatchHeader, position: number, bytes: Uint8Array, at: number) => boolean | undefined,
): Promise<ScanResult> {
  let { fromPosition: position, offset } = range
  let buffer = scanBuffers.take(Math.min(SCAN_CHUNK_BYTES, Math.max(1, range.toPosition - position)))
  try {
    while (position < range.toPosition) {
      const length = await readFully(
        file,
        buffer,
        Math.min(buffer.length, range.toPosition - position),
        position,
      )
      let at = 0
      let wants = 0
      while (at < length) {
        const left = length - at
        const atEnd = position + length >= range.toPosition
        if (left < BATCH_HEADER_BYTES) {
          if (atEnd) return { position: position + at, offset, bad: 'a partial batch header' }
          break
        }
        const header = headerOr(buffer, at)
        if (typeof header === 'string') return { position: position + at, offset, bad: header }
        if (header.sizeBytes > MAX_SCANNED_BATCH_BYTES || (atEnd && header.sizeBytes > left)) {
          return { position: position + at, offset, bad: `a batch of ${header.sizeBytes} bytes does not fit` }
        }
        if (header.sizeBytes > left) {
          wants = header.sizeBytes
          break
        }
        const rest = { atEnd, endOffset: undefined }
        const jump = jumpFault(buffer.subarray(0, length), at, header, offset, rest)
        if (jump === NEEDS_NEXT) {
          wants = header.sizeBytes + BATCH_HEADER_BYTES
          break
        }
        const fault =
          offsetFault(header, offset) ?? jump ?? (verify ? crcFault(buffer, at, header) : undefined)
        if (fault !== undefined) return { position: position + at, offset, bad: fault }
        if (onBatch(header, position + at, buffer, at) === false) return { position: position + at, offset }
        at += header.sizeBytes
        offset = header.lastOffset + 1
      }
      if (length === 0) return { position, offset, bad: 'the file ends early' }
      position += at
      if (at === 0) {
        if (wants <= buffer.length) return { position, offset, bad: 'the file ends early' }
        scanBuffers.give(buffer)
        buffer = scanBuffers.take(wants)
      }
    }
    return { position, offset }
  } finally {
    scanBuffers.give(buffer)
  }
}

/** The header at `at`, or what is wrong with it. */
export function headerOr(bytes: Uint8Array, at: number): BatchHeader | string {
  try {
    const header = readHeader(bytes, at)
    return header.lastOffsetDelta < 0 ? 'a negative last offset delta' : header
  } catch (error) {
    return messageOf(error)
  }
}

/** What is wrong with the CRC of a batch that is all there, or undefined. */
export function crcFault(bytes: Uint8Array, at: number, header: BatchHeader): string | undefined {
  try {
    verifyCrc(bytes, at, header)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

/**
 * Where after damage the next good batch begins: the first position from `fromPosition` on with a batch whose CRC
 * is right and whose offsets lie in [minOffset, endOffset]. Undefined where there is none.
 */
export async function resync(
  file: DiskFile,
  fromPosition: number,
  toPosition: number,
  minOffset: number,
  endOffset: number,
): Promise<{ position: number; offset: number } | undefined> {
  for (let start = fromPosition; toPosition - start >= BATCH_HEADER_BYTES; start += SCAN_CHUNK_BYTES) {
    // Windows overlap by a header, so that none is cut in two.
    const length = Math.min(SCAN_CHUNK_BYTES + BATCH_HEADER_BYTES, toPosition - start)
    const buffer = scanBuffers.take(length)
    try {
      const got = await readFully(file, buffer, length, start)
      for (let at = 0; at + BATCH_HEADER_BYTES <= got && at < SCAN_CHUNK_BYTES; at++) {
        if (buffer[at + 16] !== 2) continue
        const header = headerOr(buffer, at)
        if (typeof header === 'string' || header.sizeBytes > toPosition - start - at) continue
        if (header.baseOffset < minOffset || header.lastOffset >= endOffset) continue
        if (header.sizeBytes > MAX_SCANNED_BATCH_BYTES) continue
        if (await isGoodBatch(file, start + at, header)) {
          return { position: start + at, offset: header.baseOffset }
        }
      }
    } finally {
      scanBuffers.give(buffer)
    }
  }
  return undefined
}

async function isGoodBatch(file: DiskFile, position: number, header: BatchHeader): Promise<boolean> {
  const buffer = scanBuffers.take(header.sizeBytes)
  try {
    const got = await readFully(file, buffer, header.sizeBytes, position)
    return crcFault(buffer.subarray(0, got), 0, header) === undefined
  } finally {
    scanBuffers.give(buffer)
  }
}

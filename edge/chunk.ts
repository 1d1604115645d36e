import { must } from '../common/assert.ts'
import type { BatchHeader } from '../common/batch.ts'
import {
  BATCH_HEADER_BYTES,
  compressionBits,
  eachBatch,
  MAX_SEQUENCE,
  validateBatch,
  writeHeader,
} from '../common/batch.ts'
import { BatchBuilder } from '../common/batch-builder.ts'
import { joinBatches } from '../common/batch-join.ts'
import { decodePlain } from '../common/batch-records.ts'
import { ByteReader } from '../common/bytes.ts'
import type { Codec } from '../common/env.ts'
import type { Summary } from './summary.ts'
import { readSummary } from './summary.ts'

/** Makes the batch of one append frame from what a local log holds: cut, given its run, joined, compressed. */

export interface ChunkRequest {
  /** Raw batches of one local log, the first one holding `from`. */
  batches: Uint8Array
  /** What to add to their offsets to have the lane's. */
  base: number
  /** Lane offsets: records [from, limit) at most, all of one run, which starts at `runStart`. */
  from: number
  limit: number
  run: number
  runStart: number
  /** Small batches are joined up to this. */
  joinBytes: number
  /** No batch may be larger, before compression. */
  maxBytes: number
  /** Nor any record: the hub can't see it in what is compressed, so it is looked at here. */
  maxRecordBytes: number
}

/** What goes into the frame: whole batches of the run, contiguous, without the first `skip` records; records up to `to`. */
export interface Chunk {
  kind: 'chunk'
  batches: Uint8Array
  skip: number
  to: number
}

/** `hole`: nothing is there before `to`. `oversize`: the record at `from` is larger than the hub takes. `summary`: that stands at `from`. */
export type ChunkResult =
  | Chunk
  | { kind: 'hole'; to: number }
  | { kind: 'oversize' }
  | { kind: 'summary'; summary: Summary }

interface Piece {
  at: number
  header: BatchHeader
}

/** Picks the batches of the next frame. Throws `corrupt_batch`. */
export function cutChunk(request: ChunkRequest): ChunkResult {
  const { batches, base, from, joinBytes } = request
  const pieces: Piece[] = []
  let { limit } = request
  let bytes = 0
  let to = from
  for (const piece of eachBatch(batches)) {
    const { header } = piece
    const first = base + header.baseOffset
    const end = base + header.lastOffset + 1
    if (end <= from) continue
    if (header.isControl && first === from && from < limit) return summaryOf(batches, piece)
    // What comes before a summary goes first.
    if (header.isControl) limit = Math.min(limit, first)
    limit = Math.min(limit, firstTooLong(request, piece))
    if (limit <= from) return { kind: 'oversize' }
    if (first > to || first >= limit) {
      if (pieces.length === 0) return { kind: 'hole', to: Math.min(first, limit) }
      break
    }
    if (pieces.length > 0 && bytes + header.sizeBytes > joinBytes) break
    if (end > limit || first < request.runStart || header.sizeBytes > request.maxBytes) {
      return pieces.length > 0 ? sliceOf(request, pieces, to) : cutRecords({ ...request, limit }, piece)
    }
    pieces.push(piece)
    bytes += header.sizeBytes
    to = end
  }
  return pieces.length === 0 ? { kind: 'hole', to: limit } : sliceOf(request, pieces, to)
}

function summaryOf(batches: Uint8Array, { at }: Piece): ChunkResult {
  validateBatch(batches, at, { maxBatchBytes: MAX_SEQUENCE })
  return { kind: 'summary', summary: readSummary(batches, at) }
}

function sliceOf(request: ChunkRequest, pieces: readonly Piece[], to: number): Chunk {
  const { batches, base, from } = request
  const head = must(pieces[0], 'a chunk has a batch')
  const last = must(pieces.at(-1), 'a chunk has a batch')
  const slice = batches.subarray(head.at, last.at + last.header.sizeBytes)
  const skip = from - (base + head.header.baseOffset)
  return { kind: 'chunk', batches: ownRun(request, slice, pieces), skip, to }
}

/** Lane offset of the first record of a batch, from `from` on, that is longer than the hub takes; Infinity for none. */
function firstTooLong({ batches, base, from, maxRecordBytes }: ChunkRequest, { at, header }: Piece): number {
  if (header.compression !== 'none' || header.sizeBytes - BATCH_HEADER_BYTES <= maxRecordBytes) {
    return Number.POSITIVE_INFINITY
  }
  const reader = new ByteReader(batches, at + BATCH_HEADER_BYTES, at + header.sizeBytes)
  const first = base + header.baseOffset
  for (let index = 0; index < header.recordCount; index++) {
    const length = reader.varint()
    if (length > maxRecordBytes && first + index >= from) return first + index
    reader.skip(length)
  }
  return Number.POSITIVE_INFINITY
}

/** Where a batch must be taken apart: it straddles an end of the run or what may be sent, or is larger than the hub takes. */
function cutRecords(request: ChunkRequest, piece: Piece): ChunkResult {
  const { batches, base, from, limit, run, runStart, maxBytes } = request
  const builder = new BatchBuilder({ producerId: run, baseSequence: from - runStart, maxBytes })
  let to = from
  for (const record of decodePlain(batches, piece.at)) {
    const offset = base + record.offset
    if (offset < from) continue
    if (offset >= limit || !builder.append(record.timestampMs, record.key, record.value, record.headers))
      break
    to = offset + 1
  }
  if (to === from) return { kind: 'oversize' }
  return { kind: 'chunk', batches: builder.finish(from - base), skip: 0, to }
}

/** The batches under the run they are to be sent in: those of before a fork carry another. */
function ownRun(request: ChunkRequest, slice: Uint8Array, pieces: readonly Piece[]): Uint8Array {
  const { run, runStart, base } = request
  const isOwn = ({ header }: Piece): boolean =>
    header.producerId === run && header.baseSequence === base + header.baseOffset - runStart
  if (pieces.every(isOwn)) return slice
  const copy = Uint8Array.from(slice)
  const from = must(pieces[0], 'there is one').at
  for (const { at, header } of pieces) {
    // A new sum must not cover up damage.
    validateBatch(copy, at - from, { maxBatchBytes: MAX_SEQUENCE })
    writeHeader(copy, at - from, header.baseOffset, {
      ...header,
      attributes: compressionBits(header.compression),
      producerId: run,
      producerEpoch: 0,
      baseSequence: base + header.baseOffset - runStart,
    })
  }
  return copy
}

/** The one batch of a frame. Rejects with `corrupt_batch`. */
export function sealChunk(
  chunk: Chunk,
  options: { codec: Codec; compression: 'none' | 'zstd' },
): Promise<Uint8Array> {
  return joinBatches(chunk.batches, { ...options, maxBytes: MAX_SEQUENCE, skipRecords: chunk.skip })
}

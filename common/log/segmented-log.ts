import { BATCH_HEADER_BYTES } from '../batch.ts'
import { readI32, readI64, readU32, writeI64, writeU32 } from '../bytes.ts'
import { crc32c } from '../crc32c.ts'
import type { Disk, DiskFile } from '../env.ts'
import type { FilePool } from './files.ts'
import type { IndexCache } from './index-cache.ts'
import { SegmentIndex } from './indexes.ts'
import { SEGMENT_SUFFIXES, segmentPath } from './paths.ts'
import { headerOr, resync, scanBatches } from './scan.ts'
import type { Tail, TailChunk } from './tail-cache.ts'
import { dropThrough, emptyTail } from './tail-cache.ts'
import type { Damage, LogOptions } from './types.ts'

/** Entries gathered before an open segment's index files are brought up to date. */
const SAVE_INDEX_AT_ENTRIES = 1024
/** Offsets within a segment are kept in 32 bits. */
export const MAX_SEGMENT_OFFSETS = 2 ** 31
export const MAX_SEGMENT_BYTES = 2 ** 31
const META_BYTES = 36
/** For a segment that has no sidecar to load. */
export const KNOWN: Promise<void> = Promise.resolve()

/** One segment: a file of batches end to end. */
export interface Segment {
  baseOffset: number
  /** Without suffix. */
  path: string
  /** Durable bytes that its file holds. */
  sizeBytes: number
  /** Bytes written or about to be: where the next batch goes. */
  writtenBytes: number
  /** One past the last offset in `sizeBytes`. */
  endOffset: number
  /** Hub times of its first and last append; undefined where not known. */
  firstTimeMs: number | undefined
  lastTimeMs: number | undefined
  /** Newest event time, where known. */
  maxEventTimeMs: number | undefined
  /** Its sidecar's times are filled in, or need not be; undefined before anyone asked. */
  metaLoaded: Promise<void> | undefined
  index: Promise<SegmentIndex> | undefined
  /** The same once there, for the commit path. */
  readyIndex: SegmentIndex | undefined
}

/** Bytes that one commit puts into one segment. */
export interface SegmentWrite {
  log: SegmentedLog
  segment: Segment
  isNew: boolean
  position: number
  buffers: Uint8Array[]
  length: number
  firstOffset: number
  endOffset: number
  appendTimeMs: number
}

export function newSegment(folder: string, baseOffset: number): Segment {
  return {
    baseOffset,
    path: segmentPath(folder, baseOffset),
    sizeBytes: 0,
    writtenBytes: 0,
    endOffset: baseOffset,
    firstTimeMs: undefined,
    lastTimeMs: undefined,
    maxEventTimeMs: undefined,
    metaLoaded: undefined,
    index: undefined,
    readyIndex: undefined,
  }
}

/** What the directory knows of one log: its segments and where it starts and ends. */
export class SegmentedLog {
  readonly id: number
  readonly name: string
  readonly folder: string
  options: LogOptions
  /** Its commits go before those of other logs. */
  goesFirst = false
  segments: Segment[] = []
  startOffset = 0
  /** One past the last offset assigned. */
  endOffset = 0
  durableEndOffset = 0
  damage: Damage[] = []
  /** Damage that reads pass over; the rest they refuse. */
  isolated = new Set<Damage>()
  readonly tail: Tail = emptyTail()
  /** What is durable in the journal and not in its segment yet: all from `filedEndOffset` to the durable end. */
  readonly unwritten: Tail = emptyTail()
  #unwrittenBytes = 0
  filedEndOffset = 0
  /** Rises when offsets are cut, so that a read across it is done again. */
  cuts = 0
  rollNext = false
  opened = false
  deleted = false
  /** Its creation is committed. */
  created = false
  listener: ((durableEndOffset: number) => void) | undefined

  constructor(id: number, name: string, folder: string, options: LogOptions) {
    this.id = id
    this.name = name
    this.folder = folder
    this.options = options
  }

  /** The segment before this one. */
  before(segment: Segment): Segment | undefined {
    return this.segments[this.segments.lastIndexOf(segment) - 1]
  }

  active(): Segment | undefined {
    return this.segments.at(-1)
  }

  sizeBytes(): number {
    let total = this.#unwrittenBytes
    for (const segment of this.segments) total += segment.sizeBytes
    return total
  }

  /** What lies below the start is no loss any more. */
  forgetDamageBelowStart(): void {
    this.damage = this.damage.filter(damage => damage.toOffset > this.startOffset)
    for (const damage of this.isolated) if (!this.damage.includes(damage)) this.isolated.delete(damage)
  }

  /**
   * Where a stretch of a segment ends that is damaged from `fromOffset` on with nothing good behind it: at damage that is
   * known already, or at `endOffset`. The position is -1 at the end.
   */
  damageEnd(segment: Segment, fromOffset: number, endOffset: number): { offset: number; position: number } {
    let end = { offset: endOffset, position: -1 }
    for (const known of this.damage) {
      if (known.segment !== `${segment.path}.log`) continue
      if (known.fromOffset > fromOffset && known.fromOffset < end.offset)
        end = { offset: known.fromOffset, position: known.bytePosition }
    }
    return end
  }

  /** Index of the segment holding the offset; the first where it lies before all. */
  segmentAt(offset: number): number {
    let low = 0
    let high = this.segments.length - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if ((this.segments[middle]?.baseOffset ?? 0) <= offset) low = middle
      else high = middle - 1
    }
    return low
  }

  /** Where the next append of this size goes: the active segment, or a new one. */
  planSegment(
    previousEnd: number,
    endOffset: number,
    sizeBytes: number,
    timeMs: number,
  ): { segment: Segment; isNew: boolean } {
    const active = this.active()
    // A new one would have its name.
    if (active !== undefined && active.writtenBytes === 0 && active.baseOffset === previousEnd)
      return { segment: active, isNew: false }
    if (active !== undefined && !this.rollNext) {
      const full =
        active.writtenBytes > 0 &&
        active.writtenBytes + sizeBytes > Math.min(this.options.segmentBytes, MAX_SEGMENT_BYTES)
      const old = active.firstTimeMs !== undefined && timeMs - active.firstTimeMs >= this.options.segmentMs
      if (!full && !old && endOffset - active.baseOffset < MAX_SEGMENT_OFFSETS)
        return { segment: active, isNew: false }
    }
    this.rollNext = false
    const segment = newSegment(this.folder, previousEnd)
    segment.metaLoaded = KNOWN
    const index = new SegmentIndex()
    segment.readyIndex = index
    segment.index = Promise.resolve(index)
    this.segments.push(segment)
    return { segment, isNew: true }
  }

  /** It ends at `offset`, and its segments hold all of it. */
  endAt(offset: number): void {
    this.endOffset = offset
    this.durableEndOffset = offset
    this.forgetUnwritten(Number.POSITIVE_INFINITY)
    this.filedEndOffset = offset
  }

  /** Keeps a chunk of a commit for reads until its segment holds it. */
  keepUnwritten(chunk: TailChunk): void {
    this.unwritten.chunks.push(chunk)
    this.#unwrittenBytes += chunk.bytes.length
  }

  /** What lies below `offset` is in its segment, or gone. */
  forgetUnwritten(offset: number): void {
    this.filedEndOffset = Math.max(this.filedEndOffset, offset)
    this.#unwrittenBytes -= dropThrough(this.unwritten, offset)
  }

  /** A write that became durable in the journal. */
  committed(write: SegmentWrite): void {
    const { segment, appendTimeMs } = write
    if (write.isNew && segment.baseOffset > this.durableEndOffset) this.#lost(segment)
    segment.firstTimeMs ??= appendTimeMs
    if (segment.lastTimeMs === undefined || appendTimeMs > segment.lastTimeMs)
      segment.lastTimeMs = appendTimeMs
    this.durableEndOffset = write.endOffset
  }

  /** The offsets before a segment that begins past the end are lost, at every replica. */
  #lost(segment: Segment): void {
    const before = this.before(segment)
    const fromOffset = this.durableEndOffset
    const damage: Damage = {
      log: this.name,
      fromOffset,
      toOffset: segment.baseOffset,
      segment: `${before?.path ?? segmentPath(this.folder, fromOffset)}.log`,
      bytePosition: before?.writtenBytes ?? 0,
      resumePosition: -1,
      reason: 'the leader had lost these offsets',
    }
    this.damage.push(damage)
    this.isolated.add(damage)
  }

  /** A committed write that its segment's file holds: batches are indexed. */
  filed(write: SegmentWrite): void {
    const { segment } = write
    if (segment.readyIndex !== undefined) {
      let position = write.position
      for (const buffer of write.buffers)
        position = indexBatches(segment, segment.readyIndex, buffer, position)
      segment.maxEventTimeMs = segment.readyIndex.maxTimeMs()
    } else if (segment.maxEventTimeMs !== undefined) {
      for (const buffer of write.buffers)
        segment.maxEventTimeMs = Math.max(segment.maxEventTimeMs, newestEventTime(buffer))
    }
    segment.sizeBytes = write.position + write.length
    segment.endOffset = write.endOffset
    this.forgetUnwritten(write.endOffset)
  }
}

function indexBatches(segment: Segment, index: SegmentIndex, bytes: Uint8Array, from: number): number {
  let at = 0
  while (at < bytes.length) {
    const sizeBytes = readI32(bytes, at + 8) + 12
    index.add(readI64(bytes, at) - segment.baseOffset, from + at, sizeBytes, readI64(bytes, at + 35))
    at += sizeBytes
  }
  return from + at
}

function newestEventTime(bytes: Uint8Array): number {
  let newest = Number.MIN_SAFE_INTEGER
  for (let at = 0; at < bytes.length; at += readI32(bytes, at + 8) + 12) {
    newest = Math.max(newest, readI64(bytes, at + 35))
  }
  return newest
}

/** True where an open segment's index files lag far enough to be written. */
export function indexLags(segment: Segment): boolean {
  return segment.readyIndex !== undefined && segment.readyIndex.unsavedEntries() >= SAVE_INDEX_AT_ENTRIES
}

/**
 * The segment's index, loaded or rebuilt: the files are taken as far as they agree with the segment, the rest is
 * scanned. Reads headers only; whoever reads batches checks them.
 */
export async function segmentIndex(
  segment: Segment,
  log: SegmentedLog,
  { disk, files, indexes }: IndexDeps,
): Promise<SegmentIndex> {
  segment.index ??= loadIndex(segment, log, disk, files).catch(error => {
    segment.index = undefined
    throw error
  })
  const index = await segment.index
  indexes.used(log, segment, index)
  return index
}

/** What finding an index takes. */
export interface IndexDeps {
  disk: Disk
  files: FilePool
  indexes: IndexCache
}

/** Forgets the index and its files, so that the next reader rebuilds it. */
export async function dropIndex(segment: Segment, disk: Disk): Promise<void> {
  await disk.remove(`${segment.path}.index`)
  await disk.remove(`${segment.path}.timeindex`)
  segment.index = undefined
  segment.readyIndex = undefined
}

async function loadIndex(
  segment: Segment,
  log: SegmentedLog,
  disk: Disk,
  files: FilePool,
): Promise<SegmentIndex> {
  const { cuts } = log
  const loaded = await SegmentIndex.load(disk, segment.path, segment.sizeBytes)
  return files.use(`${segment.path}.log`, async file => {
    const index = (await agrees(loaded, segment, file)) ? loaded : new SegmentIndex()
    await catchUp(index, segment, file)
    // The commit path adds to it from here on; nothing was awaited since the last pass found it complete.
    if (log.cuts === cuts && index.endPosition() >= segment.sizeBytes) {
      segment.readyIndex = index
      segment.maxEventTimeMs = index.maxTimeMs()
    }
    return index
  })
}

/** Whether the last entry names a batch that is there. */
async function agrees(index: SegmentIndex, segment: Segment, file: DiskFile): Promise<boolean> {
  const header = Buffer.alloc(BATCH_HEADER_BYTES)
  const last = index.lastEntry()
  if (last === undefined) return true
  const got = await file.read(header, 0, header.length, last.position)
  const found = got < header.length ? 'short' : headerOr(header, 0)
  return typeof found !== 'string' && found.baseOffset === segment.baseOffset + last.relativeOffset
}

/** Scans what the index lacks, past damage, until nothing was committed during the last pass. */
async function catchUp(index: SegmentIndex, segment: Segment, file: DiskFile): Promise<void> {
  const last = index.lastEntry()
  let position = last?.position ?? 0
  let offset = segment.baseOffset + (last?.relativeOffset ?? 0)
  while (position < segment.sizeBytes) {
    const range = { fromPosition: position, toPosition: segment.sizeBytes, offset }
    const result = await scanBatches(file, range, false, (header, at) => {
      index.add(header.baseOffset - segment.baseOffset, at, header.sizeBytes, header.maxTimestampMs)
      return undefined
    })
    position = result.position
    offset = result.offset
    if (result.bad === undefined) continue
    const good = await resync(file, position + 1, range.toPosition, offset, segment.endOffset)
    if (good === undefined) return
    position = good.position
    offset = good.offset
  }
}

/**
 * Writes the sidecar: first and last hub time, newest event time, size of the segment that they are of, CRC-32C. Not synced:
 * after a crash it may be there though what it is of is not, or the other way round.
 */
export async function saveMeta(segment: Segment, disk: Disk): Promise<void> {
  if (segment.firstTimeMs === undefined || segment.lastTimeMs === undefined) return
  const bytes = new Uint8Array(META_BYTES)
  writeI64(bytes, 0, segment.firstTimeMs)
  writeI64(bytes, 8, segment.lastTimeMs)
  writeI64(bytes, 16, segment.maxEventTimeMs ?? Number.MAX_SAFE_INTEGER)
  writeI64(bytes, 24, segment.sizeBytes)
  writeU32(bytes, 32, crc32c(bytes.subarray(0, 32)))
  const file = await disk.open(`${segment.path}.meta`, 'write')
  try {
    await file.writev([bytes], 0)
  } finally {
    await file.close()
  }
}

/**
 * Fills in what the sidecar knows. One that is missing, damaged or of the segment when it was shorter leaves the times
 * unknown, which keeps the segment.
 */
export function loadMeta(segment: Segment, disk: Disk): Promise<void> {
  segment.metaLoaded ??= readMeta(segment, disk)
  return segment.metaLoaded
}

async function readMeta(segment: Segment, disk: Disk): Promise<void> {
  try {
    const bytes = await disk.readFile(`${segment.path}.meta`)
    if (bytes.length < META_BYTES || crc32c(bytes.subarray(0, 32)) !== readU32(bytes, 32)) return
    if (readI64(bytes, 24) !== segment.sizeBytes) return
    segment.firstTimeMs ??= readI64(bytes, 0)
    segment.lastTimeMs ??= readI64(bytes, 8)
    const event = readI64(bytes, 16)
    if (event !== Number.MAX_SAFE_INTEGER) segment.maxEventTimeMs ??= event
  } catch {
    // Missing: unknown.
  }
}

/** Removes the files of a segment. */
export async function removeSegment(segment: Segment, disk: Disk, files: FilePool): Promise<void> {
  files.forget(`${segment.path}.log`)
  for (const suffix of SEGMENT_SUFFIXES) await disk.remove(segment.path + suffix)
}

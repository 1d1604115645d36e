import { readI64, readI64OrNaN, readU32, utf8Text, writeI64, writeU16, writeU32 } from '../bytes.ts'
import { crc32c } from '../crc32c.ts'

/**
 * The journal's bytes. A half is a sequence of commit records, each starting on a block boundary:
 *
 *   magic u32 · table CRC-32C u32 (what follows it, to the end of the entries) · journal id, 8 bytes ·
 *   session u32 · entry count u32 · commit number i64 · table bytes u32 · payload bytes u32 · entries · payload
 *
 * An entry is 64 bytes and the log's name; the payload is what the data entries carry, end to end. Table and
 * payloads are summed apart: a commit whose table is whole still counts where a segment holds the bytes that
 * the journal lost. All integers are big-endian.
 */

/** Records start on multiples of this, so that no write touches a page that an earlier commit lies in. */
export const JOURNAL_BLOCK_BYTES = 4096
const RECORD_HEADER_BYTES = 40
export const ENTRY_BYTES = 64

const MAGIC = 0x54_52_4a_31
const KINDS = ['data', 'create', 'delete', 'start', 'cut', 'restart', 'repair', 'synced'] as const

export type EntryKind = (typeof KINDS)[number]

/**
 * One fact of a commit. `data`: bytes of a segment; `create` and `delete` of a log; `start`: the log starts at
 * `firstOffset`; `cut`: all from `firstOffset` on is gone and the log ends in `segmentBase` at `position`; `restart`: all is
 * gone, the log starts and ends at `firstOffset`; `repair`: damage from `firstOffset` to `endOffset` is whole again, in
 * `segmentBase` up to `position`; `synced`, of a commit under `flush: async`: every commit below the number `firstOffset` was
 * durable when this one was written. A commit without it is written when all before it are.
 */
export interface JournalEntry {
  kind: EntryKind
  logId: number
  name: string
  /** -1: the log has no segment. */
  segmentBase: number
  position: number
  length: number
  firstOffset: number
  /** One past the last offset. */
  endOffset: number
  appendTimeMs: number
  /** CRC-32C of the bytes. */
  crc: number
}

export interface RecordHead {
  journalId: Uint8Array
  session: number
  number: number
}

export interface RecordInfo {
  session: number
  number: number
  entryCount: number
  tableBytes: number
  payloadBytes: number
}

/** An entry without data. */
export function plainEntry(kind: EntryKind, logId: number, name: string, firstOffset = 0): JournalEntry {
  const none = { position: 0, length: 0, endOffset: firstOffset, appendTimeMs: 0, crc: 0 }
  return { kind, logId, name, firstOffset, segmentBase: -1, ...none }
}

/** Bytes of a record's header and entries. */
export function tableSize(entries: readonly JournalEntry[]): number {
  let size = RECORD_HEADER_BYTES
  for (const entry of entries) size += ENTRY_BYTES + Buffer.byteLength(entry.name)
  return size
}

/** Whole blocks that hold `sizeBytes`. */
export function blocksFor(sizeBytes: number): number {
  return Math.ceil(sizeBytes / JOURNAL_BLOCK_BYTES) * JOURNAL_BLOCK_BYTES
}

/** Writes header and entries at the start of `target`; `tableBytes` by `tableSize`. */
export function writeTable(
  target: Buffer,
  head: RecordHead,
  entries: readonly JournalEntry[],
  tableBytes: number,
  payloadBytes: number,
): void {
  writeU32(target, 0, MAGIC)
  target.set(head.journalId, 8)
  writeU32(target, 16, head.session)
  writeU32(target, 20, entries.length)
  writeI64(target, 24, head.number)
  writeU32(target, 32, tableBytes)
  writeU32(target, 36, payloadBytes)
  let at = RECORD_HEADER_BYTES
  for (const entry of entries) at = writeEntry(target, at, entry)
  writeU32(target, 4, crc32c(target.subarray(8, tableBytes)))
}

function writeEntry(target: Buffer, at: number, entry: JournalEntry): number {
  const nameBytes = target.write(entry.name, at + ENTRY_BYTES)
  target[at] = KINDS.indexOf(entry.kind)
  target[at + 1] = 0
  writeU16(target, at + 2, nameBytes)
  writeU32(target, at + 4, entry.length)
  writeI64(target, at + 8, entry.logId)
  writeI64(target, at + 16, entry.segmentBase)
  writeI64(target, at + 24, entry.position)
  writeI64(target, at + 32, entry.firstOffset)
  writeI64(target, at + 40, entry.endOffset)
  writeI64(target, at + 48, entry.appendTimeMs)
  writeU32(target, at + 56, entry.crc)
  writeU32(target, at + 60, 0)
  return at + ENTRY_BYTES + nameBytes
}

/** The header at the start of `bytes` as far as it makes sense and is of this journal; its CRC is not checked. */
export function peekRecord(
  bytes: Uint8Array,
  journalId: Uint8Array,
  maxBytes: number,
): RecordInfo | undefined {
  if (bytes.length < RECORD_HEADER_BYTES || readU32(bytes, 0) !== MAGIC) return undefined
  if (Buffer.compare(bytes.subarray(8, 16), journalId) !== 0) return undefined
  const info = {
    session: readU32(bytes, 16),
    entryCount: readU32(bytes, 20),
    number: readI64OrNaN(bytes, 24),
    tableBytes: readU32(bytes, 32),
    payloadBytes: readU32(bytes, 36),
  }
  const fits = info.tableBytes >= RECORD_HEADER_BYTES && info.tableBytes + info.payloadBytes <= maxBytes
  return fits && !Number.isNaN(info.number) ? info : undefined
}

/** The entries of a record whose `tableBytes` are at the start of `table`; undefined where the CRC is wrong. */
export function readTable(table: Uint8Array, info: RecordInfo): JournalEntry[] | undefined {
  if (crc32c(table.subarray(8, info.tableBytes)) !== readU32(table, 4)) return undefined
  const entries: JournalEntry[] = []
  let at = RECORD_HEADER_BYTES
  while (entries.length < info.entryCount) {
    const nameBytes = readU32(table, at) & 0xffff
    const kind = KINDS[table[at] ?? 0]
    if (kind === undefined) return undefined
    entries.push({
      kind,
      length: readU32(table, at + 4),
      logId: readI64(table, at + 8),
      segmentBase: readI64(table, at + 16),
      position: readI64(table, at + 24),
      firstOffset: readI64(table, at + 32),
      endOffset: readI64(table, at + 40),
      appendTimeMs: readI64(table, at + 48),
      crc: readU32(table, at + 56),
      name: utf8Text(table.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + nameBytes)),
    })
    at += ENTRY_BYTES + nameBytes
  }
  return entries
}

import { crc32c } from '../crc32c.ts'
import type { Disk, DiskFile } from '../env.ts'
import type { JournalEntry, RecordInfo } from './journal-format.ts'
import { blocksFor, JOURNAL_BLOCK_BYTES, peekRecord, readTable } from './journal-format.ts'
import { readFully, scanBuffers } from './scan.ts'

/** Reading the journal after an unclean stop: which commits it holds, and where their bytes are. */

/** A commit found in the journal. */
export interface JournalRecord {
  number: number
  session: number
  half: number
  entries: JournalEntry[]
  /** Position in the half of each entry's bytes; -1 for entries without. */
  payloadAt: number[]
  /** All commits below this number were durable when it was written. */
  firstUnsynced: number
  /** It was not synced by itself (`flush: async`). */
  isAsync: boolean
}

export interface JournalContent {
  /** In order of number; those that may not have been durable are without a hole. */
  records: JournalRecord[]
  /** All commits below this number were durable, those from it on are a tail that may be torn. */
  firstUnsynced: number
  /** Commits below that which are not there: their records were damaged. */
  missing: number
  /** Behind the first that is missing of the tail. */
  dropped: JournalRecord[]
}

/** Journal files are `journal-0` and `journal-1`. */
export function journalPath(directory: string, half: number): string {
  return `${directory}/journal-${half}`
}

/**
 * Reads both halves. Records of other sessions and numbers below `firstCommit` are leftovers. With no checkpoint to
 * say (`session` undefined) the latest session counts, and of it the unbroken run that reaches into the tail.
 */
export async function readJournal(
  disk: Disk,
  directory: string,
  journalId: Uint8Array,
  session: number | undefined,
  firstCommit: number,
): Promise<JournalContent> {
  const found: JournalRecord[] = []
  for (const half of [0, 1]) {
    if (!(await disk.exists(journalPath(directory, half)))) continue
    const file = await disk.open(journalPath(directory, half), 'read')
    try {
      found.push(...(await readHalf(file, half, journalId)))
    } finally {
      await file.close()
    }
  }
  const latest = session ?? Math.max(0, ...found.map(record => record.session))
  const records = found
    .filter(record => record.session === latest && record.number >= firstCommit)
    .sort((left, right) => left.number - right.number)
  const firstUnsynced = records.reduce((first, record) => Math.max(first, record.firstUnsynced), firstCommit)
  // The first of the tail, and the first behind its hole.
  let tail = records.findIndex(record => record.number >= firstUnsynced)
  if (tail < 0) tail = records.length
  let hole = tail
  while (records[hole]?.number === firstUnsynced + hole - tail) hole++
  const dropped = records.slice(hole)
  if (session !== undefined) {
    const missing = firstUnsynced - firstCommit - tail
    return { records: records.slice(0, hole), firstUnsynced, missing, dropped }
  }
  let start = Math.max(0, hole - 1)
  while (start > 0 && records[start - 1]?.number === (records[start]?.number ?? 0) - 1) start--
  return { records: records.slice(start, hole), firstUnsynced, missing: 0, dropped }
}

async function readHalf(file: DiskFile, half: number, journalId: Uint8Array): Promise<JournalRecord[]> {
  const sizeBytes = await file.sizeBytes()
  const records: JournalRecord[] = []
  const head = Buffer.alloc(JOURNAL_BLOCK_BYTES)
  let at = 0
  while (at < sizeBytes) {
    const got = await readFully(file, head, Math.min(JOURNAL_BLOCK_BYTES, sizeBytes - at), at)
    const info = peekRecord(head.subarray(0, got), journalId, sizeBytes - at)
    const entries = info === undefined ? undefined : await tableOf(file, at, info)
    if (info === undefined || entries === undefined) {
      // No record here: one may begin at any later block, where what preceded it was damaged or is a leftover.
      at += JOURNAL_BLOCK_BYTES
      continue
    }
    const payloadAt: number[] = []
    let payload = at + info.tableBytes
    for (const entry of entries) {
      payloadAt.push(entry.length > 0 ? payload : -1)
      payload += entry.length
    }
    const { number, session } = info
    const synced = entries.find(entry => entry.kind === 'synced')
    const firstUnsynced = synced === undefined ? number : synced.firstOffset
    records.push({ number, session, half, entries, payloadAt, firstUnsynced, isAsync: synced !== undefined })
    at += skipOf(records, info)
  }
  return records
}

/** A leftover's length must not hide a newer record that overwrote its later blocks: only the newest may skip. */
function skipOf(records: readonly JournalRecord[], info: RecordInfo): number {
  const newest = records.every(record => record.session < info.session || record.number <= info.number)
  return newest ? blocksFor(info.tableBytes + info.payloadBytes) : JOURNAL_BLOCK_BYTES
}

async function tableOf(file: DiskFile, at: number, info: RecordInfo): Promise<JournalEntry[] | undefined> {
  const table = Buffer.alloc(info.tableBytes)
  const got = await readFully(file, table, table.length, at)
  return got < table.length ? undefined : readTable(table, info)
}

/** CRC-32C of a range of a file; undefined where the file is shorter. */
export async function rangeCrc(
  file: DiskFile,
  position: number,
  length: number,
): Promise<number | undefined> {
  const buffer = scanBuffers.take(Math.min(length, 1024 * 1024))
  try {
    let crc = 0
    for (let done = 0; done < length; ) {
      const got = await readFully(file, buffer, Math.min(buffer.length, length - done), position + done)
      if (got === 0) return undefined
      crc = crc32c(buffer.subarray(0, got), crc)
      done += got
    }
    return crc
  } finally {
    scanBuffers.give(buffer)
  }
}

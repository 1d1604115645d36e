import { readI64OrNaN, readU32, writeI64, writeU32 } from '../bytes.ts'
import { crc32c } from '../crc32c.ts'
import type { Disk } from '../env.ts'

/** Snapshots kept of one log: the newest may be above a later cut, or damaged. */
export const SNAPSHOTS_KEPT = 3

const MAGIC = 0x54_52_53_31
const HEADER_BYTES = 16
const NAME = /^(\d{20})\.snapshot$/

/** What was derived from a log's records below `offset` (producers, for one). */
export interface Snapshot {
  offset: number
  bytes: Uint8Array
}

/**
 * Snapshots of state derived from a log, in a folder of their own, so that a restart replays the log only from the
 * newest on. A file is magic u32, CRC-32C u32 of the rest, offset i64, content.
 */
export interface Snapshots {
  /** Durable when it resolves; segments below `offset` may go after that. Older ones beyond SNAPSHOTS_KEPT are removed. */
  save(offset: number, bytes: Uint8Array): Promise<void>
  /** The newest whole one at or below `offset`; damaged ones are passed over. */
  loadAtOrBelow(offset: number): Promise<Snapshot | undefined>
  /** After the log was cut at `offset`: what was derived from records past it is removed, durably. */
  dropAfter(offset: number): Promise<void>
  /** Offset of the newest one saved; 0 without any. */
  newestOffset(): number
}

/** Opens the snapshots in `folder`, making it where needed. */
export async function openSnapshots(disk: Disk, folder: string): Promise<Snapshots> {
  await disk.mkdir(folder)
  let offsets: number[] = []
  for (const name of await disk.list(folder)) {
    const match = NAME.exec(name)
    if (match !== null) offsets.push(Number(match[1]))
    // What a crash left of a replaceFile.
    else await disk.remove(`${folder}/${name}`)
  }
  offsets.sort((left, right) => left - right)
  // A process that was killed may have left the newest one's name in memory alone, and segments go on the strength of it.
  if (offsets.length > 0) await disk.syncDir(folder)
  const pathOf = (offset: number): string => `${folder}/${String(offset).padStart(20, '0')}.snapshot`

  return {
    save: async (offset, bytes) => {
      await disk.replaceFile(pathOf(offset), encode(offset, bytes))
      offsets = [...offsets.filter(known => known !== offset), offset].sort((left, right) => left - right)
      while (offsets.length > SNAPSHOTS_KEPT) {
        const oldest = offsets.shift()
        if (oldest !== undefined) await disk.remove(pathOf(oldest))
      }
    },
    loadAtOrBelow: async limit => {
      for (const offset of offsets.filter(known => known <= limit).reverse()) {
        const found = await readSnapshot(disk, pathOf(offset))
        if (found?.offset === offset) return found
        // It covers nothing: were it the newest still, segments would go that only an older one covers.
        offsets = offsets.filter(known => known !== offset)
      }
      return undefined
    },
    dropAfter: async limit => {
      const gone = offsets.filter(offset => offset > limit)
      if (gone.length === 0) return
      offsets = offsets.filter(offset => offset <= limit)
      for (const offset of gone) await disk.remove(pathOf(offset))
      await disk.syncDir(folder)
    },
    newestOffset: () => offsets.at(-1) ?? 0,
  }
}

/** Undefined where it is damaged, or the disk can't read it. */
async function readSnapshot(disk: Disk, path: string): Promise<Snapshot | undefined> {
  try {
    return decode(await disk.readFile(path))
  } catch {
    return undefined
  }
}

function encode(offset: number, bytes: Uint8Array): Uint8Array {
  const file = new Uint8Array(HEADER_BYTES + bytes.length)
  writeU32(file, 0, MAGIC)
  writeI64(file, 8, offset)
  file.set(bytes, HEADER_BYTES)
  writeU32(file, 4, crc32c(file.subarray(8)))
  return file
}

function decode(file: Uint8Array): Snapshot | undefined {
  if (file.length < HEADER_BYTES || readU32(file, 0) !== MAGIC) return undefined
  if (readU32(file, 4) !== crc32c(file.subarray(8))) return undefined
  return { offset: readI64OrNaN(file, 8), bytes: file.subarray(HEADER_BYTES) }
}

import { utf8, utf8Text } from '../bytes.ts'
import { crc32c } from '../crc32c.ts'
import type { Damage, FlushMode } from './types.ts'

/**
 * The `checkpoint` file: what the segments are known to hold durably, so that recovery starts from there. JSON and,
 * on a line of its own, the CRC-32C of the JSON.
 */
export interface Checkpoint {
  directoryId: string
  /** Which opening of the directory wrote the journal records that count. */
  session: number
  /** First commit not covered: the journal is replayed from it on. */
  firstCommit: number
  cleanShutdown: boolean
  /** How the session that wrote it commits; absent: `commit`. */
  flush?: FlushMode
  /** An unclean stop under `flush: async`, and a directory below its durable end, that were found and not handled yet. */
  uncleanAsync?: boolean
  belowDurableEnd?: boolean
  nextLogId: number
  logs: CheckpointLog[]
  /** Logs deleted whose files may still be there. */
  removing: string[]
}

export interface CheckpointLog {
  id: number
  name: string
  startOffset: number
  /** Durable end: offset, and the place in the last segment; segmentBase -1 without segments. */
  endOffset: number
  segmentBase: number
  position: number
  /** Hub times of the last segment. */
  firstTimeMs?: number
  lastTimeMs?: number
  damage?: Damage[]
}

export function encodeCheckpoint(checkpoint: Checkpoint): Uint8Array {
  const json = utf8(JSON.stringify(checkpoint))
  return utf8(`${utf8Text(json)}\n${crc32c(json).toString(16).padStart(8, '0')}\n`)
}

/** The checkpoint, or undefined where the bytes are damaged. */
export function decodeCheckpoint(bytes: Uint8Array): Checkpoint | undefined {
  const text = utf8Text(bytes)
  const end = text.indexOf('\n')
  if (end < 0) return undefined
  const json = text.slice(0, end)
  if (crc32c(utf8(json)).toString(16).padStart(8, '0') !== text.slice(end + 1).trimEnd()) return undefined
  const checkpoint: Checkpoint = JSON.parse(json)
  return checkpoint
}

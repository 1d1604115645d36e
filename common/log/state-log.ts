import { batchSizeAt, readHeader } from '../batch.ts'
import { buildBatch } from '../batch-builder.ts'
import { decodePlain } from '../batch-records.ts'
import { utf8, utf8Text } from '../bytes.ts'
import { isTributaryError, TributaryError } from '../errors.ts'
import type { Damage, DataDir, Log, LogOptions, LogTurn, ReadResult, StateEntry, StateLog } from './types.ts'

/** The log is rewritten when it holds so many times its live bytes, but not below the least size. */
const COMPACT_AT_RATIO = 4
const COMPACT_FROM_BYTES = 1024 * 1024
const SEGMENT_BYTES = 1024 * 1024
/** Live entries rewritten in one turn. */
const REWRITE_CHUNK_BYTES = 128 * 1024
const READ_BYTES = 1024 * 1024
/** What an entry costs beside its key and value. */
const ENTRY_OVERHEAD_BYTES = 32
const MAX_BATCH_BYTES = 32 * 1024 * 1024

const OPTIONS: LogOptions = {
  segmentBytes: SEGMENT_BYTES,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: MAX_BATCH_BYTES,
}

/**
 * Opens the StateLog `name`: its log is read whole, the last value of each key is live. `rollNext` makes that log
 * begin a segment; `onDamage` is told of stretches that can't be read.
 */
export async function openStateLog(
  directory: Pick<DataDir, 'openLog'>,
  name: string,
  maxLiveBytes: number,
  turn: LogTurn,
  rollNext: (log: string) => void,
  onDamage: (damage: Damage) => void,
): Promise<StateLog> {
  const log = await directory.openLog(name, OPTIONS, turn)
  const live = await loadLive(log, onDamage)
  return stateOver(log, live, maxLiveBytes, () => rollNext(name))
}

/** Damage costs the entries it holds, not the start: it is passed over and told. */
async function readOrIsolate(
  log: Log,
  offset: number,
  onDamage: (damage: Damage) => void,
): Promise<ReadResult> {
  try {
    return await log.read(offset, READ_BYTES)
  } catch (error) {
    const damage = log.damage().find(known => offset >= known.fromOffset && offset < known.toOffset)
    if (!isTributaryError(error, 'corrupt_log') || damage === undefined) throw error
    log.isolate(damage)
    onDamage(damage)
    return { batches: new Uint8Array(0), nextOffset: damage.toOffset }
  }
}

async function loadLive(log: Log, onDamage: (damage: Damage) => void): Promise<Map<string, Uint8Array>> {
  const live = new Map<string, Uint8Array>()
  let offset = log.startOffset()
  while (offset < log.durableEndOffset()) {
    const read = await readOrIsolate(log, offset, onDamage)
    for (let at = 0; at < read.batches.length; at += batchSizeAt(read.batches, at)) {
      if (readHeader(read.batches, at).lastOffset < offset) continue
      for (const record of decodePlain(read.batches, at)) {
        if (record.key === null) continue
        const key = utf8Text(record.key)
        if (record.value === null) live.delete(key)
        // Copied: the batch's buffer goes back to the pool.
        else live.set(key, Uint8Array.from(record.value))
      }
    }
    read.release?.()
    if (read.nextOffset <= offset) break
    offset = read.nextOffset
  }
  return live
}

function costOf(key: string, value: Uint8Array): number {
  return key.length + value.length + ENTRY_OVERHEAD_BYTES
}

function stateOver(
  log: Log,
  live: Map<string, Uint8Array>,
  maxLiveBytes: number,
  rollNext: () => void,
): StateLog {
  let liveBytes = 0
  for (const [key, value] of live) liveBytes += costOf(key, value)
  let compacting = false

  const apply = (key: string, value: Uint8Array | null): void => {
    const old = live.get(key)
    if (old !== undefined) liveBytes -= costOf(key, old)
    if (value === null) live.delete(key)
    else {
      live.set(key, value)
      liveBytes += costOf(key, value)
    }
  }

  const append = async (entries: readonly StateEntry[]): Promise<void> => {
    const records = entries.map(({ key, value }) => ({ key: utf8(key), value, headers: [], timestampMs: 0 }))
    await log.append(buildBatch(records), { useReserve: true, durable: true })
  }

  const put = async (entries: readonly StateEntry[]): Promise<void> => {
    if (entries.length === 0) return
    let grows = 0
    for (const { key, value } of entries) {
      const old = live.get(key)
      grows += (value === null ? 0 : costOf(key, value)) - (old === undefined ? 0 : costOf(key, old))
    }
    if (grows > 0 && liveBytes + grows > maxLiveBytes) {
      throw new TributaryError(
        'limit_exceeded',
        `${log.name} would hold ${liveBytes + grows} bytes, its limit is ${maxLiveBytes}: remove entries or raise the limit`,
      )
    }
    const before = entries.map(({ key }) => live.get(key))
    for (const { key, value } of entries) apply(key, value)
    try {
      await append(entries)
    } catch (error) {
      undo(entries, before)
      throw error
    }
    const worthIt = log.sizeBytes() > Math.max(COMPACT_FROM_BYTES, COMPACT_AT_RATIO * liveBytes)
    if (worthIt && !compacting) void compact()
  }

  /** What was not made durable is taken back, save where a later put replaced it. */
  const undo = (entries: readonly StateEntry[], before: readonly (Uint8Array | undefined)[]): void => {
    for (let at = entries.length - 1; at >= 0; at--) {
      const entry = entries[at]
      if (entry !== undefined && (live.get(entry.key) ?? null) === entry.value)
        apply(entry.key, before[at] ?? null)
    }
  }

  /** Rewrites each entry as it is at that moment, so that puts in between stand after what they replace. */
  const compact = async (): Promise<void> => {
    compacting = true
    try {
      rollNext()
      const from = log.endOffset()
      let chunk: StateEntry[] = []
      let chunkBytes = 0
      const flush = async (): Promise<void> => {
        const entries = chunk.map(({ key }) => ({ key, value: live.get(key) ?? null }))
        chunk = []
        chunkBytes = 0
        if (entries.length > 0) await append(entries)
      }
      for (const [key, value] of [...live]) {
        chunk.push({ key, value })
        chunkBytes += costOf(key, value)
        if (chunkBytes >= REWRITE_CHUNK_BYTES) await flush()
      }
      await flush()
      await log.truncateBefore(from)
    } catch {
      // The log stays as it was, only longer; the next put tries again.
    } finally {
      compacting = false
    }
  }

  return {
    get: key => live.get(key),
    entries: prefix =>
      [...live]
        .filter(([key]) => key.startsWith(prefix))
        .sort(([left], [right]) => (left < right ? -1 : left > right ? 1 : 0)),
    put,
    liveBytes: () => liveBytes,
  }
}

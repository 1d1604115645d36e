import { assert } from '../../../../common/assert.ts'
import { eachBatch } from '../../../../common/batch.ts'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { decodePlain } from '../../../../common/batch-records.ts'
import { concat, utf8, utf8Text } from '../../../../common/bytes.ts'
import { MIB } from '../../../../common/limits.ts'
import type { Log } from '../../../../common/log/types.ts'
import type { Entry, Payload } from '../../../raft/types.ts'
import type { OnDamage } from '../../../replica/log-access.ts'
import { readPastDamage } from '../../../replica/log-access.ts'
import { decodeConfig, encodeConfig } from './codec.ts'

/**
 * Entries of the quorum as records of the metadata log: an entry is one batch of one record, so that the log can be cut at any of
 * them. Offset is index, leader epoch is term. A leader's own first entry has no value; members have a key.
 */

const MEMBERS_KEY = 'members'

/** Appends entries that follow the log's end. All appends are made in this turn; resolves when all are durable or refused. */
export function appendEntries(log: Log, entries: readonly Entry[], timestampMs: number): Promise<unknown>[] {
  const appends: Promise<unknown>[] = []
  let batches: Uint8Array[] = []
  entries.forEach((entry, at) => {
    assert(at > 0 || entry.index === log.endOffset(), `entry ${entry.index} is not at the end of the log`)
    batches.push(batchOf(entry, timestampMs))
    if (entries[at + 1]?.term === entry.term) return
    appends.push(log.append(concat(batches), { useReserve: true, leaderEpoch: entry.term }))
    batches = []
  })
  return appends
}

function batchOf({ payload }: Entry, timestampMs: number): Uint8Array {
  const isConfig = payload.t === 'config'
  const key = isConfig ? utf8(MEMBERS_KEY) : null
  return buildBatch([{ key, value: valueIn(payload), headers: [], timestampMs }])
}

function valueIn(payload: Payload): Uint8Array | null {
  if (payload.t === 'noop') return null
  return payload.t === 'data' ? payload.bytes : encodeConfig(payload.config)
}

/** Reads the entries from `from` to the durable end, passing over damage, and thus maybe with holes. */
export async function readEntries(log: Log, from: number, onDamage: OnDamage): Promise<Entry[]> {
  const entries: Entry[] = []
  const end = log.durableEndOffset()
  let offset = from
  while (offset < end) {
    const { batches, nextOffset } = await readPastDamage(log, offset, MIB, end, onDamage)
    for (const { at, header } of eachBatch(batches)) {
      for (const record of decodePlain(batches, at)) {
        if (record.offset < offset) continue
        const payload = payloadOf(record.key, record.value)
        entries.push({ index: record.offset, term: header.leaderEpoch, payload })
      }
    }
    if (nextOffset <= offset) break
    offset = nextOffset
  }
  return entries
}

function payloadOf(key: Uint8Array | null, value: Uint8Array | null): Payload {
  if (value === null) return { t: 'noop' }
  if (key !== null && utf8Text(key) === MEMBERS_KEY) return { t: 'config', config: decodeConfig(value) }
  return { t: 'data', bytes: value }
}

/** The term of the entry at `index`; null where it can't be read. */
export async function termAt(log: Log, index: number, onDamage: OnDamage): Promise<number | null> {
  if (index < log.startOffset() || index >= log.durableEndOffset()) return null
  const { batches } = await readPastDamage(log, index, 1, index + 1, onDamage)
  for (const { header } of eachBatch(batches)) {
    if (header.baseOffset <= index && header.lastOffset >= index) return header.leaderEpoch
  }
  return null
}

import { assert, must } from '../../../../common/assert.ts'
import { BATCH_HEADER_BYTES, eachBatch, writeHeader } from '../../../../common/batch.ts'
import { decodePlain } from '../../../../common/batch-records.ts'
import { utf8, utf8Text, varintBytes, writeVarint } from '../../../../common/bytes.ts'
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
const MEMBERS_KEY_BYTES = utf8(MEMBERS_KEY)

/** Appends entries that follow the log's end. All appends are made in this turn; resolves when all are durable or refused. */
export function appendEntries(log: Log, entries: readonly Entry[], timestampMs: number): Promise<unknown>[] {
  const appends: Promise<unknown>[] = []
  for (let from = 0; from < entries.length; ) {
    const { index, term } = must(entries[from], 'an entry is missing')
    assert(index === log.endOffset(), `entry ${index} is not at the end of the log`)
    let to = from + 1
    while (entries[to]?.term === term) to++
    const batches = encodeBatches(entries.slice(from, to), timestampMs)
    appends.push(log.append(batches, { useReserve: true, leaderEpoch: term, durable: true }))
    from = to
  }
  return appends
}

/** Attributes, the deltas of time and offset, the count of headers: a byte each, all of them zero. */
const FIXED_RECORD_BYTES = 4

/** One batch of one record for each entry, end to end. Written in place: a builder for each would cost more than all else. */
function encodeBatches(entries: readonly Entry[], timestampMs: number): Uint8Array {
  const records = entries.map(({ payload }) => {
    const key = payload.t === 'config' ? MEMBERS_KEY_BYTES : null
    const value = valueIn(payload)
    const bodyBytes = FIXED_RECORD_BYTES + fieldBytes(key) + fieldBytes(value)
    return { key, value, bodyBytes, sizeBytes: BATCH_HEADER_BYTES + varintBytes(bodyBytes) + bodyBytes }
  })
  const target = new Uint8Array(records.reduce((total, { sizeBytes }) => total + sizeBytes, 0))
  let at = 0
  for (const { key, value, bodyBytes, sizeBytes } of records) {
    // Three zeros, key, value, one zero.
    const fields = writeVarint(target, at + BATCH_HEADER_BYTES, bodyBytes) + 3
    writeField(target, writeField(target, fields, key), value)
    writeHeader(target, at, 0, {
      sizeBytes,
      leaderEpoch: 0,
      attributes: 0,
      lastOffsetDelta: 0,
      baseTimestampMs: timestampMs,
      maxTimestampMs: timestampMs,
      producerId: -1,
      producerEpoch: -1,
      baseSequence: -1,
      recordCount: 1,
    })
    at += sizeBytes
  }
  return target
}

function fieldBytes(field: Uint8Array | null): number {
  return field === null ? 1 : varintBytes(field.length) + field.length
}

function writeField(target: Uint8Array, at: number, field: Uint8Array | null): number {
  if (field === null) return writeVarint(target, at, -1)
  const start = writeVarint(target, at, field.length)
  target.set(field, start)
  return start + field.length
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

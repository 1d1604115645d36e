import { must } from '../common/assert.ts'
import { batchSizeAt, readHeader } from '../common/batch.ts'
import type { RecordHeader } from '../common/batch-builder.ts'
import { encodeHeaders } from '../common/batch-builder.ts'
import type { DecodedRecord } from '../common/batch-records.ts'
import { decodeRecords } from '../common/batch-records.ts'
import { utf8 } from '../common/bytes.ts'
import { isTributaryError, messageOf, TributaryError } from '../common/errors.ts'
import { KIB, SECOND_MS } from '../common/limits.ts'
import type { StateEntry } from '../common/log/types.ts'
import { pause } from '../common/pause.ts'
import type { LedgerChange, SessionState } from './forward-types.ts'
import { DEAD_TOPIC } from './forwarder.ts'
import { takeBackGap } from './gaps.ts'
import type { Lane } from './lane.ts'
import { MAX_LOCAL_BATCH_BYTES, newRunId, parsed } from './lane.ts'
import type { Verdict } from './ledger.ts'
import { adoptVerdict, forgetCommitted, recut } from './ledger.ts'
import type { Store } from './store.ts'

/** What the forwarder asks to be stored: sessions, new runs, losses, dead letters. */

/** Records buried in one commit. */
const BURY_BYTES = 256 * KIB
/** A full disk is tried again after so long. */
const RETRY_MS = SECOND_MS

/** The session as stored; number 0 before the first. */
export function storedSession(store: Store): SessionState {
  return parsed<SessionState>(store.state.get('session')) ?? { session: 0, clusterId: null }
}

/** Stores the session and what its verdict does to every lane, in one commit. False where that is not possible. */
export function adopt(store: Store, session: SessionState, verdict: Verdict): Promise<boolean> {
  const lanes = verdict === 'ok' ? [] : [...store.lanes.values()]
  for (const lane of lanes) {
    adoptVerdict(lane.ledger, verdict, () => newRunId(store.env.rng))
    store.laneChanged(lane)
  }
  const entry = { key: 'session', value: utf8(JSON.stringify(session)) }
  return stored(store, () => [entry, ...lanes.flatMap(entriesOf)])
}

function entriesOf(lane: Lane): StateEntry[] {
  return [lane.laneEntry(), lane.ackedEntry(), lane.gapsEntry()]
}

/** Makes a change of a lane durable. False where that is not possible now. */
export async function applyChange(store: Store, lane: Lane, change: LedgerChange): Promise<boolean> {
  const { ledger } = lane
  switch (change.kind) {
    case 'bind':
      // Another topic than the one it wrote to: the hub went back to before that one was made.
      if (ledger.topicId !== null && ledger.topicId !== change.topicId) forgetCommitted(ledger)
      ledger.topicId = change.topicId
      return stored(store, () => [lane.laneEntry(), lane.ackedEntry()])
    case 'recut':
      recut(ledger, change.from, change.reason, () => newRunId(store.env.rng))
      if (change.topicId !== undefined) ledger.topicId = change.topicId
      return stored(store, () => entriesOf(lane))
    case 'lose': {
      store.declare(lane, change.from, change.to, change.reason, null)
      const isDurable = await stored(store, () => [lane.gapsEntry()])
      if (isDurable) lane.isolate(change.from, change.to)
      store.laneChanged(lane)
      return isDurable
    }
    case 'bury':
      try {
        await bury(store, lane, change)
        // It may have been the last that a newer generation of local logs waits for.
        store.laneChanged(lane)
        return true
      } catch (error) {
        const damaged = damageEnd(lane, change.from, error)
        // What can't be read can't be a dead letter either: without this the lane would wait for it for ever.
        if (damaged !== null)
          return loseDamaged(store, lane, change.from, Math.min(damaged, change.to), error)
        store.alarms.raise(
          'dead-letter',
          `records of ${lane.key} wait to be dead letters: ${messageOf(error)}`,
          lane.key,
        )
        return false
      }
  }
}

/** Where the damage ends that a read from `from` met, in the lane's offsets; null where it met none. */
export function damageEnd(lane: Lane, from: number, error: unknown): number | null {
  if (!isTributaryError(error, 'corrupt_log')) return null
  const { toOffset } = error.details
  const to = typeof toOffset === 'number' ? lane.partBase(from) + toOffset : from
  return to > from ? to : null
}

function loseDamaged(store: Store, lane: Lane, from: number, to: number, error: unknown): Promise<boolean> {
  store.alarms.raise('damage', `the local log of ${lane.key} cannot be read: ${messageOf(error)}`, lane.key)
  return applyChange(store, lane, { kind: 'lose', from, to, reason: 'damage' })
}

/**
 * Puts entries, waiting out a full disk: what is changed in memory must not be acted on before it is stored. They are made anew for
 * each try: meanwhile others store what they open and lose, and a copy from before would take it back.
 */
async function stored(store: Store, entries: () => StateEntry[]): Promise<boolean> {
  for (;;) {
    try {
      await store.state.put(entries())
      return true
    } catch (error) {
      if (!isTributaryError(error) || !error.retriable || error.code === 'closed') return false
      store.alarms.raise('disk-full', `the uplink waits for the disk: ${error.message}`)
      await pause(store.env.clock, RETRY_MS, true)
    }
  }
}

/** Copies what fits one commit of [from, to) to `_dead` and declares it refused, in that commit. */
async function bury(
  store: Store,
  lane: Lane,
  { from, to, why }: Extract<LedgerChange, { kind: 'bury' }>,
): Promise<void> {
  const isDead = lane.ledger.topic === DEAD_TOPIC
  const target = isDead ? null : must((await store.openTopic(DEAD_TOPIC)).lanes[0], 'a topic has a lane')
  const { records, end } = await readRecords(store, lane, from, to)
  const bytes = records.reduce((total, record) => total + (record.value?.length ?? 0) + 1_000, 0)
  if (target !== null && store.space.room(bytes, true) !== 'yes') {
    store.space.make(bytes, true)
    throw new TributaryError('disk_full', 'the disk budget is used up')
  }
  const failure = await new Promise<TributaryError | undefined>(resolve => {
    // From here on in one turn, so in one commit.
    if (target !== null) for (const record of records) appendDead(store, target, lane, record, why)
    store.declare(lane, from, end, 'refused', null)
    store.groups.addState(lane, 'gaps')
    store.groups.add(null, 0, [], resolve)
    store.groups.seal()
  })
  if (failure === undefined) {
    lane.deadRecords += records.length
    return
  }
  lane.ledger.gaps = takeBackGap(lane.ledger.gaps, Math.max(from, lane.ledger.startOffset), end)
  throw failure
}

async function readRecords(
  store: Store,
  lane: Lane,
  from: number,
  to: number,
): Promise<{ records: DecodedRecord[]; end: number }> {
  const read = await lane.read(from, BURY_BYTES)
  const records: DecodedRecord[] = []
  let end = Math.min(to, read.base + read.nextOffset)
  for (let at = 0; at < read.batches.length; at += batchSizeAt(read.batches, at)) {
    const { isControl } = readHeader(read.batches, at)
    for (const record of await decodeRecords(read.batches, at, store.env.codec, MAX_LOCAL_BATCH_BYTES)) {
      const offset = read.base + record.offset
      if (offset < from || offset >= to) continue
      records.push({ ...(isControl ? asRecord(record) : record), offset })
    }
  }
  if (end <= from) end = from + 1
  return { records, end }
}

/** A summary as people read it: what its lane dropped by policy is told where its records go. */
function asRecord(control: DecodedRecord): DecodedRecord {
  const headers = [...control.headers, { key: 'content-type', value: utf8('application/json') }]
  return { ...control, key: null, headers: [...headers, { key: 'dead.summary', value: null }] }
}

/** The record with where it comes from and why, and its own headers. Without its value where it would not fit. */
function appendDead(store: Store, target: Lane, lane: Lane, record: DecodedRecord, why: string): void {
  const { ledger } = lane
  const run = ledger.runs.find(
    ({ start, end }) => start <= record.offset && (end === null || record.offset < end),
  )
  const headers: RecordHeader[] = [
    ...record.headers,
    { key: 'dead.topic', value: utf8(ledger.topic) },
    { key: 'dead.reason', value: utf8(why) },
    { key: 'dead.lane', value: utf8(String(ledger.lane)) },
    { key: 'dead.offset', value: utf8(String(record.offset)) },
    { key: 'dead.run', value: utf8(String(run?.run ?? '')) },
    { key: 'dead.sequence', value: utf8(run === undefined ? '' : String(record.offset - run.start)) },
  ]
  const add = (value: Uint8Array | null, all: RecordHeader[]): boolean =>
    store.appendTo(target, record.timestampMs, record.key, value, encodeHeaders(all), all.length, null)
  const size = record.value?.length ?? 0
  const fits =
    add(record.value, headers) || add(null, [...headers, { key: 'dead.bytes', value: utf8(String(size)) }])
  if (!fits) throw new TributaryError('record_too_large', 'the headers of a record exceed a batch')
  store.groups.add(target, size, [], () => {})
}

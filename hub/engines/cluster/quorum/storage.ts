import { assert } from '../../../../common/assert.ts'
import { utf8, utf8Text } from '../../../../common/bytes.ts'
import type { Clock, Disk, Rng } from '../../../../common/env.ts'
import { isDiskFull, isTributaryError, TributaryError } from '../../../../common/errors.ts'
import { MIB } from '../../../../common/limits.ts'
import type { DataDir, Log, StateEntry, StateLog } from '../../../../common/log/types.ts'
import { pause } from '../../../../common/pause.ts'
import type { Restored } from '../../../raft/state.ts'
import type { Config, Entry, HardState, MemberId, SnapshotMark, Write } from '../../../raft/types.ts'
import { BEFORE_FIRST, memberId } from '../../../raft/types.ts'
import type { OnDamage } from '../../../replica/log-access.ts'
import { tellKnownDamage } from '../../../replica/log-access.ts'
import { decodeHardState, encodeHardState } from './codec.ts'
import { appendEntries, readEntries, termAt } from './entry-log.ts'
import type { SnapshotContent } from './snapshot-file.ts'
import { decodeSnapshotFile, encodeSnapshotFile } from './snapshot-file.ts'

/**
 * What a member of the quorum keeps: entries in the metadata log, term and vote in a state log of the same directory and in the same
 * commit, the newest snapshot in a file. Directories of versions without a quorum hold the log alone.
 */

export const METADATA_LOG = '__cluster_metadata'
const STATE_LOG = '__quorum'
const SNAPSHOT_FILE = 'metadata.snapshot'
/** An operator makes it where what is left of damaged metadata has to do. */
const SALVAGE_FILE = 'salvage'
const MAX_STATE_BYTES = 64 * 1024
const MAX_BATCH_BYTES = 32 * MIB
/** A write that the disk's queue has no room for waits so long before it asks again. */
const THROTTLED_PAUSE_MS = 5

const NEVER = Number.POSITIVE_INFINITY
const LOG_OPTIONS = {
  segmentBytes: MIB,
  segmentMs: NEVER,
  retentionBytes: NEVER,
  retentionMs: NEVER,
  maxBatchBytes: MAX_BATCH_BYTES,
}

const HARD_STATE = 'hard-state'
const CLUSTER_ID = 'cluster-id'
const SEAT = 'seat'
const LOST_DATA = 'lost-data'
const UNCLEAN_ASYNC = 'unclean-async'
const SEAT_FORFEIT = 'seat-forfeit'
const START_IDS = 'start-ids'
/** Starts that are remembered until one of them is known to be registered; more than that many in a row that came to nothing are not. */
const MAX_START_IDS = 100
const RANDOM_ID_BYTES = 8

const NOBODY: Config = { voters: [], learners: [] }

/** What a directory holds. */
export type Loaded =
  /** Nothing yet: it may found a cluster, or join one. */
  | { readonly t: 'empty' }
  | {
      readonly t: 'member'
      readonly restored: Restored
      /** The image as of the snapshot, as values of the metadata log. */
      readonly values: readonly Uint8Array[]
      /** The snapshot is not on the disk, it was made of all that could be read: `saveSalvaged` before anything else. */
      readonly unsaved: boolean
    }
  /** Part of what the member promised others to keep is gone: it must give up its seat. */
  | { readonly t: 'lost' }

/** One member's part of a data directory. One user at a time: nothing else while `load` or `leaveSeat` runs. */
export interface QuorumStorage {
  /** Who sits here: this node with this directory, and another one after what it had promised was lost. */
  self(): MemberId
  /** The directory's part of it. */
  seatId(): string
  clusterId(): string | null
  /** The directory may lack what this node's seats in partitions were given for; so until `forgetLoss`. */
  lostData(): boolean
  /** The cluster knows. */
  forgetLoss(): Promise<void>
  /** Must be durable before anything of the cluster is taken. */
  saveClusterId(clusterId: string): Promise<void>
  /** Starts a quorum of which this member is the only voter. */
  found(): Promise<void>
  load(): Promise<Loaded>
  /** Starts of processes with this directory that may be registered. */
  startIds(): readonly string[]
  /** Names this start, durably. `registered`: the newest one that is known to be registered, null for none. */
  beginStart(registered: string | null): Promise<string>
  /** The directory lacks what its seat promised: from the next `load` on it has another one. */
  forfeitSeat(): Promise<void>
  /** Takes another seat, with nothing in it. */
  leaveSeat(): Promise<void>
  /**
   * Makes a write of the core durable; several may be under way and resolve in order. `snapshot` holds the bytes of the one in
   * the write. After a rejection nothing more is written until `load`.
   */
  write(write: Write, snapshot: Uint8Array | null): Promise<void>
  /** Makes the snapshot of what was applied durable. Rejects as the disk does. */
  saveSnapshot(mark: SnapshotMark, values: readonly Uint8Array[]): Promise<number>
  /** The same for what was loaded `unsaved`. */
  saveSalvaged(mark: SnapshotMark, values: readonly Uint8Array[]): Promise<void>
  /** Whether an operator chose to go on with what is left of damaged metadata, by a file; until that is saved. */
  isSalvageWanted(): Promise<boolean>
  /** Names that file. */
  salvagePath: string
  /** Entries below `index` are in the snapshot. */
  forgetBefore(index: number): Promise<void>
  /** The newest snapshot's file. */
  snapshotFile(): Promise<Uint8Array>
  logBytes(): number
}

export interface StorageContext {
  dataDir: DataDir
  disk: Disk
  clock: Clock
  rng: Pick<Rng, 'bytes'>
  nodeId: number
  onDamage: OnDamage
}

interface Job {
  write: Write
  snapshot: Uint8Array | null
  resolve(): void
  reject(error: unknown): void
}

/** Opens the logs; `load` reads them. Rejects as `openLog` does. */
export async function openQuorumStorage(context: StorageContext): Promise<QuorumStorage> {
  const { dataDir, disk, clock, rng, nodeId, onDamage } = context
  const path = `${dataDir.path}/${SNAPSHOT_FILE}`
  const salvagePath = `${dataDir.path}/${SALVAGE_FILE}`
  // All nodes wait for it: it must not wait for what is appended to partitions.
  const log = await dataDir.openLog(METADATA_LOG, LOG_OPTIONS, 'first')
  tellKnownDamage(log, onDamage)
  const state = await dataDir.openState(STATE_LOG, MAX_STATE_BYTES, 'first')
  const writes = createWriter({ log, state, disk, clock, path })

  // What follows from it may be cut short.
  if (dataDir.recovery.belowDurableEnd) await state.put([{ key: LOST_DATA, value: utf8('1') }])
  let rolledBack = state.get(LOST_DATA) !== undefined
  // Of records alone: votes and metadata are synced under `flush: async` too.
  if (dataDir.recovery.uncleanAsync) await state.put([{ key: UNCLEAN_ASYNC, value: utf8('1') }])
  await dataDir.recoveryHandled()
  const losses = (): string[] => [LOST_DATA, UNCLEAN_ASYNC].filter(key => state.get(key) !== undefined)

  const textOf = (key: string): string | null => {
    const bytes = state.get(key)
    return bytes === undefined ? null : utf8Text(bytes)
  }
  const seatId = (): string => {
    const seat = textOf(SEAT)
    return seat === null ? dataDir.directoryId : `${dataDir.directoryId}-${seat}`
  }
  const self = (): MemberId => memberId(nodeId, seatId())
  const startIds = (): string[] => textOf(START_IDS)?.split(' ') ?? []
  const randomId = (): string => Buffer.from(rng.bytes(RANDOM_ID_BYTES)).toString('hex')

  async function readSnapshot(): Promise<SnapshotContent | null> {
    if (!(await disk.exists(path))) return null
    // Left by a process that was killed, its name may be in memory alone.
    await disk.syncDir(dataDir.path)
    const content = decodeSnapshotFile(await disk.readFile(path))
    if (content.damaged > 0) {
      const place = { log: METADATA_LOG, segment: path, bytePosition: -1, resumePosition: -1 }
      const reason = `${content.damaged} records of the snapshot are damaged`
      onDamage({ ...place, fromOffset: 0, toOffset: content.mark.index + 1, reason })
    }
    return content
  }

  /** Makes the log begin where the snapshot ends, where a crash came between the two. */
  async function alignLog(mark: SnapshotMark): Promise<void> {
    const base = mark.index + 1
    const behind = log.endOffset() < base
    const held = await termAt(log, mark.index, onDamage)
    if (behind || (held !== null && held !== mark.term)) await log.restartAt(base)
  }

  async function load(): Promise<Loaded> {
    assert(log.endOffset() === log.durableEndOffset(), 'the metadata log ends beyond what is durable')
    const forfeit = state.get(SEAT_FORFEIT) !== undefined
    const found = forfeit ? null : await readSnapshot()
    writes.restart(found?.mark.index ?? Number.NEGATIVE_INFINITY)
    if (forfeit) return { t: 'lost' }
    if (found === null && textOf(CLUSTER_ID) === null) {
      if (log.endOffset() === 0) return { t: 'empty' }
      // Written before there was a quorum: by the only voter there was, so that all of it is committed.
      const config = { voters: [self()], learners: [] }
      const entries = await readEntries(log, log.startOffset(), onDamage)
      const term = entries.reduce((newest, entry) => Math.max(newest, entry.term), 0)
      const mark = { index: log.durableEndOffset() - 1, term, config }
      return salvage([], entries, mark, hardStateOf(term, true))
    }
    const { mark, records } = found ?? { mark: { index: BEFORE_FIRST, term: 0, config: NOBODY }, records: [] }
    await alignLog(mark)
    if (log.startOffset() > mark.index + 1) {
      throw new TributaryError(
        'corrupt_log',
        `${path} ends at entry ${mark.index}, the metadata log begins at ${log.startOffset()}: restore the file, or give the node an empty directory`,
      )
    }
    const entries = await readEntries(log, mark.index + 1, onDamage)
    const config = entries.reduce((latest, { payload }) => {
      return payload.t === 'config' ? payload.config : latest
    }, mark.config)
    const whole =
      (found?.damaged ?? 0) === 0 &&
      entries.every((entry, at) => entry.index === mark.index + 1 + at) &&
      entries.length === log.durableEndOffset() - mark.index - 1
    const alone = config.voters.length === 1 && config.voters[0] === self()
    if (whole && (alone || !rolledBack)) {
      rolledBack = false
      const hardState = hardStateOf((entries.at(-1) ?? mark).term, alone)
      return {
        t: 'member',
        restored: { hardState, snapshot: mark, entries },
        values: records,
        unsaved: false,
      }
    }
    if (!alone) return { t: 'lost' }
    // The only voter has nobody to get from what it lost, and nobody else could have promised otherwise. Who follows it may hold what is
    // missing here: none has an entry of this place and term, so that all take the snapshot.
    const term = hardStateOf((entries.at(-1) ?? mark).term, true).term + 1
    return salvage(records, entries, { index: log.durableEndOffset(), term, config }, { term, vote: self() })
  }

  /** All that is left of a log that holds committed entries only, as one snapshot. */
  function salvage(
    records: readonly Uint8Array[],
    entries: readonly Entry[],
    snapshot: SnapshotMark,
    hardState: HardState,
  ): Loaded {
    const values = [
      ...records,
      ...entries.flatMap(({ payload }) => (payload.t === 'data' ? payload.bytes : [])),
    ]
    return { t: 'member', restored: { hardState, snapshot, entries: [] }, values, unsaved: true }
  }

  /** Who votes alone can have voted for nobody but itself. */
  function hardStateOf(lastTerm: number, alone: boolean): HardState {
    const bytes = state.get(HARD_STATE)
    const known = bytes === undefined ? { term: 0, vote: null } : decodeHardState(bytes)
    if (known.term >= lastTerm) return known
    return { term: lastTerm, vote: alone ? self() : null }
  }

  async function saveFile(mark: SnapshotMark, values: readonly Uint8Array[]): Promise<number> {
    const bytes = encodeSnapshotFile(mark, values)
    await writes.replaceSnapshot(mark, bytes)
    return bytes.length
  }

  return {
    self,
    seatId,
    clusterId: () => textOf(CLUSTER_ID),
    lostData: () => losses().length > 0,
    forgetLoss: async () => {
      if (losses().length > 0) await state.put(losses().map(key => ({ key, value: null })))
    },
    saveClusterId: clusterId => state.put([{ key: CLUSTER_ID, value: utf8(clusterId) }]),
    found: async () => {
      const config = { voters: [self()], learners: [] }
      await saveFile({ index: BEFORE_FIRST, term: 0, config }, [])
    },
    load,
    startIds,
    beginStart: async registered => {
      const startId = randomId()
      const known = startIds()
      // Who tells of older ones than the registered one tells what is known here.
      const open = known.slice(Math.max(0, known.indexOf(registered ?? '')))
      const kept = [...open, startId].slice(-MAX_START_IDS)
      await state.put([{ key: START_IDS, value: utf8(kept.join(' ')) }])
      return startId
    },
    forfeitSeat: () => state.put([LOST_DATA, SEAT_FORFEIT].map(key => ({ key, value: utf8('1') }))),
    leaveSeat: async () => {
      rolledBack = false
      // The new seat first: with the old one and an empty log it would break what it promised. It is one that no copy takes.
      await state.put([
        { key: SEAT, value: utf8(randomId()) },
        { key: HARD_STATE, value: null },
        { key: SEAT_FORFEIT, value: null },
      ])
      await disk.remove(path)
      await disk.syncDir(dataDir.path)
      await log.restartAt(0)
      writes.forgetSnapshot()
    },
    write: writes.write,
    saveSnapshot: saveFile,
    saveSalvaged: async (mark, values) => {
      await saveFile(mark, values)
      if (log.endOffset() <= mark.index) await log.restartAt(mark.index + 1)
      if (!(await disk.exists(salvagePath))) return
      await disk.remove(salvagePath)
      await disk.syncDir(dataDir.path)
    },
    isSalvageWanted: () => disk.exists(salvagePath),
    salvagePath,
    forgetBefore: index => log.truncateBefore(index),
    snapshotFile: () => disk.readFile(path),
    logBytes: () => log.sizeBytes(),
  }
}

interface WriterParts {
  log: Log
  state: StateLog
  disk: Disk
  clock: Clock
  path: string
}

/** Performs writes one after another; those that only append share a commit. */
function createWriter({ log, state, disk, clock, path }: WriterParts) {
  let queue: Job[] = []
  let running = false
  let refusing = false
  let newestSnapshot = Number.NEGATIVE_INFINITY
  let replacing: Promise<void> = Promise.resolve()

  async function run(): Promise<void> {
    running = true
    while (queue.length > 0) {
      const jobs = queue.slice(0, shareable())
      queue = queue.slice(jobs.length)
      try {
        await perform(jobs)
        for (const job of jobs) job.resolve()
      } catch (error) {
        refusing = true
        for (const job of [...jobs, ...queue]) job.reject(error)
        queue = []
      }
    }
    running = false
  }

  /** How many of the first writes only append. */
  function shareable(): number {
    let end = log.endOffset()
    for (const [at, { write }] of queue.entries()) {
      const first = write.entries[0]
      const appends = write.snapshot === null && (first === undefined || first.index === end)
      if (!appends) return Math.max(1, at)
      end += write.entries.length
    }
    return queue.length
  }

  async function perform(jobs: readonly Job[]): Promise<void> {
    const hardState = jobs.findLast(({ write }) => write.hardState !== null)?.write.hardState ?? null
    const changes: StateEntry[] =
      hardState === null ? [] : [{ key: HARD_STATE, value: encodeHardState(hardState) }]
    const entries = jobs.flatMap(({ write }) => write.entries)
    const [job] = jobs
    const snapshot = job?.write.snapshot ?? null
    const cuts = entries[0] !== undefined && entries[0].index < log.endOffset()
    if (snapshot === null && !cuts) {
      await commit(changes, entries)
      return
    }
    // Term and vote first: what follows need not be whole, but must not be of a term that is not known.
    await commit(changes, [])
    if (snapshot !== null) await install(snapshot, job?.snapshot ?? null)
    else await log.truncateAfter(entries[0]?.index ?? log.endOffset())
    await commit([], entries)
  }

  async function install(mark: SnapshotMark, bytes: Uint8Array | null): Promise<void> {
    assert(bytes !== null, `snapshot ${mark.index} has no contents`)
    await replaceSnapshot(mark, bytes)
    await log.restartAt(mark.index + 1)
  }

  /** One after another; an older one never takes the place of a newer one. */
  function replaceSnapshot(mark: SnapshotMark, bytes: Uint8Array): Promise<void> {
    const replaced = replacing.then(async () => {
      if (mark.index < newestSnapshot) return
      newestSnapshot = mark.index
      try {
        await disk.replaceFile(path, bytes)
      } catch (cause) {
        if (!isDiskFull(cause)) throw cause
        throw new TributaryError('disk_full', 'no space left for a snapshot of the metadata', { cause })
      }
    })
    replacing = replaced.catch(() => {})
    return replaced
  }

  /** In one turn, and so in one commit. */
  async function commit(changes: readonly StateEntry[], entries: readonly Entry[]): Promise<void> {
    for (;;) {
      const end = log.endOffset()
      const puts = changes.length === 0 ? [] : [state.put(changes)]
      const results = await Promise.allSettled([...puts, ...appendEntries(log, entries, timeMs())])
      const failures = results.flatMap(result => (result.status === 'rejected' ? [result.reason] : []))
      if (failures.length === 0) return
      const throttled = failures.every(failure => isTributaryError(failure, 'throttled'))
      // Where none of it got in, it is asked again: that others keep the disk busy must not bring a member down.
      if (!throttled || failures.length < results.length || log.endOffset() !== end) throw failures[0]
      await pause(clock, THROTTLED_PAUSE_MS)
    }
  }

  const timeMs = (): number => Math.round(clock.nowMs())

  return {
    restart: (snapshotIndex: number): void => {
      assert(!running, 'the log is read while it is written')
      refusing = false
      newestSnapshot = Math.max(newestSnapshot, snapshotIndex)
    },
    forgetSnapshot: (): void => {
      newestSnapshot = Number.NEGATIVE_INFINITY
    },
    replaceSnapshot,
    write: (write: Write, snapshot: Uint8Array | null): Promise<void> => {
      if (refusing) {
        return Promise.reject(new TributaryError('not_available', 'the metadata log is being read again'))
      }
      return new Promise((resolve, reject) => {
        queue.push({ write, snapshot, resolve, reject })
        if (!running) void run()
      })
    },
  }
}

import { utf8, utf8Text } from '../bytes.ts'
import type { Clock, Disk, DiskFile, Env, OpenMode } from '../env.ts'
import { isDiskFull, isTributaryError, messageOf, systemErrorCode, TributaryError } from '../errors.ts'
import type { Checkpoint, CheckpointLog } from './checkpoint.ts'
import { encodeCheckpoint } from './checkpoint.ts'
import { Committer } from './committer.ts'
import { FilePool } from './files.ts'
import { FolderSyncs } from './folder-syncs.ts'
import { IndexCache } from './index-cache.ts'
import { Journal } from './journal.ts'
import type { EntryKind } from './journal-format.ts'
import { JOURNAL_BLOCK_BYTES, plainEntry } from './journal-format.ts'
import type { LogContext } from './log.ts'
import { logOver } from './log.ts'
import { checkLogName, logFolder } from './paths.ts'
import type { Recovered } from './recover.ts'
import { readCheckpoint, recover, removeLogFiles } from './recover.ts'
import { journalPath } from './recover-journal.ts'
import { Reserve } from './reserve.ts'
import { SegmentedLog, saveMeta } from './segmented-log.ts'
import { openStateLog } from './state-log.ts'
import { TailCache } from './tail-cache.ts'
import type { DataDir, DataDirOptions, FlushMode, Log, LogOptions } from './types.ts'
import { eachAtMost } from './work.ts'

/**
 * A data directory:
 *
 *   meta.json            format version, directory id, journal id
 *   lock-<n>             held by the one process that uses it (the Disk's)
 *   journal-0 journal-1  commit records, overwritten in turn (journal-format.ts)
 *   checkpoint           what the segments hold durably, and from which commit the journal is needed
 *   reserve              space to give up when the disk is full
 *   aside/               torn tails and damaged stretches, for people to look at
 *   logs/NAME/           segments: BASE.log .index .timeindex .meta
 *
 * A commit writes its batches to the segments without sync and to the journal with one fdatasync, whatever the number
 * of logs (deploy/decisions/001-journal-for-every-commit.md). When a half is full the other is used, and the segments
 * that the first dirtied are synced in the background before it is used again.
 */

const FORMAT_VERSION = 1
/** At the end index entries are saved from so many on: fewer, those of 256 KiB, are found by one read. */
const SAVE_FROM_ENTRIES = 64
const SAVES_AT_ONCE = 8
const MIN_JOURNAL_BYTES = 4 * JOURNAL_BLOCK_BYTES

/** Until a log is opened with its own options. */
const UNOPENED: LogOptions = {
  segmentBytes: 16 * 1024 * 1024,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: 1024 * 1024,
}

interface Meta {
  formatVersion: number
  directoryId: string
  journalId: string
}

/**
 * Opens (or makes) the data directory at `path`, recovering it first. Rejects with `directory_in_use`,
 * `directory_newer_format`, `disk_full`, `corrupt_log` (its meta.json is lost), `invalid_argument`.
 */
export async function openDataDir(
  path: string,
  options: DataDirOptions,
  env: Pick<Env, 'clock' | 'rng' | 'disk'>,
): Promise<DataDir> {
  const { disk, clock } = env
  if (options.journalBytes < MIN_JOURNAL_BYTES) {
    throw new TributaryError('invalid_argument', `journalBytes must be at least ${MIN_JOURNAL_BYTES}`)
  }
  await disk.mkdir(path).catch((cause: unknown) => {
    throw unusable(path, 'made', cause)
  })
  const unlock = await disk.lock(path).catch((cause: unknown) => {
    throw isTributaryError(cause) ? cause : unusable(path, 'written to', cause)
  })
  const files = new FilePool(disk)
  try {
    const meta = (await readMeta(disk, path)) ?? (await createDirectory(path, options, env))
    const journalId = Buffer.from(meta.journalId, 'hex')
    const recovered = await recover({
      disk,
      clock,
      files,
      directory: path,
      journalId,
      defaultOptions: UNOPENED,
    })
    const { flush = 'commit' } = options
    await disk.replaceFile(`${path}/checkpoint`, encodeCheckpoint(firstCheckpoint(meta, recovered, flush)))
    await makeHalves(disk, path, options.journalBytes)
    const journal = new Journal({
      halves: await openHalves(disk, path, flush === 'commit' ? 'durable' : 'write'),
      flush,
      halfBytes: options.journalBytes,
      journalId,
      session: recovered.session,
      firstNumber: recovered.nextCommit,
      clock,
    })
    return new OpenDataDir({ path, options, env, meta, recovered, journal, files, unlock })
  } catch (error) {
    await files.closeAll()
    await unlock()
    if (!isDiskFull(error)) throw error
    throw new TributaryError('disk_full', `no space left to open ${path}: free some`, { cause: error })
  }
}

function unusable(path: string, what: 'made' | 'written to', cause: unknown): TributaryError {
  if (isDiskFull(cause)) {
    return new TributaryError('disk_full', `no space left for the data directory ${path}: free some`, {
      cause,
    })
  }
  const code = systemErrorCode(cause)
  // What is missing would have been made.
  const why = code === 'ENOENT' ? 'ENOENT: nothing can be made there' : (code ?? messageOf(cause))
  return new TributaryError(
    'invalid_argument',
    `the data directory ${path} can't be ${what} (${why}): choose a place for it with --data`,
    { cause },
  )
}

async function readMeta(disk: Disk, path: string): Promise<Meta | undefined> {
  const file = `${path}/meta.json`
  if (!(await disk.exists(file))) {
    // Made last: without it and without a checkpoint nothing was ever committed here.
    const checkpoint = await readCheckpoint(disk, path)
    const unused = checkpoint === undefined || (checkpoint.firstCommit === 1 && checkpoint.logs.length === 0)
    if (unused && (await disk.list(`${path}/logs`)).length === 0) return undefined
    throw new TributaryError(
      'corrupt_log',
      `${file} is missing though ${path} holds logs: restore it from a backup`,
    )
  }
  let found: unknown
  try {
    found = JSON.parse(utf8Text(await disk.readFile(file)))
  } catch (error) {
    throw new TributaryError('corrupt_log', `${file} is no JSON: restore it from a backup`, { cause: error })
  }
  const version = fieldOf(found, 'formatVersion')
  if (typeof version === 'number' && version > FORMAT_VERSION) {
    throw new TributaryError(
      'directory_newer_format',
      `${path} has format ${version}, this version knows ${FORMAT_VERSION}: upgrade tributary, or use another directory`,
    )
  }
  const directoryId = fieldOf(found, 'directoryId')
  const journalId = fieldOf(found, 'journalId')
  if (typeof version !== 'number' || typeof directoryId !== 'string' || typeof journalId !== 'string') {
    throw new TributaryError('corrupt_log', `${file} lacks its fields: restore it from a backup`)
  }
  return { formatVersion: version, directoryId, journalId }
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? Object.entries(value).find(([key]) => key === name)?.[1]
    : undefined
}

async function createDirectory(
  path: string,
  options: DataDirOptions,
  { disk, rng }: Pick<Env, 'rng' | 'disk'>,
): Promise<Meta> {
  const meta: Meta = {
    formatVersion: FORMAT_VERSION,
    directoryId: Buffer.from(rng.bytes(16)).toString('hex'),
    journalId: Buffer.from(rng.bytes(8)).toString('hex'),
  }
  await disk.mkdir(`${path}/logs`)
  await makeHalves(disk, path, options.journalBytes)
  await disk.replaceFile(
    `${path}/checkpoint`,
    encodeCheckpoint({
      directoryId: meta.directoryId,
      session: 1,
      firstCommit: 1,
      cleanShutdown: true,
      nextLogId: 1,
      logs: [],
      removing: [],
    }),
  )
  await disk.replaceFile(`${path}/meta.json`, utf8(`${JSON.stringify(meta, null, 2)}\n`))
  return meta
}

function firstCheckpoint(meta: Meta, recovered: Recovered, flush: FlushMode): Checkpoint {
  return {
    directoryId: meta.directoryId,
    session: recovered.session,
    firstCommit: recovered.nextCommit,
    cleanShutdown: false,
    flush,
    uncleanAsync: recovered.report.uncleanAsync,
    nextLogId: recovered.nextLogId,
    logs: recovered.logs.map(checkpointLog),
    removing: recovered.removing,
  }
}

async function openHalves(disk: Disk, path: string, mode: OpenMode): Promise<[DiskFile, DiskFile]> {
  return [await disk.open(journalPath(path, 0), mode), await disk.open(journalPath(path, 1), mode)]
}

/** Makes the halves, writing zeros over all of a new one, so that overwriting them later allocates nothing. */
async function makeHalves(disk: Disk, path: string, halfBytes: number): Promise<void> {
  for (const half of [0, 1]) {
    const file = await disk.open(journalPath(path, half), 'write')
    try {
      await fillHalf(file, halfBytes)
    } finally {
      await file.close()
    }
  }
  await disk.syncDir(path)
}

async function fillHalf(file: DiskFile, halfBytes: number): Promise<void> {
  const size = await file.sizeBytes()
  if (size === halfBytes) return
  if (size > halfBytes) await file.truncate(halfBytes)
  const zeros = new Uint8Array(Math.min(halfBytes, 256 * 1024))
  for (let at = size; at < halfBytes; at += zeros.length) {
    await file.writev([zeros.subarray(0, Math.min(zeros.length, halfBytes - at))], at)
  }
  await file.datasync()
}

function checkpointLog(log: SegmentedLog): CheckpointLog {
  // A segment planned for the commit under way holds nothing durable yet.
  const last = log.segments.findLast(segment => segment.sizeBytes > 0)
  return {
    id: log.id,
    name: log.name,
    startOffset: log.startOffset,
    endOffset: log.durableEndOffset,
    segmentBase: last?.baseOffset ?? -1,
    position: last?.sizeBytes ?? 0,
    ...(last?.firstTimeMs === undefined ? {} : { firstTimeMs: last.firstTimeMs }),
    ...(last?.lastTimeMs === undefined ? {} : { lastTimeMs: last.lastTimeMs }),
    ...(log.isolated.size === 0 ? {} : { damage: log.damage.filter(damage => log.isolated.has(damage)) }),
  }
}

interface OpenInput {
  path: string
  options: DataDirOptions
  env: { clock: Clock; disk: Disk }
  meta: Meta
  recovered: Recovered
  journal: Journal
  files: FilePool
  unlock(): Promise<void>
}

class OpenDataDir implements DataDir {
  readonly path: string
  readonly directoryId: string
  readonly recovery: Recovered['report']
  readonly #input: OpenInput
  readonly #committer: Committer
  readonly #reserve: Reserve
  readonly #context: LogContext
  readonly #folderSyncs: FolderSyncs
  readonly #logs = new Map<string, SegmentedLog>()
  readonly #removing = new Set<string>()
  #nextLogId: number
  /** To be told by the next start too. */
  #uncleanAsync: boolean
  #closing: Promise<void> | undefined

  constructor(input: OpenInput) {
    const { path, options, env, recovered, journal, files } = input
    this.path = path
    this.directoryId = input.meta.directoryId
    this.recovery = recovered.report
    this.#input = input
    this.#nextLogId = recovered.nextLogId
    this.#uncleanAsync = recovered.report.uncleanAsync
    for (const log of recovered.logs) this.#logs.set(log.name, log)
    const tailCache = new TailCache(options.tailCacheBytes)
    const indexes = new IndexCache()
    this.#reserve = new Reserve(env.disk, path, options.reserveBytes)
    this.#reserve.restoreSoon()
    this.#committer = new Committer({
      directory: path,
      commitMs: options.commitMs,
      journalBytes: options.journalBytes,
      clock: env.clock,
      disk: env.disk,
      files,
      journal,
      reserve: this.#reserve,
      tailCache,
      indexes,
      snapshot: (firstCommit, cleanShutdown) => this.#snapshot(firstCommit, cleanShutdown),
    })
    this.#folderSyncs = new FolderSyncs(env.disk, path)
    this.#context = {
      directory: path,
      clock: env.clock,
      disk: env.disk,
      files,
      committer: this.#committer,
      tailCache,
      indexes,
    }
  }

  #snapshot(firstCommit: number, cleanShutdown: boolean): Checkpoint {
    return {
      directoryId: this.directoryId,
      session: this.#input.recovered.session,
      firstCommit,
      cleanShutdown,
      flush: this.#input.options.flush ?? 'commit',
      uncleanAsync: this.#uncleanAsync,
      nextLogId: this.#nextLogId,
      logs: [...this.#logs.values()].filter(log => log.created).map(checkpointLog),
      removing: [...this.#removing],
    }
  }

  logNames(): string[] {
    return [...this.#logs.keys()].sort()
  }

  async openLog(name: string, options: LogOptions): Promise<Log> {
    return logOver(await this.#open(name, options), this.#context)
  }

  async #open(name: string, options: LogOptions): Promise<SegmentedLog> {
    checkLogName(name)
    if (this.#removing.has(name)) {
      throw new TributaryError('not_available', `log ${name} is being deleted: open it when that is done`)
    }
    let log = this.#logs.get(name)
    if (log?.opened === true) throw new TributaryError('invalid_argument', `log ${name} is open already`)
    if (log === undefined) {
      log = new SegmentedLog(this.#nextLogId++, name, logFolder(this.path, name), options)
      log.opened = true
      this.#logs.set(name, log)
      try {
        await this.#create(log)
      } catch (error) {
        this.#logs.delete(name)
        throw error
      }
    }
    log.options = options
    log.opened = true
    return log
  }

  async #create(log: SegmentedLog): Promise<void> {
    const { disk } = this.#input.env
    // Left by a creation or deletion that a crash cut short, or put there by hand: never part of the new log.
    if ((await disk.list(log.folder)).length > 0) await removeLogFiles(disk, log.folder)
    await disk.mkdir(log.folder)
    await this.#folderSyncs.parentsOf(log.name)
    await this.#fact('create', log, () => {
      log.created = true
    })
  }

  #fact(kind: EntryKind, log: SegmentedLog, after: () => void, alone = false): Promise<void> {
    return new Promise((resolve, reject) => {
      const entry = plainEntry(kind, log.id, log.name)
      this.#committer.enqueue({ kind: 'fact', entry, after, resolve, reject }, alone)
      this.#committer.hurry()
    })
  }

  async openState(name: string, maxLiveBytes: number): ReturnType<DataDir['openState']> {
    const rollNext = (log: string): void => {
      const found = this.#logs.get(log)
      if (found !== undefined) found.rollNext = true
    }
    return openStateLog(this, name, maxLiveBytes, rollNext, damage => this.recovery.damage.push(damage))
  }

  async deleteLog(name: string): Promise<void> {
    const log = this.#logs.get(name)
    if (log === undefined) throw new TributaryError('not_found', `there is no log ${name}`)
    const { disk } = this.#input.env
    if (log.deleted) return
    // Appends queued before are committed first; a commit of its own keeps them apart in the journal.
    log.deleted = true
    await this.#fact(
      'delete',
      log,
      () => {
        this.#removing.add(name)
        this.#logs.delete(name)
        this.#committer.forget(log.segments)
        this.#context.tailCache.clear(log.tail)
      },
      true,
    )
    for (const segment of log.segments) {
      this.#input.files.forget(`${segment.path}.log`)
      this.#context.indexes.forget(segment)
    }
    // Index files on their way to the folder would come too late to be removed with it.
    await this.#committer.backgroundDone()
    await removeLogFiles(disk, log.folder)
    await this.#folderSyncs.parentsOf(name)
    this.#removing.delete(name)
  }

  collectAtNextCommit(collect: () => void): void {
    this.#committer.collectAtNextCommit(collect)
  }

  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#committer.enqueue({ kind: 'fact', entry: undefined, after: () => {}, resolve, reject })
      this.#committer.hurry()
    })
  }

  async recoveryHandled(): Promise<void> {
    if (!this.#uncleanAsync) return
    this.#uncleanAsync = false
    await this.#committer.checkpoint()
  }

  stats(): ReturnType<DataDir['stats']> {
    const { journal } = this.#input
    return {
      ...this.#committer.counters,
      fdatasyncP50Ms: journal.syncTimeMs(0.5),
      fdatasyncP99Ms: journal.syncTimeMs(0.99),
      indexBytes: this.#context.indexes.sizeBytes(),
      indexesEvicted: this.#context.indexes.evicted(),
    }
  }

  onFailed(listener: (error: TributaryError) => void): void {
    this.#committer.onFailed(listener)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const { env, files, journal, unlock } = this.#input
    await this.#committer.drain()
    await this.#reserve.close()
    try {
      if (this.#committer.failure() === undefined) await this.#saveIndexes(env.disk)
      await this.#committer.checkpointClean()
    } finally {
      await files.closeAll()
      await journal.close()
      await unlock()
    }
  }

  /** Indexes of the open segments, so that the next start need not build them again; of thousands, those worth it. */
  async #saveIndexes(disk: Disk): Promise<void> {
    const active = [...this.#logs.values()].flatMap(log => log.active() ?? [])
    const worthIt = active.filter(
      ({ readyIndex }) => (readyIndex?.unsavedEntries() ?? 0) >= SAVE_FROM_ENTRIES,
    )
    await eachAtMost(SAVES_AT_ONCE, worthIt, async segment => {
      try {
        await segment.readyIndex?.save(disk, segment.path)
        await saveMeta(segment, disk)
      } catch {
        // Rebuilt at the next start.
      }
    })
  }
}

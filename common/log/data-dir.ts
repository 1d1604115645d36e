import type { Clock, Disk, Env } from '../env.ts'
import { isDiskFull, isTributaryError, TributaryError } from '../errors.ts'
import type { AnsweringDisk } from './answering-disk.ts'
import { answeringDisk } from './answering-disk.ts'
import type { Checkpoint, CheckpointLog } from './checkpoint.ts'
import { encodeCheckpoint } from './checkpoint.ts'
import { Committer } from './committer.ts'
import type { Meta } from './directory-files.ts'
import { createDirectory, makeHalves, openHalves, readMeta, unusable } from './directory-files.ts'
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
import { recover, removeLogFiles } from './recover.ts'
import { Reserve } from './reserve.ts'
import { SegmentedLog, saveMeta } from './segmented-log.ts'
import { openStateLog } from './state-log.ts'
import { TailCache } from './tail-cache.ts'
import type { DataDir, DataDirOptions, FlushMode, Log, LogOptions, LogTurn } from './types.ts'
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

/**
 * Opens (or makes) the data directory at `path`, recovering it first. Rejects with `directory_in_use`,
 * `directory_newer_format`, `disk_full`, `corrupt_log` (its meta.json is lost), `invalid_argument`.
 */
export async function openDataDir(
  path: string,
  options: DataDirOptions,
  env: Pick<Env, 'clock' | 'rng' | 'disk'>,
): Promise<DataDir> {
  const { clock } = env
  const disk = answeringDisk(env.disk, clock)
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
    const meta =
      (await readMeta(disk, path)) ?? (await createDirectory(path, options, { disk, rng: env.rng }))
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
    return new OpenDataDir({ path, options, env: { clock, disk }, meta, recovered, journal, files, unlock })
  } catch (error) {
    await files.closeAll()
    await unlock()
    if (!isDiskFull(error)) throw error
    throw new TributaryError('disk_full', `no space left to open ${path}: free some`, { cause: error })
  }
}

function firstCheckpoint(meta: Meta, recovered: Recovered, flush: FlushMode): Checkpoint {
  return {
    directoryId: meta.directoryId,
    session: recovered.session,
    firstCommit: recovered.nextCommit,
    cleanShutdown: false,
    flush,
    uncleanAsync: recovered.report.uncleanAsync,
    belowDurableEnd: recovered.report.belowDurableEnd,
    nextLogId: recovered.nextLogId,
    logs: recovered.logs.map(checkpointLog),
    removing: recovered.removing,
  }
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
  env: { clock: Clock; disk: AnsweringDisk }
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
  #unhandled: Pick<Recovered['report'], 'uncleanAsync' | 'belowDurableEnd'>
  #closing: Promise<void> | undefined

  constructor(input: OpenInput) {
    const { path, options, env, recovered, journal, files } = input
    this.path = path
    this.directoryId = input.meta.directoryId
    this.recovery = recovered.report
    this.#input = input
    this.#nextLogId = recovered.nextLogId
    const { uncleanAsync, belowDurableEnd } = recovered.report
    this.#unhandled = { uncleanAsync, belowDurableEnd }
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
      ...this.#unhandled,
      nextLogId: this.#nextLogId,
      logs: [...this.#logs.values()].filter(log => log.created).map(checkpointLog),
      removing: [...this.#removing],
    }
  }

  logNames(): string[] {
    return [...this.#logs.keys()].sort()
  }

  async openLog(name: string, options: LogOptions, turn: LogTurn = 'in order'): Promise<Log> {
    const log = await this.#open(name, options)
    log.goesFirst = turn === 'first'
    return logOver(log, this.#context)
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
      this.#committer.enqueue({ kind: 'fact', log, entry, after, resolve, reject }, alone)
      this.#committer.hurry()
    })
  }

  async openState(
    name: string,
    maxLiveBytes: number,
    turn: LogTurn = 'in order',
  ): ReturnType<DataDir['openState']> {
    const rollNext = (log: string): void => {
      const found = this.#logs.get(log)
      if (found !== undefined) found.rollNext = true
    }
    return openStateLog(this, name, maxLiveBytes, turn, rollNext, damage => this.recovery.damage.push(damage))
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
    const { uncleanAsync, belowDurableEnd } = this.#unhandled
    if (!uncleanAsync && !belowDurableEnd) return
    this.#unhandled = { uncleanAsync: false, belowDurableEnd: false }
    await this.#committer.checkpoint().catch(error => {
      if (!isTributaryError(error, 'disk_full')) throw error
    })
  }

  stuckMs(): number {
    return this.#committer.stuckMs()
  }

  stats(): ReturnType<DataDir['stats']> {
    const { journal } = this.#input
    return {
      ...this.#committer.counters,
      commitStuckMs: this.stuckMs(),
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

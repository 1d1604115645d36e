import type { TributaryError } from '../errors.ts'

/**
 * What a log is to its users. A data directory holds many logs that commit together; see data-dir.ts for
 * how, and deploy/decisions/001 for why every commit goes through the journal.
 */

/** Settings of one log; all may change while it runs. */
export interface LogOptions {
  segmentBytes: number
  /** A segment is also closed when its first batch is older than this in hub time; Infinity for never. */
  segmentMs: number
  /** Oldest segments go while the log is larger; Infinity for never. */
  retentionBytes: number
  /** Segments whose newest hub time is older go; Infinity for never. */
  retentionMs: number
  /** The largest batch `append` takes. */
  maxBatchBytes: number
}

/** Where an append went. */
export interface Appended {
  baseOffset: number
  lastOffset: number
}

/** Raw batches from a log, end to end, the first one holding the offset asked for. */
export interface ReadResult {
  /** Whole RecordBatch v2 bytes; empty at the end. Shared and read-only: copy before keeping. */
  batches: Uint8Array
  /** The offset to read from next. May lie further on with no batches before it, where isolated damage was passed over. */
  nextOffset: number
  /** Gives the buffer of a cold read back to the pool, for readers that are done with `batches`; need not be called. */
  release?: () => void
}

/** A damaged stretch found by recovery or a read: below the durable end, yet not a valid batch. */
export interface Damage {
  log: string
  /** Offsets lost, [fromOffset, toOffset). */
  fromOffset: number
  toOffset: number
  segment: string
  bytePosition: number
  /** Where in the segment the next good batch begins, or will begin; -1: the rest of it is lost. */
  resumePosition: number
  reason: string
}

/**
 * When what is appended to a log is committed: in the order in which all logs of the directory are appended to, or before what waits of
 * others, for little that many wait for. However much waits then, it is behind no more than the commit under way.
 */
export type LogTurn = 'in order' | 'first'

/** One log: a directory of segments, appended to by one writer. */
export interface Log {
  readonly name: string
  /** First offset that can be read. */
  startOffset(): number
  /** One past the last offset assigned, durable or not. */
  endOffset(): number
  /** One past the last durable offset (under `flush: async`, the last one written): what may be acked, sent or served. */
  durableEndOffset(): number
  sizeBytes(): number
  options(): LogOptions
  configure(options: LogOptions): void
  /**
   * Appends a run of whole, validated batches (no CRC is checked here): stamps base offset and leader epoch
   * into the bytes in place, takes ownership of the buffer, and resolves when durable. Batches reach the
   * log in call order. Rejects with `disk_full` (nothing of this append stays, the log goes on),
   * `disk_failed` (final for the directory), `record_too_large`, `throttled` (too much waits, or was appended in one turn),
   * `limit_exceeded` (more than a commit holds, see DataDirOptions.journalBytes), `closed`.
   * Control batches that jump offsets are written with `baseOffset` already past the end.
   */
  append(batches: Uint8Array, options?: AppendOptions): Promise<Appended>
  /**
   * Appends batches as another replica has them: base offsets and leader epochs stand as stamped there, several epochs too. They
   * follow the end without a hole, save where control batches jump, else `corrupt_batch` (nothing of it stays); those of an empty log
   * may begin with the batch that its start lies in. However large a batch is, it is taken. All else as `append`, in call order with it.
   */
  appendReplica(batches: Uint8Array, options?: ReplicaOptions): Promise<Appended>
  /**
   * Empties the log, durably: it starts and ends at `offset`, wherever that lies. After a crash it is either as before or empty.
   * What was appended before the call is gone too once it resolves. No append, cut or restart meanwhile.
   */
  restartAt(offset: number): Promise<void>
  /**
   * Newest hub time of the segment that holds `offset` (of the last one from the end on): what a follower tells `appendReplica`.
   * Null where it is not known (no segment yet, its sidecar lost): the follower then takes its own clock, which errs on keeping.
   */
  hubTimeAt(offset: number): Promise<number | null>
  /** Reads batches from the one holding `offset`, at least one batch however large, else up to maxBytes, never past `limitOffset` (default: the durable end). Rejects with `offset_out_of_range`, `corrupt_log`. */
  read(offset: number, maxBytes: number, limitOffset?: number): Promise<ReadResult>
  /** Damaged stretches known of this log, found by recovery or by reads. */
  damage(): readonly Damage[]
  /**
   * From now on reads pass over a stretch that a read found damaged, as they do over what recovery found; until then
   * they reject with `corrupt_log` and the stretch in its details. Call it once the loss is declared as a gap.
   */
  isolate(damage: Damage): void
  /**
   * Puts batches of another replica where damage is (one of `damage()`, isolated or not), durably: all of the stretch, or
   * what comes first of it. They begin where it begins (where the log starts inside a batch, with that batch) and end at or
   * before `toOffset`; their CRCs are checked, their leader epochs and offsets stand. Resolves with what is left of the
   * stretch, undefined once it is whole: reads then go through. What was there is kept in `aside/`. After a crash what was
   * not resolved is damage still, and is repaired again; appends go on meanwhile. Rejects with `corrupt_batch` (they don't
   * fit the offsets), `corrupt_log` (bytes of another size were there, so that no repair is possible: truncateAfter or
   * restartAt, and fetch again), `not_found` (no such damage any more: look at `damage()`), `not_available` (retention just
   * takes it), `disk_full`, `disk_failed`, `closed`.
   */
  repairStretch(damage: Damage, batches: Uint8Array): Promise<Damage | undefined>
  /** First offset whose batch has a record with event time >= timestampMs (by maxTimestamp of batches), or the durable end. Callers who need the exact record scan from there. */
  offsetForEventTime(timestampMs: number): Promise<number>
  /** Deletes whole segments below `offset` and moves startOffset up to it (durably). */
  truncateBefore(offset: number): Promise<void>
  /**
   * Cuts every batch that reaches `offset` or beyond (replication; not below the high watermark). The log then ends where
   * the last batch left ends, which is below `offset` where that lay inside a batch or a jump. No append meanwhile.
   */
  truncateAfter(offset: number): Promise<void>
  /** Applies retention with the time given; returns the new start offset. Never deletes past `limitOffset`. */
  applyRetention(hubTimeMs: number, limitOffset: number): Promise<number>
  /** Bytes that `truncateBefore(offset)` would free. */
  bytesBefore(offset: number): number
  /** Called after each commit that made more of this log durable, with the new durable end; one listener. */
  onDurable(listener: (durableEndOffset: number) => void): void
}

export interface AppendOptions {
  /** Stamped into each batch; default 0. */
  leaderEpoch?: number
  /** Hub (or edge) time of the append, for retention; default: the clock's. */
  appendTimeMs?: number
  /** Written even into the reserve kept for gaps and session state when the disk is full. */
  useReserve?: boolean
  /** Resolves when durable also under `flush: async`: votes, metadata, what others were promised to find again. */
  durable?: boolean
}

export interface ReplicaOptions {
  /** Hub time that the leader has for them (see `Log.hubTimeAt`), for retention; default: the clock's. */
  appendTimeMs?: number
  /**
   * The leader has lost what lies between this log's end and this offset, where the batches begin (or jump from): damage that
   * its reads passed over, and that no replica could repair. It is isolated damage here too.
   */
  lostBefore?: number
}

/**
 * When an append resolves. `commit`: when it is durable. `async`: when it is written, and the journal is synced within
 * ASYNC_FLUSH_MS, Kafka's trade: a power cut takes what was not synced yet, the end of each log, in the order in which all was
 * appended; a kill of the process takes nothing. What moves a log's start or end, makes or deletes it, state and `durable` appends
 * resolve when durable either way.
 */
export type FlushMode = 'commit' | 'async'

export interface DataDirOptions {
  /** Waits this long for company before a commit starts (0: none). */
  commitMs: number
  /** Each of the two journal files; a commit fits one of them, so nothing larger can be appended. */
  journalBytes: number
  /** Kept free on disk for gaps and session state. */
  reserveBytes: number
  /** Memory for the newest batches of all logs together. */
  tailCacheBytes: number
  /** Default: `commit`. */
  flush?: FlushMode
}

/**
 * A directory of logs that commit together, held by one process. Appends made in one synchronous turn, to
 * whatever logs of the same LogTurn, are in the same commit: after a crash all of them are there or none.
 */
export interface DataDir {
  readonly path: string
  /** Random, made once with the directory. */
  readonly directoryId: string
  /** Names of the logs there; `/` separates folders. */
  logNames(): string[]
  openLog(name: string, options: LogOptions, turn?: LogTurn): Promise<Log>
  /** Opens the StateLog kept under `name`; `maxLiveBytes` refuses puts beyond it with `limit_exceeded`. */
  openState(name: string, maxLiveBytes: number, turn?: LogTurn): Promise<StateLog>
  /** Closes and removes a log with its files. */
  deleteLog(name: string): Promise<void>
  /**
   * Registers a collector for the next commit: it is called once, right before that commit gathers what was
   * appended, and may append. The edge closes its open batches there, so that what arrived during one commit
   * shares a batch in the next.
   */
  collectAtNextCommit(collect: () => void): void
  /** Resolves when everything appended before the call is durable, under `flush: async` too. */
  flush(): Promise<void>
  /**
   * What `recovery` tells of an unclean stop under `flush: async`, and of a directory below its durable end, was acted upon, durably: the
   * next start need not tell it again, as every start does until then. Where the disk has no room to say so it is said later. Rejects with
   * `disk_failed`, `closed`.
   */
  recoveryHandled(): Promise<void>
  /** For how long a commit under way has had no answer of the disk; 0 where none is. A disk that fails is `onFailed`'s. */
  stuckMs(): number
  /** What recovery found and did, for logs and `log verify`. */
  readonly recovery: RecoveryReport
  stats(): DataDirStats
  /** Called once when an fdatasync failed: nothing is acked any more and the process must exit non-zero. */
  onFailed(listener: (error: TributaryError) => void): void
  /** Flushes, checkpoints, releases the lock. */
  close(): Promise<void>
}

/** One change of a StateLog: a new value, or null to remove the key. */
export interface StateEntry {
  key: string
  value: Uint8Array | null
}

/**
 * A small map kept as a log in a data directory: local only, compacted by rewriting the live entries at the
 * end and truncating before them. All live entries are in memory, so its users bound them.
 */
export interface StateLog {
  get(key: string): Uint8Array | undefined
  /** Live entries whose key starts with `prefix`, in key order. */
  entries(prefix: string): [string, Uint8Array][]
  /** Applied in memory at once, durable when it resolves; in one commit with whatever else was appended to the directory in the same synchronous turn. May use the disk reserve. */
  put(entries: readonly StateEntry[]): Promise<void>
  liveBytes(): number
}

export interface RecoveryReport {
  cleanShutdown: boolean
  /** The directory came back below the durable end it had recorded, now or at an earlier start: told until `DataDir.recoveryHandled`. */
  belowDurableEnd: boolean
  /**
   * It was not stopped in order when it last ran with `flush: async`, so that what was acked last may be gone. Told by each start,
   * whatever mode it runs in, until `DataDir.recoveryHandled`.
   */
  uncleanAsync: boolean
  tornTails: { log: string; fromOffset: number; cutBytes: number; keptAs: string }[]
  damage: Damage[]
  durationMs: number
}

export interface DataDirStats {
  commits: number
  committedBytes: number
  commitFailures: number
  fdatasyncP50Ms: number
  fdatasyncP99Ms: number
  /** Appends waiting for their commit. */
  pendingAppends: number
  pendingBytes: number
  diskFullRejections: number
  /** Appends refused because too much was waiting. */
  throttledRejections: number
  checkpoints: number
  /** Commits after which the next had to wait for the segments, so much was in the journal alone. */
  segmentWaits: number
  /** Index files, sidecars and removals of old segments that failed: made good at the next start, but the disk may be sick. */
  backgroundFailures: number
  /** See DataDir.stuckMs. */
  commitStuckMs: number
  /** Memory of the indexes of closed segments, and how many made room for others. */
  indexBytes: number
  indexesEvicted: number
}

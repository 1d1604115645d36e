import { assert } from '../assert.ts'
import type { Clock, Disk, Timer } from '../env.ts'
import { isDiskFull, messageOf, TributaryError } from '../errors.ts'
import type { Checkpoint } from './checkpoint.ts'
import { Checkpointer } from './checkpointer.ts'
import { newCommitCounters } from './commit-counters.ts'
import type { DataItem, FactItem, Turn } from './commit-plan.ts'
import {
  entryCost,
  journalEntries,
  mayUseReserve,
  planWrites,
  rejectAll,
  stampAgain,
  unplan,
  waitingBytes,
} from './commit-plan.ts'
import type { FilePool } from './files.ts'
import type { IndexCache } from './index-cache.ts'
import type { Journal } from './journal.ts'
import { ENTRY_BYTES, JOURNAL_BLOCK_BYTES } from './journal-format.ts'
import { MAX_LOG_NAME_BYTES } from './paths.ts'
import type { Reserve } from './reserve.ts'
import type { Segment, SegmentedLog, SegmentWrite } from './segmented-log.ts'
import { indexLags, removeSegment, saveMeta } from './segmented-log.ts'
import type { TailCache } from './tail-cache.ts'
import { eachAtMost } from './work.ts'

/** One commit gathers up to this much, so that a long queue is acked in steps; one turn may be larger. */
const MAX_COMMIT_BYTES = 8 * 1024 * 1024
/** A commit of so much waits no longer for company: more of it would save no writes to the disk worth the wait. */
const WORTH_COMMITTING_BYTES = 64 * 1024
/** Appends waiting for their commit; beyond it `append` rejects with `throttled`. */
const MAX_PENDING_BYTES = 128 * 1024 * 1024
/** Segment writes under way at once: the thread pool has other users. */
const MAX_WRITES_AT_ONCE = 16

export interface CommitterOptions {
  directory: string
  commitMs: number
  journalBytes: number
  clock: Clock
  disk: Disk
  files: FilePool
  journal: Journal
  reserve: Reserve
  tailCache: TailCache
  indexes: IndexCache
  /** What the checkpoint says of the logs, as of now. */
  snapshot(firstCommit: number, cleanShutdown: boolean): Checkpoint
  maxPendingBytes?: number
}

/**
 * Group commit. Turns queue up; a commit takes those that are there, writes their batches to the segments without
 * sync, then to the journal with one fdatasync, then acks. Only one commit is under way at a time, so what a valid
 * later commit follows was durable: that is how recovery tells damage from a torn tail.
 */
export class Committer {
  readonly #options: CommitterOptions
  readonly #maxPendingBytes: number
  readonly #maxCommitBytes: number
  readonly counters = newCommitCounters()
  #turns: Turn[] = []
  #openTurn: Turn | undefined
  #collectors: (() => void)[] = []
  #collectorsSinceMs = 0
  #running: Promise<void> | undefined
  #hurry: (() => void) | undefined
  #hurried = false
  #failure: TributaryError | undefined
  #onFailed: ((error: TributaryError) => void) | undefined
  #closed = false
  readonly #checkpointer: Checkpointer
  /** The checkpoint that frees the idle half: false where the disk was full. */
  #checkpoint: Promise<boolean> = Promise.resolve(true)
  /** Index and sidecar writes that nothing waits for but the end. */
  #background: Promise<void> = Promise.resolve()

  constructor(options: CommitterOptions) {
    this.#options = options
    this.#maxPendingBytes = options.maxPendingBytes ?? MAX_PENDING_BYTES
    this.#maxCommitBytes = Math.min(MAX_COMMIT_BYTES, Math.floor(options.journalBytes / 2))
    options.files.onSyncError(error => this.fail(error))
    this.#checkpointer = new Checkpointer(options, {
      written: () => this.counters.checkpoints++,
      failed: error => this.fail(error),
      hasFailed: () => this.#failure !== undefined,
    })
  }

  onFailed(listener: (error: TributaryError) => void): void {
    this.#onFailed = listener
    if (this.#failure !== undefined) listener(this.#failure)
  }

  failure(): TributaryError | undefined {
    return this.#failure
  }

  /** Why nothing can be appended now, or undefined. */
  refusal(): TributaryError | undefined {
    if (this.#failure !== undefined) return this.#failure
    if (this.#closed)
      return new TributaryError('closed', `${this.#options.directory} is closed: open it again`)
    return undefined
  }

  /** Throws unless an append of so many bytes may be queued now. */
  admit(dataBytes: number): void {
    const refusal = this.refusal()
    if (refusal !== undefined) throw refusal
    // A turn that has begun is let finish, or half of it would be in a commit and half refused.
    if (this.#openTurn === undefined && this.counters.pendingBytes + dataBytes > this.#maxPendingBytes) {
      this.counters.throttledRejections++
      throw new TributaryError(
        'throttled',
        `${this.#maxPendingBytes} bytes wait for the disk: slow down, then try again`,
      )
    }
  }

  /** Queues an item in the current synchronous turn; throws why it can't. */
  enqueue(item: DataItem | FactItem, alone = false): void {
    const refusal = this.refusal()
    if (refusal !== undefined) throw refusal
    const dataBytes = item.kind === 'data' ? item.bytes.length : 0
    const costBytes = dataBytes + (item.kind === 'data' ? entryCost(item.log) : ENTRY_AT_MOST)
    const turn = this.#turn(alone)
    const limit = this.#options.journalBytes - 2 * JOURNAL_BLOCK_BYTES
    if (turn.costBytes + costBytes > limit) {
      // Alone it fits a later commit; what fits none never will.
      throw new TributaryError(
        costBytes > limit ? 'limit_exceeded' : 'throttled',
        `appends of one turn take ${turn.costBytes + costBytes} bytes, a commit holds ${limit}: append less at once or raise journalBytes`,
      )
    }
    turn.items.push(item)
    turn.costBytes += costBytes
    turn.dataBytes += dataBytes
    if (item.kind === 'data') {
      this.counters.pendingAppends++
      this.counters.pendingBytes += dataBytes
      if (this.#hurry !== undefined && this.#isWorthwhile()) this.hurry()
    }
    this.#wake()
  }

  #turn(alone: boolean): Turn {
    if (this.#openTurn !== undefined && !alone) return this.#openTurn
    const arrivedMs = this.#options.clock.monotonicMs()
    const turn: Turn = { items: [], costBytes: 0, dataBytes: 0, alone, arrivedMs }
    this.#turns.push(turn)
    if (alone) {
      this.#openTurn = undefined
      return turn
    }
    this.#openTurn = turn
    queueMicrotask(() => {
      if (this.#openTurn === turn) this.#openTurn = undefined
    })
    return turn
  }

  collectAtNextCommit(collect: () => void): void {
    if (this.refusal() !== undefined) return
    if (this.#collectors.length === 0) this.#collectorsSinceMs = this.#options.clock.monotonicMs()
    this.#collectors.push(collect)
    this.#wake()
  }

  #isWorthwhile(): boolean {
    return waitingBytes(this.#turns) >= Math.min(WORTH_COMMITTING_BYTES, this.#maxCommitBytes)
  }

  /** Ends the wait for company. */
  hurry(): void {
    this.#hurried = true
    this.#hurry?.()
  }

  /** Notes a change that a checkpoint must make durable: a segment (without suffix), a folder. */
  touched(path: string | undefined, folder: string | undefined): void {
    this.#checkpointer.touched(path, folder)
  }

  #wake(): void {
    if (this.#running !== undefined) return
    this.#running = this.#run().finally(() => {
      this.#running = undefined
      if (this.#hasWork()) this.#wake()
    })
  }

  #hasWork(): boolean {
    return this.#failure === undefined && (this.#turns.length > 0 || this.#collectors.length > 0)
  }

  async #run(): Promise<void> {
    const { clock } = this.#options
    await new Promise<void>(resolve => clock.soon(resolve))
    while (this.#hasWork()) {
      await this.#waitForCompany()
      if (this.#failure !== undefined) return
      try {
        await this.#commit()
      } catch (error) {
        this.fail(error)
      }
    }
  }

  async #waitForCompany(): Promise<void> {
    const { clock, commitMs } = this.#options
    const sinceMs = this.#turns[0]?.arrivedMs ?? this.#collectorsSinceMs
    const waitMs = this.#hurried || this.#isWorthwhile() ? 0 : sinceMs + commitMs - clock.monotonicMs()
    if (commitMs > 0 && waitMs > 0) {
      let timer: Timer | undefined
      await new Promise<void>(resolve => {
        this.#hurry = resolve
        // Somebody waits for this commit: the process must not end under it for want of other work.
        timer = clock.setTimer(resolve, waitMs, true)
      })
      this.#hurry = undefined
      timer?.cancel()
    }
    this.#hurried = false
  }

  #collect(): void {
    const collectors = this.#collectors
    this.#collectors = []
    for (const collect of collectors) {
      // Each collector's appends are a turn of their own.
      this.#openTurn = undefined
      try {
        collect()
      } catch (error) {
        this.fail(error)
      }
    }
    this.#openTurn = undefined
  }

  #gather(): Turn[] {
    const turns: Turn[] = []
    let costBytes = 0
    for (const turn of this.#turns) {
      if (turns.length > 0 && (turn.alone || costBytes + turn.costBytes > this.#maxCommitBytes)) break
      turns.push(turn)
      costBytes += turn.costBytes
      if (turn.alone) break
    }
    this.#turns.splice(0, turns.length)
    return turns
  }

  async #commit(): Promise<void> {
    this.#collect()
    let turns = this.#gather()
    let writes: SegmentWrite[] | undefined
    try {
      writes = planWrites(turns)
      const written = await this.#writeSegments(writes)
      if (!written) {
        await this.#undo(writes)
        const left = turns.filter(mayUseReserve)
        this.#refuseFull(
          turns.filter(turn => !mayUseReserve(turn)),
          left,
        )
        if (left.length > 0) await this.#options.reserve.giveUp()
        turns = left
        writes = planWrites(turns)
        if (turns.length > 0 && !(await this.#writeSegments(writes))) {
          await this.#undo(writes)
          this.#refuseFull(turns, [])
          return
        }
      }
      if (!(await this.#writeJournal(turns, writes))) return
    } catch (error) {
      this.counters.commitFailures++
      const failure = this.fail(error)
      rejectAll(turns, failure)
      return
    }
    try {
      await this.#finish(turns, writes)
    } catch (error) {
      rejectAll(turns, this.fail(error))
    }
  }

  /** False where the disk is full. */
  async #writeSegments(writes: readonly SegmentWrite[]): Promise<boolean> {
    const { files } = this.#options
    let full = false
    await eachAtMost(MAX_WRITES_AT_ONCE, writes, async write => {
      try {
        const sealed = write.isNew ? write.log.before(write.segment) : undefined
        // What an earlier process cut off it may be in memory alone, and from here on no checkpoint says where it ends.
        if (sealed !== undefined) await files.distrust(`${sealed.path}.log`)
        this.touched(sealed?.path, undefined)
        await files.write(`${write.segment.path}.log`, file => file.writev(write.buffers, write.position))
      } catch (error) {
        if (!isDiskFull(error)) throw error
        full = true
      }
    })
    for (const write of writes) this.touched(write.segment.path, write.isNew ? write.log.folder : undefined)
    return !full
  }

  /** True when the commit is durable; false where it was refused because the disk is full. */
  async #writeJournal(turns: readonly Turn[], writes: readonly SegmentWrite[]): Promise<boolean> {
    const { journal } = this.#options
    const { entries, payload, payloadBytes } = journalEntries(turns, writes)
    if (entries.length === 0) return true
    if (!journal.fits(entries, payloadBytes) && !(await this.#switchHalf())) {
      await this.#undo(writes)
      this.#refuseFull(turns, [])
      return false
    }
    await journal.commit(entries, payload, payloadBytes)
    this.counters.commits++
    this.counters.committedBytes += payloadBytes
    return true
  }

  /** Moves on to the other half once the checkpoint that frees it is done; false where the disk has no room for one. */
  async #switchHalf(): Promise<boolean> {
    const { journal } = this.#options
    const freed = await this.#checkpoint
    // A sync that failed must not be tried again: the second try succeeds without having written anything.
    if (this.#failure !== undefined) throw this.#failure
    if (!freed) {
      this.#checkpoint = this.#writeCheckpoint(false)
      if (!(await this.#checkpoint)) return false
    }
    if (this.#failure !== undefined) throw this.#failure
    this.#checkpoint = this.#writeCheckpoint(false)
    journal.switchHalf()
    return true
  }

  #writeCheckpoint(cleanShutdown: boolean): Promise<boolean> {
    return this.#checkpointer.write(this.#options.journal.nextNumber(), cleanShutdown)
  }

  /**
   * No room: `refused` and all that waits without a claim to the reserve is refused, for what follows a refused
   * append in its log must not be taken. What stays is stamped again, from the durable ends on.
   */
  #refuseFull(refused: readonly Turn[], kept: readonly Turn[]): void {
    const { directory } = this.#options
    const error = new TributaryError(
      'disk_full',
      `no space left for ${directory}: free some or lower retention`,
    )
    const waiting = this.#turns
    this.#turns = waiting.filter(mayUseReserve)
    this.#openTurn = undefined
    const out = [...refused, ...waiting.filter(turn => !mayUseReserve(turn))]
    const left = [...kept, ...this.#turns]
    this.counters.diskFullRejections += stampAgain(out, left)
    this.#forgetPending(out)
    rejectAll(out, error)
  }

  async #undo(writes: readonly SegmentWrite[]): Promise<void> {
    const { files, disk } = this.#options
    unplan(writes)
    for (const write of writes.toReversed()) {
      if (write.isNew) await removeSegment(write.segment, disk, files)
      else await files.write(`${write.segment.path}.log`, file => file.truncate(write.position))
      this.touched(write.segment.path, write.log.folder)
    }
  }

  #forgetPending(turns: readonly Turn[]): void {
    for (const turn of turns) {
      this.counters.pendingBytes -= turn.dataBytes
      for (const item of turn.items) if (item.kind === 'data') this.counters.pendingAppends--
    }
  }

  async #finish(turns: readonly Turn[], writes: readonly SegmentWrite[]): Promise<void> {
    const changed = new Set<SegmentedLog>()
    for (const write of writes) {
      write.log.committed(write)
      changed.add(write.log)
      this.#maintainIndexes(write)
    }
    this.#forgetPending(turns)
    for (const turn of turns) {
      for (const item of turn.items) {
        if (item.kind === 'data') {
          const { firstOffset, endOffset, bytes, log } = item
          this.#options.tailCache.add(log.tail, { firstOffset, endOffset, bytes })
          item.resolve({ baseOffset: firstOffset, lastOffset: endOffset - 1 })
        } else {
          await item.after()
          item.resolve()
        }
      }
    }
    for (const log of changed) log.listener?.(log.durableEndOffset)
  }

  #maintainIndexes(write: SegmentWrite): void {
    const { log, segment } = write
    if (write.isNew) {
      const sealed = log.before(segment)
      if (sealed !== undefined) this.#seal(log, sealed)
    }
    const { readyIndex } = segment
    if (indexLags(segment)) this.inBackground(async () => readyIndex?.save(this.#options.disk, segment.path))
  }

  #seal(log: SegmentedLog, segment: Segment): void {
    const { disk, indexes } = this.#options
    const { readyIndex } = segment
    this.inBackground(async () => {
      await readyIndex?.save(disk, segment.path)
      await saveMeta(segment, disk)
    })
    if (readyIndex !== undefined) indexes.used(log, segment, readyIndex)
  }

  /** Queues work that nothing waits for; its failure costs a rebuild, nothing else. */
  inBackground(work: () => Promise<unknown>): void {
    this.#background = this.#background.then(async () => {
      try {
        await work()
      } catch {
        // A rebuildable file could not be written, or one that is no longer needed not removed before the next start.
        this.counters.backgroundFailures++
      }
    })
  }

  /** Makes the directory fail for good: nothing of it is acked any more. */
  fail(cause: unknown): TributaryError {
    if (this.#failure !== undefined) return this.#failure
    const { directory } = this.#options
    const failure = new TributaryError(
      'disk_failed',
      `${directory} could not be made durable (${messageOf(cause)}): check the disk, then restart`,
      { cause },
    )
    this.#failure = failure
    const waiting = this.#turns
    this.#turns = []
    this.#collectors = []
    rejectAll(waiting, failure)
    this.#hurry?.()
    this.#onFailed?.(failure)
    return failure
  }

  /** Resolves when what was queued in the background so far is done. */
  backgroundDone(): Promise<void> {
    return this.#background
  }

  /** Takes what collectors still hold, refuses new appends and waits for the rest. */
  async drain(): Promise<void> {
    assert(!this.#closed, 'closed twice')
    this.#collect()
    this.#closed = true
    while (this.#running !== undefined) {
      this.hurry()
      await this.#running
    }
    await this.#checkpoint
    await this.#background
  }

  /** After `drain`: everything in the segments, so that nothing need be recovered. */
  async checkpointClean(): Promise<void> {
    if (this.#failure === undefined) await this.#writeCheckpoint(true)
  }
}

/** Journal bytes of a fact at most: an entry with the longest name. */
const ENTRY_AT_MOST = ENTRY_BYTES + MAX_LOG_NAME_BYTES

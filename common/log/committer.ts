import { assert } from '../assert.ts'
import type { Clock, Timer } from '../env.ts'
import { messageOf, TributaryError } from '../errors.ts'
import { Aftermath } from './aftermath.ts'
import type { AnsweringDisk } from './answering-disk.ts'
import type { Checkpoint } from './checkpoint.ts'
import { Checkpointer } from './checkpointer.ts'
import { newCommitCounters } from './commit-counters.ts'
import type { DataItem, FactItem, Turn } from './commit-plan.ts'
import {
  journalEntries,
  mayUseReserve,
  mustBeDurable,
  planWrites,
  rejectAll,
  stampAgain,
  unplan,
} from './commit-plan.ts'
import type { FilePool } from './files.ts'
import type { IndexCache } from './index-cache.ts'
import type { Journal } from './journal.ts'
import type { Reserve } from './reserve.ts'
import { Room } from './room.ts'
import { SegmentWriter, writeSegment } from './segment-writer.ts'
import type { Segment, SegmentWrite } from './segmented-log.ts'
import { removeSegment } from './segmented-log.ts'
import type { TailCache } from './tail-cache.ts'
import { TurnQueue } from './turn-queue.ts'
import { eachAtMost } from './work.ts'

/** Appends waiting for their commit; beyond it `append` rejects with `throttled`. */
const MAX_PENDING_BYTES = 128 * 1024 * 1024
/** On top of it for logs that go first: what others append must not keep them out. */
const FIRST_PENDING_BYTES = 64 * 1024 * 1024
/** Segment writes that a commit waits for under way at once: the thread pool has other users. */
const MAX_WRITES_AT_ONCE = 16
/** What is durable in the journal is written to the segments from so many bytes on, at the latest some time later. */
const WRITE_FROM_BYTES = 128 * 1024
/** So much may be in the journal and in memory alone; beyond it commits wait for the segments. */
const MAX_UNWRITTEN_BYTES = 8 * 1024 * 1024

export interface CommitterOptions {
  directory: string
  commitMs: number
  journalBytes: number
  clock: Clock
  disk: AnsweringDisk
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
 * Group commit. Turns queue up; a commit takes those that are there, writes their batches to the journal in one synced
 * write, then acks; their segments are written later, without sync. Where the disk has little room left they are written
 * before, so that nothing is acked that would find none. Only one commit is under way at a time, so what a valid later
 * commit follows was durable: that is how recovery tells damage from a torn tail.
 */
export class Committer {
  readonly #options: CommitterOptions
  readonly #maxPendingBytes: number
  readonly counters = newCommitCounters()
  readonly #queue: TurnQueue
  #running: Promise<void> | undefined
  #underWaySinceMs: number | undefined
  #hurry: (() => void) | undefined
  #hurried = false
  #failure: TributaryError | undefined
  #onFailed: ((error: TributaryError) => void) | undefined
  #closed = false
  readonly #checkpointer: Checkpointer
  readonly #room: Room
  readonly #writer: SegmentWriter
  readonly #maxUnwrittenBytes: number
  /** The checkpoint that frees the idle half: false where the disk was full. */
  #checkpoint: Promise<boolean> = Promise.resolve(true)
  readonly #aftermath: Aftermath

  constructor(options: CommitterOptions) {
    this.#options = options
    this.#maxPendingBytes = options.maxPendingBytes ?? MAX_PENDING_BYTES
    this.#aftermath = new Aftermath(options, this.counters)
    this.#queue = new TurnQueue(options.clock, this.counters, options.journalBytes)
    this.#maxUnwrittenBytes = Math.min(MAX_UNWRITTEN_BYTES, Math.floor(options.journalBytes / 2))
    options.files.onSyncError(error => this.fail(error))
    options.journal.onSyncError(error => this.fail(error))
    this.#room = new Room(options.disk, options.clock, options.directory)
    this.#writer = new SegmentWriter({
      clock: options.clock,
      files: options.files,
      fromBytes: Math.min(WRITE_FROM_BYTES, Math.floor(options.journalBytes / 16)),
      touched: (path, folder) => this.touched(path, folder),
      filed: write => this.#aftermath.filed(write),
      full: () => this.#room.wasFull(),
      failed: error => this.fail(error),
    })
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

  /** See DataDir.stuckMs. */
  stuckMs(): number {
    const { clock, disk } = this.#options
    if (this.#underWaySinceMs === undefined || this.#failure !== undefined) return 0
    return clock.monotonicMs() - Math.max(this.#underWaySinceMs, disk.answeredMs())
  }

  /** Why nothing can be appended now, or undefined. */
  refusal(): TributaryError | undefined {
    if (this.#failure !== undefined) return this.#failure
    if (this.#closed)
      return new TributaryError('closed', `${this.#options.directory} is closed: open it again`)
    return undefined
  }

  /** Throws unless an append of so many bytes may be queued now. */
  admit(dataBytes: number, goesFirst: boolean): void {
    const refusal = this.refusal()
    if (refusal !== undefined) throw refusal
    // A turn that has begun is let finish, or half of it would be in a commit and half refused.
    const limit = this.#maxPendingBytes + (goesFirst ? FIRST_PENDING_BYTES : 0)
    if (!this.#queue.isOpen(goesFirst) && this.counters.pendingBytes + dataBytes > limit) {
      this.counters.throttledRejections++
      throw new TributaryError('throttled', `${limit} bytes wait for the disk: slow down, then try again`)
    }
  }

  /** Queues an item in the current synchronous turn; throws why it can't. */
  enqueue(item: DataItem | FactItem, alone = false): void {
    const refusal = this.refusal()
    if (refusal !== undefined) throw refusal
    this.#queue.add(item, alone)
    if (this.#hurry !== undefined && this.#queue.isWorthwhile()) this.hurry()
    this.#wake()
  }

  collectAtNextCommit(collect: () => void): void {
    if (this.refusal() !== undefined) return
    this.#queue.collectLater(collect)
    this.#wake()
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
    return this.#failure === undefined && !this.#queue.isEmpty()
  }

  async #run(): Promise<void> {
    const { clock } = this.#options
    await new Promise<void>(resolve => clock.soon(resolve))
    while (this.#hasWork()) {
      if (this.#options.commitMs > 0) await this.#waitForCompany()
      this.#hurried = false
      if (this.#failure !== undefined) return
      this.#underWaySinceMs = clock.monotonicMs()
      try {
        await this.#commit()
      } catch (error) {
        this.fail(error)
      } finally {
        this.#underWaySinceMs = undefined
      }
    }
  }

  async #waitForCompany(): Promise<void> {
    const { clock, commitMs } = this.#options
    const waitMs = this.#queue.sinceMs() + commitMs - clock.monotonicMs()
    if (this.#hurried || this.#queue.isWorthwhile() || waitMs <= 0) return
    let timer: Timer | undefined
    await new Promise<void>(resolve => {
      this.#hurry = resolve
      // Somebody waits for this commit: the process must not end under it for want of other work.
      timer = clock.setTimer(resolve, waitMs, true)
    })
    this.#hurry = undefined
    timer?.cancel()
  }

  async #commit(): Promise<void> {
    this.#queue.collect(error => this.fail(error))
    const turns = this.#queue.gather()
    let bytes = 0
    for (const turn of turns) bytes += turn.dataBytes
    try {
      if (this.#room.spend(bytes) && !this.#writer.isFull()) await this.#commitThenWrite(turns)
      else await this.#writeThenCommit(turns)
    } catch (error) {
      this.counters.commitFailures++
      rejectAll(turns, this.fail(error))
    }
  }

  /** The way of all commits while there is room on the disk. */
  async #commitThenWrite(turns: readonly Turn[]): Promise<void> {
    const writes = planWrites(turns)
    if (!(await this.#writeJournal(turns, writes))) {
      unplan(writes)
      this.#refuseFull(turns, [])
      return
    }
    await this.#finish(turns, writes, true)
    if (this.#writer.bytes() <= this.#maxUnwrittenBytes) return
    this.counters.segmentWaits++
    await this.#writer.settle()
  }

  /** Where room is scarce, segments are written first: what finds none is refused, what is acked has its place. */
  async #writeThenCommit(all: readonly Turn[]): Promise<void> {
    let turns = all
    if (!(await this.#settleOrGiveUp())) {
      turns = all.filter(turn => turn.dataBytes === 0)
      this.#refuseFull(
        all.filter(turn => turn.dataBytes > 0),
        turns,
      )
    }
    let writes = planWrites(turns)
    if (!(await this.#writeSegments(writes))) {
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
    if (!(await this.#writeJournal(turns, writes))) {
      await this.#undo(writes)
      this.#refuseFull(turns, [])
      return
    }
    await this.#finish(turns, writes, false)
  }

  /** Brings what was acked to the segments, into the reserve if need be; false where the disk has no room even so. */
  async #settleOrGiveUp(): Promise<boolean> {
    const { reserve } = this.#options
    for (const free of [null, () => reserve.yieldSome(this.#writer.bytes()), () => reserve.giveUp()]) {
      await free?.()
      if (await this.#writer.settle()) return true
      if (this.#failure !== undefined) throw this.#failure
    }
    return false
  }

  /** False where the disk is full. */
  async #writeSegments(writes: readonly SegmentWrite[]): Promise<boolean> {
    const writing = {
      files: this.#options.files,
      touched: (path: string | undefined, folder: string | undefined) => this.touched(path, folder),
    }
    let full = false
    await eachAtMost(MAX_WRITES_AT_ONCE, writes, async write => {
      if (!(await writeSegment(write, writing))) full = true
    })
    return !full
  }

  /** True when the commit is as durable as it must be; false where the disk has no room for the checkpoint that comes before. */
  async #writeJournal(turns: readonly Turn[], writes: readonly SegmentWrite[]): Promise<boolean> {
    const { journal } = this.#options
    const { entries, payload, payloadBytes } = journalEntries(turns, writes)
    if (entries.length > 0) {
      const own = journal.ownEntry()
      if (own !== undefined) entries.push(own)
      if (!journal.fits(entries, payloadBytes) && !(await this.#switchHalf())) return false
      await journal.commit(entries, payload, payloadBytes)
      this.counters.commits++
      this.counters.committedBytes += payloadBytes
    }
    if (turns.some(mustBeDurable)) await journal.sync()
    return true
  }

  /** Moves on to the other half once the checkpoint that frees it is done; false where the disk has no room for one. */
  async #switchHalf(): Promise<boolean> {
    const { journal } = this.#options
    const freed = await this.#checkpoint
    // The checkpoint says that the segments hold all that was committed.
    if (!(await this.#settleOrGiveUp())) return false
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

  /** Writes a checkpoint as soon as no commit is under way. Rejects with `disk_full` where there is no room for it. */
  checkpoint(): Promise<void> {
    return new Promise((resolve, reject) => {
      const after = async (): Promise<void> => {
        await this.#checkpoint
        const settled = await this.#settleOrGiveUp()
        if (settled) this.#checkpoint = this.#writeCheckpoint(false)
        if (!settled || !(await this.#checkpoint)) reject(this.#failure ?? this.#fullError())
      }
      this.enqueue({ kind: 'fact', entry: undefined, after, resolve, reject }, true)
      this.hurry()
    })
  }

  #writeCheckpoint(cleanShutdown: boolean): Promise<boolean> {
    return this.#checkpointer.write(this.#options.journal.nextNumber(), cleanShutdown)
  }

  /**
   * No room: `refused` and all that waits without a claim to the reserve is refused, for what follows a refused
   * append in its log must not be taken. What stays is stamped again, from the durable ends on.
   */
  #refuseFull(refused: readonly Turn[], kept: readonly Turn[]): void {
    const error = this.#fullError()
    const waiting = this.#queue.takeOut(turn => !mayUseReserve(turn))
    const out = [...refused, ...waiting.taken]
    this.counters.diskFullRejections += stampAgain(out, [...kept, ...waiting.left])
    this.#queue.settled(out)
    rejectAll(out, error)
  }

  #fullError(): TributaryError {
    const { directory } = this.#options
    return new TributaryError('disk_full', `no space left for ${directory}: free some or lower retention`)
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

  /** Acks. `unwritten`: the segments hold nothing of it yet. */
  async #finish(turns: readonly Turn[], writes: readonly SegmentWrite[], unwritten: boolean): Promise<void> {
    for (const write of writes) {
      write.log.committed(write)
      if (!unwritten) this.#aftermath.filed(write)
    }
    let facts = false
    for (const { items } of turns) {
      for (const item of items) {
        if (item.kind === 'data') this.#aftermath.remember(item, unwritten)
        else if (item.entry !== undefined) facts = true
      }
    }
    this.#queue.settled(turns)
    // Facts cut and remove segments.
    if (facts) await this.#writer.pause()
    try {
      if (unwritten) this.#writer.add(writes)
      for (const { items } of turns) {
        for (const item of items) {
          if (item.kind === 'data') {
            item.resolve({ baseOffset: item.firstOffset, lastOffset: item.endOffset - 1 })
          } else {
            await item.after()
            item.resolve()
          }
        }
      }
    } finally {
      if (facts) this.#writer.resume()
    }
    // Once for each log: where the commit began a segment, the last of its writes.
    for (const { log, endOffset } of writes) if (endOffset === log.durableEndOffset) log.listener?.(endOffset)
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
    rejectAll(this.#queue.clear(), failure)
    this.#hurry?.()
    this.#onFailed?.(failure)
    return failure
  }

  /** Brings what is durable to the segments. Rejects with `disk_full` where there is no room for it. */
  async settle(): Promise<void> {
    if (await this.#writer.settle()) return
    throw this.#failure ?? this.#fullError()
  }

  /** These segments go: what waits to be written to them need not be. Called in a fact's `after`. */
  forget(segments: readonly Segment[]): void {
    this.#writer.forget(segments)
  }

  /** Queues work that nothing waits for; its failure costs a rebuild, nothing else. */
  inBackground(work: () => Promise<unknown>): void {
    this.#aftermath.inBackground(work)
  }

  /** Resolves when what was queued in the background so far is done. */
  backgroundDone(): Promise<void> {
    return this.#aftermath.done()
  }

  /** Takes what collectors still hold, refuses new appends and waits for the rest. */
  async drain(): Promise<void> {
    assert(!this.#closed, 'closed twice')
    this.#queue.collect(error => this.fail(error))
    this.#closed = true
    while (this.#running !== undefined) {
      this.hurry()
      await this.#running
    }
    // Where it fails, or the disk is full, the stop is not a clean one: the journal has what the segments lack.
    if (this.#failure === undefined) await this.#settleOrGiveUp().catch(() => false)
    this.#writer.close()
    await this.#checkpoint
    await this.#aftermath.done()
  }

  /** After `drain`: everything in the segments, so that nothing need be recovered; else in the journal at least. */
  async checkpointClean(): Promise<void> {
    if (this.#failure !== undefined) return
    if (this.#writer.bytes() === 0 && (await this.#writeCheckpoint(true))) return
    await this.#options.journal.sync().catch((error: unknown) => this.fail(error))
  }
}

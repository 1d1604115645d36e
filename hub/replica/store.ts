import { assert } from '../../common/assert.ts'
import { validateBatch } from '../../common/batch.ts'
import type { Clock } from '../../common/env.ts'
import { messageOf, TributaryError } from '../../common/errors.ts'
import type { Snapshots } from '../../common/log/snapshots.ts'
import type { Damage, Log } from '../../common/log/types.ts'
import type { ReplicaContext } from './context.ts'
import type { DamageKeeper } from './damage.ts'
import { createDamageKeeper } from './damage.ts'
import type { LeaderEpochs } from './leader-epochs.ts'
import type { OnDamage } from './log-access.ts'
import { restoreHistory } from './log-access.ts'
import { decodeSnapshot } from './producer-snapshot.ts'
import type { Producers } from './producers.ts'
import type { History } from './replay.ts'
import { replayBatches } from './replay.ts'

/**
 * A replica's log and what is derived from it, kept in step: whatever becomes of the log, the producers and leader epochs here are
 * those that a fresh replay of it would give.
 */
export interface ReplicaStore extends History {
  readonly log: Log
  readonly snapshots: Snapshots
  readonly producers: Producers
  readonly epochs: LeaderEpochs
  readonly reflected: Reflected
  readonly damage: DamageKeeper
  /** False where producers are missing that wrote below the log's start: a leader can tell. */
  complete(): boolean
  /** Whether it lacks what a damaged stretch tells that may be repaired yet: nobody may be judged by it then. */
  wanting(): boolean
  /** Whether such a stretch may hold whose the batch before `offset` is. */
  isDoubtful(offset: number): boolean
  /** Whether the producers are from beyond the log's end, given by a leader to a replica that has yet to fetch so far. */
  ahead(): boolean
  /** Resolves when nothing is on its way to the disk and the history tells of what is there. Rejects where the disk failed. */
  quiet(): Promise<void>
  /**
   * Takes batches of a leader, in order, as it stamped them; they count in this turn, and the promise resolves when they are durable.
   * Throws `corrupt_batch`. Where it rejects, nothing of them stays once `quiet` resolves.
   */
  appendFetched(batches: Uint8Array, told: FetchedFacts): Promise<void>
  /** Cuts the log at `offset` (see Log.truncateAfter) and what is derived from it with it. Nothing else meanwhile. */
  cutAfter(offset: number): Promise<void>
  /** Empties the log, to begin at `offset` with what a leader's snapshot, taken at or above, tells of. Nothing else meanwhile. */
  restartAt(offset: number, snapshot: { offset: number; bytes: Uint8Array }): Promise<void>
  /** Takes a leader's snapshot for a log that stays as it is. Nothing else meanwhile. */
  install(snapshot: { offset: number; bytes: Uint8Array }): Promise<void>
  /** What is derived, made anew. Nothing else meanwhile. */
  rebuild(): Promise<void>
  /** Takes what is derived of this log alone for all there is, for who leads with it: what others know or had told of is lost. Nothing else meanwhile. */
  stand(): Promise<void>
  /** An append that the log had taken failed. */
  appendFailed(error: unknown): void
}

/** What a leader tells of batches beside themselves. */
export interface FetchedFacts {
  hubTimeMs: number
  /** Where the log ended when they were asked for: a log that took something back since takes none of it, though control batches may jump. */
  from?: number
  /** It has lost what lies between the end of this log and here, see ReplicaOptions. */
  lostBefore?: number
}

/** What of the log the history tells of; the leader's pipeline keeps it while it leads. */
export interface Reflected {
  /** Where the log would end if nothing was taken back. */
  end: number
  /** Rises whenever part of the log was taken back or cut: what was gathered before is of another one. */
  cuts: number
}

export interface StoreContext {
  name: string
  log: Log
  snapshots: Snapshots
  clock: Clock
  /** More of the log is durable. */
  onDurable(durableEnd: number): void
  /** See DamageContext. */
  onLost: OnDamage
  onFound(): void
  /** Appends that the log had taken failed. */
  onFailed(): void
}

/** Compaction may have taken records; how large batches may be was the leader's to judge. */
const ANY_BATCH = { maxBatchBytes: Number.MAX_SAFE_INTEGER, allowCompacted: true }

/** Opens a replica's files. Rejects as that does. */
export async function openReplica(
  { name, clock, onDamage: onLost, events, open }: ReplicaContext,
  told: Pick<StoreContext, 'onDurable' | 'onFailed'>,
): Promise<ReplicaStore> {
  const files = await open()
  return openStore({ name, clock, onLost, onFound: events.damaged, ...files, ...told })
}

/** Restores what is derived from a log that was just opened; takes its one listener. */
async function openStore(context: StoreContext): Promise<ReplicaStore> {
  const { log, snapshots, clock } = context
  const restored = await restoreHistory(log, snapshots, clock.nowMs(), passOver)
  const { producers, epochs, gaps } = restored
  const history: History = { producers, epochs, gaps }
  const reflected: Reflected = { end: log.endOffset(), cuts: 0 }
  let complete = restored.complete
  /** Damage that the replay had to pass over. */
  let missed = restored.missed
  const damage = createDamageKeeper(context)
  /** Batches below it are in the producers already. */
  let producersFrom = 0
  let failure: TributaryError | null = null
  const stirred: (() => void)[] = []

  function wanted(): Damage[] {
    const waiting = missed.length === 0 ? [] : damage.waiting()
    return waiting.filter(one => missed.some(each => overlaps(one, each)))
  }

  function stir(): void {
    for (const resolve of stirred.splice(0)) resolve()
  }

  log.onDurable(durableEnd => {
    context.onDurable(durableEnd)
    if (stirred.length > 0) stir()
  })

  function appendFailed(cause: unknown): void {
    const isSurvived = cause instanceof TributaryError && cause.code === 'disk_full'
    if (!isSurvived) failure ??= diskFailed(context.name, cause)
    context.onFailed()
    stir()
  }

  async function quiet(): Promise<void> {
    while (failure === null && log.endOffset() > log.durableEndOffset()) {
      await new Promise<void>(resolve => {
        stirred.push(resolve)
      })
    }
    if (failure !== null) throw failure
    if (log.endOffset() < reflected.end) await rebuild()
  }

  async function rebuild(): Promise<void> {
    const anew = await restoreHistory(log, snapshots, clock.nowMs(), passOver)
    producers.replaceBy(anew.producers)
    epochs.replaceBy(anew.epochs.entries())
    gaps.replaceBy(anew.gaps.entries())
    complete = anew.complete
    missed = anew.missed
    producersFrom = 0
    reflected.end = log.endOffset()
    reflected.cuts++
  }

  function takeSnapshot(offset: number, { producers: others, epochs: told, gaps: places }: History): void {
    producers.replaceBy(others)
    gaps.replaceBy(places.entries())
    epochs.replaceBy(told.entries())
    epochs.cutAfter(log.endOffset())
    complete = true
    missed = []
    producersFrom = offset
    reflected.end = log.endOffset()
    reflected.cuts++
  }

  return {
    log,
    snapshots,
    producers,
    epochs,
    gaps,
    reflected,
    damage,
    complete: () => complete,
    wanting: () => wanted().length > 0,
    // Of what ends where the log does nobody but its followers can tell.
    isDoubtful: offset =>
      wanted().some(({ fromOffset, toOffset }) => {
        return offset > fromOffset && (offset < toOffset || (offset === toOffset && offset < log.endOffset()))
      }),
    ahead: () => producersFrom > log.endOffset(),
    quiet,
    rebuild,
    stand: async () => {
      if (producersFrom > log.endOffset()) await rebuild()
      complete = true
    },
    appendFailed,
    appendFetched: (batches, { hubTimeMs, lostBefore, from }) => {
      for (let at = 0; at < batches.length; ) at += validateBatch(batches, at, ANY_BATCH).sizeBytes
      const before = log.endOffset()
      if (before < reflected.end || (from !== undefined && from !== before)) {
        throw new TributaryError(
          'not_available',
          `${context.name}: what the disk had no room for is undone first`,
        )
      }
      const lost = lostBefore === undefined ? {} : { lostBefore }
      const appended = log.appendReplica(batches, { appendTimeMs: hubTimeMs, ...lost })
      if (log.endOffset() === before) return appended.then(noResult)
      reflected.end = log.endOffset()
      replayBatches(history, batches, producersFrom, clock.nowMs())
      return appended.then(noResult, error => {
        appendFailed(error)
        throw error
      })
    },
    cutAfter: async offset => {
      await quiet()
      // Before the log is cut: one that outlived the cut would be believed again once the log has grown past it.
      await snapshots.dropAfter(offset)
      await log.truncateAfter(offset)
      await rebuild()
      damage.cutAfter(offset)
    },
    restartAt: async (offset, snapshot) => {
      assert(snapshot.offset >= offset, `a snapshot of ${snapshot.offset} for a log from ${offset} on`)
      const told = decodeSnapshot(snapshot.bytes)
      await quiet()
      // Not one may stay: without the new one the log must be seen to be incomplete.
      await snapshots.dropAfter(-1)
      await log.restartAt(offset)
      damage.cutAfter(0)
      await snapshots.save(snapshot.offset, snapshot.bytes)
      takeSnapshot(snapshot.offset, told)
    },
    install: async snapshot => {
      const told = decodeSnapshot(snapshot.bytes)
      await quiet()
      await snapshots.save(snapshot.offset, snapshot.bytes)
      if (snapshot.offset <= log.endOffset()) return rebuild()
      const own = [...epochs.entries()]
      takeSnapshot(snapshot.offset, told)
      epochs.replaceBy(own)
    },
  }
}

/** What failed as an error of the log, whatever it was. */
export function diskFailed(name: string, cause: unknown): TributaryError {
  if (cause instanceof TributaryError) return cause
  return new TributaryError('disk_failed', `${name}: ${messageOf(cause)}`, { cause })
}

function overlaps(left: Damage, right: Damage): boolean {
  return left.fromOffset < right.toOffset && left.toOffset > right.fromOffset
}

function noResult(): void {}

/** What of damage is derived from is missing until it is repaired; who tells of it is damage.ts. */
function passOver(): void {}

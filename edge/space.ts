import { utf8 } from '../common/bytes.ts'
import type { Disk, Timer } from '../common/env.ts'
import { messageOf } from '../common/errors.ts'
import { GIB, MINUTE_MS, SECOND_MS } from '../common/limits.ts'
import type { RetentionClock } from '../common/log/retention.ts'
import { advanceRetentionClock, startRetentionClock } from '../common/log/retention.ts'
import type { StateEntry, StateLog } from '../common/log/types.ts'
import type { Victim } from './budget.ts'
import { fits, pickVictim } from './budget.ts'
import { foldSummaries, lostBetween, pruneGaps, skipGaps, summaryGap } from './gaps.ts'
import type { Lane } from './lane.ts'
import { parsed } from './lane.ts'
import { declareLoss, freeableEnd, hasPending } from './ledger.ts'
import { pruneRuns } from './runs.ts'
import type { Store } from './store.ts'
import { findSummaries } from './summary.ts'

/** Gives space back: what the hub has, after its time; and, when the budget is used up, what policies let go. */

/** How often positions are stored, space is measured and what is due is deleted. */
const SWEEP_MS = SECOND_MS
/** Oldest pending records looked up in one sweep, for the lag. */
const MAX_LOOKUPS = 16
/** Budget unless told, or half of what is free at first start if that is less. */
const DEFAULT_BUDGET_BYTES = 10 * GIB
/** How finely `keepAckedMs` is told. */
const MARK_SHARE = 1 / 20

export interface Space {
  /** Whether a record of so many bytes may be appended now; `full`: nothing more will go for it. */
  room(bytes: number, mayDrop: boolean): 'yes' | 'wait' | 'full'
  /** Starts making room for so many bytes where it is short; tells the store when done. */
  make(bytes: number, mayDrop: boolean): void
  /** The hub committed below `offset`. */
  committed(lane: Lane, offset: number): void
  /** Commits ended or space was given back: sizes are to be looked at again. */
  changed(): void
  /** The filesystem said that it is full. */
  diskFull(): void
  measure(): Promise<void>
  usedBytes(): number
  budgetBytes(): number
  /** Edge time of a lane's oldest pending record, as of the last sweep. */
  oldestMs(lane: Lane): number | null
  start(): void
  close(): Promise<void>
}

/** The budget: as configured, or as decided and stored at first start. */
export async function resolveBudget(
  configured: number | null,
  state: StateLog,
  disk: Disk,
  path: string,
): Promise<number> {
  if (configured !== null) return configured
  const stored = parsed<number>(state.get('budget'))
  if (stored !== undefined) return stored
  const { freeBytes } = await disk.space(path)
  const budgetBytes = Math.min(DEFAULT_BUDGET_BYTES, Math.floor(freeBytes / 2))
  await state.put([{ key: 'budget', value: utf8(JSON.stringify(budgetBytes)) }])
  return budgetBytes
}

export function createSpace(store: Store, budgetBytes: number): Space {
  const { env, config } = store
  const options = { budgetBytes, reservePercent: config.storage.reservePercent }
  const dirty = new Set<Lane>()
  const oldest = new Map<Lane, { offset: number; atMs: number | null }>()
  let clock: RetentionClock = startRetentionClock(env.clock.nowMs(), env.clock.monotonicMs())
  let usedBytes = 0
  let stale = true
  let freeBytes = Number.POSITIVE_INFINITY
  let making: Promise<void> | null = null
  /** Nothing more to free was found, without and with drops, since anything changed. */
  let exhausted = { acked: false, all: false }
  /** Records were refused because their topic drops nothing. */
  let refused = false
  let timer: Timer | null = null
  let sweeping: Promise<void> = Promise.resolve()
  let closed = false

  function used(): number {
    if (stale) {
      usedBytes = 0
      for (const lane of store.lanes.values()) usedBytes += lane.sizeBytes()
      stale = false
    }
    return usedBytes
  }

  function roomFor(bytes: number): 'yes' | 'soon' | 'no' {
    const { groups, windows } = store
    const pending = groups.uncommittedBytes + groups.gatheredBytes + windows.heldBytes() + bytes
    return fits(options, { usedBytes: used(), freeBytes }, pending)
  }

  const shortage = (): string =>
    used() + freeBytes < budgetBytes ? 'the disk is full' : 'the disk budget is used up'
  const canDrop = (lane: Lane): boolean => store.policy(lane.ledger.topic).onFull === 'drop-oldest'

  async function makeRoom(bytes: number, mayDrop: boolean): Promise<void> {
    while (roomFor(bytes) !== 'yes') {
      const victim = pickVictim(
        store.lanes.values(),
        lane => freeableEnd(lane.ledger),
        lane => mayDrop && canDrop(lane),
      )
      if (victim === null) {
        exhausted = { acked: true, all: exhausted.all || mayDrop }
        if (roomFor(bytes) === 'no') {
          store.alarms.raise('disk-full', `${shortage()} and nothing more may be deleted`)
        }
        return
      }
      await remove(victim)
    }
  }

  async function remove({ lane, offset, isLoss }: Victim): Promise<void> {
    const { ledger } = lane
    if (isLoss) {
      const from = Math.max(ledger.startOffset, ledger.committed)
      const firstMs = await lane.edgeTimeAt(skipGaps(ledger.gaps, from), env.codec)
      // A summary stands for more than its place: it is kept.
      for (const placed of await findSummaries(lane, from, offset)) declareLoss(ledger, summaryGap(placed))
      const lost = offset - from - lostBetween(ledger.gaps, from, offset)
      store.declare(lane, from, offset, 'disk-full', firstMs)
      ledger.gaps = foldSummaries(ledger.gaps)
      lane.droppedRecords += Math.max(0, lost)
      store.alarms.raise('dropped', `${shortage()}: oldest records of ${lane.key} are dropped`, lane.key)
    }
    // A loss is declared, durably, before anything is deleted.
    await store.state.put([lane.gapsEntry(), lane.ackedEntry(), lane.laneEntry()])
    await lane.free(offset)
    await forgetParts(lane)
    roomMade()
    store.laneChanged(lane)
  }

  /** Logs of older generations that are empty go. */
  async function forgetParts(lane: Lane): Promise<void> {
    const names = lane.dropEmptyParts()
    if (names.length === 0) return
    const topic = store.topics.get(lane.ledger.topic)
    const entries: StateEntry[] = [lane.laneEntry()]
    if (topic?.forgetDrained() === true) entries.push(topic.entry())
    await store.state.put(entries)
    for (const name of names) await store.directory.deleteLog(name)
  }

  function roomMade(): void {
    stale = true
    exhausted = { acked: false, all: false }
  }

  /** Once there is more than a little: what was refused comes back all at once. */
  function tellRoom(): void {
    if (!refused || roomFor(0) !== 'yes') return
    refused = false
    store.roomReturned()
  }

  async function sweep(): Promise<void> {
    await measure()
    clock = advanceRetentionClock(clock, env.clock.nowMs(), env.clock.monotonicMs())
    if (clock.pausedByJumpMs !== undefined) {
      store.alarms.raise(
        'clock',
        `the wall clock jumped by ${clock.pausedByJumpMs} ms: deleting by age pauses`,
      )
    }
    await savePositions()
    let lookups = 0
    for (const lane of store.lanes.values()) {
      const { ledger } = lane
      const aged = Math.min(lane.agedEnd(clock.timeMs, keepAckedMs(lane)), freeableEnd(ledger))
      const end = aged >= ledger.committed ? freeableEnd(ledger) : aged
      const isWorthIt = lane.bytesBefore(end) > 0 || end >= lane.endOfGeneration(lane.oldestGeneration())
      if (isWorthIt) await remove({ lane, offset: end, isLoss: false })
      if (lookups < MAX_LOOKUPS && (await lookUpOldest(lane))) lookups++
    }
    // Nobody may be left who asks: clients that wait for an ack send nothing.
    if (refused) make(0, false)
    tellRoom()
  }

  async function lookUpOldest(lane: Lane): Promise<boolean> {
    const offset = skipGaps(lane.ledger.gaps, Math.max(lane.ledger.committed, lane.ledger.startOffset))
    if (!hasPending(lane.ledger) || oldest.get(lane)?.offset === offset) return false
    oldest.set(lane, { offset, atMs: await lane.edgeTimeAt(offset, env.codec) })
    return true
  }

  async function savePositions(): Promise<void> {
    if (dirty.size === 0) return
    const entries: StateEntry[] = []
    for (const lane of dirty) entries.push(lane.ackedEntry(), lane.gapsEntry())
    dirty.clear()
    await store.state.put(entries)
  }

  async function measure(): Promise<void> {
    roomMade()
    const { freeBytes: free } = await env.disk.space(store.directory.path)
    freeBytes = free
  }

  function keepAckedMs(lane: Lane): number {
    return store.policy(lane.ledger.topic).keepAckedMs
  }

  function schedule(): void {
    if (closed) return
    timer = env.clock.setTimer(() => {
      sweeping = sweep()
        .catch((error: unknown) => store.alarms.raise('sweep', `tidying up failed: ${messageOf(error)}`))
        .then(schedule)
    }, SWEEP_MS)
  }

  function isExhausted(mayDrop: boolean): boolean {
    return mayDrop ? exhausted.all : exhausted.acked
  }

  function make(bytes: number, mayDrop: boolean): void {
    // Nothing changed since the last look found nothing: to look again would go round for ever without a pause.
    if (making !== null || closed || isExhausted(mayDrop) || roomFor(bytes) === 'yes') return
    making = makeRoom(bytes, mayDrop)
      .catch((error: unknown) => {
        exhausted = { acked: true, all: true }
        store.alarms.raise('disk-full', `no room could be made: ${messageOf(error)}`)
      })
      .then(() => {
        making = null
        store.roomChanged()
        tellRoom()
      })
  }

  return {
    room: (bytes, mayDrop) => {
      const fitting = roomFor(bytes)
      if (fitting === 'soon') make(bytes, false)
      if (fitting !== 'no') return 'yes'
      if (!isExhausted(mayDrop)) return 'wait'
      if (!mayDrop) refused = true
      return 'full'
    },
    make,
    committed: (lane, offset) => {
      const spacing = Math.max(MINUTE_MS, keepAckedMs(lane) * MARK_SHARE)
      lane.noteCommitted(offset, clock.timeMs, spacing)
      const { ledger } = lane
      ledger.gaps = pruneGaps(ledger.gaps, offset)
      pruneRuns(ledger.runs, Math.min(offset, ledger.startOffset))
      dirty.add(lane)
      exhausted = { acked: false, all: false }
    },
    changed: () => {
      stale = true
      // What became durable may be dropped now.
      exhausted = { acked: exhausted.acked, all: false }
    },
    diskFull: () => {
      freeBytes = 0
      store.alarms.raise('disk-full', 'the disk is full: nothing is taken until there is room on it')
      roomMade()
    },
    measure,
    usedBytes: used,
    budgetBytes: () => budgetBytes,
    oldestMs: lane => (hasPending(lane.ledger) ? (oldest.get(lane)?.atMs ?? null) : null),
    start: schedule,
    close: async () => {
      closed = true
      timer?.cancel()
      await sweeping
      await making
      await savePositions()
    },
  }
}

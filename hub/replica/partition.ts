import { TributaryError } from '../../common/errors.ts'
import type { ReadResult } from '../../common/log/types.ts'
import type { LaneTip } from '../../common/wire.ts'
import type { ReplicaContext } from './context.ts'
import { underRepair } from './damage.ts'
import type { EarlyOperations } from './early-operations.ts'
import { createEarlyOperations } from './early-operations.ts'
import type { GivenBatches, GivenSnapshot } from './followers.ts'
import { noSnapshot, readForFollower, snapshotFor } from './followers.ts'
import type { Following, Known } from './following.ts'
import { createFollowing } from './following.ts'
import type { InSync } from './in-sync.ts'
import { createInSync } from './in-sync.ts'
import type { GapRange, LaneId, RunAnnouncement } from './lanes.ts'
import type { Bounds, Leader, Leading } from './leader.ts'
import { createLeader, notSettled, outOfRange } from './leader.ts'
import type { EpochEnd } from './leader-epochs.ts'
import { createLeaderEpochs, parting } from './leader-epochs.ts'
import type { Repairs } from './repairs.ts'
import { createRepairs } from './repairs.ts'
import type { Role } from './role.ts'
import { epochOf, notLeading, UNASSIGNED } from './role.ts'
import type { SnapshotKeeper } from './snapshot-keeper.ts'
import { createSnapshotKeeper } from './snapshot-keeper.ts'
import type { ReplicaStore } from './store.ts'
import { diskFailed, openReplica } from './store.ts'
import { createTurns } from './turns.ts'
import type { Upkept } from './upkeep.ts'
import { maintain, saveSnapshot } from './upkeep.ts'
import type { Waiters } from './waiters.ts'
import { createWaiters } from './waiters.ts'

/**
 * This node's replica of a partition: leader, follower or idle, as it was last told by `assign`. Its log is opened, and made where it is
 * not there, by the first append or fetch; until then the partition is empty. What only the leader does is refused as `not_available`
 * where this node is none.
 */
export class Partition implements Leading {
  readonly #context: ReplicaContext
  readonly #waiters: Waiters
  #role: Role = UNASSIGNED
  /** The role that it acts by; null while what the former one began comes to its end. */
  #acting: Role | null = UNASSIGNED
  #store: ReplicaStore | null = null
  #keeper: SnapshotKeeper | null = null
  #inSync: InSync | null = null
  #leader: Leader | null = null
  readonly #turns = createTurns()
  #changing = false
  #closedBy: TributaryError | null = null
  readonly #early: EarlyOperations<Leader>
  readonly #known: Known = { highWatermark: 0, leaderStart: 0 }
  /** What it does as a follower. */
  readonly following: Following
  /** What is done about damage of its log. */
  readonly repairs: Repairs

  constructor(context: ReplicaContext) {
    this.#context = context
    this.#early = createEarlyOperations(context.name)
    this.following = createFollowing({
      known: this.#known,
      store: () => this.#store,
      keeper: () => this.#keeper,
      under: leaderEpoch => this.#under(leaderEpoch),
      alone: work => this.#turns.run(work),
      open: () => this.open(),
    })
    this.repairs = createRepairs({
      store: () => this.#store,
      keeper: () => this.#keeper,
      isHeldUp: () => this.#leader === null && this.#closedBy === null,
      beginAnew: work => this.#beginAnew(work),
      tells: () => this.#role.kind === 'leader',
      covered: () => this.#covered(),
      leaderStart: () => this.#known.leaderStart,
      refusal: leaderEpoch => this.#refusalUnder(leaderEpoch),
    })
    this.#waiters = createWaiters(context.clock, () => this.#inSync?.highWatermark() ?? 0)
  }

  // ------------------------------------------------------------------------------------------ roles

  role(): Role {
    return this.#role
  }

  /** The epoch under which it leads or follows right now; null while it can't. */
  actingEpoch(kind: 'leader' | 'follower'): number | null {
    const acting = this.#acting
    return acting !== null && acting.kind === kind && this.#closedBy === null ? epochOf(acting) : null
  }

  /** Takes over what the controller says. Whoever waits for what the former role began is told `not_available`. */
  assign(role: Role): void {
    const before = this.#role
    this.#role = role
    if (role.kind === before.kind && epochOf(role) === epochOf(before)) {
      if (role.kind !== 'leader') {
        if (this.#acting !== null) this.#acting = role
        return
      }
      if (this.#inSync === null) return
      this.#acting = role
      this.#store?.damage.setAlone(role.seats.replicas.length === 1)
      if (this.#inSync.update(role.seats, role.required)) this.#advanced()
      return
    }
    this.#stepDown(() => notLeading(this.#context.name, role))
    void this.#change()
  }

  /** The reason costs more than all else, and mostly nobody is there to be told. */
  #stepDown(why: () => TributaryError): void {
    this.#acting = null
    if (this.#inSync !== null)
      this.#known.highWatermark = Math.max(this.#known.highWatermark, this.#inSync.highWatermark())
    this.#inSync = null
    this.#leader?.shut(why())
    this.#leader = null
    this.#waiters.wakeAll()
    if (this.#role.kind !== 'leader') this.#early.refuse(why())
  }

  async #beginAnew(work: () => Promise<void>): Promise<void> {
    this.#stepDown(() => underRepair(this.#context.name))
    await this.#turns.run(work)
    await this.#change()
  }

  /** Acts by the newest role as soon as nothing is under way any more; at once where nothing is. */
  async #change(): Promise<void> {
    if (this.#changing) return
    if (this.#isQuiet()) {
      this.#act()
      return
    }
    this.#changing = true
    try {
      while (!this.#isQuiet()) {
        await this.#turns.busy()
        if (this.#store === null) await this.open()
        else {
          await this.#store.quiet()
          if (!this.#mayLead(this.#store)) await this.#store.stand()
        }
      }
    } catch (error) {
      this.#changing = false
      // What is of a log that failed under way is not known before a restart.
      if (this.#store !== null) this.shut(diskFailed(this.#context.name, error))
      else this.#context.events.failed(error)
      return
    }
    this.#changing = false
    this.#act()
  }

  /** Tries again to act by its role, where it could not. */
  retry(): void {
    if (this.#acting === null && this.#closedBy === null) void this.#change()
  }

  #isQuiet(): boolean {
    if (this.#turns.busy() !== null) return false
    if (this.#store === null) return this.#closedBy !== null || !this.#context.exists()
    const { log, reflected } = this.#store
    const isStill = log.endOffset() === log.durableEndOffset() && log.endOffset() >= reflected.end
    return isStill && this.#mayLead(this.#store)
  }

  /** Who was not in sync may know of producers what it has yet to fetch, and as a leader never will: it would say that it holds what is lost. */
  #mayLead(store: ReplicaStore): boolean {
    return this.#role.kind !== 'leader' || !store.ahead()
  }

  #act(): void {
    if (this.#closedBy !== null) return
    const role = this.#role
    this.#acting = role
    const log = this.#store?.log
    const [endOffset, durableEnd] = [log?.endOffset() ?? 0, log?.durableEndOffset() ?? 0]
    if (role.kind === 'leader') {
      const start = { endOffset, durableEnd, highWatermark: Math.min(this.#known.highWatermark, durableEnd) }
      this.#inSync = createInSync(role.self, role.seats, role.required, start)
      this.#store?.damage.setAlone(role.seats.replicas.length === 1)
      if (this.#store !== null) this.#lead(this.#store, this.#inSync)
      else if (!this.#early.isEmpty()) this.open().catch(() => {})
      this.#waiters.moved()
      // Alone in sync it knows at once that all is committed.
      this.#keeper?.advanced()
    } else this.#store?.epochs.cutAfter(endOffset)
    if (role.kind !== 'leader') this.#store?.damage.setAlone(false)
    this.#context.events.acting()
    if (this.repairs.damaged().length > 0 || this.repairs.lacksProducers()) this.#context.events.damaged()
  }

  #lead(store: ReplicaStore, inSync: InSync): void {
    if (store.wanting() || !store.complete()) {
      this.#early.refuse(underRepair(this.#context.name))
      return
    }
    const leader = createLeader({ ...this.#context, store, inSync, leaderEpoch: epochOf(this.#role) })
    this.#leader = leader
    this.#early.run(leader)
  }

  /** Opens the log, making it where there is none. A failure is told to those who wait for it and tried again by the next. */
  open(): Promise<void> {
    if (this.#store !== null || this.#closedBy !== null) return Promise.resolve()
    return this.#turns.run(async () => {
      if (this.#store !== null) return
      try {
        this.#store = await openReplica(this.#context, {
          onDurable: end => this.#durable(end),
          onFailed: () => this.#keeper?.giveUp(),
        })
      } catch (error) {
        this.#early.refuse(error)
        throw error
      }
      const { log } = this.#store
      this.#keeper = createSnapshotKeeper(this.#store, this.#context.clock, () => this.#covered())
      if (this.#acting === null) return
      if (log.endOffset() > 0 || log.damage().length > 0) this.#act()
      else if (this.#inSync !== null) this.#lead(this.#store, this.#inSync)
    })
  }

  #durable(durableEnd: number): void {
    this.#inSync?.own(durableEnd)
    this.#advanced()
    this.#context.events.durable()
  }

  /** The watermark or the durable end may have moved. */
  #advanced(): void {
    this.#keeper?.advanced()
    if (this.#inSync === null) return
    this.#leader?.advance()
    this.#waiters.moved()
    this.#context.events.watermark()
  }

  /** What is committed and durable here. */
  #covered(): number {
    const watermark = this.#inSync?.highWatermark() ?? this.#known.highWatermark
    return Math.min(watermark, this.#store?.log.durableEndOffset() ?? 0)
  }

  /** Takes nothing more; whoever waits is told why. */
  shut(error: TributaryError): void {
    this.#closedBy ??= error
    this.#stepDown(() => error)
    this.#keeper?.giveUp()
    this.#early.refuse(error)
  }

  /** Resolves when nothing is under way that touches its files, but appends. */
  async idle(): Promise<void> {
    while (this.#turns.busy() !== null) await this.#turns.busy()
    await this.#keeper?.idle()
  }

  /** Whether its log is there. */
  isOpen(): boolean {
    return this.#store !== null
  }

  // ----------------------------------------------------------------------------------------- leading

  /** Runs an operation of the leader at once, or when it leads and its log is open, in the order of the calls. */
  use<T>(operation: (leader: Leading) => Promise<T>): Promise<T> {
    if (this.#leader !== null) return operation(this.#leader)
    const refusal = this.#closedBy ?? (this.#role.kind === 'leader' ? null : this.#notLeading())
    if (refusal === null && this.#acting !== null && this.#store !== null) {
      return Promise.reject(underRepair(this.#context.name))
    }
    if (refusal !== null) return Promise.reject(refusal)
    const done = this.#early.add(operation)
    if (this.#acting === null) this.retry()
    else this.open().catch(() => {})
    return done
  }

  /** The leader, null of an empty partition without a log. Throws `not_available` while its log is repaired. */
  #leading(): Leader | null {
    if (this.#leader === null && this.#store !== null) throw underRepair(this.#context.name)
    return this.#leader
  }

  #refusalUnder(leaderEpoch: number): TributaryError | null {
    const acting = this.#acting
    const isUnder = acting !== null && acting.kind !== 'idle' && epochOf(acting) === leaderEpoch
    return this.#closedBy ?? (isUnder ? null : this.#notLeading())
  }

  #notLeading(): TributaryError {
    return notLeading(this.#context.name, this.#role)
  }

  /** Throws `not_available` where it does not lead. */
  #leads(): InSync {
    if (this.#closedBy !== null) throw this.#closedBy
    if (this.#inSync === null) throw this.#notLeading()
    return this.#inSync
  }

  /** Where it stands, told by the leader alone. Throws `not_available` where it is none, or not settled yet. */
  bounds(): Bounds {
    const inSync = this.#leads()
    if (!inSync.settled()) throw notSettled(this.#context.name)
    const log = this.#store?.log
    return {
      startOffset: log?.startOffset() ?? 0,
      endOffset: log?.endOffset() ?? 0,
      highWatermark: inSync.highWatermark(),
      leaderEpoch: epochOf(this.#role),
      sizeBytes: log?.sizeBytes() ?? 0,
    }
  }

  append(batches: Uint8Array, acks: 0 | 1 | 'all'): Promise<{ baseOffset: number }> {
    return this.use(leader => leader.append(batches, acks))
  }

  appendLane(id: LaneId, batches: Uint8Array): Promise<LaneTip> {
    return this.use(leader => leader.appendLane(id, batches))
  }

  openLane(id: LaneId): Promise<LaneTip | null> {
    return this.use(leader => leader.openLane(id))
  }

  startRun(id: LaneId, start: RunAnnouncement): Promise<LaneTip> {
    return this.use(leader => leader.startRun(id, start))
  }

  declareGap(id: LaneId, gap: GapRange): Promise<LaneTip> {
    return this.use(leader => leader.declareGap(id, gap))
  }

  removeLane(id: LaneId): Promise<void> {
    return this.use(leader => leader.removeLane(id))
  }

  appendOwn(batch: Uint8Array): Promise<void> {
    return this.use(leader => leader.appendOwn(batch))
  }

  committed(): Promise<void> {
    return this.use(leader => leader.committed())
  }

  /** The lane's tip. Throws `not_available` where this does not lead, or does not know yet what is committed. */
  tip(id: LaneId): LaneTip | null {
    if (!this.#leads().settled()) throw notSettled(this.#context.name)
    return this.#leading()?.tip(id) ?? null
  }

  async read(offset: number, maxBytes: number): Promise<ReadResult> {
    this.#leads()
    const leader = this.#leading()
    if (leader !== null) return leader.read(offset, maxBytes)
    if (offset === 0) return { batches: NO_BYTES, nextOffset: 0 }
    throw outOfRange(this.#context.name, offset, 0, 0)
  }

  async offsetForTime(timeMs: number): Promise<number> {
    if (!this.#leads().settled()) throw notSettled(this.#context.name)
    return this.#leading()?.offsetForTime(timeMs) ?? 0
  }

  /** Calls `listener` once when the watermark is past `offset`, the partition is led by another, or goes away; the result cancels. */
  whenPast(offset: number, listener: () => void): () => void {
    if (this.#role.kind !== 'leader' || this.#closedBy !== null) return this.#waiters.addForNow(listener)
    return this.#waiters.add(offset, this.#inSync?.highWatermark() ?? 0, listener)
  }

  // -------------------------------------------------------------------------- what its followers ask

  /** What the leader knows of its replicas, null where it does not lead. */
  inSync(): InSync | null {
    return this.#inSync
  }

  /** Something changed in what `inSync` knows and moved the watermark. */
  watermarkMoved(): void {
    this.#advanced()
  }

  /** What a leader tells with everything it sends: its watermark, whether that is as far as any before it was, where its log starts. */
  told(): { highWatermark: number; isSettled: boolean; startOffset: number; durableEnd: number } {
    const log = this.#store?.log
    return {
      isSettled: this.#inSync?.settled() ?? false,
      highWatermark: this.#inSync?.highWatermark() ?? 0,
      startOffset: log?.startOffset() ?? 0,
      durableEnd: log?.durableEndOffset() ?? 0,
    }
  }

  /** Leader epoch of the record before `offset`, -1 where there is none. */
  epochBefore(offset: number): number {
    return this.#store?.epochs.entries().findLast(({ startOffset }) => startOffset < offset)?.epoch ?? -1
  }

  /** Where gaps stand above `offset` in its log, committed or not; of many the newest. */
  gapsAbove(offset: number): number[] {
    return this.#store?.gaps.above(offset) ?? []
  }

  /**
   * Where a follower's log parts from this leader's, whose last batch is of `lastEpoch` and ends at `offset`; null where it does not.
   * Throws `not_available` where a damaged stretch, yet to be repaired, keeps it from being known.
   */
  parting(lastEpoch: number, offset: number): EpochEnd | null {
    const store = this.#store
    const epochs = store?.epochs ?? createLeaderEpochs([{ epoch: epochOf(this.#role), startOffset: 0 }])
    const found = parting(epochs, store?.log.endOffset() ?? 0, lastEpoch, offset)
    if (store?.wanting() === true && (found !== null || store.isDoubtful(offset)))
      throw underRepair(this.#context.name)
    return found
  }

  /** See followers.ts; nothing where there is no log. */
  async readForFollower(offset: number, maxBytes: number): Promise<GivenBatches> {
    if (this.#store !== null) {
      return readForFollower(this.#store, offset, maxBytes, this.#context.hubTimeMs())
    }
    return { batches: NO_BYTES, nextOffset: offset, hubTimeMs: 0 }
  }

  /** See followers.ts. Rejects with `not_available` where there is none. */
  async snapshotForFollower(): Promise<GivenSnapshot> {
    this.#leads()
    const [store, keeper] = [this.#store, this.#keeper]
    const found =
      store === null || keeper === null
        ? undefined
        : await snapshotFor(store, keeper, store.log.startOffset())
    if (found !== undefined) return found
    throw noSnapshot(this.#context.name)
  }

  // --------------------------------------------------------------------------------------- following

  #under(leaderEpoch: number): ReplicaStore {
    if (this.#closedBy !== null) throw this.#closedBy
    if (this.#store !== null && this.#turns.busy() === null && this.actingEpoch('follower') === leaderEpoch)
      return this.#store
    throw new TributaryError(
      'not_available',
      `${this.#context.name} is not followed under epoch ${leaderEpoch} now`,
    )
  }

  // ------------------------------------------------------------------------------------- maintenance

  /** See upkeep.ts; `retentionTimeMs` null: retention is paused. */
  async maintain(retentionTimeMs: number | null): Promise<void> {
    await maintain(() => this.#upkept(), retentionTimeMs, this.#context.producerIdExpirationMs)
    // Followers are told where its log starts.
    if (this.#leader !== null) this.#context.events.watermark()
  }

  /** Writes a producer snapshot unless less than `growthBytes` were appended since the last, see upkeep.ts. */
  snapshot(growthBytes: number): Promise<void> {
    return saveSnapshot(() => this.#upkept(), growthBytes)
  }

  #upkept(): Upkept | null {
    const [store, keeper] = [this.#store, this.#keeper]
    if (store === null || keeper === null || this.#turns.busy() !== null || this.#closedBy !== null)
      return null
    const { leaderStart } = this.#known
    const leads = this.#leader !== null
    return {
      store,
      keeper,
      leads,
      alone: this.#inSync?.alone() ?? false,
      covered: this.#covered(),
      leaderStart,
    }
  }

  producerStats(): { clients: number; lanes: number; evicted: number } {
    return this.#store?.producers.stats() ?? { clients: 0, lanes: 0, evicted: 0 }
  }
}

const NO_BYTES = new Uint8Array(0)

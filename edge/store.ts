import { must } from '../common/assert.ts'
import type { EdgeConfig, TopicPolicy } from '../common/config-edge.ts'
import { topicPolicy } from '../common/config-edge.ts'
import type { Env } from '../common/env.ts'
import { messageOf, TributaryError } from '../common/errors.ts'
import { KIB, MIB } from '../common/limits.ts'
import type { DataDir, LogOptions, StateEntry, StateLog } from '../common/log/types.ts'
import type { GapReason } from '../common/wire.ts'
import type { Alarms } from './alarms.ts'
import { fullError, recordBytes, sessionBytes, tooLarge } from './appends.ts'
import { CommitGroups } from './commit-group.ts'
import type { Lane, LaneContext } from './lane.ts'
import { MAX_LOCAL_BATCH_BYTES } from './lane.ts'
import { declareLoss } from './ledger.ts'
import type { AppendDone, Ingest, RoutedRecord } from './ports.ts'
import type { Space } from './space.ts'
import { createSpace, resolveBudget } from './space.ts'
import type { Summary } from './summary.ts'
import { Topic } from './topic.ts'
import type { TopicLogs } from './topic-logs.ts'
import { createTopicLogs } from './topic-logs.ts'
import { turnClock } from './turn-clock.ts'
import type { Windows } from './windows.ts'
import { createWindows, MAX_WINDOW_STATE_BYTES } from './windows.ts'

/**
 * The local logs of an edge: takes records and session changes into group commits, in arrival order, and keeps them until
 * the hub has them. uplink.ts reads from it, changes.ts changes it for the forwarder, space.ts gives space back.
 */

/** A group, and so a batch, takes at most about this much; full, it ends the wait for company, and the next gathers meanwhile. */
const GROUP_BYTES = 64 * KIB

/** Appends handed to the logs and not durable; more wait here. */
const MAX_UNCOMMITTED_BYTES = 8 * MIB

/** Appends that wait for a log to open, for room or for the disk; more are refused `throttled`. */
const MAX_WAITING_BYTES = 32 * MIB

/** What a waiting append counts for beside its bytes. */
const WAITING_OVERHEAD_BYTES = 256

/** What a reading that is held or dropped counts for in its group beside what its window brings: its callback. */
const CALLBACK_BYTES = 8

/** The state log of windows, made where a topic has a policy that needs it. */
const WINDOWS_LOG = 'windows'

/** Live bytes of runs, gaps and positions: some 256 topics with 16 lanes. */
const MAX_STATE_BYTES = 64 * MIB

/** Session state beside what the broker counts. */
const SESSION_SLACK_BYTES = 16 * MIB

/** Told of what the uplink must know. */
export interface StoreListener {
  lane(lane: Lane): void
  wake(lane: Lane): void
}

export interface StoreStats {
  appended: number
  appendedBytes: number
  refused: number
  waiting: number
  waitingBytes: number
  failures: number
}

interface Waiting {
  record: RoutedRecord | null
  session: readonly StateEntry[]
  done: AppendDone
  bytes: number
  failure: TributaryError | null
}

export class Store implements Ingest {
  readonly directory: DataDir
  readonly env: Env
  readonly config: EdgeConfig
  readonly alarms: Alarms
  readonly state: StateLog
  readonly groups: CommitGroups
  readonly topics = new Map<string, Topic>()
  readonly lanes = new Map<string, Lane>()
  readonly space: Space
  readonly windows: Windows
  /** The largest batch, and so record. */
  readonly maxBatchBytes: number
  readonly #context: Omit<LaneContext, 'openLog'>
  readonly #logs: TopicLogs
  readonly #nowMs: () => number
  readonly #opening = new Map<string, Promise<Topic>>()
  readonly #waiting: Waiting[] = []
  #waitingBytes = 0
  #draining = false
  #listener: StoreListener | null = null
  #refusal: TributaryError | null = null
  #onRoom: () => void = () => {}
  #resolveFailed: (error: TributaryError) => void = () => {}
  /** Resolves when the directory can take no more until restart. */
  readonly failed = new Promise<TributaryError>(resolve => {
    this.#resolveFailed = resolve
  })
  readonly counters = { appended: 0, appendedBytes: 0, refused: 0, failures: 0 }

  private constructor(
    env: Env,
    config: EdgeConfig,
    directory: DataDir,
    alarms: Alarms,
    state: StateLog,
    session: StateLog,
    windows: StateLog | null,
    budgetBytes: number,
  ) {
    this.env = env
    this.#nowMs = turnClock(env.clock)
    this.config = config
    this.directory = directory
    this.alarms = alarms
    this.state = state
    const { journalBytes } = config.storage
    this.maxBatchBytes = Math.min(MAX_LOCAL_BATCH_BYTES, Math.floor(journalBytes / 4))
    const groupBytes = Math.min(GROUP_BYTES, Math.floor(journalBytes / 8))
    const turnBytes = Math.floor(journalBytes / 4)
    const ended = (error: TributaryError | null) => this.#ended(error)
    const partBytes = Math.floor(journalBytes / 16)
    this.groups = new CommitGroups({
      directory,
      session,
      state,
      windows,
      groupBytes,
      partBytes,
      turnBytes,
      ended,
    })
    this.#logs = createTopicLogs(directory, laneOptions(config, budgetBytes, this.maxBatchBytes))
    this.#context = {
      state,
      rng: env.rng,
      maxBatchBytes: this.maxBatchBytes,
      durable: lane => this.laneChanged(lane),
    }
    this.space = createSpace(this, budgetBytes)
    this.windows = createWindows(this, windows, Math.floor(journalBytes / 8))
    directory.onFailed(error => {
      this.#refusal = error
      this.alarms.raise('disk', error.message)
      this.#failWaiting(error)
      this.#resolveFailed(error)
    })
  }

  /** Opens all that the directory holds. Rejects as `openDataDir` and `openState` do. */
  static async open(env: Env, config: EdgeConfig, directory: DataDir, alarms: Alarms): Promise<Store> {
    const state = await directory.openState('edge', MAX_STATE_BYTES)
    const budgetBytes = await resolveBudget(config.storage.budgetBytes, state, env.disk, directory.path)
    const { maxSessionStateBytes, maxRetainedBytes } = config.mqtt
    const session = await directory.openState(
      'session',
      2 * (maxSessionStateBytes + maxRetainedBytes) + SESSION_SLACK_BYTES,
    )
    const windows = needsWindows(config, directory)
      ? await directory.openState(WINDOWS_LOG, MAX_WINDOW_STATE_BYTES)
      : null
    const store = new Store(env, config, directory, alarms, state, session, windows, budgetBytes)
    for (const [key] of state.entries('topic/')) await store.openTopic(key.slice('topic/'.length))
    await store.#declareDamage()
    await store.space.measure()
    await store.windows.recover()
    store.space.start()
    return store
  }

  /** What recovery found damaged and the hub lacks is lost: said before it is read past. */
  async #declareDamage(): Promise<void> {
    for (const lane of this.lanes.values()) {
      const damage = lane.damage()
      if (damage.length === 0) continue
      for (const { from, to } of damage) {
        this.declare(lane, from, to, 'damage', null)
        this.alarms.raise('damage', `the local log of ${lane.key} is damaged at ${from} to ${to}`, lane.key)
      }
      await this.state.put([lane.gapsEntry()])
      for (const { from, to } of damage) lane.isolate(from, to)
    }
  }

  listen(listener: StoreListener): void {
    this.#listener = listener
    for (const lane of this.lanes.values()) listener.lane(lane)
  }

  policy(topic: string): TopicPolicy {
    return this.topics.get(topic)?.policy ?? topicPolicy(this.config.topics, topic)
  }

  // --------------------------------------------------------------------------------------------- Ingest

  append(record: RoutedRecord | null, session: readonly StateEntry[], done: AppendDone): void {
    const refusal = this.#refusal
    if (refusal !== null) this.env.clock.soon(() => done(refusal))
    else if (this.#waiting.length > 0 || !this.#take(record, session, done, true)) {
      this.#wait(record, session, done)
    }
  }

  onRoom(listener: () => void): void {
    this.#onRoom = listener
  }

  sessionEntries(prefix: string): [string, Uint8Array][] {
    return this.groups.sessionEntries(prefix)
  }

  sessionEntry(key: string): Uint8Array | undefined {
    return this.groups.sessionEntry(key)
  }

  /** True where the append was taken or has failed for good; false where it must wait. `isNew`: it has not waited before. */
  #take(
    record: RoutedRecord | null,
    session: readonly StateEntry[],
    done: AppendDone,
    isNew: boolean,
  ): boolean {
    if (this.groups.isFull() || this.groups.uncommittedBytes >= MAX_UNCOMMITTED_BYTES) return false
    if (record === null) {
      if (isNew) this.groups.note(session)
      this.groups.add(null, sessionBytes(session), session, done)
      return true
    }
    const topic = this.topics.get(record.topic)
    if (topic === undefined) return this.#begin(record.topic, done)
    if (this.windows.isRecovering(record.topic)) return false
    const { policy } = topic
    const lane = must(topic.lanes[record.lane], `topic ${record.topic} has lane ${record.lane}`)
    const nowMs = this.#nowMs()
    if (policy.thin !== null && this.windows.drops(lane, policy.thin.everyMs, record.key, nowMs)) {
      return this.#taken(null, CALLBACK_BYTES, session, done, isNew)
    }
    const bytes = recordBytes(record)
    const room = this.space.room(bytes, policy.onFull === 'drop-oldest')
    if (room === 'wait') return false
    if (room === 'full') return this.#refuse(fullError(record.topic, policy.onFull), done)
    if (policy.conflate !== null) {
      const verdict = this.windows.hold(lane, policy.conflate.windowMs, record, nowMs)
      if (verdict === 'wait') return false
      if (verdict === 'too-large') return this.#refuse(tooLarge(record.topic, this.maxBatchBytes), done)
      return this.#taken(null, CALLBACK_BYTES, session, done, isNew)
    }
    const { timestampMs, key, value, headers, headerCount } = record
    if (!this.appendTo(lane, timestampMs, key, value, headers, headerCount, nowMs)) {
      return this.#refuse(tooLarge(record.topic, this.maxBatchBytes), done)
    }
    if (policy.thin !== null) this.windows.passed(lane, policy.thin.everyMs, key)
    return this.#taken(lane, bytes, session, done, isNew)
  }

  /** What was taken goes with the group that gathers now. */
  #taken(
    lane: Lane | null,
    bytes: number,
    session: readonly StateEntry[],
    done: AppendDone,
    isNew: boolean,
  ): true {
    if (isNew && session.length > 0) this.groups.note(session)
    this.groups.add(lane, bytes, session, done)
    this.counters.appended++
    this.counters.appendedBytes += bytes
    return true
  }

  /** Puts a record into the lane's open batch; false where it fits none. Add it to the groups next, in the same turn. */
  appendTo(
    lane: Lane,
    timestampMs: number,
    key: Uint8Array | null,
    value: Uint8Array | null,
    headers: Uint8Array,
    headerCount: number,
    nowMs: number | null,
  ): boolean {
    for (;;) {
      this.#ensureRun(lane)
      if (lane.append(timestampMs, key, value, headers, headerCount, nowMs)) return true
      if (lane.openBytes === 0) return false
      // The batch is full: all that was gathered goes with it, so that a record and its session change stay together.
      this.groups.seal()
    }
  }

  /** Puts a summary into the lane's log. Seal the groups in the same turn. */
  summarise(lane: Lane, summary: Summary): void {
    this.#ensureRun(lane)
    if (lane.summarise(summary)) this.groups.addState(lane, 'lane')
    this.groups.addLane(lane)
  }

  #ensureRun(lane: Lane): void {
    if (!lane.needsRun()) return
    if (lane.openBytes > 0) this.groups.seal()
    lane.openRun()
    this.groups.addState(lane, 'lane')
  }

  #refuse(error: TributaryError, done: AppendDone): true {
    this.counters.refused++
    this.groups.addFailed(error, done)
    return true
  }

  /** Starts opening the logs of a topic that is new here. */
  #begin(name: string, done: AppendDone): boolean {
    if (this.#opening.has(name)) return false
    const { maxTopics } = this.config.storage
    if (this.topics.size + this.#logs.incompleteBeside(name) >= maxTopics) {
      const message = `topic "${name}" would be one more than storage.maxTopics (${maxTopics}): check the rules, or raise it`
      return this.#refuse(new TributaryError('limit_exceeded', message), done)
    }
    this.openTopic(name).then(
      () => this.#drain(),
      (error: unknown) => {
        this.alarms.raise('topic', `the logs of ${name} could not be made: ${messageOf(error)}`)
        this.#failFirst(name, error)
      },
    )
    return false
  }

  /** Opens a topic's logs; resolves when it is there and stored. */
  openTopic(name: string): Promise<Topic> {
    const known = this.topics.get(name)
    if (known !== undefined) return Promise.resolve(known)
    const underWay = this.#opening.get(name)
    if (underWay !== undefined) return underWay
    const opening = this.#openTopic(name).finally(() => this.#opening.delete(name))
    this.#opening.set(name, opening)
    return opening
  }

  async #openTopic(name: string): Promise<Topic> {
    const openLog = (log: string) => this.#logs.open(name, log)
    const context = { ...this.#context, openLog, codec: this.env.codec }
    const { topic, isNew } = await Topic.open(name, topicPolicy(this.config.topics, name), context)
    if (isNew) await this.state.put([topic.entry(), ...topic.lanes.map(lane => lane.laneEntry())])
    this.#logs.complete(name)
    this.topics.set(name, topic)
    for (const lane of topic.lanes) {
      this.lanes.set(lane.key, lane)
      lane.listen()
      this.#listener?.lane(lane)
    }
    return topic
  }

  // -------------------------------------------------------------------------------------------- waiting

  #wait(record: RoutedRecord | null, session: readonly StateEntry[], done: AppendDone): void {
    const bytes = WAITING_OVERHEAD_BYTES + sessionBytes(session) + (record === null ? 0 : recordBytes(record))
    if (this.#waitingBytes + bytes > MAX_WAITING_BYTES) {
      this.counters.refused++
      const failure = new TributaryError('throttled', `${MAX_WAITING_BYTES} bytes wait for the disk already`)
      // Only its turn is kept; what it would have changed never happened.
      this.#waiting.push({ record: null, session: [], done, bytes: 0, failure })
      return
    }
    this.groups.note(session)
    this.#waitingBytes += bytes
    this.#waiting.push({ record, session, done, bytes, failure: null })
    this.#makeRoom(record)
  }

  #makeRoom(record: RoutedRecord | null): void {
    if (record === null) return
    this.space.make(recordBytes(record), this.policy(record.topic).onFull === 'drop-oldest')
  }

  /** Takes what waits, in order, a commit's worth at a time. */
  #drain(): void {
    if (this.#draining) return
    this.#draining = true
    let taken = 0
    let bytes = 0
    let stuck: RoutedRecord | null = null
    for (const next of this.#waiting) {
      if (bytes >= GROUP_BYTES) break
      const refusedBefore = this.counters.refused
      if (next.failure !== null) this.groups.addFailed(next.failure, next.done)
      else if (!this.#take(next.record, next.session, next.done, false)) {
        stuck = next.record
        break
      }
      if (next.failure !== null || this.counters.refused > refusedBefore) this.groups.forget(next.session)
      taken++
      bytes += next.bytes
    }
    this.#waiting.splice(0, taken)
    this.#waitingBytes -= bytes
    this.#draining = false
    this.#makeRoom(stuck)
    if (bytes >= GROUP_BYTES) this.env.clock.soon(() => this.#drain())
  }

  /** There may be room again, or none for good: what waits finds out. */
  roomChanged(): void {
    this.#drain()
  }

  /** There is room for what was refused. */
  roomReturned(): void {
    this.#onRoom()
  }

  #failFirst(topic: string, error: unknown): void {
    const failure = new TributaryError('not_available', `the logs of ${topic} could not be made`, {
      cause: error,
    })
    for (const next of this.#waiting) {
      if (next.record?.topic === topic) next.failure = failure
    }
    this.#drain()
  }

  #failWaiting(error: TributaryError): void {
    const waiting = this.#waiting.splice(0)
    this.#waitingBytes = 0
    this.env.clock.soon(() => {
      for (const { done } of waiting) done(error)
    })
  }

  #ended(error: TributaryError | null): void {
    if (error !== null) {
      this.counters.failures++
      if (error.code === 'disk_full') this.space.diskFull()
    }
    this.space.changed()
    if (this.#waiting.length > 0) this.#drain()
  }

  // ---------------------------------------------------------------------------------------------- lanes

  /** More of a lane is durable, committed or lost. */
  laneChanged(lane: Lane): void {
    const topic = this.topics.get(lane.ledger.topic)
    if (topic === undefined) return
    for (const more of topic.updateSendable()) if (more !== lane) this.#listener?.wake(more)
    this.#listener?.wake(lane)
  }

  /** Declares records lost, from now on; the caller stores the lane's gaps. */
  declare(lane: Lane, from: number, to: number, reason: GapReason, firstMs: number | null): void {
    const lastMs = Math.floor(this.env.clock.nowMs())
    declareLoss(lane.ledger, { from, to, reason, firstMs, lastMs })
  }

  stats(): StoreStats {
    return { ...this.counters, waiting: this.#waiting.length, waitingBytes: this.#waitingBytes }
  }

  /** Why nothing is taken; null while all is well. */
  notReadyReason(): string | null {
    return this.#refusal?.message ?? null
  }

  /** Refuses new appends, ends those under way and stores positions. */
  async close(): Promise<void> {
    this.#refusal ??= new TributaryError('closed', 'the edge is stopping')
    await this.groups.settled()
    await this.windows.close()
    this.#failWaiting(this.#refusal)
    await this.space.close()
  }
}

/** Also where policies were taken back and an earlier start held something back. */
function needsWindows({ topics }: EdgeConfig, directory: DataDir): boolean {
  const wants = Object.values(topics).some(({ conflate, thin }) => (conflate ?? thin ?? null) !== null)
  return wants || directory.logNames().includes(WINDOWS_LOG)
}

/** Segments small enough that a small budget has several to give back. */
function laneOptions(config: EdgeConfig, budgetBytes: number, maxBatchBytes: number): LogOptions {
  const share = Math.max(64 * 1024, Math.floor(budgetBytes / 16))
  return {
    segmentBytes: Math.min(config.storage.segmentBytes, share),
    segmentMs: Number.POSITIVE_INFINITY,
    retentionBytes: Number.POSITIVE_INFINITY,
    retentionMs: Number.POSITIVE_INFINITY,
    maxBatchBytes,
  }
}

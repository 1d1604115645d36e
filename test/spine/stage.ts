import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { pino } from 'pino'
import { must } from '../../common/assert.ts'
import { encodeHeaders } from '../../common/batch-builder.ts'
import { utf8 } from '../../common/bytes.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import type { Codec, Link, Rng } from '../../common/env.ts'
import { TributaryError } from '../../common/errors.ts'
import { KIB, MIB } from '../../common/limits.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import type { DataDir } from '../../common/log/types.ts'
import { createAlarms } from '../../edge/alarms.ts'
import { freeableEnd } from '../../edge/ledger.ts'
import { hubReport } from '../../edge/report.ts'
import { Store } from '../../edge/store.ts'
import type { Uplink } from '../../edge/uplink.ts'
import { startUplink } from '../../edge/uplink.ts'
import type { UplinkSession } from '../../hub/endpoints/uplink/uplink.ts'
import { acceptUplink, createUplinkCounters } from '../../hub/endpoints/uplink/uplink.ts'
import type { ClusterEngine } from '../../hub/engines/cluster/engine.ts'
import { openClusterEngine } from '../../hub/engines/cluster/engine.ts'
import { FakeClock } from '../fake-clock.ts'
import { FakeDisk } from '../fake-disk.ts'
import type { Fate, LinkPair } from '../links.ts'
import { linkPair } from '../links.ts'
import { seededRng } from '../rng.ts'
import type { Life } from './book.ts'
import { Book } from './book.ts'
import type { Mortal } from './mortal.ts'
import { createMortal } from './mortal.ts'
import { TipWatch } from './tips.ts'

/** Edges and a hub in one process: production code on fake disks, links and a clock, all from one seed. */

const silent = pino({ level: 'silent' })
const HEADERS = encodeHeaders([{ key: 'from', value: utf8('spine') }])
const EDGE_JOURNAL_BYTES = 128 * KIB
const HUB_JOURNAL_BYTES = 512 * KIB
/** Fake time that a start, a stop or a request may take. */
const PATIENCE_MS = 120_000
/** Takes records up to 1,024 bytes. */
export const SMALL_TOPIC = 'small'
const PARTITIONS = 2

/** How an edge is set up; takes effect when it starts. */
export interface EdgeSettings {
  lanes: number
  keepAckedMs: number
  budgetBytes: number
  windowBytes: number
  maxBatchBytes: number
  compression: 'zstd' | 'none'
  commitMs: number
}

/** A data directory of an edge, with or without a process on it. */
export interface EdgeDirectory {
  edgeId: string
  disk: FakeDisk
  settings: EdgeSettings
  /** Of its last process. */
  life: Life | null
  running: RunningEdge | null
  /** Its network is down. */
  offline: boolean
  wallShiftMs: number
}

interface RunningEdge {
  mortal: Mortal
  store: Store
  uplink: Uplink
  data: DataDir
  life: Life
  pair: LinkPair | null
  /** Below it commits were noted, by lane. */
  noted: Map<string, number>
}

interface RunningHub {
  mortal: Mortal
  engine: ClusterEngine
  sessions: Set<UplinkSession>
  pairs: Set<LinkPair>
}

// One that answers at once: threads would make two runs of a seed differ.
const codec: Codec = {
  compress: async (_kind, data) => zstdCompressSync(data),
  decompress: async (_kind, data, maxOutputLength) => zstdDecompressSync(data, { maxOutputLength }),
}

export class Stage {
  readonly rng: Rng
  readonly clock = new FakeClock()
  readonly codec = codec
  readonly book = new Book()
  readonly faults = new Map<string, number>()
  readonly directories: EdgeDirectory[] = []
  readonly #tips: TipWatch
  hubDisk: FakeDisk
  hub: RunningHub | null = null
  hubWallShiftMs = 0
  /** Chance of a frame's connection to break. */
  cutRate = 0
  delayRate = 0
  hubSyncMs = 0
  #activity = 0
  #failure: unknown = null

  constructor(seed: number, edges: number, settings: () => EdgeSettings) {
    this.rng = seededRng(seed)
    this.hubDisk = new FakeDisk({ rng: this.rng })
    for (let index = 1; index <= edges; index++)
      this.directories.push(this.newDirectory(`e${index}`, settings()))
    this.#tips = new TipWatch(this.directories.map(({ edgeId }) => edgeId))
  }

  newDirectory(edgeId: string, settings: EdgeSettings): EdgeDirectory {
    const disk = new FakeDisk({ rng: this.rng })
    return { edgeId, disk, settings, life: null, running: null, offline: false, wallShiftMs: 0 }
  }

  count(fault: string): void {
    this.faults.set(fault, (this.faults.get(fault) ?? 0) + 1)
  }

  fail(error: unknown): void {
    this.#failure ??= error
  }

  // ----------------------------------------------------------------------------------------------- time

  /** Lets everything go on, and then `ms` pass. */
  async turn(ms: number): Promise<void> {
    await new Promise<void>(resolve => setImmediate(resolve))
    this.clock.advance(ms)
    this.poll()
    if (this.#failure !== null) throw this.#failure
  }

  async turns(count: number, ms: number): Promise<void> {
    for (let left = count; left > 0; left--) await this.turn(ms)
  }

  /** Lets time pass until `promise` settles. */
  async during<T>(what: string, promise: Promise<T>): Promise<T> {
    let settled = false
    const done = promise.finally(() => {
      settled = true
    })
    done.catch(() => {})
    await this.until(what, () => settled)
    return done
  }

  /** Lets time pass, faster while nothing happens, until `isSo`. */
  async until(what: string, isSo: () => boolean, patienceMs = PATIENCE_MS): Promise<number> {
    const startMs = this.clock.monotonicMs()
    let stepMs = 1
    while (!isSo()) {
      const before = this.#activity
      await this.turn(stepMs)
      stepMs = this.#activity === before ? Math.min(stepMs * 2, 250) : 1
      if (this.clock.monotonicMs() - startMs > patienceMs) {
        throw new Error(`waited ${patienceMs} ms in vain: ${what}; ${this.describe()}`)
      }
    }
    return this.clock.monotonicMs() - startMs
  }

  describe(): string {
    const edges = this.directories.map(({ edgeId, running, offline }) => {
      if (running === null) return { edgeId, running: false }
      const lanes = [...running.store.lanes.values()]
        .filter(({ ledger }) => ledger.committed !== ledger.endOffset)
        .map(({ ledger }) => ledger)
      const alarms = running.store.alarms.list().map(({ kind, message }) => `${kind}: ${message}`)
      return { edgeId, offline, lanes, uplink: running.uplink.stats(), alarms, ingest: running.store.stats() }
    })
    return JSON.stringify({ edges, hub: this.hub !== null, fleet: this.hub?.engine.ports.fleet.local() })
  }

  // ---------------------------------------------------------------------------------------------- edges

  async startEdge(directory: EdgeDirectory): Promise<void> {
    const { edgeId, settings, disk } = directory
    disk.setCapacity(Number.POSITIVE_INFINITY)
    const mortal = this.#mortal(
      disk,
      () => directory.wallShiftMs,
      () => 0,
      () => this.#dial(directory),
    )
    const { windowBytes, maxBatchBytes, compression, budgetBytes, commitMs, lanes, keepAckedMs } = settings
    const partitionBy = lanes > 1 ? ('key' as const) : ('edge' as const)
    const topics = {
      '*': { lanes, partitionBy, keepAckedMs },
      beta: { onFull: 'reject' as const, priority: 5 },
    }
    const config = defaultEdgeConfig({
      id: edgeId,
      data: '/edge',
      hub: 'ws://hub',
      topics,
      storage: { budgetBytes, commitMs, journalBytes: EDGE_JOURNAL_BYTES },
      uplink: { windowBytes, maxBatchBytes, compression, backoffMinMs: 10, backoffMaxMs: 2_000 },
    })
    const options = {
      journalBytes: EDGE_JOURNAL_BYTES,
      commitMs,
      tailCacheBytes: 64 * KIB,
      reserveBytes: 32 * KIB,
    }
    const data = await this.during('the edge opens', openDataDir('/edge', options, mortal.env))
    const alarms = createAlarms(
      () => mortal.env.clock.nowMs(),
      ({ kind, message }) => this.book.alarm(edgeId, kind, message),
    )
    const store = await this.during('the store opens', Store.open(mortal.env, config, data, alarms))
    const life: Life = { parent: directory.life, edgeId, lanes: new Map() }
    for (const [key, { ledger }] of store.lanes) life.lanes.set(key, { base: ledger.endOffset, ids: [] })
    const uplink = startUplink(store, {
      edgeId,
      software: 'spine',
      log: { info: () => {}, warn: () => {} },
      report: () => hubReport(store),
    })
    directory.life = life
    const noted = new Map([...store.lanes].map(([key, { ledger }]) => [key, ledger.committed]))
    directory.running = { mortal, store, uplink, data, life, pair: null, noted }
  }

  /** Throws where a new process misses what the ones before it had acked. */
  checkEnds(directory: EdgeDirectory, least: ReadonlyMap<string, number>): void {
    const { store } = must(directory.running, 'the edge runs')
    for (const [key, end] of least) {
      const found = store.lanes.get(key)?.ledger.endOffset ?? 0
      if (found >= end) continue
      const ends = [...store.lanes].map(([name, { ledger }]) => `${name}: ${ledger.endOffset}`).join(', ')
      throw new Error(`${directory.edgeId}: ${key} ends at ${found}, though ${end} was acked; it has ${ends}`)
    }
  }

  offer(directory: EdgeDirectory, topic: string, lane: number, bytes: number): void {
    const { store, mortal, life } = must(directory.running, 'the edge runs')
    const record = this.book.offer(directory.edgeId, topic, lane)
    const value = utf8(record.id.padEnd(bytes))
    const timestampMs = Math.floor(this.clock.nowMs())
    const routed = { topic, lane, key: null, value, timestampMs, headers: HEADERS, headerCount: 1 }
    store.append(routed, [], error => {
      if (!mortal.isAlive()) return
      if (error === undefined) this.book.ack(record, life)
      else if (error.code === 'disk_full' || error.code === 'not_available') this.count('rejected for space')
      else if (error.code !== 'closed' && error.code !== 'throttled') this.fail(error)
    })
  }

  endEdge(directory: EdgeDirectory, power: boolean): void {
    const { running } = directory
    this.poll()
    if (running !== null) {
      running.mortal.kill()
      running.pair?.cut()
      directory.running = null
    }
    directory.disk = power ? directory.disk.crash() : directory.disk.kill()
  }

  async stopEdge(directory: EdgeDirectory): Promise<void> {
    const { running } = directory
    if (running === null) return
    const close = async (): Promise<void> => {
      await running.store.groups.settled()
      await running.uplink.close()
      await running.store.close()
      await running.data.close()
    }
    await this.during('the edge stops', close())
    this.poll()
    running.mortal.kill()
    running.pair?.cut()
    directory.running = null
  }

  isDrained(directory: EdgeDirectory): boolean {
    const { running } = directory
    if (running === null || !running.uplink.stats().connected || running.store.stats().waiting > 0)
      return false
    return [...running.store.lanes.values()].every(({ ledger }) => {
      if (ledger.durableEnd !== ledger.endOffset) return false
      return this.#isTopic(ledger.topic)
        ? ledger.committed === ledger.endOffset
        : freeableEnd(ledger) === ledger.endOffset
    })
  }

  #isTopic(name: string): boolean {
    return this.hub?.engine.ports.topics.list().some(topic => topic.name === name) ?? false
  }

  // ------------------------------------------------------------------------------------------------ hub

  async startHub(): Promise<void> {
    this.hubDisk.setCapacity(Number.POSITIVE_INFINITY)
    const mortal = this.#mortal(
      this.hubDisk,
      () => this.hubWallShiftMs,
      () => (this.hubSyncMs === 0 ? 0 : this.rng.below(this.hubSyncMs)),
      () => Promise.reject(new Error('a hub dials nobody')),
    )
    const config = defaultHubConfig({
      data: '/hub',
      defaultPartitions: PARTITIONS,
      storage: {
        journalBytes: HUB_JOURNAL_BYTES,
        reserveBytes: 64 * KIB,
        tailCacheBytes: 64 * KIB,
        segmentBytes: 64 * KIB,
      },
      limits: { maxInflightBytesPerConnection: 64 * KIB },
    })
    const engine = await this.during('the hub opens', openClusterEngine(config, mortal.env, silent))
    const { topics } = engine.ports
    if (!topics.list().some(({ name }) => name === SMALL_TOPIC)) {
      const small = { name: SMALL_TOPIC, partitions: 1, config: { maxRecordBytes: KIB } }
      await this.during('the small topic is made', topics.create(small))
    }
    this.hub = { mortal, engine, sessions: new Set(), pairs: new Set() }
    this.#tips.check(engine)
  }

  endHub(power: boolean): void {
    this.poll()
    if (this.hub !== null) this.#cutHub(this.hub)
    this.hubDisk = power ? this.hubDisk.crash() : this.hubDisk.kill()
  }

  async stopHub(): Promise<void> {
    const { hub } = this
    if (hub === null) return
    const close = async (): Promise<void> => {
      await Promise.all([...hub.sessions].map(session => session.close()))
      this.poll()
      await hub.engine.close()
    }
    await this.during('the hub stops', close())
    this.#cutHub(hub)
  }

  #cutHub(hub: RunningHub): void {
    hub.mortal.kill()
    for (const pair of hub.pairs) pair.cut()
    this.hub = null
  }

  /** What was known of the hub holds no more: it goes back, or is another. */
  hubIsOther(disk: FakeDisk): void {
    this.hubDisk = disk
    this.#tips.clear()
    this.book.hubEra++
  }

  // ------------------------------------------------------------------------------------------- watching

  poll(): void {
    for (const { running } of this.directories) if (running !== null) this.#pollEdge(running)
    if (this.hub !== null) this.#tips.poll(this.hub.engine)
  }

  #pollEdge(edge: RunningEdge): void {
    this.#checkGenerations(edge)
    const { store, life, noted } = edge
    for (const [key, { ledger }] of store.lanes) {
      const { topic, lane, runs, committed, topicId } = ledger
      for (const run of runs) this.book.seen(run, life, topic, lane)
      // Nothing was left to send: the run that says so opens with the next record.
      if (ledger.breakReason === 'moved') this.book.moved(life, key, ledger.endOffset)
      for (let offset = noted.get(key) ?? 0; offset < committed; offset++) {
        const record = this.book.at(life, key, offset)
        if (record === null) continue
        record.committedTo = topicId
        record.committedEra = this.book.hubEra
      }
      noted.set(key, committed)
    }
  }

  /** Nothing of a generation of local logs is sent before all lanes of the one before are drained. */
  #checkGenerations({ store, uplink, life }: RunningEdge): void {
    if (this.book.isExcused(life.edgeId, 'hub-rollback', 'moved', 'fork', 'deleted')) return
    for (const { name, lanes } of store.topics.values()) {
      for (let generation = 1; ; generation++) {
        const ends = lanes.map(lane => Math.min(lane.endOfGeneration(generation), lane.ledger.durableEnd))
        if (lanes.every(lane => lane.endOfGeneration(generation) === Number.POSITIVE_INFINITY)) break
        const isDrained = lanes.every((lane, at) => freeableEnd(lane.ledger) >= (ends[at] ?? 0))
        // After a crash an edge may know of more commits on one lane than on another: what it sends now counts.
        const isPast = lanes.some((lane, at) => {
          const sent = uplink.sentOffset(lane)
          return sent > lane.ledger.committed && sent > (ends[at] ?? 0)
        })
        if (isPast && !isDrained)
          this.fail(new Error(`${life.edgeId} sends ${name} past its undrained lanes`))
      }
    }
  }

  // -------------------------------------------------------------------------------------------- plumbing

  #mortal(
    disk: FakeDisk,
    wallShiftMs: () => number,
    syncDelayMs: () => number,
    dial: () => Promise<Link>,
  ): Mortal {
    const { rng, clock } = this
    const failed = (error: unknown): void => this.fail(error)
    const active = (): void => void this.#activity++
    return createMortal({ rng, clock, disk, codec, wallShiftMs, syncDelayMs, dial, failed, active })
  }

  async #dial(directory: EdgeDirectory): Promise<Link> {
    const { hub } = this
    const { running } = directory
    if (hub === null || running === null || directory.offline) {
      throw new TributaryError('not_available', 'nobody answers')
    }
    const pair = linkPair({ fate: to => this.#fate(pair, to) })
    hub.pairs.add(pair)
    running.pair = pair
    const config = defaultHubConfig({ limits: { maxInflightBytesPerConnection: 64 * KIB } })
    const { ports } = hub.engine
    const { env } = hub.mortal
    const limits = config.limits
    const counters = createUplinkCounters()
    hub.sessions.add(acceptUplink(hub.mortal.link(pair.right), { ports, env, log: silent, limits, counters }))
    return running.mortal.link(pair.left)
  }

  #fate(pair: LinkPair, to: 'left' | 'right'): Fate {
    this.#activity++
    const { rng } = this
    if (rng.float() < this.delayRate) {
      this.count('frames delayed')
      pair.hold(to)
      this.clock.setTimer(() => pair.release(to), 1 + rng.below(300))
    }
    if (rng.float() >= this.cutRate) return 'deliver'
    const fate = rng.float() < 0.5 ? 'cut-before' : 'cut-after'
    this.count(`link ${fate}`)
    return fate
  }
}

export const PLENTY_BYTES = 64 * MIB

import { must } from '../../common/assert.ts'
import { encodeHeaders } from '../../common/batch-builder.ts'
import { utf8 } from '../../common/bytes.ts'
import type { EdgeConfig } from '../../common/config-edge.ts'
import { KIB } from '../../common/limits.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import type { DataDir } from '../../common/log/types.ts'
import { createAlarms } from '../../edge/alarms.ts'
import { freeableEnd } from '../../edge/ledger.ts'
import { hubReport } from '../../edge/report.ts'
import { Store } from '../../edge/store.ts'
import type { Uplink } from '../../edge/uplink.ts'
import { startUplink } from '../../edge/uplink.ts'
import type { FakeDisk } from '../fake-disk.ts'
import type { Book, Life } from '../spine/book.ts'
import type { MachineOptions } from './machine.ts'
import { MachineHost } from './machine.ts'
import type { Network } from './network.ts'
import type { SimProcess } from './process.ts'
import type { World } from './world.ts'

/** The machine of an edge, joined below MQTT: records are offered to its store. */

const HEADERS = encodeHeaders([{ key: 'from', value: utf8('sim') }])
const RESERVE_BYTES = 32 * KIB

export interface RunningEdge {
  process: SimProcess
  store: Store
  uplink: Uplink
  data: DataDir
  life: Life
  /** Below it commits were noted, by lane. */
  noted: Map<string, number>
}

/** A directory at one time. */
export interface EdgeCopy {
  disk: FakeDisk
  life: Life | null
  ends: ReadonlyMap<string, number>
}

export interface EdgeHostOptions extends MachineOptions {
  /** Several machines may have an edge of one name. */
  edgeId: string
  config: EdgeConfig
  book: Book
}

export class EdgeHost extends MachineHost<RunningEdge> {
  readonly edgeId: string
  /** Takes effect with the next process. */
  config: EdgeConfig
  /** Of the last process. */
  life: Life | null = null
  readonly #book: Book
  /** Where lanes must end at least when the next process opens them, where not as the last one left them. */
  #restoredEnds: ReadonlyMap<string, number> | null = null

  constructor(world: World, network: Network, options: EdgeHostOptions) {
    super(world, network, 'edge', options)
    this.edgeId = options.edgeId
    this.config = options.config
    this.#book = options.book
  }

  protected override async open(process: SimProcess): Promise<RunningEdge> {
    process.beforeEach = () => this.#poll()
    const { edgeId, config } = this
    const book = this.#book
    const { env } = process
    const { journalBytes, commitMs, tailCacheBytes } = config.storage
    const options = { journalBytes, commitMs, tailCacheBytes, reserveBytes: RESERVE_BYTES }
    const data = await openDataDir(config.data, options, env)
    const alarms = createAlarms(
      () => env.clock.nowMs(),
      ({ kind, message }) => {
        this.world.say(() => `edge ${this.host} alarm ${kind}: ${message}`)
        this.world.count(`edge alarm ${kind}`)
        book.alarm(edgeId, kind, message)
      },
    )
    const store = await Store.open(env, config, data, alarms)
    const life: Life = { parent: this.life, edgeId, lanes: new Map() }
    for (const [key, { ledger }] of store.lanes) life.lanes.set(key, { base: ledger.endOffset, ids: [] })
    this.#checkEnds(store, this.#restoredEnds ?? book.ends(this.life))
    const uplink = startUplink(store, {
      edgeId,
      software: 'sim',
      log: { info: () => {}, warn: () => {} },
      report: () => hubReport(store),
    })
    void store.failed.then(error => this.gaveUp(process, error))
    this.life = life
    this.#restoredEnds = null
    const noted = new Map([...store.lanes].map(([key, { ledger }]) => [key, ledger.committed]))
    return { process, store, uplink, data, life, noted }
  }

  /** A new process finds what the ones before it had acked. */
  #checkEnds(store: Store, ends: ReadonlyMap<string, number>): void {
    for (const [key, end] of ends) {
      const found = store.lanes.get(key)?.ledger.endOffset ?? 0
      if (found >= end) continue
      this.world.fail(new Error(`edge ${this.host}: ${key} ends at ${found}, though ${end} was acked`))
    }
  }

  protected override ending(): void {
    this.#poll()
  }

  protected override async shutDown({ store, uplink, data }: RunningEdge): Promise<void> {
    await store.groups.settled()
    await uplink.close()
    await store.close()
    await data.close()
  }

  /** A snapshot of the machine's filesystem, and what it stands for. */
  copy(): EdgeCopy {
    this.#poll()
    return { disk: this.disk.copy(), life: this.life, ends: this.#book.ends(this.life) }
  }

  /** Puts a snapshot, or nothing, in the place of what is there. */
  restore(copy: EdgeCopy | null): void {
    this.swapDisk(copy === null ? null : copy.disk.copy())
    // What the copied life acked since is not in the copy.
    const lanes = new Map([...(copy?.ends ?? [])].map(([key, base]) => [key, { base, ids: [] }]))
    this.life = copy === null ? null : { parent: copy.life, edgeId: this.edgeId, lanes }
    this.#restoredEnds = copy?.ends ?? null
  }

  /** Of the process that runs. */
  lanes(): number {
    return this.running?.store.config.topics['*']?.lanes ?? 1
  }

  /** A device publishes. */
  offer(topic: string, lane: number, bytes: number): void {
    const book = this.#book
    const { store, process, life } = must(this.running, 'the edge runs')
    const record = book.offer(this.edgeId, topic, lane)
    const value = utf8(record.id.padEnd(bytes))
    const timestampMs = Math.floor(process.env.clock.nowMs())
    const routed = { topic, lane, key: null, value, timestampMs, headers: HEADERS, headerCount: 1 }
    process.guard(() =>
      store.append(routed, [], error => {
        if (error === undefined) {
          book.ack(record, life)
          this.world.count('edge acks')
        } else if (error.code === 'disk_full' || error.code === 'not_available') {
          this.world.count('edge rejected for space')
        } else if (!['closed', 'throttled', 'disk_failed'].includes(error.code)) this.world.fail(error)
      }),
    )
  }

  /** Ids of acked records that it knows to be lost, and has not told of yet. */
  *lostHere(): Iterable<string> {
    for (const [key, { ledger }] of this.running?.store.lanes ?? []) {
      for (const { from, to } of ledger.gaps) {
        for (let offset = from; offset < to && this.life !== null; offset++) {
          const record = this.#book.at(this.life, key, offset)
          if (record !== null) yield record.id
        }
      }
    }
  }

  /** Everything it holds is with the hub, or needs not be. */
  isDrained(isTopic: (name: string) => boolean): boolean {
    const { running } = this
    if (running === null || !running.uplink.stats().connected || running.store.stats().waiting > 0) {
      return false
    }
    return [...running.store.lanes.values()].every(({ ledger }) => {
      if (ledger.durableEnd !== ledger.endOffset) return false
      return isTopic(ledger.topic)
        ? ledger.committed === ledger.endOffset
        : freeableEnd(ledger) === ledger.endOffset
    })
  }

  describe(): unknown {
    const { edgeId, host, running } = this
    if (running === null) return { edgeId, host, running: false, isWanted: this.isWanted }
    const lanes = [...running.store.lanes.values()]
      .filter(({ ledger }) => ledger.committed !== ledger.endOffset)
      .map(({ ledger }) => ledger)
    const alarms = running.store.alarms.list().map(({ kind, message }) => `${kind}: ${message}`)
    return { edgeId, host, lanes, uplink: running.uplink.stats(), alarms, ingest: running.store.stats() }
  }

  /** Notes what the edge knows to be committed, before it may know otherwise. */
  #poll(): void {
    const { running } = this
    if (running === null) return
    const book = this.#book
    const { store, life, noted } = running
    for (const [key, { ledger }] of store.lanes) {
      const { topic, lane, runs, committed, topicId } = ledger
      for (const run of runs) book.seen(run, life, topic, lane)
      // Nothing was left to send: the run that says so opens with the next record.
      if (ledger.breakReason === 'moved') book.moved(life, key, ledger.endOffset)
      const known = noted.get(key) ?? 0
      if (known === committed) continue
      for (let offset = known; offset < committed; offset++) {
        const record = book.at(life, key, offset)
        if (record === null) continue
        record.committedTo = topicId
        record.committedEra = book.hubEra
      }
      noted.set(key, committed)
    }
  }
}

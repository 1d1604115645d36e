import { pino } from 'pino'
import { must } from '../../common/assert.ts'
import { eachBatch } from '../../common/batch.ts'
import { encodeHeaders } from '../../common/batch-builder.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { utf8, utf8Text } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { EdgeOverrides } from '../../common/config-edge.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import type { Env, Rng } from '../../common/env.ts'
import type { TributaryError } from '../../common/errors.ts'

import { MIB } from '../../common/limits.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import type { DataDir, StateEntry } from '../../common/log/types.ts'
import { createAlarms } from '../../edge/alarms.ts'
import { hubReport } from '../../edge/report.ts'
import { Store } from '../../edge/store.ts'
import type { Uplink } from '../../edge/uplink.ts'
import { startUplink } from '../../edge/uplink.ts'
import { acceptUplink, createUplinkCounters } from '../../hub/endpoints/uplink/uplink.ts'
import type { ClusterEngine } from '../../hub/engines/cluster/engine.ts'
import { openClusterEngine } from '../../hub/engines/cluster/engine.ts'
import type { GapControl } from '../../hub/replica/control.ts'
import { readEdgeControl } from '../../hub/replica/control.ts'
import { FakeDisk } from '../fake-disk.ts'
import type { Fate, LinkPair } from '../links.ts'
import { linkPair } from '../links.ts'
import { liveClock } from '../live-clock.ts'

/** An edge's store and uplink, and a hub's engine and uplink endpoint, in memory: on disks that crash, over links that break. */

const JOURNAL_BYTES = 256 * 1024
const RECORD_HEADERS = encodeHeaders([{ key: 'edge', value: utf8('e1') }])

export interface EdgeStage {
  edgeDisk: FakeDisk
  hubDisk: FakeDisk
  store: Store
  uplink: Uplink
  /** Asked for every message on the link; default: all are delivered. */
  fate: () => Fate
  /** URLs dialled, in order. */
  dials: string[]
  /** Nobody answers at these. */
  gone: Set<string>
  /** What the hub tells of its nodes. */
  nodes: string[]
  /** Warnings in the edge's log. */
  warnings: string[]
  openEdge(overrides?: EdgeOverrides): Promise<void>
  openHub(): Promise<void>
  crashEdge(): void
  crashHub(): void
  /** Cuts the connection, if there is one. */
  cut(): void
  append(id: string, options?: AppendOptions): Promise<TributaryError | undefined>
  /** Waits until the hub has committed all that is durable. */
  drained(): Promise<void>
  stored(topic?: string): Promise<{ ids: string[]; gaps: GapControl[] }>
  closeEdge(): Promise<void>
}

export interface AppendOptions {
  topic?: string
  lane?: number
  session?: readonly StateEntry[]
  bytes?: number
}

const silent = pino({ level: 'silent' })
const overridesOf = (overrides: EdgeOverrides) =>
  defaultEdgeConfig({
    id: 'e1',
    data: '/edge',
    hub: 'ws://hub',
    ...overrides,
    storage: { journalBytes: JOURNAL_BYTES, commitMs: 0, budgetBytes: 64 * MIB, ...overrides.storage },
    uplink: { backoffMinMs: 1, backoffMaxMs: 8, reportMs: 50, ...overrides.uplink },
  })

export function createEdgeStage(rng: Rng): EdgeStage {
  const codec = nodeCodec()
  let engine: ClusterEngine | null = null
  let link: LinkPair | null = null
  let directory: DataDir | null = null

  const hubEnv = (): Env => ({
    clock: liveClock,
    rng,
    disk: stage.hubDisk,
    codec,
    net: { dial: () => Promise.reject(new Error('a hub dials nobody')) },
  })

  const dial = async (url: string) => {
    stage.dials.push(url)
    if (engine === null || stage.gone.has(url)) throw new Error('no hub')
    const config = defaultHubConfig({ data: '/hub' })
    link?.cut()
    link = linkPair({ fate: () => stage.fate() })
    acceptUplink(link.right, {
      ports: { ...engine.ports, addresses: () => stage.nodes },
      env: hubEnv(),
      log: silent,
      limits: config.limits,
      counters: createUplinkCounters(),
    })
    return link.left
  }

  const stage: EdgeStage & { opened: { store: Store; uplink: Uplink } | null } = {
    edgeDisk: new FakeDisk({ rng }),
    hubDisk: new FakeDisk({ rng }),
    opened: null,
    get store() {
      return must(stage.opened, 'the edge runs').store
    },
    get uplink() {
      return must(stage.opened, 'the edge runs').uplink
    },
    fate: () => 'deliver',
    dials: [],
    gone: new Set(),
    nodes: [],
    warnings: [],
    openEdge: async (overrides = {}) => {
      const env: Env = { clock: liveClock, rng, disk: stage.edgeDisk, codec, net: { dial } }
      const config = overridesOf(overrides)
      const { journalBytes, commitMs, tailCacheBytes } = config.storage
      const options = { journalBytes, commitMs, tailCacheBytes, reserveBytes: 65_536 }
      directory = await openDataDir('/edge', options, env)
      const alarms = createAlarms(
        () => 0,
        () => {},
      )
      const store = await Store.open(env, config, directory, alarms)
      const uplink = startUplink(store, {
        edgeId: 'e1',
        software: 'test',
        log: { info: () => {}, warn: (_: object, text?: string) => void stage.warnings.push(text ?? '') },
        report: () => hubReport(store),
      })
      stage.opened = { store, uplink }
    },
    openHub: async () => {
      const storage = { journalBytes: 4 * JOURNAL_BYTES, commitMs: 0 }
      engine = await openClusterEngine(
        defaultHubConfig({ data: '/hub', defaultPartitions: 2, storage }),
        hubEnv(),
        silent,
      )
    },
    crashEdge: () => {
      stage.edgeDisk = stage.edgeDisk.crash()
      link?.cut()
      // What is left of the old agent dials into nothing and writes to a dead disk.
      void stage.opened?.uplink.close()
      stage.opened = null
    },
    crashHub: () => {
      engine = null
      stage.hubDisk = stage.hubDisk.crash()
      link?.cut()
    },
    cut: () => link?.cut(),
    append: (id, { topic = 'telemetry', lane = 0, session = [], bytes = 0 } = {}) =>
      new Promise(resolve => {
        const value = utf8(id.padEnd(bytes))
        const record = {
          topic,
          lane,
          key: null,
          value,
          timestampMs: 1,
          headers: RECORD_HEADERS,
          headerCount: 1,
        }
        stage.store.append(record, session, resolve)
      }),
    drained: async () => {
      const deadline = performance.now() + 10_000
      const isDone = () =>
        [...stage.store.lanes.values()].every(({ ledger }) => ledger.committed === ledger.endOffset)
      while (!isDone()) {
        if (performance.now() > deadline) {
          const ledgers = [...stage.store.lanes.values()].map(({ ledger }) => ledger)
          throw new Error(
            `never drained: ${JSON.stringify({ ledgers, alarms: stage.store.alarms.list(), uplink: stage.uplink.stats() })}`,
          )
        }
        await new Promise(resolve => setTimeout(resolve, 2))
      }
    },
    stored: async (topic = 'telemetry') => {
      const { ports } = must(engine, 'the hub runs')
      const { topicId, partitions } = ports.topics.byName(topic)
      const ids: string[] = []
      const gaps: GapControl[] = []
      for (let partition = 0; partition < partitions; partition++) {
        const { highWatermark } = await ports.logs.bounds(topicId, partition)
        for (let offset = 0; offset < highWatermark; ) {
          const read = await ports.logs.read(topicId, partition, offset, MIB)
          for (const { at, header } of eachBatch(read.batches)) {
            const control = header.isControl ? readEdgeControl(read.batches, at) : null
            if (control?.type === 'gap') gaps.push(control.gap)
            if (header.isControl) continue
            for (const record of await decodeRecords(read.batches, at, codec, MIB)) {
              ids.push(utf8Text(record.value ?? new Uint8Array(0)).trimEnd())
            }
          }
          offset = read.nextOffset
        }
      }
      return { ids, gaps }
    },
    closeEdge: async () => {
      const opened = stage.opened
      stage.opened = null
      await opened?.store.groups.settled()
      await opened?.uplink.close()
      await opened?.store.close()
      await directory?.close()
    },
  }
  return stage
}

/** Waits for a condition. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  const deadline = performance.now() + 5_000
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error(`waited in vain until ${what}`)
    await new Promise(resolve => setTimeout(resolve, 1))
  }
}

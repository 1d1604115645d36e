/** A hub and an edge whole, in this process, each on a disk, network or clock of the test's choice, behind their public faces. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { buildBatch } from '../../common/batch-builder.ts'
import type { TributaryClient } from '../../common/client.ts'
import { connect } from '../../common/client.ts'
import type { EdgeOverrides } from '../../common/config-edge.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { HubOverrides } from '../../common/config-hub.ts'
import { defaultHubConfig } from '../../common/config-hub.ts'
import type { Disk } from '../../common/env.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { MAX_FRAME_BYTES, MIB } from '../../common/limits.ts'
import type { EdgeFrame, UplinkHubFrame } from '../../common/wire.ts'
import { UPLINK_PATH } from '../../common/wire.ts'
import type { Edge } from '../../edge/agent.ts'
import { startEdge } from '../../edge/agent.ts'
import type { EdgeStatus } from '../../edge/report.ts'
import type { Hub } from '../../hub/node.ts'
import { startHub } from '../../hub/node.ts'
import type { RawPeer } from '../raw-peer.ts'
import { rawPeer } from '../raw-peer.ts'

/** What a test started, ended in the opposite order. */
export interface Stage {
  directory(): Promise<string>
  hub(overrides?: HubOverrides, disk?: Disk): Promise<Hub>
  edge(overrides?: EdgeOverrides, disk?: Disk): Promise<Edge>
  client(hub: Hub, token?: string): TributaryClient
  later(cleanup: () => Promise<unknown> | unknown): void
  end(): Promise<void>
}

const log = pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' })

export function createStage(): Stage {
  const cleanups: (() => Promise<unknown> | unknown)[] = []
  const stage: Stage = {
    later: cleanup => void cleanups.push(cleanup),
    directory: async () => {
      const path = await mkdtemp(join(tmpdir(), 'tributary-scenario-'))
      stage.later(() => rm(path, { recursive: true, force: true }))
      return path
    },
    hub: async (overrides = {}, disk) => {
      const config = defaultHubConfig({
        data: overrides.data ?? (disk === undefined ? join(await stage.directory(), 'hub') : '/hub'),
        http: '127.0.0.1:0',
        defaultPartitions: 1,
        ...overrides,
        storage: { journalBytes: MIB, reserveBytes: 64 * 1024, ...overrides.storage },
      })
      const env = nodeEnv()
      const hub = await startHub(config, disk === undefined ? env : { ...env, disk }, log)
      stage.later(() => hub.close().catch(() => {}))
      return hub
    },
    edge: async (overrides = {}, disk) => {
      const config = defaultEdgeConfig({
        id: 'e1',
        data: overrides.data ?? (disk === undefined ? join(await stage.directory(), 'edge') : '/edge'),
        hub: 'ws://127.0.0.1:9',
        http: '127.0.0.1:0',
        ...overrides,
        mqtt: { listen: '127.0.0.1:0', ...overrides.mqtt },
        storage: { journalBytes: MIB, commitMs: 0, budgetBytes: 256 * MIB, ...overrides.storage },
        uplink: { backoffMinMs: 20, backoffMaxMs: 100, reportMs: 100, ...overrides.uplink },
      })
      const env = nodeEnv()
      const edge = await startEdge(config, disk === undefined ? env : { ...env, disk }, log)
      stage.later(() => edge.close().catch(() => {}))
      return edge
    },
    client: (hub, token) => {
      const client = connect({
        hub: urlOf(hub),
        env: nodeEnv(),
        ...(token === undefined ? {} : { token }),
      })
      stage.later(() => client.close())
      return client
    },
    end: async () => {
      for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
    },
  }
  return stage
}

export const urlOf = (hub: Hub): string => `http://127.0.0.1:${hub.address.port}`

export const mqttPort = (edge: Edge): number => edge.mqttAddress?.port ?? 0

export async function statusOf(edge: Edge): Promise<EdgeStatus> {
  const response = await fetch(`http://127.0.0.1:${edge.httpAddress?.port}/status`)
  const status: EdgeStatus = JSON.parse(await response.text())
  return status
}

/** Waits, asking every few milliseconds, until `condition` holds; fails after 15 s with what it last threw or gave. */
export async function eventually(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const limitMs = performance.now() + 15_000
  while (!(await condition())) {
    if (performance.now() > limitMs) throw new Error(`waited 15 s for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

/** Values of a topic in order of partition and offset. */
export async function valuesOf(client: TributaryClient, topic: string): Promise<string[]> {
  const values: string[] = []
  for await (const { value } of client.consume(topic, { from: 'earliest', follow: false })) {
    values.push(Buffer.from(value ?? []).toString())
  }
  return values
}

/** Runs of raw edges begin here; any number in [2^52, 2^53) will do. */
const FIRST_RUN = 2 ** 52 + 1_000
let runs = 0

/** An edge that says just what a test makes it say: its lane 0 of `topic`, opened, with a run of its own announced. */
export interface RawEdge {
  peer: RawPeer<UplinkHubFrame>
  run: number
  send(frame: EdgeFrame): void
  /** `count` records whose values are their sequences, as one batch. */
  batch(sequence: number, count: number, options?: { run?: number; bytes?: number }): Uint8Array
  append(sequence: number, count: number): void
  /** Waits until the hub committed up to `committed`. */
  acked(committed: number): Promise<void>
  /** The next `refused`, whatever acks come before it. */
  refused(): Promise<Extract<UplinkHubFrame, { t: 'refused' }>>
}

async function dialEdge(hub: Hub, token?: string): Promise<RawPeer<UplinkHubFrame>> {
  const options = { maxFrameBytes: MAX_FRAME_BYTES, connectTimeoutMs: 5_000 }
  const url = `ws://127.0.0.1:${hub.address.port}${UPLINK_PATH}`
  const link = await nodeEnv().net.dial(url, { ...options, ...(token === undefined ? {} : { token }) })
  return rawPeer(link, 'uplink-hub')
}

export async function rawEdge(hub: Hub, id: string, topic: string, token?: string): Promise<RawEdge> {
  const peer = await dialEdge(hub, token)
  const run = FIRST_RUN + ++runs
  const edge = { id, session: 0, clusterId: null, nowMs: Date.now() }
  peer.send({ t: 'hello', min: 1, max: 1, software: 'raw', edge })
  const { edge: granted } = await peer.expect('welcome')
  peer.send({ t: 'start', session: granted?.session ?? 0 })
  peer.send({ t: 'open', log: 1, topic, topicId: null, lane: 0, lanes: 1, partitionBy: 'edge' })
  await peer.expect('opened')
  peer.send({ t: 'run', log: 1, run, prev: null, reason: 'first' })
  const skipTo = async <T extends string>(t: T, done: (frame: UplinkHubFrame & { t: T }) => boolean) => {
    for (;;) {
      const frame = await peer.next()
      if (isType(frame, t) && done(frame)) return frame
      if (frame.t !== 'ack' && frame.t !== 'throttle') throw new Error(`got ${JSON.stringify(frame)}`)
    }
  }
  const raw: RawEdge = {
    peer,
    run,
    send: frame => peer.send(frame),
    batch: (sequence, count, options = {}) =>
      buildBatch(
        Array.from({ length: count }, (_, index) => ({
          key: null,
          value: Buffer.from(String(sequence + index).padEnd(options.bytes ?? 0)),
          headers: [],
          timestampMs: Date.now(),
        })),
        { producerId: options.run ?? run, producerEpoch: 0, baseSequence: sequence },
      ),
    append: (sequence, count) => peer.send({ t: 'append', log: 1, batches: raw.batch(sequence, count) }),
    acked: async committed => void (await skipTo('ack', ack => ack.committed >= committed)),
    refused: () => skipTo('refused', () => true),
  }
  return raw
}

function isType<T extends string>(frame: UplinkHubFrame, t: T): frame is UplinkHubFrame & { t: T } {
  return frame.t === t
}

import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { MqttClient } from 'mqtt'
import { connectAsync } from 'mqtt'
import { pino } from 'pino'
import { expect } from 'vitest'
import { must } from '../common/assert.ts'
import { eachBatch } from '../common/batch.ts'
import { decodeRecords } from '../common/batch-records.ts'
import { utf8Text } from '../common/bytes.ts'
import type { EdgeOverrides } from '../common/config-edge.ts'
import { defaultEdgeConfig } from '../common/config-edge.ts'
import { defaultHubConfig } from '../common/config-hub.ts'
import type { Clock, Env } from '../common/env.ts'
import { nodeEnv } from '../common/env-node.ts'
import { MIB } from '../common/limits.ts'
import type { Edge } from '../edge/agent.ts'
import { startEdge } from '../edge/agent.ts'
import type { EdgeStatus } from '../edge/report.ts'
import type { Hub } from '../hub/node.ts'
import { startHub } from '../hub/node.ts'
import type { GapControl, RunControl } from '../hub/replica/control.ts'
import { readEdgeControl } from '../hub/replica/control.ts'

/** A hub and an edge in this process, on real sockets and files, with a publisher that numbers its messages. */

/** What a topic holds at the hub, over all partitions. */
export interface Stored {
  /** Numbers of the messages, in log order. */
  numbers: number[]
  gaps: GapControl[]
  runs: RunControl[]
}

export interface ReadRecord {
  value: string
  headers: Record<string, string>
}

export interface SpineStage {
  dir: string
  hub: Hub
  edge: Edge
  /** Numbers acked so far. */
  acked: number[]
  startHub(data?: string): Promise<void>
  stopHub(): Promise<void>
  startEdge(overrides?: EdgeOverrides): Promise<void>
  stopEdge(): Promise<void>
  /** Publishes the next `count` numbers at QoS 1 and waits for their acks. `pad` makes each so many bytes larger. */
  publish(count: number, pad?: number): Promise<void>
  status(): Promise<EdgeStatus>
  /** Waits until the hub has committed all, or what `until` asks for. */
  drained(until?: (status: EdgeStatus) => boolean): Promise<void>
  stored(topic?: string): Promise<Stored>
  /** Records as a reader of the hub's REST gets them, over all partitions. */
  read(topic: string): Promise<ReadRecord[]>
  /** Kinds of alarms that `edges list` shows. */
  hubAlarms(): Promise<string[]>
  copy(from: string, to: string): Promise<void>
  close(): Promise<void>
}

const WAIT_MS = 15_000
const DAY_MS = 86_400_000

/** A clock whose wall time can be moved. */
export function movableClock(clock: Clock): Clock & { moveDays(days: number): void } {
  let shiftMs = 0
  return {
    ...clock,
    nowMs: () => clock.nowMs() + shiftMs,
    moveDays: days => {
      shiftMs += days * DAY_MS
    },
  }
}

export async function createSpineStage(env: Env = nodeEnv()): Promise<SpineStage> {
  const dir = await mkdtemp(join(tmpdir(), 'spine-'))
  const log = pino({ level: process.env.SPINE_LOG ?? 'silent' })
  const running: { hub?: Hub | undefined; edge?: Edge | undefined; client?: MqttClient | undefined } = {}
  let port = 0
  let nextNumber = 0

  const stage: SpineStage = {
    dir,
    get hub() {
      return must(running.hub, 'the hub runs')
    },
    get edge() {
      return must(running.edge, 'the edge runs')
    },
    acked: [],
    startHub: async (data = 'hub') => {
      const storage = { journalBytes: MIB }
      const config = defaultHubConfig({ data: join(dir, data), http: `127.0.0.1:${port}`, storage })
      running.hub = await startHub(config, env, log)
      port = running.hub.address.port
    },
    stopHub: async () => {
      await running.hub?.close()
      running.hub = undefined
    },
    startEdge: async (overrides = {}) => {
      const config = defaultEdgeConfig({
        id: 'e1',
        data: join(dir, 'edge'),
        hub: `ws://127.0.0.1:${port}`,
        http: '127.0.0.1:0',
        ...overrides,
        mqtt: { listen: '127.0.0.1:0', ...overrides.mqtt },
        storage: { journalBytes: MIB, commitMs: 1, ...overrides.storage },
        uplink: { backoffMinMs: 20, backoffMaxMs: 100, reportMs: 200, ...overrides.uplink },
      })
      running.edge = await startEdge(config, env, log)
    },
    stopEdge: async () => {
      await running.client?.endAsync(true)
      running.client = undefined
      await running.edge?.close()
      running.edge = undefined
    },
    publish: async (count, pad = 0) => {
      running.client ??= await connectAsync(`mqtt://127.0.0.1:${stage.edge.mqttAddress?.port}`)
      const { client } = running
      await Promise.all(
        Array.from({ length: count }, async () => {
          const number = nextNumber++
          await client.publishAsync(`n/${number % 7}`, `${number}${' '.repeat(pad)}`, { qos: 1 })
          stage.acked.push(number)
        }),
      )
    },
    status: async () => {
      const response = await fetch(`http://127.0.0.1:${stage.edge.httpAddress?.port}/status`)
      const status: EdgeStatus = JSON.parse(await response.text())
      return status
    },
    drained: async (until = isDrained) => {
      const deadline = performance.now() + WAIT_MS
      for (;;) {
        const status = await stage.status()
        if (until(status)) return
        if (performance.now() > deadline) throw new Error(`never drained: ${JSON.stringify(status, null, 1)}`)
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    },
    stored: (topic = 'telemetry') => readTopic(stage.hub, env, topic),
    read: async topic => {
      const url = `http://127.0.0.1:${port}/v1/topics/${topic}`
      const { partitions }: { partitions: unknown[] } = JSON.parse(await (await fetch(url)).text())
      const records: ReadRecord[] = []
      for (const partition of partitions.keys()) {
        for (let offset = 0; ; ) {
          const answer = await fetch(`${url}/records?partition=${partition}&offset=${offset}&limit=1000`)
          const page: { records: ReadRecord[]; nextOffset: number; highWatermark: number } = JSON.parse(
            await answer.text(),
          )
          records.push(...page.records)
          offset = page.nextOffset
          if (offset >= page.highWatermark) break
        }
      }
      return records
    },
    hubAlarms: async () => {
      const answer = await fetch(`http://127.0.0.1:${port}/v1/edges`)
      const { edges }: { edges: { alarms: { kind: string }[] }[] } = JSON.parse(await answer.text())
      return edges.flatMap(({ alarms }) => alarms.map(({ kind }) => kind))
    },
    copy: async (from, to) => {
      await rm(join(dir, to), { recursive: true, force: true })
      await cp(join(dir, from), join(dir, to), { recursive: true })
    },
    close: async () => {
      await stage.stopEdge()
      await stage.stopHub()
      await rm(dir, { recursive: true, force: true })
    },
  }
  return stage
}

function isDrained(status: EdgeStatus): boolean {
  return status.connected && status.lanes.every(lane => lane.committedOffset === lane.endOffset)
}

async function readTopic(hub: Hub, env: Env, topic: string): Promise<Stored> {
  const { topics, logs } = hub.ports
  const { topicId, partitions } = topics.byName(topic)
  const stored: Stored = { numbers: [], gaps: [], runs: [] }
  for (let partition = 0; partition < partitions; partition++) {
    const { startOffset, highWatermark } = await logs.bounds(topicId, partition)
    for (let offset = startOffset; offset < highWatermark; ) {
      const { batches, nextOffset } = await logs.read(topicId, partition, offset, MIB)
      for (const { at, header } of eachBatch(batches)) {
        if (header.isControl) {
          const control = readEdgeControl(batches, at)
          if (control?.type === 'gap') stored.gaps.push(control.gap)
          if (control?.type === 'run') stored.runs.push(control.run)
          continue
        }
        for (const { value } of await decodeRecords(batches, at, env.codec, 16 * MIB)) {
          stored.numbers.push(Number(utf8Text(value ?? new Uint8Array(0))))
        }
      }
      offset = nextOffset
    }
  }
  return stored
}

/**
 * acked = stored + declared gaps, each once and in order. The publisher sends one after another into one lane, so that the number of
 * a message is its offset at the edge. `also`: numbers accounted for elsewhere, such as dead letters.
 */
export function expectAll(stage: SpineStage, stored: Stored): void {
  const declared = new Set<number>()
  for (const { localFrom, localTo, count } of stored.gaps) {
    if (count === null) continue
    for (let offset = localFrom; offset < localTo; offset++) declared.add(offset)
  }
  const inLog = new Set(stored.numbers)
  expect(stored.numbers.length, 'no message stands twice').toBe(inLog.size)
  expect(stored.numbers, 'in order').toEqual([...stored.numbers].sort((left, right) => left - right))
  const missing = stage.acked.filter(number => !inLog.has(number) && !declared.has(number))
  expect(missing, 'acked, and neither stored nor declared lost').toEqual([])
}

/** Every gap in `topics` is told in `_gaps`, once, to whoever reads it; and nothing else is. */
export async function expectTold(stage: SpineStage, ...topics: string[]): Promise<void> {
  const declared: unknown[] = []
  for (const topic of topics) {
    for (const gap of (await stage.stored(topic)).gaps) {
      const { edge, lane, run, from, to, reason, count } = gap
      declared.push({ topic, edge, lane, run, from, to, reason, count })
    }
  }
  const told = (await stage.read('_gaps')).map(({ value }) => {
    const { topic, edge, lane, run, from, to, reason, count } = JSON.parse(value)
    return { topic, edge, lane, run, from, to, reason, count }
  })
  const sorted = (gaps: unknown[]) => gaps.map(gap => JSON.stringify(gap)).toSorted()
  expect(sorted(told)).toEqual(sorted(declared))
}

/** What is in `_dead`, each with where it was to go, why it did not, and its place. */
export async function expectDead(
  stage: SpineStage,
  topic: string,
  numbers: number[],
  reason: RegExp,
): Promise<void> {
  const dead = await stage.read('_dead')
  expect(dead.map(({ value }) => Number(value))).toEqual(numbers)
  for (const { headers } of dead) {
    expect(headers).toMatchObject({
      edge: 'e1',
      'dead.topic': topic,
      'dead.reason': expect.stringMatching(reason),
      'dead.sequence': expect.stringMatching(/^\d+$/),
    })
  }
}

import { must } from '../../common/assert.ts'
import { eachBatch } from '../../common/batch.ts'
import { encodeHeaders } from '../../common/batch-builder.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { utf8, utf8Text } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { EdgeOverrides } from '../../common/config-edge.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { Rng } from '../../common/env.ts'
import type { TributaryError } from '../../common/errors.ts'
import { KIB, MIB } from '../../common/limits.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import type { DataDir } from '../../common/log/types.ts'
import { createAlarms } from '../../edge/alarms.ts'
import type { Lane } from '../../edge/lane.ts'
import { Store } from '../../edge/store.ts'
import type { PlacedSummary } from '../../edge/summary.ts'
import { readSummary } from '../../edge/summary.ts'
import { FakeClock } from '../fake-clock.ts'
import { FakeDisk } from '../fake-disk.ts'
import type { Mortal } from '../spine/mortal.ts'
import { createMortal } from '../spine/mortal.ts'

/** The store of an edge without a hub, on a disk that crashes and a clock that stands still until told. */

const codec = nodeCodec()
const HEADERS = encodeHeaders([{ key: 'from', value: utf8('test') }])

/** What a lane holds, oldest first. */
export interface LaneContent {
  records: { id: string; key: string; offset: number; edgeMs: number }[]
  summaries: PlacedSummary[]
}

export interface PolicyStage {
  readonly clock: FakeClock
  disk: FakeDisk
  readonly store: Store
  /** How long the next fdatasyncs take, at most. */
  syncMs: number
  open(overrides?: EdgeOverrides): Promise<void>
  close(): Promise<void>
  /** Ends the process; with it the power, or not. */
  end(power: boolean): void
  /** Resolves when it is acked or refused; never where the process ended before. */
  append(
    id: string,
    key: string,
    options?: { topic?: string; lane?: number; bytes?: number },
  ): Promise<TributaryError | undefined>
  /** Lets I/O go on, and then time pass. */
  turn(ms?: number): Promise<void>
  turns(count: number, ms?: number): Promise<void>
  /** Lets time pass until `promise` settles. */
  during<T>(promise: Promise<T>): Promise<T>
  lane(key?: string): Lane
  read(key?: string): Promise<LaneContent>
}

export function createPolicyStage(rng: Rng): PolicyStage {
  const clock = new FakeClock()
  let running: { store: Store; directory: DataDir; mortal: Mortal } | null = null
  let failure: unknown = null

  const stage: PolicyStage = {
    clock,
    disk: new FakeDisk({ rng }),
    syncMs: 0,
    get store() {
      return must(running, 'the edge runs').store
    },
    open: async (overrides = {}) => {
      const mortal = createMortal({
        clock,
        rng,
        disk: stage.disk,
        codec,
        dial: () => Promise.reject(new Error('no hub')),
        wallShiftMs: () => 0,
        syncDelayMs: () => (stage.syncMs === 0 ? 0 : rng.below(stage.syncMs)),
        failed: error => {
          failure ??= error
        },
        active: () => {},
      })
      const storage = { journalBytes: 256 * KIB, commitMs: 0, budgetBytes: 64 * MIB, ...overrides.storage }
      const config = defaultEdgeConfig({ ...overrides, data: '/edge', storage })
      const options = { ...config.storage, reserveBytes: 64 * KIB }
      const directory = await stage.during(openDataDir('/edge', options, mortal.env))
      const alarms = createAlarms(
        () => clock.nowMs(),
        () => {},
      )
      const store = await stage.during(Store.open(mortal.env, config, directory, alarms))
      running = { store, directory, mortal }
    },
    close: async () => {
      const { store, directory, mortal } = must(running, 'the edge runs')
      await stage.during(store.close())
      await stage.during(directory.close())
      mortal.kill()
      running = null
    },
    end: power => {
      running?.mortal.kill()
      running = null
      stage.disk = power ? stage.disk.crash() : stage.disk.kill()
    },
    append: (id, key, { topic = 'telemetry', lane = 0, bytes = 0 } = {}) => {
      const { store, mortal } = must(running, 'the edge runs')
      const value = utf8(id.padEnd(bytes))
      const timestampMs = Math.floor(clock.nowMs())
      const record = { topic, lane, key: utf8(key), value, timestampMs, headers: HEADERS, headerCount: 1 }
      return new Promise(resolve => {
        store.append(record, [], error => {
          if (mortal.isAlive()) resolve(error)
        })
      })
    },
    turn: async (ms = 0) => {
      await new Promise<void>(resolve => setImmediate(resolve))
      clock.advance(ms)
      if (failure !== null) throw failure
    },
    turns: async (count, ms = 0) => {
      for (let left = count; left > 0; left--) await stage.turn(ms)
    },
    during: async promise => {
      let isOver = false
      const over = promise.finally(() => {
        isOver = true
      })
      over.catch(() => {})
      for (let turns = 0; !isOver; turns++) {
        if (turns > 20_000) throw new Error('waited in vain')
        await stage.turn(turns < 50 ? 0 : 1)
      }
      return over
    },
    lane: (key = 'telemetry/0') => must(stage.store.lanes.get(key), `there is no lane ${key}`),
    read: (key = 'telemetry/0') => stage.during(readLane(stage.lane(key))),
  }
  return stage
}

async function readLane(lane: Lane): Promise<LaneContent> {
  const content: LaneContent = { records: [], summaries: [] }
  const { startOffset, durableEnd } = lane.ledger
  for (let at = startOffset; at < durableEnd; ) {
    const { batches, base, nextOffset } = await lane.read(at, MIB)
    for (const { at: position, header } of eachBatch(batches)) {
      if (header.isControl) {
        const offset = base + header.baseOffset
        if (offset >= at) content.summaries.push({ offset, summary: readSummary(batches, position) })
        continue
      }
      for (const record of await decodeRecords(batches, position, codec, MIB)) {
        const offset = base + record.offset
        if (offset < at) continue
        const edgeTime = record.headers.find(({ key }) => key === 'edge.time')?.value
        content.records.push({
          id: textOf(record.value).trimEnd(),
          key: textOf(record.key),
          offset,
          edgeMs: Number(textOf(edgeTime ?? null)),
        })
      }
    }
    at = base + nextOffset
  }
  return content
}

function textOf(bytes: Uint8Array | null): string {
  return utf8Text(bytes ?? new Uint8Array(0))
}

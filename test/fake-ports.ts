import { randomBytes } from 'node:crypto'
import { eachBatch, stampBatch, validateBatch } from '../common/batch.ts'
import { concat } from '../common/bytes.ts'
import type { ErrorCode } from '../common/errors.ts'
import { TributaryError } from '../common/errors.ts'
import type { LaneTip } from '../common/wire.ts'
import type {
  CreateTopic,
  EdgeConnect,
  EdgeInfo,
  Fleet,
  LaneKey,
  Logs,
  Ports,
  Topic,
  TopicConfig,
  Topics,
} from '../hub/ports.ts'
import type { ClientProducer } from '../hub/replica/client-producers.ts'
import { afterBatch, judgeClientBatch } from '../hub/replica/client-producers.ts'
import { createFakeCluster } from './fake-cluster.ts'

/** An in-memory engine for endpoint tests: topics, logs, lanes and edges as `hub/ports.ts` promises them, nothing durable. */
export interface FakePorts extends Ports {
  /** From now on appends wait and the high watermark stands still, until `release`. */
  hold(): void
  release(): void
  /** The next call of `operation` rejects with `error`. */
  failNext(operation: keyof Logs | 'create' | 'connect' | 'start' | 'bindLane', error: TributaryError): void
  setNotReady(reason: string | null): void
  setAddresses(addresses: string[]): void
  /** Cuts off what lies from `offset` on, as a leader that never had it does: what comes then is of the next epoch. */
  cut(topicId: string, partition: number, offset: number): void
  /** Deletes what lies below `offset`, as retention does. */
  trim(topicId: string, partition: number, offset: number): void
  /** One past the last offset assigned, committed or not. */
  endOffset(topicId: string, partition: number): number
  /** `whenPast` listeners not yet called or cancelled. */
  waiting(): number
}

export interface FakePortsOptions {
  defaultPartitions?: number
  autoCreateTopics?: boolean
  maxTopics?: number
}

interface StoredBatch {
  baseOffset: number
  lastOffset: number
  maxTimestampMs: number
  bytes: Uint8Array
}

interface Partition {
  batches: StoredBatch[]
  startOffset: number
  endOffset: number
  highWatermark: number
  /** Where each leader epoch starts. */
  epochs: number[]
  waiters: Set<{ offset: number; listener: () => void }>
}

const DEFAULT_CONFIG: TopicConfig = {
  retentionMs: 604_800_000,
  retentionBytes: null,
  segmentBytes: 256 * 1024 * 1024,
  maxRecordBytes: 1024 * 1024,
  minInsyncReplicas: null,
  uncleanLeaderElection: false,
}

function fail(code: ErrorCode, message: string, details: Record<string, unknown> = {}): never {
  throw new TributaryError(code, message, { details })
}

export function createFakePorts(options: FakePortsOptions = {}): FakePorts {
  const failures = new Map<string, TributaryError>()
  const topics = createTopics(options, throwPlanned)
  const held: (() => void)[] = []
  let holding = false
  let notReady: string | null = null
  let addresses: string[] = []

  function throwPlanned(operation: string): void {
    const error = failures.get(operation)
    failures.delete(operation)
    if (error !== undefined) throw error
  }

  /** Runs `apply` when commits are let through, so that acks wait as they do for a slow disk. */
  function commit(apply: () => void): Promise<void> {
    return new Promise(resolve => {
      const run = (): void => {
        apply()
        resolve()
      }
      if (holding) held.push(run)
      else queueMicrotask(run)
    })
  }

  const logs = createLogs(topics, commit, throwPlanned)
  return {
    clusterId: 'fake-cluster',
    nodeId: 1,
    addresses: () => addresses,
    topics: topics.port,
    logs: logs.port,
    fleet: createFleet(options, topics, throwPlanned),
    cluster: createFakeCluster(),
    notReadyReason: () => notReady,
    hold: () => {
      holding = true
    },
    release: () => {
      holding = false
      for (const run of held.splice(0)) run()
    },
    failNext: (operation, error) => {
      failures.set(operation, error)
    },
    setAddresses: next => {
      addresses = next
    },
    setNotReady: reason => {
      notReady = reason
    },
    cut: (topicId, partition, offset) => {
      const log = topics.partition(topicId, partition)
      log.batches = log.batches.filter(batch => batch.lastOffset < offset)
      log.endOffset = offset
      log.highWatermark = offset
      log.epochs.push(offset)
      for (const waiter of [...log.waiters]) wake(log, waiter)
    },
    trim: (topicId, partition, offset) => {
      const log = topics.partition(topicId, partition)
      log.batches = log.batches.filter(batch => batch.lastOffset >= offset)
      log.startOffset = offset
    },
    endOffset: (topicId, partition) => topics.partition(topicId, partition).endOffset,
    waiting: () => topics.all().reduce((total, log) => total + log.waiters.size, 0),
  }
}

interface TopicStore {
  port: Topics
  partition(topicId: string, partition: number): Partition
  all(): Partition[]
  wasDeleted(name: string): boolean
}

function newPartition(): Partition {
  return { batches: [], startOffset: 0, endOffset: 0, highWatermark: 0, epochs: [0], waiters: new Set() }
}

function createTopics(options: FakePortsOptions, throwPlanned: (operation: string) => void): TopicStore {
  const byName = new Map<string, Topic>()
  const partitions = new Map<string, Partition[]>()
  const deleted = new Map<string, string>()

  function named(name: string): Topic {
    return byName.get(name) ?? fail('unknown_topic', `there is no topic "${name}"; create it first`)
  }

  const port: Topics = {
    list: () => [...byName.values()],
    byName: named,
    find: async name => named(name),
    forProducer: async name => {
      const known = byName.get(name)
      if (known !== undefined) return known
      if ([...deleted.values()].includes(name)) fail('topic_deleted', `topic "${name}" was deleted`)
      if (options.autoCreateTopics === false) return named(name)
      return port.create({ name })
    },
    byId: topicId => {
      for (const topic of byName.values()) if (topic.topicId === topicId) return topic
      if (deleted.has(topicId)) fail('topic_deleted', `topic ${topicId} was deleted`)
      return fail('unknown_topic', `there is no topic with id ${topicId}`)
    },
    create: async (request: CreateTopic) => {
      throwPlanned('create')
      if (byName.has(request.name)) fail('topic_exists', `topic "${request.name}" is there already`)
      if (byName.size >= (options.maxTopics ?? 1_000)) fail('limit_exceeded', 'maxTopics is reached')
      const topic: Topic = {
        name: request.name,
        topicId: randomBytes(16).toString('hex'),
        partitions: request.partitions ?? options.defaultPartitions ?? 12,
        replication: request.replication ?? null,
        internal: request.name.startsWith('_'),
        createdMs: 1_700_000_000_000,
        config: { ...DEFAULT_CONFIG, ...request.config },
      }
      byName.set(topic.name, topic)
      partitions.set(topic.topicId, Array.from({ length: topic.partitions }, newPartition))
      return topic
    },
    alter: async (name, change) => {
      const old = named(name)
      const count = change.partitions ?? old.partitions
      if (count < old.partitions)
        fail('invalid_argument', `partitions may only grow: ${name} has ${old.partitions}`)
      const topic = { ...old, partitions: count, config: { ...old.config, ...change.config } }
      byName.set(name, topic)
      const logs = partitions.get(topic.topicId) ?? []
      while (logs.length < count) logs.push(newPartition())
      return topic
    },
    delete: async name => {
      const { topicId } = named(name)
      byName.delete(name)
      deleted.set(topicId, name)
      const logs = partitions.get(topicId) ?? []
      partitions.delete(topicId)
      for (const log of logs) for (const waiter of [...log.waiters]) wake(log, waiter)
    },
  }
  return {
    port,
    partition: (topicId, partition) => {
      port.byId(topicId)
      const log = partitions.get(topicId)?.[partition]
      return log ?? fail('unknown_topic', `topic ${topicId} has no partition ${partition}`)
    },
    all: () => [...partitions.values()].flat(),
    wasDeleted: name => [...deleted.values()].includes(name),
  }
}

function wake(log: Partition, waiter: { offset: number; listener: () => void }): void {
  log.waiters.delete(waiter)
  queueMicrotask(waiter.listener)
}

function advance(log: Partition, highWatermark: number): void {
  log.highWatermark = Math.max(log.highWatermark, highWatermark)
  for (const waiter of [...log.waiters]) if (log.highWatermark > waiter.offset) wake(log, waiter)
}

function store(log: Partition, bytes: Uint8Array): number {
  const baseOffset = log.endOffset
  for (const { at, header } of eachBatch(bytes)) {
    stampBatch(bytes, at, log.endOffset, log.epochs.length - 1)
    log.batches.push({
      baseOffset: log.endOffset,
      lastOffset: log.endOffset + header.lastOffsetDelta,
      maxTimestampMs: header.maxTimestampMs,
      bytes: bytes.subarray(at, at + header.sizeBytes),
    })
    log.endOffset += header.lastOffsetDelta + 1
  }
  return baseOffset
}

type Commit = (apply: () => void) => Promise<void>

function createLogs(topics: TopicStore, commit: Commit, throwPlanned: (op: string) => void): { port: Logs } {
  const tips = new Map<string, LaneTip>()
  const producers = new Map<string, ClientProducer>()
  let nextProducerId = 1
  const tipKey = (lane: LaneKey): string => `${lane.edgeId}\0${lane.topicId}\0${lane.lane}`

  function validated(topicId: string, bytes: Uint8Array): void {
    const { maxRecordBytes } = topics.port.byId(topicId).config
    for (let at = 0; at < bytes.length; ) {
      at += validateBatch(bytes, at, { maxBatchBytes: maxRecordBytes + 1024 }).sizeBytes
    }
  }

  /** Where an idempotent producer's batch stands already; null where it is to be stored. Remembers what is stored next. */
  function repeated(topicId: string, partition: number, bytes: Uint8Array): number | null {
    let baseOffset = topics.partition(topicId, partition).endOffset
    for (const { header } of eachBatch(bytes)) {
      if (header.producerId === -1 || header.isControl) return null
      const key = `${topicId}/${partition}/${header.producerId}`
      const held = judgeClientBatch(producers.get(key), header)
      if (held !== null) return held.baseOffset
      producers.set(key, afterBatch(producers.get(key), header, baseOffset, 0))
      baseOffset += header.recordCount
    }
    return null
  }

  async function whenCommitted(lane: LaneKey, tip: LaneTip): Promise<LaneTip> {
    const { run, next } = tip
    const log = topics.partition(lane.topicId, lane.partition)
    const endOffset = log.endOffset
    await commit(() => {
      advance(log, endOffset)
      if (tip.run === run) tip.committed = Math.max(tip.committed, next)
    })
    return { ...tip }
  }

  const port: Logs = {
    bounds: async (topicId, partition) => {
      const { startOffset, endOffset, highWatermark, batches, epochs } = topics.partition(topicId, partition)
      const sizeBytes = batches.reduce((total, batch) => total + batch.bytes.length, 0)
      return { startOffset, endOffset, highWatermark, leaderEpoch: epochs.length - 1, sizeBytes }
    },
    append: async (topicId, partition, batches) => {
      throwPlanned('append')
      const log = topics.partition(topicId, partition)
      validated(topicId, batches)
      const baseOffset = repeated(topicId, partition, batches) ?? store(log, batches)
      const endOffset = log.endOffset
      await commit(() => advance(log, endOffset))
      return { baseOffset }
    },
    appendLane: async (lane, batches) => {
      throwPlanned('appendLane')
      const log = topics.partition(lane.topicId, lane.partition)
      validated(lane.topicId, batches)
      for (const { at, header } of eachBatch(batches)) {
        const tip = tips.get(tipKey(lane))
        if (tip === undefined || header.producerId !== tip.run) {
          fail('unknown_run', `run ${header.producerId} was not announced on this lane`)
        }
        const end = header.baseSequence + header.recordCount
        if (end <= tip.next) continue
        if (header.baseSequence !== tip.next) {
          fail('out_of_order_sequence', `expected sequence ${tip.next}, got ${header.baseSequence}`, {
            next: tip.next,
          })
        }
        store(log, batches.slice(at, at + header.sizeBytes))
        tip.next = end
      }
      const tip = tips.get(tipKey(lane)) ?? fail('unknown_run', 'no run was announced on this lane')
      return whenCommitted(lane, tip)
    },
    startRun: async (lane, start) => {
      throwPlanned('startRun')
      topics.partition(lane.topicId, lane.partition)
      const old = tips.get(tipKey(lane))
      if (old?.run === start.run) return { ...old }
      if (start.prev !== null && (old?.run !== start.prev.run || old.next < start.prev.end)) {
        fail('unknown_run', `the predecessor of run ${start.run} is not held to its end ${start.prev.end}`)
      }
      const tip = { run: start.run, next: 0, committed: 0 }
      tips.set(tipKey(lane), tip)
      return whenCommitted(lane, tip)
    },
    declareGap: async (lane, gap) => {
      throwPlanned('declareGap')
      const tip = tips.get(tipKey(lane))
      if (tip === undefined || tip.run !== gap.run) fail('unknown_run', `run ${gap.run} is not the lane's`)
      if (gap.from > tip.next) {
        fail('out_of_order_sequence', `expected a gap from ${tip.next}, got ${gap.from}`, { next: tip.next })
      }
      tip.next = Math.max(tip.next, gap.to)
      return whenCommitted(lane, tip)
    },
    openLane: async lane => {
      throwPlanned('openLane')
      topics.partition(lane.topicId, lane.partition)
      return { tip: port.tip(lane), leaderEpoch: 0 }
    },
    tip: lane => {
      const tip = tips.get(tipKey(lane))
      return tip === undefined ? null : { ...tip }
    },
    read: async (topicId, partition, offset, maxBytes, lastEpoch = -1) => {
      throwPlanned('read')
      const { batches, startOffset, highWatermark, epochs } = topics.partition(topicId, partition)
      const truncatedTo = lastEpoch < 0 ? offset : (epochs[lastEpoch + 1] ?? offset)
      if (truncatedTo < offset) {
        const details = { startOffset, highWatermark, truncatedTo }
        fail('offset_out_of_range', `the log parts at ${truncatedTo}`, details)
      }
      if (offset < startOffset || offset > highWatermark) {
        const details = { startOffset, highWatermark }
        fail('offset_out_of_range', `offset ${offset} is not in [${startOffset}, ${highWatermark}]`, details)
      }
      const parts: Uint8Array[] = []
      let [sizeBytes, nextOffset] = [0, offset]
      for (const batch of batches) {
        if (batch.lastOffset < offset || batch.lastOffset >= highWatermark) continue
        if (parts.length > 0 && sizeBytes + batch.bytes.length > maxBytes) break
        parts.push(batch.bytes)
        sizeBytes += batch.bytes.length
        nextOffset = batch.lastOffset + 1
      }
      const bounds = await port.bounds(topicId, partition)
      return {
        batches: concat(parts),
        nextOffset,
        lastEpoch: epochs.findLastIndex(at => at < nextOffset),
        bounds,
        isSettled: true,
      }
    },
    offsetForTime: async (topicId, partition, timeMs) => {
      throwPlanned('offsetForTime')
      const { batches, highWatermark } = topics.partition(topicId, partition)
      return batches.find(batch => batch.maxTimestampMs >= timeMs)?.baseOffset ?? highWatermark
    },
    whenPast: (topicId, partition, offset, listener) => {
      const log = topics.partition(topicId, partition)
      const waiter = { offset, listener }
      log.waiters.add(waiter)
      if (log.highWatermark > offset) wake(log, waiter)
      return () => void log.waiters.delete(waiter)
    },
    allocateProducerId: async () => nextProducerId++,
  }
  return { port }
}

function createFleet(
  options: FakePortsOptions,
  topics: TopicStore,
  throwPlanned: (op: string) => void,
): Fleet {
  const edges = new Map<string, EdgeInfo>()
  const granted = new Map<string, number>()
  const fences = new Map<string, () => void>()
  const lanes = new Map<string, { topicId: string; partition: number }>()

  return {
    connect: async (request: EdgeConnect) => {
      throwPlanned('connect')
      fences.get(request.id)?.()
      fences.set(request.id, request.fence)
      const newest = granted.get(request.id) ?? 0
      const session = Math.max(newest, request.session) + 1
      granted.set(request.id, session)
      const old = edges.get(request.id)
      edges.set(request.id, {
        id: request.id,
        connected: true,
        nodeId: 1,
        address: request.address,
        software: request.software,
        session,
        firstSeenMs: old?.firstSeenMs ?? request.nowMs,
        lastSeenMs: request.nowMs,
        clockOffsetMs: 0,
        alarms: old?.alarms ?? [],
        report: old?.report ?? null,
      })
      const verdict = request.session < newest ? 'fork' : request.session > newest ? 'hub-rollback' : 'ok'
      return { session, verdict }
    },
    start: async (edgeId, session) => {
      throwPlanned('start')
      if (granted.get(edgeId) !== session) fail('fenced', `session ${session} of ${edgeId} is not the newest`)
    },
    disconnect: (edgeId, session) => {
      const edge = edges.get(edgeId)
      if (edge?.session !== session) return
      edges.set(edgeId, { ...edge, connected: false, nodeId: null })
      fences.delete(edgeId)
    },
    report: (edgeId, session, report, clockOffsetMs) => {
      const edge = edges.get(edgeId)
      if (edge?.session === session)
        edges.set(edgeId, { ...edge, report, clockOffsetMs, lastSeenMs: report.atMs })
    },
    bindLane: async request => {
      throwPlanned('bindLane')
      const topic = await topicForLane(request.topic, request.topicId)
      const key = `${request.edgeId}\0${topic.topicId}\0${request.lane}`
      const bound = lanes.get(key) ?? { topicId: topic.topicId, partition: lanes.size % topic.partitions }
      lanes.set(key, bound)
      return { topic, partition: bound.partition }
    },
    list: async () => [...edges.values()],
    local: () => [...edges.values()],
    remove: async edgeId => {
      const edge = edges.get(edgeId) ?? fail('not_found', `there is no edge "${edgeId}"`)
      if (edge.connected) fail('invalid_argument', `edge "${edgeId}" is connected: stop it first`)
      edges.delete(edgeId)
      granted.delete(edgeId)
    },
  }

  async function topicForLane(name: string, topicId: string | null): Promise<Topic> {
    const known = topics.port.list().find(topic => topic.name === name)
    if (topicId !== null && known?.topicId !== topicId) fail('topic_deleted', `topic ${topicId} was deleted`)
    if (known !== undefined) return known
    if (topics.wasDeleted(name))
      fail('topic_deleted', `topic "${name}" was deleted; create it to use it again`)
    if (options.autoCreateTopics === false)
      fail('unknown_topic', `there is no topic "${name}"; create it first`)
    return topics.port.create({ name })
  }
}

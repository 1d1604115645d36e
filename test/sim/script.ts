import type { BatchHeader } from '../../common/batch.ts'
import { eachBatch } from '../../common/batch.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { utf8Text } from '../../common/bytes.ts'
import { KIB, MIB } from '../../common/limits.ts'
import type { FetchedFrame } from '../../common/wire-peer.ts'
import type { Ports, Topic } from '../../hub/ports.ts'
import type { Message } from '../../hub/raft/types.ts'
import { checkAlarms, checkFound, checkNotices, readAll } from '../spine/check.ts'
import { LeadersChecker } from './checkers/leaders.ts'
import { MetadataChecker } from './checkers/metadata.ts'
import { showPeerFrame } from './checkers/peer-frames.ts'
import { ReadersChecker } from './checkers/readers.ts'
import { checkReplicas } from './checkers/replicas.ts'
import { SdkRecordsChecker } from './checkers/sdk-records.ts'
import { ServedChecker } from './checkers/served.ts'
import type { EdgeHost } from './edge-host.ts'
import { createDoomed, isPassing } from './faults-topic.ts'
import { startLoad } from './load.ts'
import { Nemesis } from './nemesis.ts'
import type { SimProcess } from './process.ts'
import type { Sim } from './sim.ts'
import { BRIEF_TOPIC, edgeConfig, PLENTY_BYTES, SMALL_TOPIC } from './sim.ts'

/** A seed's story: all starts, load and faults, then all is healed and must come to its end in bounded time, then all is judged. */

const START_MS = 30_000
/** After the last fault everything offered is taken in so long; what a deleted topic leaves gathers for a minute. */
const DRAIN_MS = 200_000
/** In which an edge that is connected hears where its lanes are. */
const SETTLE_MS = 3_000
/** An orderly stop takes at most. */
const STOP_MS = 30_000
/** Topics that are never deleted, each with its readers. */
const READ_TOPICS = ['alpha', 'beta', 'gamma'] as const

/** A partition as it stands at the end. */
interface FinalPartition {
  topic: Topic
  partition: number
  batches: Uint8Array[]
  startOffset: number
  highWatermark: number
}

export async function play(sim: Sim): Promise<void> {
  const { world } = sim
  const served = new ServedChecker()
  const readers = new ReadersChecker()
  watch(sim, served)
  for (const node of sim.nodes) node.start()
  await sim.until('all nodes are up', () => sim.nodes.every(({ running }) => running !== null), START_MS)
  await createTopics(sim)
  for (const machine of [...sim.edges, ...sim.clients]) machine.start()
  addReaders(sim, readers)
  const load = startLoad(sim)
  const nemesis = new Nemesis(sim)
  await nemesis.run(world.nowMs() + sim.plan.safetyMs)
  world.say(() => 'the faults are over')
  await nemesis.heal()
  load.stop()
  await drain(sim)
  const partitions = await readEverything(sim)
  await untilReadersAreThere(sim, readers, partitions)
  await judge(sim, partitions, served, readers)
  await compareReplicas(sim, partitions)
}

/** Checks what is said on the wire, as it is said. */
function watch(sim: Sim, served: ServedChecker): void {
  const { world, network } = sim
  const metadata = new MetadataChecker(world)
  const leaders = new LeadersChecker(world)
  const listeners = {
    raft: (message: Message) => metadata.message(message),
    fetched: (frame: FetchedFrame, from: SimProcess) => leaders.fetched(frame, from),
  }
  const guarded = (check: () => void): void => {
    try {
      check()
    } catch (error) {
      world.fail(error)
    }
  }
  network.onArrival = (data, pipe) => guarded(() => served.onArrival(data, pipe))
  network.onSend = (data, pipe) =>
    guarded(() => {
      served.onSend(data, pipe)
      showPeerFrame(data, pipe, listeners)
    })
}

async function createTopics(sim: Sim): Promise<void> {
  const { partitions } = sim.plan
  const wanted = [
    { name: SMALL_TOPIC, partitions: 1, config: { maxRecordBytes: 1_024 } },
    ...READ_TOPICS.map(name => ({ name, partitions })),
    { name: BRIEF_TOPIC, partitions: 1, config: { segmentBytes: 64 * KIB, retentionBytes: 64 * KIB } },
  ]
  for (const request of wanted) {
    for (;;) {
      try {
        if ((await sim.ask(({ topics }) => topics.create(request))) !== null) break
      } catch (error) {
        if (!isPassing(error)) throw error
        await sim.world.sleep(100)
      }
    }
  }
}

function addReaders(sim: Sim, checker: ReadersChecker): void {
  for (const client of sim.clients) {
    for (const topic of [...READ_TOPICS, BRIEF_TOPIC]) {
      const name = `${client.host} ${topic}`
      client.addReader({
        name,
        topic,
        next: new Map(),
        // A reader of what is kept for so short a time may find that it is gone.
        onReset: topic === BRIEF_TOPIC ? 'earliest' : 'error',
        onRecord: ({ partition, offset, value }) => checker.record(name, partition, offset, textOf(value)),
        onError: (code, message) => {
          sim.world.count(`read ${code}`)
          if (code === 'not_available' || code === 'timeout') return
          sim.world.fail(new Error(`${name} could not read: ${code}: ${message}`))
        },
      })
    }
  }
}

// ---------------------------------------------------------------------------------------------- the end

async function drain(sim: Sim): Promise<void> {
  const { world, edges } = sim
  for (const edge of edges.filter(({ config }) => config.storage.budgetBytes !== PLENTY_BYTES)) {
    await stopped(sim, edge)
    edge.config = edgeConfig(edge.edgeId, { ...sim.plan.edge, lanes: edge.config.topics['*']?.lanes ?? 1 })
    edge.start()
  }
  // A reader learns of new partitions when it connects.
  for (const client of sim.clients) client.reconnect()
  if (sim.book.deletedTopics.size > 0 && world.rng.float() < 0.7) await createDoomed(sim)
  // An operator stops all but one of those that run under one name, but lets each have its turn.
  const originals = edges.filter(
    ({ edgeId }, index) => edges.findIndex(edge => edge.edgeId === edgeId) === index,
  )
  const twins = edges.filter(edge => !originals.includes(edge))
  for (const twin of twins) await stopped(sim, twin)
  for (const twin of twins) {
    twin.start()
    const original = originals.find(({ edgeId }) => edgeId === twin.edgeId)
    if (original !== undefined) await stopped(sim, original)
    await untilDrained(sim, [twin])
    await stopped(sim, twin)
    original?.start()
  }
  await untilDrained(sim, originals)
  const isDone = (): boolean => sim.clients.every(({ pending }) => pending === 0)
  await sim.until('what clients produce is acked or refused', isDone, DRAIN_MS)
}

async function stopped(sim: Sim, edge: EdgeHost): Promise<void> {
  await Promise.race([edge.stop(), sim.world.sleep(STOP_MS)])
  if (edge.process !== null) throw new Error(`${edge.host} does not stop; ${sim.describe()}`)
}

async function untilDrained(sim: Sim, edges: Sim['edges']): Promise<void> {
  const isTopic = (name: string): boolean => sim.isTopic(name)
  for (const edge of edges) {
    const isDrained = (): boolean => edge.isDrained(isTopic)
    await sim.until(`${edge.host} is drained`, isDrained, DRAIN_MS)
    // An edge that has just come back thinks so until the hub tells how far it is.
    await sim.world.sleep(SETTLE_MS)
    await sim.until(`${edge.host} is drained for good`, isDrained, DRAIN_MS)
  }
}

async function untilReadersAreThere(
  sim: Sim,
  checker: ReadersChecker,
  partitions: readonly FinalPartition[],
): Promise<void> {
  const missing: { reader: string; partition: number; last: number }[] = []
  for (const { topic, partition, batches } of partitions) {
    if (!READ_TOPICS.some(name => name === topic.name)) continue
    let last = -1
    for (const bytes of batches) {
      for (const { header } of eachBatch(bytes)) if (!header.isControl) last = header.lastOffset
    }
    for (const { host } of sim.clients) missing.push({ reader: `${host} ${topic.name}`, partition, last })
  }
  const isThere = (): boolean =>
    missing.every(({ reader, partition, last }) => checker.last(reader, partition) >= last)
  await sim.until('all readers are at the end', isThere, DRAIN_MS)
}

async function readEverything(sim: Sim): Promise<FinalPartition[]> {
  const ports = sim.ports()
  if (ports === null) throw new Error('no node is up at the end')
  const read: FinalPartition[] = []
  for (const topic of ports.topics.list()) {
    for (let partition = 0; partition < topic.partitions; partition++) {
      read.push({ topic, partition, ...(await readPartition(ports, topic, partition)) })
    }
  }
  return read
}

async function readPartition(
  { logs }: Ports,
  { topicId }: Topic,
  partition: number,
): Promise<Pick<FinalPartition, 'batches' | 'startOffset' | 'highWatermark'>> {
  const all: Uint8Array[] = []
  const { startOffset, highWatermark } = await logs.bounds(topicId, partition)
  for (let offset = startOffset; offset < highWatermark; ) {
    const { batches, nextOffset } = await logs.read(topicId, partition, offset, MIB)
    all.push(Uint8Array.from(batches))
    offset = nextOffset
  }
  return { batches: all, startOffset, highWatermark }
}

// --------------------------------------------------------------------------------------------- judging

async function judge(
  sim: Sim,
  partitions: readonly FinalPartition[],
  served: ServedChecker,
  readers: ReadersChecker,
): Promise<void> {
  const { book, codec } = sim
  const sdk = new SdkRecordsChecker(sim.sdk)
  const byTopic = new Map(partitions.map(each => [`${each.topic.topicId}/${each.partition}`, each]))
  const source = {
    book,
    codec,
    async *read({ topicId }: Topic, partition: number) {
      yield* byTopic.get(`${topicId}/${partition}`)?.batches ?? []
    },
    async foreign({ name }: Topic, partition: number, batches: Uint8Array, at: number, _header: BatchHeader) {
      for (const { offset, value } of await decodeRecords(batches, at, codec, MIB)) {
        sdk.found(name, partition, offset, textOf(value))
      }
    },
  }
  const topics = new Map(partitions.map(({ topic }) => [topic.topicId, topic]))
  const found = await readAll(source, [...topics.values()])
  // Gaps of a topic that is no more cannot be declared anywhere yet: their edge keeps them, and has raised an alarm.
  for (const edge of sim.edges) for (const id of edge.lostHere()) found.missing.add(id)
  checkFound(book, found)
  checkNotices(book, found)
  const startOf = (name: string, partition: number): number => {
    const known = partitions.find(({ topic, ...each }) => topic.name === name && each.partition === partition)
    return known?.startOffset ?? 0
  }
  sdk.check(startOf)
  for (const each of partitions) await checkReaders(sim, each, served, readers)
  const fleet = sim.ports()?.fleet.local() ?? []
  checkAlarms(
    book,
    sim.edges.map(({ edgeId }) => edgeId),
    fleet,
  )
  for (const { gap } of found.gaps) sim.world.count(`gap ${gap.reason}`)
  for (const { reason } of found.starts) sim.world.count(`run ${reason}`)
  sim.world.count('dead letters', found.dead.size)
}

/** In-sync replicas are the same, as their disks have them. */
async function compareReplicas(sim: Sim, partitions: readonly FinalPartition[]): Promise<void> {
  if (sim.nodes.length === 1) return
  const ports = sim.controllerPorts()
  if (ports === null) throw new Error(`no node is the active controller; ${sim.describe()}`)
  const expected = partitions.map(({ topic: { topicId }, partition, highWatermark }) => {
    const isr = ports.cluster.placements(topicId)[partition]?.isr ?? []
    return { topicId, partition, isr, highWatermark }
  })
  for (const node of sim.nodes) node.kill()
  await checkReplicas(sim, expected)
}

async function checkReaders(
  sim: Sim,
  { topic, partition, batches, startOffset }: FinalPartition,
  served: ServedChecker,
  readers: ReadersChecker,
): Promise<void> {
  const records: { offset: number; value: string }[] = []
  const offsets = new Set<number>()
  for (const bytes of batches) {
    for (const { at, header } of eachBatch(bytes)) {
      served.note(topic.topicId, partition, header, 'the end')
      offsets.add(header.baseOffset)
      if (header.isControl) continue
      for (const { offset, value } of await decodeRecords(bytes, at, sim.codec, MIB)) {
        records.push({ offset, value: textOf(value) })
      }
    }
  }
  served.checkAllThere(topic.topicId, partition, startOffset, offsets)
  if (!READ_TOPICS.some(name => name === topic.name)) return
  for (const { host } of sim.clients) readers.check(`${host} ${topic.name}`, partition, records)
}

function textOf(value: Uint8Array | null): string {
  return utf8Text(value ?? new Uint8Array(0)).trimEnd()
}

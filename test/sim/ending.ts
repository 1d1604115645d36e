import { eachBatch } from '../../common/batch.ts'
import { MIB } from '../../common/limits.ts'
import type { Ports, Topic } from '../../hub/ports.ts'
import type { ReadersChecker } from './checkers/readers.ts'
import type { EdgeHost } from './edge-host.ts'
import { createDoomed } from './faults-topic.ts'
import type { Sim } from './sim.ts'
import { edgeConfig, PLENTY_BYTES, READ_TOPICS } from './sim.ts'

/** After the faults all comes to its end: everything offered is taken, everything taken is read, in bounded time. */

/** After the last fault everything offered is taken in so long; what a deleted topic leaves gathers for a minute. */
const DRAIN_MS = 200_000
/** In which an edge that is connected hears where its lanes are. */
const SETTLE_MS = 3_000
/** An orderly stop takes at most. */
const STOP_MS = 30_000
/** Nodes that run and reach each other know the same after so long. */
const CONVERGE_MS = 30_000

/** A partition as it stands at the end. */
export interface FinalPartition {
  topic: Topic
  partition: number
  batches: Uint8Array[]
  startOffset: number
  highWatermark: number
}

/** Everything offered is taken. */
export async function drain(sim: Sim): Promise<void> {
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

export async function untilReadersAreThere(
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

/** What the cluster holds. */
export async function readEverything(sim: Sim): Promise<FinalPartition[]> {
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

/** All nodes that are there come to know the same of topics and partitions. */
export async function untilNodesAgree(sim: Sim): Promise<void> {
  const views = (): Set<string> => {
    const there = sim.nodes.filter(node => !sim.away.has(node))
    return new Set(there.map(({ running }) => (running === null ? '' : viewOf(running.engine.ports))))
  }
  await sim.until('all nodes know the same', () => views().size === 1, CONVERGE_MS)
}

function viewOf({ topics, cluster }: Ports): string {
  const known = topics.list().sort((one, other) => (one.topicId < other.topicId ? -1 : 1))
  return JSON.stringify(
    known.map(({ topicId, name, partitions, replication, config }) => {
      const settings = Object.entries(config).sort(([one], [other]) => (one < other ? -1 : 1))
      return [topicId, name, partitions, replication, settings, cluster.placements(topicId)]
    }),
  )
}

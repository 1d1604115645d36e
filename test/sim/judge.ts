import type { BatchHeader } from '../../common/batch.ts'
import { eachBatch } from '../../common/batch.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { utf8Text } from '../../common/bytes.ts'
import { MIB } from '../../common/limits.ts'
import type { Topic } from '../../hub/ports.ts'
import { checkAlarms, checkFound, checkNotices, readAll } from '../spine/check.ts'
import type { MetadataChecker } from './checkers/metadata.ts'
import type { PartitionsChecker } from './checkers/partitions.ts'
import type { ReadersChecker } from './checkers/readers.ts'
import { checkReplicas } from './checkers/replicas.ts'
import { SdkRecordsChecker } from './checkers/sdk-records.ts'
import type { ServedChecker } from './checkers/served.ts'
import type { FinalPartition } from './ending.ts'
import type { Sim } from './sim.ts'
import { READ_TOPICS } from './sim.ts'

/** Judges what the cluster holds in the end by all that was offered, acked, served and declared. */

export async function judge(
  sim: Sim,
  partitions: readonly FinalPartition[],
  served: ServedChecker,
  readers: ReadersChecker,
  states: PartitionsChecker,
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
  const finalOf = (name: string, partition: number): FinalPartition | undefined =>
    partitions.find(({ topic, ...each }) => topic.name === name && each.partition === partition)
  sdk.check({
    startOf: (name, partition) => finalOf(name, partition)?.startOffset ?? 0,
    electedMs: (name, partition) =>
      states.electedMs(finalOf(name, partition)?.topic.topicId ?? '', partition),
    writerElectedMs: (name, partition, offset) => {
      const found = finalOf(name, partition)
      if (found === undefined) return Number.NEGATIVE_INFINITY
      return states.epochElectedMs(found.topic.topicId, partition, leaderEpochAt(found, offset))
    },
    isCalm: sim.plan.faults.length === 0 && sim.plan.nodes === 1,
  })
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

/** In-sync replicas are the same, as their disks have them, and a majority holds all metadata. */
export async function compareReplicas(
  sim: Sim,
  partitions: readonly FinalPartition[],
  metadata: MetadataChecker,
): Promise<void> {
  if (sim.nodes.length === 1) return
  const ports = sim.controllerPorts()
  if (ports === null) throw new Error(`no node is the active controller; ${sim.describe()}`)
  const expected = partitions.map(({ topic: { topicId }, partition, highWatermark }) => {
    const isr = ports.cluster.placements(topicId)[partition]?.isr ?? []
    return { topicId, partition, isr, highWatermark }
  })
  const voters = ports.cluster.nodes().filter(({ isVoter }) => isVoter)
  const away = new Set([...sim.away].map(({ nodeId }) => nodeId))
  for (const node of sim.nodes) node.kill()
  let complete = 0
  await checkReplicas(sim, expected, (nodeId, terms, end) => {
    if (away.has(nodeId)) return
    const isComplete = metadata.stored(nodeId, terms, end)
    if (isComplete && voters.some(voter => voter.nodeId === nodeId)) complete++
  })
  if (complete * 2 > voters.length) return
  throw new Error(`${complete} of ${voters.length} voters hold all metadata that was committed`)
}

/** The leader epoch of the batch that holds `offset`, or of the first behind it; -1 where there is none. */
function leaderEpochAt({ batches }: FinalPartition, offset: number): number {
  for (const bytes of batches) {
    for (const { header } of eachBatch(bytes)) if (header.lastOffset >= offset) return header.leaderEpoch
  }
  return -1
}

async function checkReaders(
  sim: Sim,
  { topic, partition, batches, startOffset, highWatermark }: FinalPartition,
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
  for (const { host } of sim.clients)
    readers.check(`${host} ${topic.name}`, partition, records, highWatermark)
}

export function textOf(value: Uint8Array | null): string {
  return utf8Text(value ?? new Uint8Array(0)).trimEnd()
}

import { eachBatch } from '../../../common/batch.ts'
import type { Env } from '../../../common/env.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { MIB } from '../../../common/limits.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import { openSnapshots } from '../../../common/log/snapshots.ts'
import type { Log } from '../../../common/log/types.ts'
import { METADATA_LOG } from '../../../hub/engines/cluster/quorum/storage.ts'
import { SimProcess } from '../process.ts'
import type { Sim } from '../sim.ts'
import { checkRemembered } from './remembered.ts'

/** The logs of a partition's in-sync replicas are the same, batch for batch, up to the high watermark. */

interface Batch {
  lastOffset: number
  leaderEpoch: number
  crc: number
}

/** As they stand in a log, by base offset. */
type Batches = Map<number, Batch>

interface Replica {
  nodeId: number
  startOffset: number
  batches: Batches
  /** What rotted and was not read since. */
  damaged: readonly Range[]
}

interface Range {
  from: number
  to: number
}

function isSame(one: Batch, other: Batch | undefined): boolean {
  return (
    other !== undefined &&
    one.lastOffset === other.lastOffset &&
    one.leaderEpoch === other.leaderEpoch &&
    one.crc === other.crc
  )
}

/** Told of the metadata that a node's disk holds: terms by index, and where its log ends. */
export type MetadataListener = (nodeId: number, terms: ReadonlyMap<number, number>, end: number) => void

/** A partition as the cluster says it is. */
export interface ExpectedPartition {
  topicId: string
  partition: number
  isr: readonly number[]
  highWatermark: number
}

const OPTIONS = { commitMs: 0, journalBytes: MIB, reserveBytes: 0, tailCacheBytes: MIB }
const LOG_OPTIONS = {
  segmentBytes: MIB,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: 64 * MIB,
}

/** Throws what differs. The nodes must not run. */
export async function checkReplicas(
  sim: Sim,
  expected: readonly ExpectedPartition[],
  metadata: MetadataListener,
): Promise<void> {
  const replicas = new Map<string, Replica[]>()
  for (const node of sim.nodes) {
    const disk = node.disk.copy()
    const auditor = new SimProcess(sim.world, {
      name: `auditor ${node.nodeId}`,
      id: 90 + node.nodeId,
      host: `auditor${node.nodeId}`,
      disk,
      clock: node.clock,
      slowness: () => 0,
      codec: sim.codec,
      dial: () => Promise.reject(new Error('an auditor dials nobody')),
    })
    // Its disk takes no time: nothing else happens any more.
    const env = { ...auditor.env, disk }
    await readNode(env, node.nodeId, expected, replicas, metadata)
  }
  for (const each of expected) compare(each, replicas.get(`t/${each.topicId}/${each.partition}`) ?? [])
}

async function readNode(
  env: Env,
  nodeId: number,
  expected: readonly ExpectedPartition[],
  into: Map<string, Replica[]>,
  metadata: MetadataListener,
): Promise<void> {
  if (!(await env.disk.exists('/hub/meta.json'))) return
  const directory = await openDataDir('/hub', OPTIONS, env)
  const there = new Set(directory.logNames())
  if (there.has(METADATA_LOG)) {
    const log = await directory.openLog(METADATA_LOG, LOG_OPTIONS)
    const { batches } = await readLog(log, Number.POSITIVE_INFINITY)
    const terms = new Map([...batches].map(([index, { leaderEpoch }]) => [index, leaderEpoch]))
    metadata(nodeId, terms, log.durableEndOffset())
  }
  for (const { topicId, partition, highWatermark } of expected) {
    const name = `t/${topicId}/${partition}`
    if (!there.has(name)) continue
    const log = await directory.openLog(name, LOG_OPTIONS)
    const snapshots = await openSnapshots(env.disk, `/hub/producers/${topicId}/${partition}`)
    await checkRemembered(log, snapshots, `node ${nodeId}, ${topicId}/${partition}`)
    const replica = { nodeId, startOffset: log.startOffset(), ...(await readLog(log, highWatermark)) }
    into.set(name, [...(into.get(name) ?? []), replica])
  }
}

async function readLog(log: Log, highWatermark: number): Promise<Pick<Replica, 'batches' | 'damaged'>> {
  const batches: Batches = new Map()
  const damaged: Range[] = []
  const end = Math.min(highWatermark, log.durableEndOffset())
  for (let offset = log.startOffset(); offset < end; ) {
    const next = await readSome(log, offset, highWatermark, batches, damaged)
    if (next <= offset) break
    offset = next
  }
  return { batches, damaged }
}

/** Gives the offset to read from next. */
async function readSome(
  log: Log,
  from: number,
  highWatermark: number,
  batches: Batches,
  damaged: Range[],
): Promise<number> {
  try {
    const read = await log.read(from, MIB)
    for (const { header } of eachBatch(read.batches)) {
      const { baseOffset, lastOffset, leaderEpoch, crc } = header
      if (baseOffset < highWatermark) batches.set(baseOffset, { lastOffset, leaderEpoch, crc })
    }
    return read.nextOffset
  } catch (error) {
    const to: unknown = isTributaryError(error, 'corrupt_log') ? error.details.toOffset : null
    if (typeof to !== 'number') throw error
    damaged.push({ from, to })
    return to
  }
}

function compare({ topicId, partition, isr }: ExpectedPartition, replicas: readonly Replica[]): void {
  const inSync = replicas.filter(({ nodeId }) => isr.includes(nodeId))
  const [first, ...others] = inSync
  if (first === undefined) return
  for (const other of others) {
    const from = Math.max(first.startOffset, other.startOffset)
    for (const [one, two] of [
      [first, other],
      [other, first],
    ] as const) {
      for (const [baseOffset, batch] of one.batches) {
        const other = two.batches.get(baseOffset)
        if (baseOffset < from || isSame(batch, other)) continue
        if (two.damaged.some(range => baseOffset >= range.from && baseOffset < range.to)) continue
        const [ours, theirs] = [JSON.stringify(batch), JSON.stringify(other ?? null)]
        throw new Error(
          `${topicId}/${partition} at ${baseOffset}: node ${one.nodeId} has ${ours}, node ${two.nodeId} ${theirs}`,
        )
      }
    }
  }
}

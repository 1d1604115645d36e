import { eachBatch } from '../../../common/batch.ts'
import type { Env } from '../../../common/env.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { MIB } from '../../../common/limits.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { Log } from '../../../common/log/types.ts'
import { SimProcess } from '../process.ts'
import type { Sim } from '../sim.ts'

/** The logs of a partition's in-sync replicas are the same, batch for batch, up to the high watermark. */

/** A batch as it stands in a log: base offset to the rest of what names it. */
type Batches = Map<number, string>

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
export async function checkReplicas(sim: Sim, expected: readonly ExpectedPartition[]): Promise<void> {
  const replicas = new Map<string, Replica[]>()
  for (const node of sim.nodes) {
    const disk = node.disk.copy()
    const process = new SimProcess(sim.world, {
      name: `auditor ${node.nodeId}`,
      id: 90 + node.nodeId,
      host: `auditor${node.nodeId}`,
      disk,
      clock: node.clock,
      slowness: () => 0,
      codec: sim.codec,
      dial: () => Promise.reject(new Error('an auditor dials nobody')),
    })
    await readNode(process.env, node.nodeId, expected, replicas)
  }
  for (const each of expected) compare(each, replicas.get(`t/${each.topicId}/${each.partition}`) ?? [])
}

async function readNode(
  env: Env,
  nodeId: number,
  expected: readonly ExpectedPartition[],
  into: Map<string, Replica[]>,
): Promise<void> {
  if (!(await env.disk.exists('/hub/meta.json'))) return
  const directory = await openDataDir('/hub', OPTIONS, env)
  const there = new Set(directory.logNames())
  for (const { topicId, partition, highWatermark } of expected) {
    const name = `t/${topicId}/${partition}`
    if (!there.has(name)) continue
    const log = await directory.openLog(name, LOG_OPTIONS)
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
      if (baseOffset < highWatermark)
        batches.set(baseOffset, `to ${lastOffset}, epoch ${leaderEpoch}, crc ${crc}`)
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
        if (baseOffset < from || two.batches.get(baseOffset) === batch) continue
        if (two.damaged.some(range => baseOffset >= range.from && baseOffset < range.to)) continue
        const theirs = two.batches.get(baseOffset) ?? 'nothing'
        throw new Error(
          `${topicId}/${partition} at ${baseOffset}: node ${one.nodeId} has ${batch}, node ${two.nodeId} ${theirs}`,
        )
      }
    }
  }
}

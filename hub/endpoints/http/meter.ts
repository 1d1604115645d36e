import { eachBatch } from '../../../common/batch.ts'
import { isTributaryError } from '../../../common/errors.ts'
import type { Reading, Sample } from '../../../common/metrics.ts'
import { mapReading } from '../../../common/metrics.ts'
import type { LaneTip } from '../../../common/wire.ts'
import type { Gap, LaneKey, Logs, Ports, RunStart } from '../../ports.ts'

/**
 * Counts what goes through the ports, for whichever endpoint: records and bytes per topic, gaps, refusals by code. Lies
 * around the engine, so that endpoints need not count and cannot count differently.
 */

/** Topics counted by name; the rest is counted together. */
export const MAX_METERED_TOPICS = 1_000
const OTHERS = '(others)'

interface Traffic {
  inRecords: number
  inBytes: number
  outRecords: number
  outBytes: number
}

export interface Meter {
  /** Like the ports given, and counting. */
  ports: Ports
  readings: Reading[]
}

export function meterPorts(inner: Ports): Meter {
  const traffic = new Map<string, Traffic>()
  const refused = new Map<string, number>()
  const gaps = new Map<string, number>()
  const gapRecords = new Map<string, number>()

  function trafficOf(topicId: string): Traffic {
    const known = traffic.get(topicId)
    if (known !== undefined) return known
    const key = traffic.size < MAX_METERED_TOPICS ? topicId : OTHERS
    const made = traffic.get(key) ?? { inRecords: 0, inBytes: 0, outRecords: 0, outBytes: 0 }
    traffic.set(key, made)
    return made
  }

  function countIn(topicId: string, records: number, bytes: number): void {
    const counts = trafficOf(topicId)
    counts.inRecords += records
    counts.inBytes += bytes
  }

  function countRefused(error: unknown): never {
    add(refused, isTributaryError(error) ? error.code : 'internal', 1)
    throw error
  }

  function countGap(reason: string, before: LaneTip | null, after: LaneTip): void {
    const first = before?.run === after.run ? before.next : 0
    if (before?.run === after.run && after.next <= before.next) return
    add(gaps, reason, 1)
    add(gapRecords, reason, after.next - first)
  }

  const { logs } = inner
  const metered: Logs = {
    bounds: (topicId, partition) => logs.bounds(topicId, partition),
    append: async (topicId, partition, batches, acks) => {
      const records = recordsIn(batches)
      const result = await logs.append(topicId, partition, batches, acks).catch(countRefused)
      countIn(topicId, records, batches.length)
      return result
    },
    appendLane: async (lane: LaneKey, batches) => {
      const records = recordsIn(batches)
      const tip = await logs.appendLane(lane, batches).catch(countRefused)
      countIn(lane.topicId, records, batches.length)
      return tip
    },
    startRun: async (lane: LaneKey, start: RunStart) => {
      const before = logs.tip(lane)
      const tip = await logs.startRun(lane, start).catch(countRefused)
      const declaresLoss = start.reason === 'wiped' || start.reason === 'fork'
      if (declaresLoss && before !== null && before.run !== start.run) add(gaps, start.reason, 1)
      return tip
    },
    declareGap: async (lane: LaneKey, gap: Gap) => {
      const before = logs.tip(lane)
      const tip = await logs.declareGap(lane, gap).catch(countRefused)
      countGap(gap.reason, before, tip)
      return tip
    },
    tip: lane => logs.tip(lane),
    read: async (topicId, partition, offset, maxBytes) => {
      const result = await logs.read(topicId, partition, offset, maxBytes).catch(countRefused)
      const counts = trafficOf(topicId)
      counts.outRecords += result.nextOffset - offset
      counts.outBytes += result.batches.length
      return result
    },
    offsetForTime: (topicId, partition, timeMs) => logs.offsetForTime(topicId, partition, timeMs),
    whenPast: (topicId, partition, offset, listener) => logs.whenPast(topicId, partition, offset, listener),
    allocateProducerId: () => logs.allocateProducerId(),
  }
  const ports: Ports = {
    clusterId: inner.clusterId,
    nodeId: inner.nodeId,
    topics: inner.topics,
    logs: metered,
    fleet: inner.fleet,
    notReadyReason: () => inner.notReadyReason(),
  }
  return {
    ports,
    readings: [
      ...trafficReadings(inner, traffic),
      mapReading('tributary_refused_total', 'Appends and reads refused, by error code.', 'code', refused),
      mapReading('tributary_gaps_total', 'Gaps declared by edges, by reason.', 'reason', gaps),
      mapReading(
        'tributary_gap_records_total',
        'Records that gaps stand for, where counted.',
        'reason',
        gapRecords,
      ),
    ],
  }
}

function add(counts: Map<string, number>, key: string, count: number): void {
  counts.set(key, (counts.get(key) ?? 0) + count)
}

/** Records by the headers alone; batches that are not whole count as none, the engine will refuse them. */
function recordsIn(batches: Uint8Array): number {
  let records = 0
  try {
    for (const { header } of eachBatch(batches)) records += header.recordCount
  } catch {
    return 0
  }
  return records
}

function trafficReadings(inner: Ports, traffic: Map<string, Traffic>): Reading[] {
  const perTopic = (name: string, help: string, pick: (counts: Traffic) => number): Reading => ({
    name: `tributary_topic_${name}_total`,
    help,
    kind: 'counter',
    labels: ['topic'],
    read: () => samplesByTopic(inner, traffic, pick),
  })
  return [
    perTopic('in_records', 'Records appended.', counts => counts.inRecords),
    perTopic('in_bytes', 'Bytes of batches appended.', counts => counts.inBytes),
    perTopic('out_records', 'Offsets read by subscribers and REST.', counts => counts.outRecords),
    perTopic('out_bytes', 'Bytes of batches read by subscribers and REST.', counts => counts.outBytes),
    {
      name: 'tributary_dead_letters_total',
      help: 'Records refused for good and appended to _dead.',
      kind: 'counter',
      read: () => {
        const dead = inner.topics.list().find(topic => topic.name === '_dead')
        return dead === undefined ? 0 : (traffic.get(dead.topicId)?.inRecords ?? 0)
      },
    },
  ]
}

function samplesByTopic(
  inner: Ports,
  traffic: Map<string, Traffic>,
  pick: (counts: Traffic) => number,
): Sample[] {
  const names = new Map(inner.topics.list().map(topic => [topic.topicId, topic.name]))
  const samples: Sample[] = []
  for (const [topicId, counts] of traffic) {
    const name = topicId === OTHERS ? OTHERS : names.get(topicId)
    if (name === undefined) traffic.delete(topicId)
    else samples.push({ labels: { topic: name }, value: pick(counts) })
  }
  return samples
}

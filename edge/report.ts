import type { DataDirStats } from '../common/log/types.ts'
import type { LaneReport, ReportFrame } from '../common/wire.ts'
import { WIRE_LIMITS } from '../common/wire.ts'
import type { Alarm } from './alarms.ts'
import { lostBetween } from './gaps.ts'
import type { Lane } from './lane.ts'
import type { MqttStats } from './mqtt/stats.ts'
import type { Store, StoreStats } from './store.ts'
import type { Uplink, UplinkStats } from './uplink.ts'
import type { WindowCounts, WindowStats } from './windows.ts'

/** What an edge says of itself: to the hub, and as JSON to people and machines. */

/** One lane of a topic, in the lane's own offsets. */
export interface LaneStatus extends LaneReport, WindowCounts {
  startOffset: number
  endOffset: number
  durableEndOffset: number
  sentOffset: number
  committedOffset: number
  sizeBytes: number
  /** Losses the hub has not confirmed yet. */
  gaps: { from: number; to: number; reason: string }[]
  deadRecords: number
}

/** `GET /status`. */
export interface EdgeStatus {
  id: string
  version: string
  uptimeMs: number
  hub: string
  connected: boolean
  /** Over all lanes. */
  lagRecords: number
  lagBytes: number
  oldestMs: number | null
  droppedRecords: number
  deadRecords: number
  /** Dropped by policy since the start. */
  conflatedReadings: number
  thinnedReadings: number
  uplink: UplinkStats
  disk: { usedBytes: number; budgetBytes: number }
  storage: DataDirStats
  ingest: StoreStats
  windows: WindowStats
  mqtt: MqttStats | null
  lanes: LaneStatus[]
  alarms: Alarm[]
}

/** How far the hub is behind on a lane. Bytes are estimated by the lane's average record. */
function laneReport(store: Store, lane: Lane): LaneReport {
  const { topic, lane: index, committed, endOffset, startOffset, gaps } = lane.ledger
  // Also what is not durable yet or held back: dead letters on their way must not look as if all were settled.
  const inLog = Math.max(0, endOffset - committed - lostBetween(gaps, committed, endOffset))
  const lagRecords = inLog + store.windows.counts(lane).heldReadings
  const kept = endOffset - startOffset
  const lagBytes = kept <= 0 ? 0 : Math.round((lane.sizeBytes() * Math.min(lagRecords, kept)) / kept)
  const oldestMs = lagRecords === 0 ? null : store.space.oldestMs(lane)
  return { topic, lane: index, lagRecords, lagBytes, oldestMs, droppedRecords: lane.droppedRecords }
}

/** What the hub is told every `reportMs`. */
export function hubReport(store: Store): Pick<ReportFrame, 'diskBytes' | 'diskBudgetBytes' | 'lanes'> {
  const lanes: LaneReport[] = []
  for (const lane of store.lanes.values()) {
    if (lanes.length >= WIRE_LIMITS.maxReportLanes) break
    lanes.push(laneReport(store, lane))
  }
  return { diskBytes: store.space.usedBytes(), diskBudgetBytes: store.space.budgetBytes(), lanes }
}

export function laneStatus(store: Store, uplink: Uplink, lane: Lane): LaneStatus {
  const { startOffset, endOffset, durableEnd, committed, gaps } = lane.ledger
  return {
    ...laneReport(store, lane),
    ...store.windows.counts(lane),
    startOffset,
    endOffset,
    durableEndOffset: durableEnd,
    sentOffset: uplink.sentOffset(lane),
    committedOffset: committed,
    sizeBytes: lane.sizeBytes(),
    gaps: gaps.map(({ from, to, reason }) => ({ from, to, reason })),
    deadRecords: lane.deadRecords,
  }
}

type SummedField =
  | 'lagRecords'
  | 'lagBytes'
  | 'droppedRecords'
  | 'deadRecords'
  | 'conflatedReadings'
  | 'thinnedReadings'

export interface StatusSources {
  id: string
  version: string
  hub: string
  startedMs: number
  store: Store
  uplink: Uplink
  mqtt(): MqttStats | null
}

export function edgeStatus(sources: StatusSources): EdgeStatus {
  const { id, version, hub, store, uplink } = sources
  const lanes = [...store.lanes.values()].map(lane => laneStatus(store, uplink, lane))
  const sum = (field: SummedField): number => lanes.reduce((total, lane) => total + lane[field], 0)
  const oldest = lanes.map(lane => lane.oldestMs).filter(atMs => atMs !== null)
  const ofUplink = uplink.stats()
  return {
    id,
    version,
    uptimeMs: Math.round(store.env.clock.monotonicMs() - sources.startedMs),
    hub,
    connected: ofUplink.connected,
    lagRecords: sum('lagRecords'),
    lagBytes: sum('lagBytes'),
    oldestMs: oldest.length === 0 ? null : Math.min(...oldest),
    droppedRecords: sum('droppedRecords'),
    deadRecords: sum('deadRecords'),
    conflatedReadings: sum('conflatedReadings'),
    thinnedReadings: sum('thinnedReadings'),
    uplink: ofUplink,
    disk: { usedBytes: store.space.usedBytes(), budgetBytes: store.space.budgetBytes() },
    storage: store.directory.stats(),
    ingest: store.stats(),
    windows: store.windows.stats(),
    mqtt: sources.mqtt(),
    lanes,
    alarms: store.alarms.list(),
  }
}

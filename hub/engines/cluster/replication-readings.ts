import type { Clock } from '../../../common/env.ts'
import type { Reading } from '../../../common/metrics.ts'
import { counter, gauge as gaugeOf } from '../../../common/metrics.ts'
import type { Image } from '../../controller/image.ts'
import { isBelowMinInSync } from './overview.ts'
import type { PartitionChanges } from './partition-changes.ts'
import type { PartitionTable } from './partitions.ts'
import type { ReplicationStats } from './replication.ts'

/** What `/metrics` shows of partitions, their replicas and the nodes that have them. */

/** Counting partitions takes a moment, and a scrape asks for each metric by itself. */
const COUNTS_KEPT_MS = 100

export interface ReplicationReadingsContext {
  clock: Pick<Clock, 'monotonicMs'>
  nodeId: number
  image(): Image
  partitions: Pick<PartitionTable, 'open'>
  replication(): ReplicationStats
  changes: PartitionChanges
}

export function replicationReadings(context: ReplicationReadingsContext): Reading[] {
  const { clock, replication, changes } = context
  let cached: { counts: Counts; atMs: number } | null = null
  const counts = (): Counts => {
    const atMs = clock.monotonicMs()
    if (cached === null || atMs - cached.atMs > COUNTS_KEPT_MS) cached = { counts: countAll(context), atMs }
    return cached.counts
  }
  const gauge = (name: string, help: string, read: (now: Counts) => number): Reading =>
    gaugeOf(name, help, () => read(counts()))
  return [
    gauge('cluster_nodes', 'Nodes of the cluster, as this one knows.', now => now.nodes),
    gauge('cluster_nodes_active', 'Those that are alive, as this one knows.', now => now.activeNodes),
    gauge(
      'cluster_partitions_offline',
      'Partitions of the cluster without a leader, as this node knows: the same on every node.',
      now => now.offline,
    ),
    gauge('partitions_led', 'Partitions that this node leads.', now => now.led),
    gauge('replicas', 'Replicas that this node has.', now => now.replicas),
    gauge(
      'partitions_under_replicated',
      'Partitions led here with fewer replicas in sync than there are.',
      now => now.underReplicated,
    ),
    gauge(
      'partitions_below_min_in_sync',
      'Partitions led here with too few replicas in sync to take what asks for all acks.',
      now => now.belowMinInSync,
    ),
    gauge('partitions_reassigning', 'Partitions led here whose replicas move.', now => now.reassigning),
    gauge(
      'replica_lag_records_max',
      'Offsets that the replica furthest behind of a partition led here has yet to make durable.',
      now => now.lag,
    ),
    counter(
      'leader_elections',
      'Times that this node was made the leader of a partition.',
      () => changes.elections,
    ),
    counter(
      'unclean_leader_elections',
      'Of them those outside the in-sync set: records that were acked may be lost.',
      () => changes.uncleanElections,
    ),
    counter('isr_shrinks', 'In-sync sets of partitions led here that became smaller.', () => changes.shrinks),
    counter('isr_expands', 'In-sync sets of partitions led here that became larger.', () => changes.expands),
    counter(
      'isr_refused',
      'In-sync sets that this node proposed and the controller refused.',
      () => replication().refused,
    ),
    gauge(
      'replication_followed',
      'Replicas here that follow a leader elsewhere.',
      () => replication().followed,
    ),
    gauge('replication_sessions', 'Nodes that fetch from this one.', () => replication().sessions),
    counter(
      'replication_bytes_in',
      'Bytes of batches fetched from leaders.',
      () => replication().bytesFetched,
    ),
    counter('replication_bytes_out', 'Bytes of batches sent to followers.', () => replication().bytesSent),
    counter(
      'replication_failures',
      'Fetches that failed and were tried again.',
      () => replication().failures,
    ),
    counter(
      'replica_truncations',
      'Logs cut because they parted from their leader’s.',
      () => replication().cuts,
    ),
    counter(
      'replica_truncations_below_watermark',
      'Of them those that lost committed records to an unclean leader.',
      () => replication().cutsBelowWatermark,
    ),
    counter('replica_restarts', 'Logs begun anew where their leader’s starts.', () => replication().restarts),
  ]
}

type Counts = ReturnType<typeof countAll>

function countAll({ nodeId, image: imageNow, partitions }: ReplicationReadingsContext) {
  const image = imageNow()
  const nodes = image.nodes()
  const counts = {
    nodes: nodes.length,
    activeNodes: nodes.filter(node => !node.fenced).length,
    replicas: image.partitionsOn(nodeId).size,
    ...{ offline: 0, led: 0, underReplicated: 0, belowMinInSync: 0, reassigning: 0, lag: 0 },
  }
  for (const state of image.partitionStates()) {
    if (state.leader === null) counts.offline++
    if (state.leader !== nodeId) continue
    counts.led++
    if (state.isr.length < state.replicas.length) counts.underReplicated++
    if (isBelowMinInSync(image, state)) counts.belowMinInSync++
    if (state.adding.length + state.removing.length > 0) counts.reassigning++
  }
  for (const replica of partitions.open()) counts.lag = Math.max(counts.lag, replica.inSync()?.lag() ?? 0)
  return counts
}

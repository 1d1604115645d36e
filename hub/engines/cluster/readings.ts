import type { Reading, Sample } from '../../../common/metrics.ts'
import { counter as counterOf, dataDirReadings, gauge as gaugeOf } from '../../../common/metrics.ts'
import type { TopicCounters } from '../../replica/stats.ts'
import type { EngineStats } from './engine.ts'

/** Topics with a label of their own in the metrics, by age; the rest are counted together. */
const MAX_TOPIC_LABELS = 1_000
const REST_LABEL = '(rest)'

type PlainCounter = Exclude<keyof TopicCounters, 'refused'>

const TOPIC_METRICS: readonly (readonly [PlainCounter, string, string])[] = [
  ['recordsIn', 'records_in', 'Records committed.'],
  ['bytesIn', 'bytes_in', 'Bytes of batches committed.'],
  ['batchesIn', 'batches_in', 'Batches committed.'],
  ['duplicateBatches', 'duplicate_batches', 'Batches that were held already and not appended again.'],
  ['recordsOut', 'records_out', 'Offsets passed by reads.'],
  ['bytesOut', 'bytes_out', 'Bytes of batches read.'],
  ['gaps', 'gaps', 'Gaps declared.'],
  ['gapRecords', 'gap_records', 'Records missing by declared gaps, where their count is known.'],
  [
    'summarised',
    'summarised_readings',
    'Readings that edges dropped by policy (conflate, thin), as they declared.',
  ],
  ['runs', 'runs', 'Runs of edges begun.'],
]

/** What `/metrics` shows of the engine. */
export function engineReadings(stats: () => EngineStats): Reading[] {
  const gauge = (name: string, help: string, read: (now: EngineStats) => number): Reading =>
    gaugeOf(name, help, () => read(stats()))
  const counter = (name: string, help: string, read: (now: EngineStats) => number): Reading =>
    counterOf(name, help, () => read(stats()))
  return [
    ...dataDirReadings(() => stats().data),
    ...TOPIC_METRICS.map(([key, name, help]): Reading => {
      const read = (): Sample[] => byTopic(stats(), counters => counters[key])
      return { name: `tributary_topic_${name}_total`, help, kind: 'counter', labels: ['topic'], read }
    }),
    {
      name: 'tributary_topic_refused_total',
      help: 'Appends, runs and gaps refused, by error code.',
      kind: 'counter',
      labels: ['code'],
      read: () => refusals(stats()),
    },
    gauge('topics', 'Topics.', now => now.topics.length),
    gauge('partitions', 'Partitions of all topics.', now =>
      now.topics.reduce((total, { partitions }) => total + partitions, 0),
    ),
    gauge('edges', 'Edges known.', now => now.edges.known),
    gauge('edges_connected', 'Edges connected.', now => now.edges.connected),
    gauge('edge_alarms', 'Alarms kept about edges: forks, clones, rollbacks.', now => now.edges.alarms),
    gauge('lanes', 'Lanes of edges with a tip.', now => now.producers.lanes),
    gauge('client_producers', 'Idempotent client producers remembered.', now => now.producers.clients),
    counter(
      'client_producers_evicted',
      'Client producers forgotten because a partition had too many.',
      now => now.producers.evicted,
    ),
    counter('gap_notice_failures', 'Gaps that could not be told of in _gaps.', now => now.gapNoticeFailures),
    counter('metadata_requests', 'Requests to the controller.', now => now.metadata.requests),
    counter(
      'metadata_snapshot_failures',
      'Snapshots of the metadata that found no room on the disk or in the journal.',
      now => now.metadata.snapshotFailures,
    ),
    gauge('metadata_term', 'Election of the quorum that this node is in.', now => now.metadata.term),
    gauge('metadata_controller', 'Node that is the active controller, 0 where none is known.', now =>
      now.metadata.leader === null ? 0 : now.metadata.leader,
    ),
    gauge('metadata_active', '1 where this node is the active controller.', now =>
      now.metadata.isActive ? 1 : 0,
    ),
    counter('metadata_elections', 'Elections that this node stood in.', now => now.metadata.elections),
    gauge('metadata_commit_index', 'Last entry of the metadata that this node knows to be committed.', now =>
      Math.max(0, now.metadata.commitIndex),
    ),
    gauge('metadata_applied_index', 'Last entry of the metadata applied here.', now =>
      Math.max(0, now.metadata.appliedIndex),
    ),
    gauge('node_aside', '1 while the node stands aside because its disk does not answer.', now =>
      now.metadata.isAside ? 1 : 0,
    ),
    gauge('metadata_voters', 'Members of the quorum that vote.', now => now.metadata.voters),
    gauge(
      'metadata_learners',
      'Members of the quorum that follow without a vote.',
      now => now.metadata.learners,
    ),
    gauge('metadata_log_bytes', 'Size of the metadata log.', now => now.metadata.logBytes),
    gauge('clock_jump_seconds', 'How far the wall clock jumped while that pauses retention, else 0.', now =>
      now.clockJumpMs === null ? 0 : now.clockJumpMs / 1_000,
    ),
  ]
}

function byTopic({ topics }: EngineStats, pick: (counters: TopicCounters) => number): Sample[] {
  const samples: Sample[] = []
  let rest = 0
  for (const { topic, counters } of topics) {
    if (samples.length < MAX_TOPIC_LABELS) samples.push({ labels: { topic }, value: pick(counters) })
    else rest += pick(counters)
  }
  if (rest > 0) samples.push({ labels: { topic: REST_LABEL }, value: rest })
  return samples
}

function refusals({ topics }: EngineStats): Sample[] {
  const sums = new Map<string, number>()
  for (const { counters } of topics) {
    for (const [code, count] of Object.entries(counters.refused))
      sums.set(code, (sums.get(code) ?? 0) + count)
  }
  return [...sums].map(([code, value]) => ({ labels: { code }, value }))
}

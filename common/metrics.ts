import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import type { DataDirStats } from './log/types.ts'

/**
 * Prometheus metrics of a process. Parts count in plain numbers on their hot paths and hand in readings; they are read
 * when somebody scrapes and cost nothing in between.
 */

/** One value under its labels. */
export interface Sample {
  labels: Readonly<Record<string, string>>
  value: number
}

/** A metric to be read at each scrape. */
export interface Reading {
  /** With unit, and `_total` for counters, as Prometheus has it. */
  name: string
  help: string
  kind: 'counter' | 'gauge'
  /** Names of the labels; none where absent. Their values must be few: bounded by whoever hands in the reading. */
  labels?: readonly string[]
  read(): number | Iterable<Sample>
}

export interface Metrics {
  add(readings: readonly Reading[]): void
  /** The text exposition format. */
  text(): Promise<string>
  readonly contentType: string
}

/** How often the event-loop delay is looked at; the default of 10 ms would wake an idle edge 100 times a second. */
const EVENT_LOOP_RESOLUTION_MS = 50

/** A registry with the process's own metrics: CPU, memory, handles, garbage collection, event-loop delay. */
export function createMetrics(): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: EVENT_LOOP_RESOLUTION_MS })
  return {
    add: readings => {
      for (const reading of readings) register(registry, reading)
    },
    text: () => registry.metrics(),
    contentType: registry.contentType,
  }
}

function register(registry: Registry, reading: Reading): void {
  const { name, help, kind } = reading
  const settings = { name, help, labelNames: reading.labels ?? [], registers: [registry] }
  if (kind === 'gauge') {
    const gauge = new Gauge({
      ...settings,
      collect: () => {
        gauge.reset()
        for (const { labels, value } of samplesOf(reading)) gauge.set(labels, value)
      },
    })
  } else {
    const counter = new Counter({
      ...settings,
      collect: () => {
        counter.reset()
        for (const { labels, value } of samplesOf(reading)) counter.inc(labels, value)
      },
    })
  }
}

function samplesOf(reading: Reading): Iterable<Sample> {
  const value = reading.read()
  return typeof value === 'number' ? [{ labels: {}, value }] : value
}

/** A counter with one label, from a map of its values. */
export function mapReading(
  name: string,
  help: string,
  label: string,
  counts: ReadonlyMap<string, number>,
): Reading {
  return {
    name,
    help,
    kind: 'counter',
    labels: [label],
    read: () => Array.from(counts, ([key, value]) => ({ labels: { [label]: key }, value })),
  }
}

/** A gauge of this product, as `tributary_NAME`. */
export function gauge(name: string, help: string, read: () => number): Reading {
  return { name: `tributary_${name}`, help, kind: 'gauge', read }
}

/** A counter of this product, as `tributary_NAME_total`. */
export function counter(name: string, help: string, read: () => number): Reading {
  return { name: `tributary_${name}_total`, help, kind: 'counter', read }
}

/** What a data directory says of its commits. */
export function dataDirReadings(stats: () => DataDirStats): Reading[] {
  const counter = (name: string, help: string, read: (stats: DataDirStats) => number): Reading => {
    return { name: `tributary_storage_${name}`, help, kind: 'counter', read: () => read(stats()) }
  }
  const gauge = (name: string, help: string, read: (stats: DataDirStats) => number): Reading => {
    return { name: `tributary_storage_${name}`, help, kind: 'gauge', read: () => read(stats()) }
  }
  return [
    counter('commits_total', 'Commits of the data directory.', stats => stats.commits),
    counter('committed_bytes_total', 'Bytes of batches committed.', stats => stats.committedBytes),
    counter('commit_failures_total', 'Commits that failed.', stats => stats.commitFailures),
    counter(
      'disk_full_total',
      'Appends refused because the disk was full.',
      stats => stats.diskFullRejections,
    ),
    counter(
      'throttled_total',
      'Appends refused because too much waited for the disk.',
      stats => stats.throttledRejections,
    ),
    counter('checkpoints_total', 'Checkpoints written.', stats => stats.checkpoints),
    counter(
      'background_failures_total',
      'Index files, sidecars and removals of old segments that failed.',
      stats => stats.backgroundFailures,
    ),
    counter(
      'indexes_evicted_total',
      'Indexes of closed segments that made room for others.',
      stats => stats.indexesEvicted,
    ),
    gauge(
      'commit_stuck_seconds',
      'For how long a commit under way has had no answer of the disk.',
      stats => stats.commitStuckMs / 1_000,
    ),
    gauge('index_bytes', 'Memory of the indexes of closed segments.', stats => stats.indexBytes),
    gauge('pending_appends', 'Appends waiting for their commit.', stats => stats.pendingAppends),
    gauge('pending_bytes', 'Bytes waiting for their commit.', stats => stats.pendingBytes),
    {
      name: 'tributary_storage_fdatasync_seconds',
      help: 'Duration of fdatasync, recent.',
      kind: 'gauge',
      labels: ['quantile'],
      read: () => {
        const { fdatasyncP50Ms, fdatasyncP99Ms } = stats()
        return [
          { labels: { quantile: '0.5' }, value: fdatasyncP50Ms / 1_000 },
          { labels: { quantile: '0.99' }, value: fdatasyncP99Ms / 1_000 },
        ]
      },
    },
  ]
}

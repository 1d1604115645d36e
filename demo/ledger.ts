/**
 * The demo's book-keeping: what was published and acked, what the subscriber saw live, what the hub's log
 * holds at the end. Pure: every call brings its times.
 */

/** Latencies kept for the percentiles; a uniform sample beyond that. */
const MAX_LATENCY_SAMPLES = 100_000

/** The line `tributary demo --json` ends with. */
export interface DemoReport {
  published: number
  acked: number
  /** Distinct readings in the hub's log. */
  stored: number
  /** Distinct readings that reached the live subscriber. */
  delivered: number
  /** Acked readings that the log lacks. */
  lost: number
  /** Copies beyond the first in the log. */
  duplicated: number
  /** Readings whose first copy stands behind a later reading of their device. */
  reordered: number
  latencyMs: { p50: number; p99: number }
}

interface Device {
  published: number
  /** Sequence numbers without an ack below `published`; acks come nearly in order, so this stays small. */
  unacked: Set<number>
  live: Sequence
  log: Sequence
  lastValue: number | undefined
}

/** Copies and order of one device's readings in one stream of records. */
interface Sequence {
  /** Every reading below it was seen. */
  prefix: number
  /** Readings seen at or above `prefix`; empty while nothing is missing. */
  ahead: Set<number>
  highest: number
  duplicated: number
  reordered: number
}

export interface Ledger {
  /** Takes the next reading of `device`; its sequence number. */
  published(device: string, value: number): number
  acked(device: string, sequence: number): void
  /** The live subscriber got a reading; `latencyMs` since it was published. */
  delivered(device: string, sequence: number, latencyMs: number, random: number): void
  /** The reading back of the whole log at the end found one. */
  stored(device: string, sequence: number): void
  deliveredCount(): number
  ackedCount(): number
  publishedCount(): number
  lastValues(): [string, number][]
  latency(): { p50: number; p99: number }
  report(): DemoReport
}

const newSequence = (): Sequence => ({
  prefix: 0,
  ahead: new Set(),
  highest: -1,
  duplicated: 0,
  reordered: 0,
})

const seen = (sequence: Sequence, n: number): boolean => n < sequence.prefix || sequence.ahead.has(n)
const seenCount = (sequence: Sequence): number => sequence.prefix + sequence.ahead.size

/** Counts a copy; true for the first one of a reading. */
function note(sequence: Sequence, n: number): boolean {
  if (seen(sequence, n)) {
    sequence.duplicated++
    return false
  }
  sequence.ahead.add(n)
  while (sequence.ahead.delete(sequence.prefix)) sequence.prefix++
  if (n < sequence.highest) sequence.reordered++
  else sequence.highest = n
  return true
}

export function createLedger(): Ledger {
  const devices = new Map<string, Device>()
  const latencies: number[] = []
  let measured = 0

  const device = (name: string): Device => {
    let found = devices.get(name)
    if (found === undefined) {
      found = {
        published: 0,
        unacked: new Set(),
        live: newSequence(),
        log: newSequence(),
        lastValue: undefined,
      }
      devices.set(name, found)
    }
    return found
  }
  const sum = (of: (device: Device) => number): number => {
    let total = 0
    for (const one of devices.values()) total += of(one)
    return total
  }
  const ackedCount = (): number => sum(d => d.published - d.unacked.size)
  const latency = (): { p50: number; p99: number } => {
    const sorted = latencies.toSorted((a, b) => a - b)
    const at = (q: number): number => Math.round((sorted[Math.floor(q * (sorted.length - 1))] ?? 0) * 10) / 10
    return { p50: at(0.5), p99: at(0.99) }
  }

  return {
    published: (name, value) => {
      const d = device(name)
      d.lastValue = value
      d.unacked.add(d.published)
      return d.published++
    },
    acked: (name, n) => {
      device(name).unacked.delete(n)
    },
    delivered: (name, n, latencyMs, random) => {
      if (!note(device(name).live, n)) return
      measured++
      if (latencies.length < MAX_LATENCY_SAMPLES) latencies.push(latencyMs)
      else {
        const at = Math.floor(random * measured)
        if (at < MAX_LATENCY_SAMPLES) latencies[at] = latencyMs
      }
    },
    stored: (name, n) => {
      note(device(name).log, n)
    },
    deliveredCount: () => sum(d => seenCount(d.live)),
    ackedCount,
    publishedCount: () => sum(d => d.published),
    lastValues: () =>
      [...devices].flatMap(([name, d]) => (d.lastValue === undefined ? [] : [[name, d.lastValue]])),
    latency,
    report: () => ({
      published: sum(d => d.published),
      acked: ackedCount(),
      stored: sum(d => seenCount(d.log)),
      delivered: sum(d => seenCount(d.live)),
      lost: sum(lostOf),
      duplicated: sum(d => d.log.duplicated + d.live.duplicated),
      reordered: sum(d => d.log.reordered + d.live.reordered),
      latencyMs: latency(),
    }),
  }
}

function lostOf(device: Device): number {
  let lost = 0
  for (let n = 0; n < device.published; n++) {
    if (!device.unacked.has(n) && !seen(device.log, n)) lost++
  }
  return lost
}

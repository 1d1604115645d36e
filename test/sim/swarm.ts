import { KIB, MIB } from '../../common/limits.ts'
import { seededRng } from '../rng.ts'

/** What one seed sets up: how many of each, how they are configured, which faults happen. Each seed enables a few of them (swarm testing). */

/** Faults and how often they come, where enabled, by weight. */
export const FAULTS = {
  'node kill': 3,
  'node power': 3,
  'node restart': 2,
  'node pause': 2,
  'node slow disk': 2,
  'node sync failed': 1,
  'node disk full': 1,
  'node clock': 2,
  'all nodes power': 1,
  'node wipe': 1,
  'node rollback': 1,
  'node clone': 1,
  'bit flip': 1,
  'node added': 1,
  'node drained': 1,
  'node removed': 1,
  'leaders balanced': 2,
  'topic reassigned': 1,
  'partition one way': 3,
  'partition both ways': 3,
  'node cut off': 2,
  'link cut': 4,
  'link stalled': 3,
  'dials refused': 1,
  'slow network': 2,
  'edge kill': 1,
  'edge power': 2,
  'edge restart': 2,
  'edge pause': 1,
  'edge offline': 2,
  'edge clock': 2,
  'edge disk full': 1,
  'edge sync failed': 1,
  'edge budget': 1,
  'edge clone': 1,
  'edge rollback': 1,
  'edge wipe': 1,
  'edge bit flip': 1,
  'edge lanes': 1,
  'record too large': 1,
  'client kill': 2,
  'topic deleted': 1,
  'topic altered': 1,
  'followers uneven': 2,
} as const

export type Fault = keyof typeof FAULTS

export interface SwarmPlan {
  seed: number
  nodes: number
  edges: number
  clients: number
  faults: [Fault, number][]
  /** Between two faults, about. */
  faultEveryMs: number
  safetyMs: number
  replication: number
  partitions: number
  latencyMs: number
  jitterMs: number
  /** Of frames that may be lost, doubled or late. */
  unreliable: { drop: number; twice: number; late: number }
  hub: {
    journalBytes: number
    segmentBytes: number
    tailCacheBytes: number
    commitMs: number
    replicaLagMaxMs: number
    reassignBytesPerSecond: number
    maxInflightBytesPerConnection: number
  }
  edge: EdgePlan
  /** Records a second, of one edge and of one client. */
  edgeRate: number
  clientRate: number
}

export interface EdgePlan {
  lanes: number
  keepAckedMs: number
  segmentBytes: number
  windowBytes: number
  maxBatchBytes: number
  compression: 'zstd' | 'none'
  commitMs: number
}

/** Faults that the product is known not to stand yet. */
const NOT_YET: ReadonlySet<Fault> = new Set()

/** Overrides of what the seed says, for who looks for something. */
export interface Wanted {
  nodes?: number
  faults?: readonly Fault[]
  faultEveryMs?: number
  latencyMs?: number
}

/** Drawn after all else, so that what seeds from before them say besides stays. */
const DRAWN_LAST: ReadonlySet<Fault> = new Set<Fault>(['followers uneven'])

const NEVER_FAULTY = 0.06

export function planOf(seed: number, wanted: Wanted = {}): SwarmPlan {
  const rng = seededRng(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995)
  const pick = <T>(first: T, ...more: T[]): T => [first, ...more][rng.below(more.length + 1)] ?? first
  const nodes = pick(1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5)
  const edges = 1 + rng.below(3)
  const clients = 1 + rng.below(2)
  const share = pick(0.15, 0.35, 0.6)
  const isCalm = rng.float() < NEVER_FAULTY
  const isDrawn = ([name]: [Fault, number]): boolean => rng.float() < share && !isCalm && !NOT_YET.has(name)
  const faults = entriesOf(FAULTS).filter(each => !DRAWN_LAST.has(each[0]) && isDrawn(each))
  const isUnreliable = rng.float() < 0.4
  const plan: SwarmPlan = {
    seed,
    nodes: wanted.nodes ?? nodes,
    edges,
    clients,
    faults: wanted.faults?.map(name => [name, FAULTS[name]]) ?? faults,
    faultEveryMs: chosen(wanted.faultEveryMs, pick(400, 1_000, 2_500)),
    safetyMs: 24_000 + rng.below(8_000),
    replication: 3,
    partitions: 1 + rng.below(3),
    latencyMs: chosen(wanted.latencyMs, pick(0.1, 1, 10)),
    jitterMs: pick(0.1, 2, 20),
    unreliable: {
      drop: isUnreliable ? pick(0.001, 0.01, 0.1) : 0,
      twice: isUnreliable ? pick(0.001, 0.01, 0.1) : 0,
      late: isUnreliable ? pick(0.001, 0.01, 0.1) : 0,
    },
    hub: {
      journalBytes: 512 * KIB,
      segmentBytes: pick(64, 64, 256) * KIB,
      tailCacheBytes: pick(64 * KIB, MIB),
      commitMs: pick(0, 0, 5),
      replicaLagMaxMs: pick(500, 2_000, 10_000),
      reassignBytesPerSecond: pick(64 * KIB, 50 * MIB),
      maxInflightBytesPerConnection: 64 * KIB,
    },
    edge: {
      lanes: 1 + rng.below(2),
      keepAckedMs: pick(0, 0, 3_600_000, 86_400_000),
      segmentBytes: pick(16 * KIB, 16 * MIB),
      windowBytes: pick(4, 16, 256) * KIB,
      maxBatchBytes: pick(KIB, 8 * KIB, 64 * KIB),
      compression: pick('zstd' as const, 'none'),
      commitMs: pick(0, 10),
    },
    edgeRate: pick(25, 40) / edges,
    clientRate: pick(8, 14) / clients,
  }
  if (wanted.faults === undefined) {
    plan.faults.push(...entriesOf(FAULTS).filter(each => DRAWN_LAST.has(each[0]) && isDrawn(each)))
  }
  return plan
}

/** What the seed says is drawn in any case: all that it says besides stays. */
function chosen(wanted: number | undefined, drawn: number): number {
  return wanted ?? drawn
}

function entriesOf<K extends string, V>(object: Readonly<Record<K, V>>): [K, V][] {
  const entries: [K, V][] = []
  for (const key in object) entries.push([key, object[key]])
  return entries
}

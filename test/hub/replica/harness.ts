import { nodeCodec } from '../../../common/compression.ts'
import { DAY_MS } from '../../../common/limits.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { Snapshots } from '../../../common/log/snapshots.ts'
import { openSnapshots } from '../../../common/log/snapshots.ts'
import type { Damage, DataDir, Log, LogOptions } from '../../../common/log/types.ts'
import type { GapControl } from '../../../hub/replica/control.ts'
import { Partition } from '../../../hub/replica/partition.ts'
import type { Role } from '../../../hub/replica/role.ts'
import type { TopicCounters } from '../../../hub/replica/stats.ts'
import { newTopicCounters } from '../../../hub/replica/stats.ts'
import { FakeClock, seededRng } from '../../fake-clock.ts'
import { FakeDisk } from '../../fake-disk.ts'

/** A partition in a data directory on a fake disk. */
export interface Opened {
  disk: FakeDisk
  clock: FakeClock
  dataDir: DataDir
  log: Log
  snapshots: Snapshots
  partition: Partition
  counters: TopicCounters
  gaps: { gap: GapControl; offset: number }[]
  damage: Damage[]
}

export interface HarnessOptions {
  disk?: FakeDisk
  clock?: FakeClock
  seed?: number
  log?: Partial<LogOptions>
  maxRecordBytes?: number
  producerIdExpirationMs?: number
  hubTimeMs?: () => number
  leaderEpoch?: number
  /** It follows another node instead of leading alone. */
  follows?: boolean
}

/** The role of a partition's only replica. */
function loneLeader(leaderEpoch: number): Role {
  const seats = { replicas: [1], isr: [1], leaderEpoch, partitionEpoch: 0 }
  return { kind: 'leader', self: 1, seats, required: 1 }
}

const codec = nodeCodec()

/** Opens (or opens again) the partition on `disk`. */
export async function openOn(options: HarnessOptions = {}): Promise<Opened> {
  const rng = seededRng(options.seed ?? 1)
  const disk = options.disk ?? new FakeDisk({ rng })
  const clock = options.clock ?? new FakeClock()
  const directory = {
    commitMs: 0,
    journalBytes: 256 * 1024,
    reserveBytes: 64 * 1024,
    tailCacheBytes: 1024 * 1024,
  }
  const dataDir = await openDataDir('/data', directory, { clock, rng, disk })
  const log = await dataDir.openLog('p', {
    segmentBytes: 64 * 1024,
    segmentMs: Number.POSITIVE_INFINITY,
    retentionBytes: Number.POSITIVE_INFINITY,
    retentionMs: Number.POSITIVE_INFINITY,
    maxBatchBytes: 128 * 1024,
    ...options.log,
  })
  const snapshots = await openSnapshots(disk, '/data/producers/p')
  const gaps: Opened['gaps'] = []
  const damage: Damage[] = []
  const counters = newTopicCounters()
  const partition = new Partition({
    name: 'test/0',
    clock,
    codec,
    exists: () => false,
    open: async () => ({ log, snapshots }),
    limits: () => ({ maxBatchBytes: 128 * 1024, maxRecordBytes: options.maxRecordBytes ?? 32 * 1024 }),
    producerIdExpirationMs: options.producerIdExpirationMs ?? 7 * DAY_MS,
    hubTimeMs: options.hubTimeMs ?? (() => clock.nowMs()),
    onGap: (gap, offset) => void gaps.push({ gap, offset }),
    onDamage: found => void damage.push(found),
    counters,
    events: { acting: () => {}, failed: () => {}, damaged: () => {}, durable: () => {}, watermark: () => {} },
  })
  if (options.follows === true)
    partition.assign({ kind: 'follower', leader: 2, leaderEpoch: 1, adding: false })
  else partition.assign(loneLeader(options.leaderEpoch ?? 0))
  await partition.open()
  return { disk, clock, dataDir, log, snapshots, partition, counters, gaps, damage }
}

/** The code a promise rejects with, or `none`. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'none'
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error)
  }
}

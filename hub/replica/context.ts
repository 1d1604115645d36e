import type { Clock, Codec } from '../../common/env.ts'
import type { Snapshots } from '../../common/log/snapshots.ts'
import type { Damage, Log } from '../../common/log/types.ts'
import type { AdmissionLimits } from './admission.ts'
import type { GapControl } from './control.ts'
import type { TopicCounters } from './stats.ts'

/** What a replica is given by the engine around it. */
export interface ReplicaContext {
  /** For messages: topic and number. */
  name: string
  clock: Clock
  codec: Codec
  /** Whether there is a log of it on the disk, which it must know before it does anything. */
  exists(): boolean
  /** Opens its log, making it where there is none, and the snapshots of its producers. */
  open(): Promise<{ log: Log; snapshots: Snapshots }>
  /** As the topic's settings are now. */
  limits(): AdmissionLimits
  /** After which a silent client's producer is forgotten, see HubStorageConfig. */
  producerIdExpirationMs: number
  /** Stamped into appends, see hub-time.ts. */
  hubTimeMs(): number
  /** A gap's control batch was appended at `offset` by this leader; called in the same synchronous turn, so that what it appends shares the commit. */
  onGap(gap: GapControl, offset: number): void
  /** A stretch of the log is lost: no replica has it. */
  onDamage(damage: Damage): void
  counters: TopicCounters
  events: ReplicaEvents
}

/** What a replica tells in the turn in which it happens; for its fetches and those of its followers. */
export interface ReplicaEvents {
  /** It acts by the role that it was assigned last. */
  acting(): void
  /** It can't, as its log could not be opened: `retry` it later. */
  failed(error: unknown): void
  /** A stretch of its log is damaged that other replicas may have, or it is to lead and lacks what they may know of producers. */
  damaged(): void
  /** More of its log is durable. */
  durable(): void
  /** As a leader: the watermark may have moved, or the log's start. */
  watermark(): void
}

import type { Clock, Codec } from '../../common/env.ts'
import type { Snapshots } from '../../common/log/snapshots.ts'
import type { Damage, Log } from '../../common/log/types.ts'
import type { AdmissionLimits } from './admission.ts'
import type { GapControl } from './control.ts'
import type { TopicCounters } from './stats.ts'

/** What a partition is given by the engine around it. */
export interface PartitionContext {
  /** For messages: topic and number. */
  name: string
  log: Log
  clock: Clock
  codec: Codec
  /** Of its producers. */
  snapshots: Snapshots
  leaderEpoch: number
  /** As the topic's settings are now. */
  limits(): AdmissionLimits
  /** Stamped into appends, see hub-time.ts. */
  hubTimeMs(): number
  /** A gap's control batch was appended at `offset`; called in the same synchronous turn, so that what it appends shares the commit. */
  onGap(gap: GapControl, offset: number): void
  /** A stretch of the log is lost. */
  onDamage(damage: Damage): void
  counters: TopicCounters
}

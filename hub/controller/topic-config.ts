import { TributaryError } from '../../common/errors.ts'
import { KIB, MIB, MINUTE_MS } from '../../common/limits.ts'
import type { TopicConfig } from '../ports.ts'

/** Below it a topic would be all segment files. */
const MIN_SEGMENT_BYTES = 64 * KIB
/** Above it an offset index no longer fits comfortably in memory. */
const MAX_SEGMENT_BYTES = 1024 * MIB
/** Retention is looked at about once a minute. */
const MIN_RETENTION_MS = MINUTE_MS
const MIN_MAX_RECORD_BYTES = KIB

/** Replicas of a partition: every one more is another copy of all that is written. */
export const MAX_REPLICATION = 15

interface Rule {
  min: number
  max: number
  nullable: boolean
}

const WHOLE = Number.MAX_SAFE_INTEGER

function rules(maxRecordBytesCeiling: number): Readonly<Record<(typeof NUMBERS)[number], Rule>> {
  return {
    retentionMs: { min: MIN_RETENTION_MS, max: WHOLE, nullable: true },
    retentionBytes: { min: MIN_SEGMENT_BYTES, max: WHOLE, nullable: true },
    segmentBytes: { min: MIN_SEGMENT_BYTES, max: MAX_SEGMENT_BYTES, nullable: false },
    maxRecordBytes: { min: MIN_MAX_RECORD_BYTES, max: maxRecordBytesCeiling, nullable: false },
    minInsyncReplicas: { min: 1, max: MAX_REPLICATION, nullable: true },
  }
}

/** Throws `invalid_argument` naming the setting, its value and what is allowed. */
export function checkTopicConfig(config: TopicConfig, maxRecordBytesCeiling: number): void {
  const checks = rules(maxRecordBytesCeiling)
  for (const name of NUMBERS) {
    const { min, max, nullable } = checks[name]
    const value = config[name]
    if (value === null ? nullable : Number.isSafeInteger(value) && value >= min && value <= max) continue
    const range = max === WHOLE ? `a whole number from ${min}` : `a whole number from ${min} to ${max}`
    throw new TributaryError(
      'invalid_argument',
      `${name} is ${String(value)}; it must be ${range}${nullable ? ', or null' : ''}`,
      { details: { setting: name } },
    )
  }
}

const NUMBERS = [
  'retentionMs',
  'retentionBytes',
  'segmentBytes',
  'maxRecordBytes',
  'minInsyncReplicas',
] as const

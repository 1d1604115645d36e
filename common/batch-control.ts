import { readHeader } from './batch.ts'
import type { RecordHeader } from './batch-builder.ts'
import { buildBatch } from './batch-builder.ts'
import { decodePlain } from './batch-records.ts'
import { readI16, writeU16 } from './bytes.ts'
import { TributaryError } from './errors.ts'

/**
 * Control batches: one record that speaks of the log instead of being data. As Kafka's, its key is version i16 = 0 and
 * type i16; consumers of the Kafka protocol skip them whatever the type. Kafka's own types are 0 to 6; ours start at 1001.
 */

/** Records of this producer are missing here, and why. */
export const CONTROL_GAP = 1001
/** A run begins here, and what came before it. */
export const CONTROL_RUN = 1002
/** In an edge's local log only: what a policy dropped before it had sequences. Goes to the hub as a gap, see wire.ts. */
export const CONTROL_SUMMARY = 1003

const CONTROL_KEY_VERSION = 0

export interface ControlRecord {
  type: number
  /** What the type says it is; see its owner. */
  value: Uint8Array
}

/** A control batch at offset 0. Without `baseSequence` the sequences of its producer do not count it. */
export function buildControlBatch(
  control: ControlRecord & {
    producerId: number
    timestampMs: number
    baseSequence?: number
    headers?: readonly RecordHeader[]
  },
): Uint8Array {
  const key = new Uint8Array(4)
  writeU16(key, 0, CONTROL_KEY_VERSION)
  writeU16(key, 2, control.type)
  const { value, timestampMs, producerId, baseSequence, headers = [] } = control
  return buildBatch([{ key, value, headers, timestampMs }], {
    producerId,
    isControl: true,
    ...(baseSequence === undefined ? {} : { baseSequence }),
  })
}

/** What the control batch at `at` says. Throws `corrupt_batch` where it is none or has no record of a known shape. */
export function readControl(bytes: Uint8Array, at: number): ControlRecord {
  if (!readHeader(bytes, at).isControl) throw new TributaryError('corrupt_batch', 'this is no control batch')
  const record = decodePlain(bytes, at)[0]
  const key = record?.key ?? null
  if (key === null || key.length !== 4 || readI16(key, 0) !== CONTROL_KEY_VERSION) {
    throw new TributaryError('corrupt_batch', 'a control batch has no record with a key of version 0')
  }
  return { type: readI16(key, 2), value: record?.value ?? new Uint8Array(0) }
}

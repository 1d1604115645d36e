import { z } from 'zod'
import { buildControlBatch, CONTROL_GAP, CONTROL_RUN, readControl } from '../../common/batch-control.ts'
import type { CborInput } from '../../common/cbor.ts'
import { decodeCbor, encodeCbor } from '../../common/cbor.ts'
import { GAP_REASONS } from '../../common/wire.ts'
import type { GapRange, LaneId, RunAnnouncement } from './lanes.ts'

/**
 * What the hub writes about edges into a partition's own log, so that its tips can be read from the log alone. Control
 * batches carry no time: a search by event time must not stop at them.
 */

const NO_TIME_MS = -1

const sequence = z.int().min(0)
const nullableTime = z.int().nullable()

const gapSchema = z.object({
  edge: z.string(),
  lane: sequence,
  run: sequence,
  from: sequence,
  to: sequence,
  reason: z.enum(GAP_REASONS),
  firstMs: nullableTime,
  lastMs: nullableTime,
  localFrom: sequence,
  localTo: sequence,
  /** Null: not known, and then from and to say nothing. */
  count: sequence.nullable(),
  /** Of a summary: `count` readings of so many keys, dropped by a policy of the edge; from and to are its own place. */
  keys: sequence.nullable().default(null),
})

const runSchema = z.object({
  edge: z.string(),
  lane: sequence,
  run: sequence,
  prev: z.object({ run: sequence, end: sequence }).nullable(),
  /** `removed`: the edge was removed, its lane starts anew. */
  reason: z.enum(['next', 'first', 'wiped', 'fork', 'moved', 'removed']),
})

export type GapControl = z.infer<typeof gapSchema>
export type RunControl = z.infer<typeof runSchema>

/** A gap as it stands in the log. */
export function gapControl({ edge, lane }: LaneId, gap: GapRange, count: number | null): GapControl {
  const { run, from, to, reason, firstMs, lastMs, localFrom, localTo, keys = null } = gap
  return { edge, lane, run, from, to, reason, firstMs, lastMs, localFrom, localTo, count, keys }
}

/** A run's start as it stands in the log. */
export function runControl({ edge, lane }: LaneId, start: RunAnnouncement): RunControl {
  const { run, prev, reason } = start
  return { edge, lane, run, prev, reason }
}

/** The control batch of a gap; its producer is the run. */
export function gapBatch(gap: GapControl): Uint8Array {
  const value: Record<string, CborInput> = { ...gap }
  return buildControlBatch({
    type: CONTROL_GAP,
    value: encodeCbor(value),
    producerId: gap.run,
    timestampMs: NO_TIME_MS,
  })
}

/** The control batch of a run's start; its producer is the run. */
export function runBatch(control: RunControl): Uint8Array {
  const value: Record<string, CborInput> = { ...control }
  return buildControlBatch({
    type: CONTROL_RUN,
    value: encodeCbor(value),
    producerId: control.run,
    timestampMs: NO_TIME_MS,
  })
}

export type EdgeControl = { type: 'gap'; gap: GapControl } | { type: 'run'; run: RunControl }

/** What the control batch at `at` says of an edge, null where it is of another kind. Throws where it is malformed. */
export function readEdgeControl(bytes: Uint8Array, at: number): EdgeControl | null {
  const { type, value } = readControl(bytes, at)
  if (type === CONTROL_GAP) return { type: 'gap', gap: gapSchema.parse(plain(value)) }
  if (type === CONTROL_RUN) return { type: 'run', run: runSchema.parse(plain(value)) }
  return null
}

function plain(value: Uint8Array): Record<string, unknown> {
  const map = decodeCbor(value)
  if (!(map instanceof Map)) return {}
  const fields: Record<string, unknown> = {}
  for (const [key, field] of map) fields[key] = field instanceof Map ? Object.fromEntries(field) : field
  return fields
}

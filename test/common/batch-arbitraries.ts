import fc from 'fast-check'
import type { RecordInput } from '../../common/batch-builder.ts'
import type { DecodedRecord } from '../../common/batch-records.ts'

/** Random records and batches for property tests. */

const bytes = fc.uint8Array({ maxLength: 40 })
const nullableBytes = fc.option(bytes, { freq: 6 })
const timestampMs = fc.oneof(
  fc.integer({ min: 1_700_000_000_000, max: 1_700_000_100_000 }),
  fc.integer({ min: -1, max: 4_000_000_000_000 }),
)

export const recordArbitrary: fc.Arbitrary<RecordInput> = fc.record({
  key: nullableBytes,
  value: fc.oneof({ weight: 8, arbitrary: nullableBytes }, fc.uint8Array({ minLength: 60, maxLength: 300 })),
  headers: fc.array(
    fc.record({ key: fc.string({ unit: 'grapheme', maxLength: 12 }), value: nullableBytes }),
    {
      maxLength: 4,
    },
  ),
  timestampMs,
})

export const recordsArbitrary = fc.array(recordArbitrary, { minLength: 1, maxLength: 40 })

/** A producer as a run of an edge is one, or none. */
export const producerArbitrary = fc.oneof(
  fc.constant({}),
  fc.record({
    producerId: fc.integer({ min: 2 ** 52, max: 2 ** 53 - 1 }),
    producerEpoch: fc.integer({ min: 0, max: 0x7fff }),
    baseSequence: fc.integer({ min: 0, max: 0x7fffff00 }),
  }),
)

/** What was given to be written, from what was read. */
export function asInput({ key, value, headers, timestampMs }: DecodedRecord): RecordInput {
  return { key, value, headers, timestampMs }
}

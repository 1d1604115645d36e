import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { HeaderFields } from '../../common/batch.ts'
import {
  BATCH_HEADER_BYTES,
  batchSizeAt,
  eachBatch,
  readHeader,
  stampBatch,
  validateBatch,
  writeHeader,
} from '../../common/batch.ts'
import { buildBatch } from '../../common/batch-builder.ts'
import { decodePlain } from '../../common/batch-records.ts'
import { concat, utf8, writeU32 } from '../../common/bytes.ts'
import { isTributaryError } from '../../common/errors.ts'
import { asInput, producerArbitrary, recordsArbitrary } from './batch-arbitraries.ts'

const LIMITS = { maxBatchBytes: 1e6 }
const RECORD = { key: utf8('k'), value: utf8('v'), headers: [], timestampMs: 1_700_000_000_000 }
const CORRUPT = expect.objectContaining({ code: 'corrupt_batch' })

/** A batch of three records whose header says something else, under a right CRC. */
function sealed(changes: Partial<HeaderFields>): Uint8Array {
  const batch = buildBatch([RECORD, RECORD, RECORD], { producerId: 5, baseSequence: 9 })
  writeHeader(batch, 0, 0, { ...readHeader(batch, 0), attributes: 0, ...changes })
  return batch
}

describe('header', () => {
  test('says what was built', () => {
    const later = { ...RECORD, timestampMs: RECORD.timestampMs + 5 }
    const producer = { producerId: 2 ** 53 - 1, producerEpoch: 3, baseSequence: 70_000 }
    const batch = buildBatch([later, RECORD], { ...producer, baseOffset: 2 ** 45 + 1 })
    stampBatch(batch, 0, 2 ** 45 + 1, 12)
    expect(validateBatch(batch, 0, LIMITS)).toEqual({
      ...producer,
      baseOffset: 2 ** 45 + 1,
      lastOffset: 2 ** 45 + 2,
      sizeBytes: batch.length,
      leaderEpoch: 12,
      magic: 2,
      crc: expect.any(Number),
      compression: 'none',
      isControl: false,
      isTransactional: false,
      logAppendTime: false,
      lastOffsetDelta: 1,
      baseTimestampMs: later.timestampMs,
      maxTimestampMs: later.timestampMs,
      recordCount: 2,
    })
  })

  test('is read where only its 61 bytes are there', () => {
    const batch = buildBatch([RECORD])
    expect(readHeader(batch.subarray(0, BATCH_HEADER_BYTES), 0).sizeBytes).toBe(batch.length)
    expect(() => readHeader(batch.subarray(0, BATCH_HEADER_BYTES - 1), 0)).toThrow(/no whole header/)
  })

  test('attributes are told apart', () => {
    expect(readHeader(sealed({ attributes: 4 | 8 }), 0)).toMatchObject({
      compression: 'zstd',
      logAppendTime: true,
    })
    expect(readHeader(sealed({ attributes: 3 | 16 }), 0)).toMatchObject({
      compression: 'lz4',
      isTransactional: true,
    })
    expect(readHeader(sealed({ attributes: 2 | 32 }), 0)).toMatchObject({
      compression: 'snappy',
      isControl: true,
    })
  })
})

describe('validation refuses', () => {
  const cases: [string, Uint8Array, RegExp][] = [
    ['an unknown compression', sealed({ attributes: 6 }), /unknown compression 6/],
    ['more records than offsets', sealed({ recordCount: 4 }), /record count is 4, last offset delta 2/],
    ['fewer records than offsets', sealed({ recordCount: 2 }), /record count is 2/],
    ['no records', sealed({ recordCount: 0, lastOffsetDelta: -1 }), /last offset delta is -1/],
    ['a negative count', sealed({ recordCount: -1, lastOffsetDelta: 0 }), /record count is -1/],
    ['more records than bytes', sealed({ recordCount: 1e9, lastOffsetDelta: 1e9 - 1 }), /do not fit/],
    ['one record more than bytes', sealed({ recordCount: 4, lastOffsetDelta: 3 }), /4 records do not fit/],
    ['a producer below -1', sealed({ producerId: -2 }), /producer id is -2/],
    ['a negative epoch', sealed({ producerEpoch: -1 }), /producer epoch is -1/],
    ['a negative sequence', sealed({ baseSequence: -1 }), /base sequence is -1/],
    ['another magic', sealed({}).with(16, 1), /magic is 1/],
    ['a time beyond 2^53', sealed({}).fill(0x7f, 27, 35), /base timestamp is beyond 2\^53/],
    ['a negative base offset', sealed({}).fill(0xff, 0, 8), /base offset is -1/],
    ['a wrong CRC', sealed({}).with(17, 0), /CRC-32C is [0-9a-f]{8}, the header says/],
    ['a cut tail', sealed({}).subarray(0, -1), /bytes, only \d+ are there/],
    ['a length below the header', sealed({}).fill(0, 8, 12), /length of 0 is too small/],
    ['a negative length', sealed({}).fill(0xff, 8, 12), /length of -1 is too small/],
  ]
  test.each(cases)('%s', (_, bytes, message) => {
    expect(() => validateBatch(bytes, 0, LIMITS)).toThrow(message)
    expect(() => validateBatch(bytes, 0, LIMITS)).toThrow(CORRUPT)
  })

  test('what is over the limit, before it looks further', () => {
    const batch = buildBatch([RECORD])
    const limits = { maxBatchBytes: batch.length - 1 }
    expect(() => validateBatch(batch.subarray(0, 12), 0, limits)).toThrow(
      expect.objectContaining({
        code: 'record_too_large',
        details: { sizeBytes: batch.length, maxBatchBytes: batch.length - 1 },
      }),
    )
    expect(validateBatch(batch, 0, { maxBatchBytes: batch.length }).recordCount).toBe(1)
  })
})

describe('validation allows', () => {
  test('holes where compaction made them, and only there', () => {
    const limits = { ...LIMITS, allowCompacted: true }
    const compacted = sealed({ recordCount: 3, lastOffsetDelta: 9 })
    expect(validateBatch(compacted, 0, limits).lastOffset).toBe(9)
    expect(() => validateBatch(compacted, 0, LIMITS)).toThrow(CORRUPT)
    expect(validateBatch(sealed({ recordCount: 0 }), 0, limits).recordCount).toBe(0)
    expect(() => validateBatch(sealed({ recordCount: 4 }), 0, limits)).toThrow(CORRUPT)
    expect(() => validateBatch(sealed({ recordCount: -1 }), 0, limits)).toThrow(CORRUPT)
  })

  test('whatever epoch and sequence clients write where there is no producer', () => {
    for (const none of [-1, 0]) {
      const batch = sealed({ producerId: -1, producerEpoch: none, baseSequence: none })
      expect(validateBatch(batch, 0, LIMITS).producerId).toBe(-1)
    }
  })
})

test('a batch is found at its place among others, and a partial tail is left', () => {
  fc.assert(
    fc.property(fc.array(recordsArbitrary, { minLength: 1, maxLength: 5 }), fc.nat(70), (groups, cut) => {
      const batches = groups.map((records, index) => buildBatch(records, { baseOffset: index * 1000 }))
      const tail = buildBatch([RECORD]).subarray(0, cut)
      const bytes = concat([...batches, tail])
      const found = [...eachBatch(bytes)]
      const whole = cut >= batchSizeAt(buildBatch([RECORD]), 0) ? [...batches, tail] : batches
      expect(found.map(({ header }) => header.sizeBytes)).toEqual(whole.map(batch => batch.length))
      for (const [index, { at, header }] of found.entries()) {
        expect(validateBatch(bytes, at, LIMITS)).toEqual(header)
        expect(decodePlain(bytes, at).map(asInput)).toEqual(groups[index] ?? [RECORD])
      }
    }),
  )
})

test('iteration tells garbage from a partial tail', () => {
  expect([...eachBatch(new Uint8Array(11))]).toEqual([])
  expect(() => [...eachBatch(new Uint8Array(12))]).toThrow(CORRUPT)
})

test('stamping changes offset and epoch and nothing else', () => {
  fc.assert(
    fc.property(
      recordsArbitrary,
      producerArbitrary,
      fc.maxSafeInteger(),
      fc.integer(),
      (records, producer, at, epoch) => {
        const baseOffset = Math.abs(at) % 2 ** 52
        const batch = buildBatch(records, producer)
        const before = validateBatch(batch, 0, LIMITS)
        stampBatch(batch, 0, baseOffset, epoch)
        const lastOffset = baseOffset + before.lastOffsetDelta
        const after = { ...before, baseOffset, lastOffset, leaderEpoch: epoch }
        expect(validateBatch(batch, 0, LIMITS)).toEqual(after)
      },
    ),
  )
})

test('an offset that is none is a bug', () => {
  const batch = buildBatch([RECORD])
  expect(() => stampBatch(batch, 0, -1, 0)).toThrow(/safe integer/)
  expect(() => stampBatch(batch, 0, 0.5, 0)).toThrow(/safe integer/)
})

test('any one byte changed from the CRC on is caught', () => {
  const batch = buildBatch([RECORD, { ...RECORD, headers: [{ key: 'h', value: null }] }], { producerId: 1 })
  for (let at = 17; at < batch.length; at++) {
    for (let flip = 1; flip < 256; flip++) {
      const damaged = batch.slice()
      damaged[at] = (batch[at] ?? 0) ^ flip
      expect(() => validateBatch(damaged, 0, LIMITS), `byte ${at} ^ ${flip}`).toThrow(CORRUPT)
    }
  }
})

test('garbage, even with a right length and magic, throws nothing but our errors', () => {
  const garbage = fc.tuple(fc.uint8Array({ maxLength: 120 }), fc.boolean()).map(([bytes, plausible]) => {
    if (plausible && bytes.length >= BATCH_HEADER_BYTES) {
      writeU32(bytes, 8, bytes.length - 12)
      bytes[16] = 2
    }
    return bytes
  })
  fc.assert(
    fc.property(garbage, fc.nat(20), (bytes, at) => {
      for (const run of [
        () => validateBatch(bytes, at, { maxBatchBytes: 1000 }),
        () => readHeader(bytes, at),
        () => [...eachBatch(bytes)],
        () => decodePlain(bytes, at),
      ]) {
        try {
          run()
        } catch (error) {
          expect(
            isTributaryError(error, 'corrupt_batch') || isTributaryError(error, 'record_too_large'),
          ).toBe(true)
        }
      }
    }),
    { numRuns: 1000 },
  )
})

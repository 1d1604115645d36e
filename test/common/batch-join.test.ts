import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { HeaderFields } from '../../common/batch.ts'
import {
  BATCH_HEADER_BYTES,
  eachBatch,
  readHeader,
  stampBatch,
  validateBatch,
  writeHeader,
} from '../../common/batch.ts'
import type { RecordInput } from '../../common/batch-builder.ts'
import { batchBuffers, buildBatch } from '../../common/batch-builder.ts'
import { buildControlBatch, CONTROL_GAP } from '../../common/batch-control.ts'
import type { JoinOptions } from '../../common/batch-join.ts'
import { compressBatch, joinBatches } from '../../common/batch-join.ts'
import { decodePlain, decodeRecords } from '../../common/batch-records.ts'
import { concat, utf8 } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import { producerArbitrary, recordsArbitrary } from './batch-arbitraries.ts'

const codec = nodeCodec()
const PLAIN: JoinOptions = { codec, compression: 'none', maxBytes: 1e6 }
const RECORD = { key: utf8('k'), value: utf8('v'.repeat(50)), headers: [], timestampMs: 1_700_000_000_000 }

type Producer = { producerId?: number; producerEpoch?: number; baseSequence?: number }

/** The records in batches cut at random places, contiguous in offsets and sequences, one in three compressed. */
async function inParts(
  records: readonly RecordInput[],
  sizes: readonly number[],
  producer: Producer,
  baseOffset: number,
): Promise<Uint8Array[]> {
  const parts: Uint8Array[] = []
  for (let from = 0; from < records.length; ) {
    const size = sizes[parts.length % sizes.length] ?? 1
    const { baseSequence } = producer
    const numbered =
      baseSequence === undefined ? producer : { ...producer, baseSequence: baseSequence + from }
    const part = buildBatch(records.slice(from, from + size), { ...numbered, baseOffset: baseOffset + from })
    parts.push(parts.length % 3 === 2 ? await compressBatch(part, 'zstd', codec) : part)
    from += size
  }
  return parts
}

const sizesArbitrary = fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 6 })

test.each(['none', 'gzip', 'zstd'] as const)(
  'joined parts are the batch built whole: %s',
  async compression => {
    await fc.assert(
      fc.asyncProperty(
        recordsArbitrary,
        sizesArbitrary,
        producerArbitrary,
        fc.nat(2 ** 40),
        async (records, sizes, producer, baseOffset) => {
          const whole = buildBatch(records, { ...producer, baseOffset })
          const joined = await joinBatches(concat(await inParts(records, sizes, producer, baseOffset)), {
            ...PLAIN,
            compression,
          })
          expect(await decodeRecords(joined, 0, codec, 1e6)).toEqual(decodePlain(whole, 0))
          if (readHeader(joined, 0).compression === 'none') expect(joined).toEqual(whole)
          const {
            sizeBytes: _size,
            crc: _crc,
            compression: _kind,
            ...header
          } = validateBatch(joined, 0, {
            maxBatchBytes: whole.length,
          })
          expect(readHeader(whole, 0)).toMatchObject(header)
        },
      ),
      { numRuns: 60 },
    )
  },
)

test('records left out at the start leave the rest as it was', async () => {
  await fc.assert(
    fc.asyncProperty(
      recordsArbitrary,
      sizesArbitrary,
      producerArbitrary,
      fc.nat(39),
      async (records, sizes, producer, skip) => {
        const skipRecords = skip % records.length
        const parts = concat(await inParts(records, sizes, producer, 1000))
        const joined = await joinBatches(parts, { ...PLAIN, skipRecords })
        const kept = decodePlain(buildBatch(records, { ...producer, baseOffset: 1000 }), 0).slice(skipRecords)
        expect(await decodeRecords(joined, 0, codec, 1e6)).toEqual(kept)
        const newestMs = Math.max(...kept.map(record => record.timestampMs))
        if (skipRecords > 0) expect(readHeader(joined, 0).maxTimestampMs).toBe(newestMs)
        expect(validateBatch(joined, 0, { maxBatchBytes: 1e6 }).recordCount).toBe(kept.length)
      },
    ),
    { numRuns: 60 },
  )
})

test('transactions stay transactions', async () => {
  const parts = concat([changed({ attributes: 16 }), changed({ attributes: 16, baseSequence: 1 }, 1)])
  expect(readHeader(await joinBatches(parts, PLAIN), 0)).toMatchObject({
    isTransactional: true,
    recordCount: 2,
  })
})

test('one batch alone comes back as it is, compressed if asked', async () => {
  const batch = buildBatch(new Array(40).fill(RECORD))
  expect(await joinBatches(batch, PLAIN)).toBe(batch)
  const packed = await joinBatches(batch, { ...PLAIN, compression: 'zstd' })
  expect(readHeader(packed, 0).compression).toBe('zstd')
  const gap = buildControlBatch({
    type: CONTROL_GAP,
    value: new Uint8Array(500),
    producerId: 5,
    timestampMs: 0,
  })
  expect(await joinBatches(gap, { ...PLAIN, compression: 'zstd' })).toBe(gap)
})

/** A batch of one record of producer 5, epoch 0, at `offset`, whose header says something else. */
function changed(changes: Partial<HeaderFields>, offset = 0): Uint8Array {
  const batch = buildBatch([RECORD], { producerId: 5, baseSequence: 0 })
  writeHeader(batch, 0, offset, { ...readHeader(batch, 0), attributes: 0, ...changes })
  return batch
}

describe('never joined', () => {
  const first = changed({})
  const next = changed({ baseSequence: 1 }, 1)
  const control = buildControlBatch({ type: CONTROL_GAP, value: utf8('gap'), producerId: 5, timestampMs: 0 })
  stampBatch(control, 0, 1, 0)
  const cases: [string, Uint8Array[], RegExp][] = [
    ['another producer id', [first, changed({ producerId: 6, baseSequence: 1 }, 1)], /two producer ids/],
    ['no producer', [first, changed({ producerId: -1 }, 1)], /two producer ids/],
    ['another epoch', [first, changed({ producerEpoch: 1, baseSequence: 1 }, 1)], /two producer epochs/],
    ['a sequence jump', [first, changed({ baseSequence: 2 }, 1)], /sequence jump/],
    ['a repeated sequence', [first, changed({ baseSequence: 0 }, 1)], /sequence jump/],
    ['an offset jump', [first, changed({ baseSequence: 1 }, 2)], /offset jump/],
    ['a control batch', [first, control], /control batches/],
    ['a transaction', [first, changed({ attributes: 16, baseSequence: 1 }, 1)], /transactions/],
    ['broker times', [first, changed({ attributes: 8, baseSequence: 1 }, 1)], /broker times/],
    ['a partial batch', [first, next.subarray(0, 11)], /whole batches/],
    ['nothing', [], /needs a batch/],
  ]
  test.each(cases)('%s', async (_, parts, message) => {
    await expect(joinBatches(concat(parts), PLAIN)).rejects.toMatchObject({
      name: 'AssertionFailure',
      message: expect.stringMatching(message),
    })
  })

  test('while what follows is', async () => {
    expect(readHeader(await joinBatches(concat([first, next]), PLAIN), 0).recordCount).toBe(2)
  })

  test('all records left out', async () => {
    await expect(joinBatches(first, { ...PLAIN, skipRecords: 1 })).rejects.toThrow(/at least one record/)
  })
})

test('damage in any part is found before anything is written anew', async () => {
  const parts = concat(await inParts(new Array(9).fill(RECORD), [3], { producerId: 5, baseSequence: 0 }, 0))
  for (const { at, header } of eachBatch(parts)) {
    for (let byte = at + 17; byte < at + header.sizeBytes; byte += 3) {
      const damaged = parts.with(byte, (parts[byte] ?? 0) ^ 0x10)
      await expect(joinBatches(damaged, PLAIN)).rejects.toMatchObject({ code: 'corrupt_batch' })
    }
  }
})

test('what would be too large is refused, and the buffers come back', async () => {
  const parts = concat(await inParts(new Array(6).fill(RECORD), [3], { producerId: 5, baseSequence: 0 }, 0))
  const whole = await joinBatches(parts, PLAIN)
  // Makes sure that the pool holds a buffer of the size that joining takes.
  batchBuffers.give(batchBuffers.take(1))
  const idleBefore = batchBuffers.stats().idleBytes
  for (const maxBytes of [whole.length - 1, 100]) {
    await expect(joinBatches(parts, { ...PLAIN, maxBytes })).rejects.toMatchObject({
      code: 'record_too_large',
    })
  }
  expect(await joinBatches(parts, { ...PLAIN, maxBytes: whole.length })).toEqual(whole)
  expect(batchBuffers.stats().idleBytes).toBe(idleBefore)
})

test('records that grow as much as they can do not run over what is still to be read', async () => {
  const tiny = { key: null, value: null, headers: [] }
  const records = Array.from({ length: 3000 }, (_, index) => ({
    ...tiny,
    timestampMs: index === 0 ? -1 : 2 ** 52,
  }))
  const parts = concat(await inParts(records, [1, 1], {}, 0))
  expect(await joinBatches(parts, PLAIN)).toEqual(buildBatch(records))
})

test('a record too many under a right CRC is corrupt, not the next batch', async () => {
  const one = buildBatch([RECORD])
  const batch = concat([one, one.subarray(BATCH_HEADER_BYTES)])
  writeHeader(batch, 0, 0, { ...readHeader(one, 0), attributes: 0, sizeBytes: batch.length })
  const next = buildBatch([RECORD], { baseOffset: 1 })
  await expect(joinBatches(concat([batch, next]), PLAIN)).rejects.toThrow(/left over after the last record/)
})

test('wrong offset deltas under a right CRC are corrupt', async () => {
  const batch = buildBatch([RECORD, RECORD])
  // The second record's offset delta: after the first record, the length varint, attributes and timestamp delta.
  const secondAt = 61 + (batch.length - 61) / 2
  batch[secondAt + 3] = 8
  writeHeader(batch, 0, 0, { ...readHeader(batch, 0), attributes: 0 })
  const next = buildBatch([RECORD], { baseOffset: 2 })
  await expect(joinBatches(concat([batch, next]), PLAIN)).rejects.toThrow(/offset delta is 4 for record 1/)
})

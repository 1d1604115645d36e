import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { HeaderFields } from '../../common/batch.ts'
import { BATCH_HEADER_BYTES, readHeader, validateBatch, writeHeader } from '../../common/batch.ts'
import { buildBatch } from '../../common/batch-builder.ts'
import { compressBatch } from '../../common/batch-join.ts'
import { decodePlain, decodeRecords } from '../../common/batch-records.ts'
import { utf8 } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import { isTributaryError } from '../../common/errors.ts'
import { producerArbitrary, recordsArbitrary } from './batch-arbitraries.ts'

const codec = nodeCodec()
const RECORD = { key: utf8('k'), value: utf8('v'), headers: [], timestampMs: 1_700_000_000_000 }
const CORRUPT = expect.objectContaining({ code: 'corrupt_batch' })

/** A batch around any record section, sealed with a right CRC. */
function around(section: Uint8Array, changes: Partial<HeaderFields> = {}): Uint8Array {
  const batch = new Uint8Array(BATCH_HEADER_BYTES + section.length)
  batch.set(section, BATCH_HEADER_BYTES)
  const fields = { ...readHeader(buildBatch([RECORD]), 0), attributes: 0, ...changes }
  writeHeader(batch, 0, 0, { ...fields, sizeBytes: batch.length })
  return batch
}

function sectionOf(batch: Uint8Array): Uint8Array {
  return batch.slice(BATCH_HEADER_BYTES)
}

test.each(['gzip', 'zstd'] as const)('%s batches decode to what was given', async kind => {
  await fc.assert(
    fc.asyncProperty(recordsArbitrary, producerArbitrary, async (records, producer) => {
      const batch = buildBatch(records, { ...producer, baseOffset: 5 })
      const packed = await compressBatch(batch, kind, codec)
      const expected = { ...readHeader(batch, 0), compression: packed === batch ? 'none' : kind }
      const header = validateBatch(packed, 0, { maxBatchBytes: batch.length })
      expect({ ...header, crc: 0, sizeBytes: 0 }).toEqual({ ...expected, crc: 0, sizeBytes: 0 })
      expect(await decodeRecords(packed, 0, codec, 1e6)).toEqual(decodePlain(batch, 0))
    }),
    { numRuns: 60 },
  )
})

test('what would not shrink stays as it is, and so does what is compressed', async () => {
  const tiny = buildBatch([RECORD])
  expect(await compressBatch(tiny, 'gzip', codec)).toBe(tiny)
  const packed = await compressBatch(buildBatch(new Array(50).fill(RECORD)), 'gzip', codec)
  expect(readHeader(packed, 0).compression).toBe('gzip')
  expect(await compressBatch(packed, 'zstd', codec)).toBe(packed)
})

test('damage is never compressed under a new CRC', async () => {
  const damaged = buildBatch(new Array(50).fill(RECORD)).with(100, 0x55)
  await expect(compressBatch(damaged, 'zstd', codec)).rejects.toMatchObject({ code: 'corrupt_batch' })
})

test('decompression stops at the limit given', async () => {
  const batch = buildBatch([{ ...RECORD, value: new Uint8Array(100_000) }])
  const packed = await compressBatch(batch, 'zstd', codec)
  expect(await decodeRecords(packed, 0, codec, batch.length)).toHaveLength(1)
  await expect(decodeRecords(packed, 0, codec, 100_000)).rejects.toMatchObject({ code: 'corrupt_batch' })
})

test.each([
  [2, 'snappy'],
  [3, 'lz4'],
])('compression %i (%s) is valid to move and refused to decode', async (attributes, name) => {
  const batch = around(Uint8Array.of(1, 2, 3), { attributes })
  expect(validateBatch(batch, 0, { maxBatchBytes: 1000 }).compression).toBe(name)
  const refused = { code: 'unsupported_version', message: expect.stringContaining(name) }
  await expect(decodeRecords(batch, 0, codec, 1e6)).rejects.toMatchObject(refused)
  expect(() => decodePlain(batch, 0)).toThrow(expect.objectContaining(refused))
})

test('a compressed batch is refused by decodePlain', async () => {
  const packed = await compressBatch(buildBatch(new Array(50).fill(RECORD)), 'gzip', codec)
  expect(() => decodePlain(packed, 0)).toThrow(/gzip/)
})

test('a broker time stands for all records', () => {
  const batch = buildBatch([RECORD, { ...RECORD, timestampMs: RECORD.timestampMs - 5 }])
  const changes = { attributes: 8, maxTimestampMs: 42, recordCount: 2, lastOffsetDelta: 1 }
  expect(decodePlain(around(sectionOf(batch), changes), 0).map(record => record.timestampMs)).toEqual([
    42, 42,
  ])
})

test('sequences wrap as in Kafka', () => {
  const section = sectionOf(buildBatch([RECORD, RECORD, RECORD]))
  const changes = {
    recordCount: 3,
    lastOffsetDelta: 2,
    producerId: 1,
    producerEpoch: 0,
    baseSequence: 2 ** 31 - 2,
  }
  const sequences = decodePlain(around(section, changes), 0).map(record => record.sequence)
  expect(sequences).toEqual([2 ** 31 - 2, 2 ** 31 - 1, 0])
})

test('holes of compaction keep offsets', () => {
  const both = sectionOf(buildBatch([RECORD, RECORD]))
  const second = both.slice(both.length / 2)
  const batch = around(second, { recordCount: 1, lastOffsetDelta: 4 })
  expect(decodePlain(batch, 0)).toMatchObject([{ offset: 1, key: RECORD.key }])
})

describe('a right CRC over wrong records is corrupt', () => {
  // length 7: attributes, timestamp delta, offset delta, key -1, value -1, no headers, and one byte more to change.
  const record = (...body: number[]): Uint8Array => Uint8Array.of(body.length * 2, ...body)
  const cases: [string, Uint8Array, RegExp][] = [
    ['a length that does not fit', Uint8Array.of(40, 0, 0, 0, 1, 1, 0), /length of 20 does not fit/],
    ['a negative length', Uint8Array.of(3, 0, 0, 0, 1, 1, 0), /length of -2 does not fit/],
    ['bytes left in a record', record(0, 0, 0, 1, 1, 0, 0), /left over in a record/],
    [
      'bytes after the last record',
      Uint8Array.of(...record(0, 0, 0, 1, 1, 0), 9),
      /left over after the last/,
    ],
    ['a key beyond its record', record(0, 0, 0, 20, 1, 0), /length of 10 does not fit/],
    ['a key of length -2', record(0, 0, 0, 3, 1, 0), /length of -2 does not fit/],
    ['more headers than bytes', record(0, 0, 0, 1, 1, 100), /header count of 50/],
    ['fewer headers than none', record(0, 0, 0, 1, 1, 1), /header count of -1/],
    ['a header without a key', record(0, 0, 0, 1, 1, 2, 1, 1), /length of -1 does not fit/],
    ['an offset beyond the last', record(0, 0, 2, 1, 1, 0), /offset delta 1 after -1/],
    ['an offset below the base', record(0, 0, 1, 1, 1, 0), /offset delta -1 after -1/],
    ['a record cut short', record(0, 0, 0, 1, 0x80, 0x80), /ends in the middle/],
  ]
  test.each(cases)('%s', (_, section, message) => {
    const batch = around(section)
    expect(() => decodePlain(batch, 0)).toThrow(message)
    expect(() => decodePlain(batch, 0)).toThrow(CORRUPT)
  })

  test('offsets that stand still', () => {
    const section = Uint8Array.of(...record(0, 0, 0, 1, 1, 0), ...record(0, 0, 0, 1, 1, 0))
    expect(() => decodePlain(around(section, { recordCount: 2, lastOffsetDelta: 1 }), 0)).toThrow(
      /delta 0 after 0/,
    )
  })

  test('a count that the decompressed records cannot have', async () => {
    const changes = { attributes: 1, recordCount: 2 ** 31 - 1, lastOffsetDelta: 2 ** 31 - 2 }
    const batch = around(gzipSync(new Uint8Array(5000)), changes)
    await expect(decodeRecords(batch, 0, codec, 1e6)).rejects.toThrow(
      /2147483647 records do not fit 5000 bytes/,
    )
  })
})

test('random sections under a right CRC decode or are corrupt, nothing else', async () => {
  const sections = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.tuple(recordsArbitrary, fc.nat(), fc.nat(255)).map(([records, at, byte]) => {
      const section = sectionOf(buildBatch(records))
      section[at % section.length] = byte
      return section
    }),
  )
  await fc.assert(
    fc.asyncProperty(
      sections,
      fc.integer({ min: 1, max: 10 }),
      fc.boolean(),
      async (section, recordCount, packed) => {
        const fields = { recordCount, lastOffsetDelta: recordCount - 1, attributes: packed ? 1 : 0 }
        const batch = around(packed ? gzipSync(section) : section, fields)
        try {
          expect(await decodeRecords(batch, 0, codec, 1e6)).toHaveLength(recordCount)
        } catch (error) {
          expect(isTributaryError(error, 'corrupt_batch')).toBe(true)
        }
      },
    ),
    { numRuns: 400 },
  )
})

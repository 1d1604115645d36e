import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { validateBatch } from '../../common/batch.ts'
import type { RecordInput } from '../../common/batch-builder.ts'
import { buildBatch } from '../../common/batch-builder.ts'
import { compressBatch } from '../../common/batch-join.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { BatchFixture } from '../fixtures/make-batches.ts'
import { fixtureBytes, fixtureRecords } from '../fixtures/make-batches.ts'
import { asInput, recordsArbitrary } from './batch-arbitraries.ts'
import { kafkajsRead, kafkajsWrite, platformaticRead, platformaticWrite } from './kafka-clients.ts'

const codec = nodeCodec()
const LIMITS = { maxBatchBytes: 1e6 }
const PRODUCER = { producerId: 2 ** 52 + 12345, producerEpoch: 7, baseSequence: 2_000_000_000 }

const fixtures: BatchFixture[] = JSON.parse(
  readFileSync(new URL('../fixtures/batches.json', import.meta.url), 'utf8'),
)

describe('committed bytes of Kafka clients', () => {
  test('there are some of each client', () => expect(fixtures.length).toBe(14))

  test.each(fixtures)('$name', async fixture => {
    const bytes = fixtureBytes(fixture)
    const header = validateBatch(bytes, 0, LIMITS)
    const { compression, producerId, producerEpoch, baseSequence } = fixture
    expect(header).toMatchObject({
      compression,
      producerId,
      producerEpoch,
      baseSequence,
      sizeBytes: bytes.length,
    })
    const decoded = decodeRecords(bytes, 0, codec, 1e6)
    if (compression === 'snappy' || compression === 'lz4') {
      await expect(decoded).rejects.toMatchObject({ code: 'unsupported_version', details: { compression } })
      return
    }
    const records = await decoded
    expect(records.map(asInput)).toEqual(fixtureRecords(fixture))
    const first = producerId === -1 ? -1 : baseSequence
    expect(records.map(record => [record.offset, record.sequence])).toEqual(
      records.map((_, index) => [index, first === -1 ? -1 : first + index]),
    )
  })

  // Written field by field in the same order, equal records are equal bytes.
  test.each(fixtures.filter(({ compression }) => compression === 'none'))(
    'ours are the same: $name',
    fixture => {
      const { producerId, producerEpoch, baseSequence } = fixture
      const ours = buildBatch(fixtureRecords(fixture), { producerId, producerEpoch, baseSequence })
      expect(Buffer.from(ours).toString('hex')).toBe(fixture.hex)
    },
  )
})

/** What both clients can express: their readers merge headers of one name, their writers know no null header values. */
const shared = recordsArbitrary.map(records =>
  records.map(
    (record): RecordInput => ({
      ...record,
      timestampMs: Math.max(0, record.timestampMs),
      headers: [
        ...new Map(record.headers.map(header => [`h${header.key}`, header.value ?? new Uint8Array(1)])),
      ].map(([key, value]) => ({ key, value })),
    }),
  ),
)

describe('random batches, theirs here and ours there', () => {
  test.each(['none', 'gzip'] as const)('kafkajs, %s', async compression => {
    await fc.assert(
      fc.asyncProperty(shared, async records => {
        const theirs = await kafkajsWrite({ ...PRODUCER, compression, records })
        validateBatch(theirs, 0, LIMITS)
        expect((await decodeRecords(theirs, 0, codec, 1e6)).map(asInput)).toEqual(records)
        const ours = buildBatch(records, { ...PRODUCER, baseOffset: 2 ** 40 })
        const sent = compression === 'none' ? ours : await compressBatch(ours, compression, codec)
        expect(await kafkajsRead(sent)).toEqual({ ...PRODUCER, baseOffset: 2 ** 40, records })
      }),
      { numRuns: 60 },
    )
  })

  test.each(['none', 'gzip', 'zstd'] as const)('@platformatic/kafka, %s', async compression => {
    await fc.assert(
      fc.asyncProperty(shared, async records => {
        const filled = records.map(record => ({
          ...record,
          value: record.value ?? new Uint8Array(0),
          timestampMs: 1_700_000_000_000 + (record.timestampMs % 2 ** 30),
        }))
        const theirs = platformaticWrite({ ...PRODUCER, compression, records: filled })
        validateBatch(theirs, 0, LIMITS)
        expect((await decodeRecords(theirs, 0, codec, 1e6)).map(asInput)).toEqual(filled)
        const ours = buildBatch(records, { ...PRODUCER, baseOffset: 2 ** 40 })
        const sent = compression === 'none' ? ours : await compressBatch(ours, compression, codec)
        expect(platformaticRead(sent)).toEqual({ ...PRODUCER, baseOffset: 2 ** 40, records })
      }),
      { numRuns: 60 },
    )
  })
})

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BATCH_HEADER_BYTES, readHeader, validateBatch } from '../../common/batch.ts'
import type { RecordInput } from '../../common/batch-builder.ts'
import { BatchBuilder, batchBuffers, buildBatch, encodeHeaders } from '../../common/batch-builder.ts'
import { decodePlain } from '../../common/batch-records.ts'
import { utf8 } from '../../common/bytes.ts'
import { asInput, producerArbitrary, recordArbitrary, recordsArbitrary } from './batch-arbitraries.ts'

const LIMITS = { maxBatchBytes: 1e6 }
const TIME_MS = 1_700_000_000_000

test('what is built decodes to what was given, numbered', () => {
  fc.assert(
    fc.property(recordsArbitrary, producerArbitrary, fc.nat(), (records, producer, baseOffset) => {
      const batch = buildBatch(records, { ...producer, baseOffset })
      const header = validateBatch(batch, 0, LIMITS)
      const decoded = decodePlain(batch, 0)
      expect(decoded.map(asInput)).toEqual(records)
      expect(header.maxTimestampMs).toBe(Math.max(...records.map(record => record.timestampMs)))
      const first = 'baseSequence' in producer ? producer.baseSequence : undefined
      expect(decoded.map(record => [record.offset, record.sequence])).toEqual(
        records.map((_, index) => [baseOffset + index, first === undefined ? -1 : first + index]),
      )
    }),
    { numRuns: 300 },
  )
})

test('a record that does not fit leaves the batch as it was', () => {
  fc.assert(
    fc.property(recordsArbitrary, fc.integer({ min: BATCH_HEADER_BYTES, max: 1500 }), (records, maxBytes) => {
      const builder = new BatchBuilder({ maxBytes })
      const taken: RecordInput[] = []
      for (const record of records) {
        const sizeBytes = builder.sizeBytes
        const fits = buildBatch([...taken, record]).length <= maxBytes
        expect(builder.append(record.timestampMs, record.key, record.value, record.headers)).toBe(fits)
        if (fits) taken.push(record)
        else expect(builder.sizeBytes).toBe(sizeBytes)
        expect(builder.recordCount).toBe(taken.length)
      }
      if (taken.length > 0) {
        expect(builder.sizeBytes).toBeLessThanOrEqual(maxBytes)
        expect(builder.finish(0)).toEqual(buildBatch(taken))
      }
    }),
  )
})

test('headers encoded before, in one part or two, are the same bytes', () => {
  fc.assert(
    fc.property(recordArbitrary, fc.nat(4), ({ key, value, headers, timestampMs }, cut) => {
      const early = headers.slice(0, cut)
      const builder = new BatchBuilder({ maxBytes: 1e6 })
      const rest = encodeHeaders(headers.slice(cut))
      builder.appendRaw(timestampMs, key, value, encodeHeaders(early), headers.length, rest)
      builder.appendRaw(timestampMs, key, value, encodeHeaders(headers), headers.length)
      const record = { key, value, headers, timestampMs }
      expect(builder.finish(7)).toEqual(buildBatch([record, record], { baseOffset: 7 }))
    }),
  )
})

test('a builder goes on at the next sequence, or where reset says', () => {
  const builder = new BatchBuilder({ producerId: 5, baseSequence: 10, maxBytes: 1e6 })
  const add = (): void => void builder.append(TIME_MS, null, utf8('v'), [])
  add()
  add()
  const first = builder.finish(100)
  expect([builder.recordCount, builder.sizeBytes]).toEqual([0, BATCH_HEADER_BYTES])
  add()
  const second = builder.finish(102)
  builder.reset({ producerId: 6, producerEpoch: 2 })
  add()
  const third = builder.finish(0)
  const producers = [first, second, third].map(batch => {
    const { producerId, producerEpoch, baseSequence, recordCount } = validateBatch(batch, 0, LIMITS)
    return [producerId, producerEpoch, baseSequence, recordCount]
  })
  expect(producers).toEqual([
    [5, 0, 10, 2],
    [5, 0, 12, 1],
    [6, 2, 0, 1],
  ])
})

test('reset throws the open batch away', () => {
  const builder = new BatchBuilder({ maxBytes: 1e6 })
  builder.append(TIME_MS, null, utf8('lost'), [])
  builder.reset({})
  builder.append(TIME_MS, null, utf8('kept'), [])
  expect(decodePlain(builder.finish(0), 0).map(record => record.value)).toEqual([utf8('kept')])
})

test('a finished batch is its owner alone: later batches do not touch it', () => {
  const builder = new BatchBuilder({ maxBytes: 1e6 })
  const value = new Uint8Array(10).fill(1)
  builder.append(TIME_MS, null, value, [])
  const first = builder.finish(0)
  const copy = first.slice()
  builder.append(TIME_MS + 1, null, value.fill(2), [])
  builder.finish(1)
  expect(first).toEqual(copy)
  expect(first.buffer.byteLength).toBe(first.length)
})

test('builders give their buffers back, and empty ones hold none', () => {
  const idleBefore = batchBuffers.stats().idleBytes
  const builders = Array.from({ length: 50 }, () => new BatchBuilder({ maxBytes: 1e6 }))
  expect(batchBuffers.stats().idleBytes).toBe(idleBefore)
  for (const builder of builders) builder.append(TIME_MS, null, new Uint8Array(20_000), [])
  for (const builder of builders) builder.finish(0)
  const { idleBytes } = batchBuffers.stats()
  expect(idleBytes).toBeGreaterThanOrEqual(50 * 20_000)
  for (const builder of builders) builder.append(TIME_MS, null, new Uint8Array(20_000), [])
  for (const builder of builders) builder.reset({})
  expect(batchBuffers.stats().idleBytes).toBe(idleBytes)
})

test('a batch grows far beyond its first buffer', () => {
  const builder = new BatchBuilder({ maxBytes: 2e6 })
  const values = Array.from({ length: 3000 }, (_, index) => utf8(`${index}`.repeat(60)))
  for (const value of values) expect(builder.append(TIME_MS, value, value, [])).toBe(true)
  const batch = builder.finish(0)
  expect(decodePlain(batch, 0).map(record => record.value)).toEqual(values)
})

test('control batches carry no sequence', () => {
  const record = { key: utf8('key!'), value: null, headers: [], timestampMs: TIME_MS }
  const header = readHeader(buildBatch([record], { producerId: 9, isControl: true }), 0)
  expect(header).toMatchObject({ isControl: true, producerId: 9, producerEpoch: 0, baseSequence: -1 })
})

test('misuse is a bug: an empty batch, fractions of a millisecond, a run past its end', () => {
  const builder = new BatchBuilder({ producerId: 5, baseSequence: 2 ** 31 - 3, maxBytes: 1e6 })
  expect(() => builder.finish(0)).toThrow(/at least one record/)
  expect(() => builder.append(0.5, null, null, [])).toThrow(/whole milliseconds/)
  expect(() => builder.append(Number.NaN, null, null, [])).toThrow(/whole milliseconds/)
  expect(builder.append(TIME_MS, null, null, [])).toBe(true)
  expect(builder.append(TIME_MS, null, null, [])).toBe(true)
  expect(() => builder.append(TIME_MS, null, null, [])).toThrow(/before sequence 2\^31 - 1/)
  expect(readHeader(builder.finish(0), 0).recordCount).toBe(2)
})

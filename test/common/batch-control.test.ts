import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readHeader, validateBatch, writeHeader } from '../../common/batch.ts'
import { buildBatch } from '../../common/batch-builder.ts'
import { buildControlBatch, CONTROL_GAP, CONTROL_RUN, readControl } from '../../common/batch-control.ts'
import { decodePlain } from '../../common/batch-records.ts'
import { utf8 } from '../../common/bytes.ts'

const TIME_MS = 1_700_000_000_000

test('a control batch says its type and value, and is one for Kafka too', () => {
  const types = fc.constantFrom(CONTROL_GAP, CONTROL_RUN, 0, 1)
  fc.assert(
    fc.property(types, fc.uint8Array(), fc.maxSafeInteger(), (type, value, id) => {
      const producerId = Math.abs(id)
      const batch = buildControlBatch({ type, value, producerId, timestampMs: TIME_MS })
      expect(validateBatch(batch, 0, { maxBatchBytes: 1e6 })).toMatchObject({
        isControl: true,
        producerId,
        baseSequence: -1,
        recordCount: 1,
        maxTimestampMs: TIME_MS,
      })
      expect(readControl(batch, 0)).toEqual({ type, value })
      expect(decodePlain(batch, 0)[0]?.key).toEqual(Uint8Array.of(0, 0, type >> 8, type & 0xff))
    }),
  )
})

test('what is no control batch is refused', () => {
  const record = { key: utf8('abcd'), value: null, headers: [], timestampMs: TIME_MS }
  const corrupt = (message: string) => expect.objectContaining({ code: 'corrupt_batch', message })
  expect(() => readControl(buildBatch([record]), 0)).toThrow(corrupt('this is no control batch'))
  for (const key of [null, utf8('abc'), utf8('abcd')]) {
    const batch = buildBatch([{ ...record, key }], { isControl: true })
    expect(() => readControl(batch, 0)).toThrow(
      corrupt('a control batch has no record with a key of version 0'),
    )
  }
})

test('a control batch that lost its record to compaction is refused', () => {
  const empty = buildControlBatch({
    type: CONTROL_GAP,
    value: utf8(''),
    producerId: 1,
    timestampMs: 0,
  }).slice(0, 61)
  writeHeader(empty, 0, 0, { ...readHeader(empty, 0), sizeBytes: 61, recordCount: 0, attributes: 32 })
  expect(() => readControl(empty, 0)).toThrow(/no record with a key/)
})

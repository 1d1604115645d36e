import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readHeader, stampBatch } from '../../common/batch.ts'
import type { RecordInput } from '../../common/batch-builder.ts'
import { buildBatch } from '../../common/batch-builder.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { concat, utf8, utf8Text } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import { isTributaryError } from '../../common/errors.ts'
import type { ChunkRequest } from '../../edge/chunk.ts'
import { cutChunk, sealChunk } from '../../edge/chunk.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'
import { summaryBatch } from '../../edge/summary.ts'

const codec = nodeCodec()
const OLD_RUN = FIRST_RUN_ID + 1
const BIG = 1 << 20

/** Batches of the given sizes, in offsets from 0 on; record n holds the text n, longer if asked for. */
function log(sizes: readonly number[], run: number, sequenceOfZero: number, longest = 0): Uint8Array {
  const batches: Uint8Array[] = []
  let offset = 0
  for (const size of sizes) {
    const records: RecordInput[] = Array.from({ length: size }, (_, index) => ({
      key: null,
      value: utf8(String(offset + index).padEnd(longest)),
      headers: [],
      timestampMs: 1_000 + offset + index,
    }))
    const batch = buildBatch(records, {
      producerId: run,
      producerEpoch: 0,
      baseSequence: offset + sequenceOfZero,
    })
    stampBatch(batch, 0, offset, 0)
    batches.push(batch)
    offset += size
  }
  return concat(batches)
}

const request = (over: Partial<ChunkRequest> & Pick<ChunkRequest, 'batches'>): ChunkRequest => ({
  base: 0,
  from: 0,
  limit: 1_000,
  run: OLD_RUN,
  runStart: 0,
  joinBytes: BIG,
  maxBytes: BIG,
  maxRecordBytes: BIG,
  ...over,
})

test('frames of any cut, run and size hold each record once, under the run asked for', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 }),
      fc.record({
        base: fc.nat(1_000),
        start: fc.nat(100),
        limit: fc.nat(100),
        joinBytes: fc.integer({ min: 100, max: 900 }),
      }),
      fc.boolean(),
      fc.constantFrom('none' as const, 'zstd' as const),
      async (sizes, { base, start, limit, joinBytes }, forked, compression) => {
        const count = sizes.reduce((total, size) => total + size, 0)
        const from = base + (start % count)
        const end = Math.min(base + count, from + 1 + (limit % count))
        const [run, runStart] = forked ? [OLD_RUN + 1, from] : [OLD_RUN, base]
        const batches = log(sizes, OLD_RUN, 0)
        const seen: number[] = []
        for (let at = from; at < end; ) {
          const chunk = cutChunk(request({ batches, base, from: at, limit: end, run, runStart, joinBytes }))
          if (chunk.kind !== 'chunk') throw new Error(chunk.kind)
          const sealed = await sealChunk(chunk, { codec, compression })
          const header = readHeader(sealed, 0)
          expect(header).toMatchObject({ producerId: run, producerEpoch: 0, baseSequence: at - runStart })
          for (const record of await decodeRecords(sealed, 0, codec, BIG)) {
            const number = Number(utf8Text(record.value ?? new Uint8Array(0)))
            expect(record.timestampMs).toBe(1_000 + number)
            seen.push(base + number)
          }
          expect(chunk.to).toBe(at + header.recordCount)
          at = chunk.to
        }
        expect(seen).toEqual(Array.from({ length: end - from }, (_, index) => from + index))
      },
    ),
    { numRuns: 300 },
  )
})

test('a batch larger than the hub takes is taken apart', async () => {
  const batches = log([50], OLD_RUN, 0)
  const chunk = cutChunk(request({ batches, maxBytes: 300 }))
  expect(chunk).toMatchObject({ kind: 'chunk', skip: 0 })
  if (chunk.kind === 'chunk') expect(chunk.batches.length).toBeLessThanOrEqual(300)
})

test('a record larger than the hub takes is found, wherever it stands in its batch', () => {
  const small = log([3], OLD_RUN, 0)
  const large = log([1], OLD_RUN, 3, 500)
  stampBatch(large, 0, 3, 0)
  const batches = concat([small, large])
  expect(cutChunk(request({ batches, maxRecordBytes: 200 }))).toMatchObject({ kind: 'chunk', to: 3 })
  expect(cutChunk(request({ batches, from: 3, maxRecordBytes: 200 }))).toEqual({ kind: 'oversize' })
})

test('a hole is told, not skipped', () => {
  const batches = log([3], OLD_RUN, 5)
  stampBatch(batches, 0, 5, 0)
  expect(cutChunk(request({ batches, from: 2 }))).toEqual({ kind: 'hole', to: 5 })
})

test('damage is not sealed under a new sum', () => {
  const batches = log([3, 3], OLD_RUN, 0)
  batches[70] = (batches[70] ?? 0) ^ 1
  try {
    cutChunk(request({ batches, run: OLD_RUN + 1 }))
    throw new Error('went through')
  } catch (error) {
    expect(isTributaryError(error, 'corrupt_batch')).toBe(true)
  }
})

test('a summary stands alone: what comes before it is one frame, it is the next, and then come the others', () => {
  const summary = { reason: 'thinned' as const, count: 7, keys: 2, firstMs: 10, lastMs: 20 }
  const place = { run: OLD_RUN, sequence: 3, headers: [] }
  const control = summaryBatch(summary, place)
  stampBatch(control, 0, 3, 0)
  const after = log([2], OLD_RUN, 4)
  stampBatch(after, 0, 4, 0)
  const batches = concat([log([1, 2], OLD_RUN, 0), control, after])
  expect(cutChunk(request({ batches }))).toMatchObject({ kind: 'chunk', to: 3 })
  expect(cutChunk(request({ batches, from: 2 }))).toMatchObject({ kind: 'chunk', to: 3, skip: 1 })
  expect(cutChunk(request({ batches, from: 3 }))).toEqual({ kind: 'summary', summary })
  expect(cutChunk(request({ batches, from: 4 }))).toMatchObject({ kind: 'chunk', to: 6 })
  const damaged = Uint8Array.from(batches)
  damaged[damaged.length - after.length - 3] = 0
  expect(() => cutChunk(request({ batches: damaged, from: 3 }))).toThrow(/CRC/)
})

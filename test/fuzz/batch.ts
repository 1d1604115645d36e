import { gzipSync, zstdCompressSync } from 'node:zlib'
import { AssertionFailure } from '../../common/assert.ts'
import { BATCH_HEADER_BYTES, eachBatch, readHeader, validateBatch, writeHeader } from '../../common/batch.ts'
import type { RecordInput } from '../../common/batch-builder.ts'
import { buildBatch } from '../../common/batch-builder.ts'
import { readControl } from '../../common/batch-control.ts'
import { joinBatches } from '../../common/batch-join.ts'
import { decodeRecords } from '../../common/batch-records.ts'
import { writeU32 } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { ErrorCode } from '../../common/errors.ts'
import { isTributaryError, messageOf } from '../../common/errors.ts'

/** Damaged and made-up batches against everything that reads them. */

const MAX_BYTES = 256 * 1024
/** One hostile batch must not hold a reader up for longer; far above what the slowest machine needs. */
const MAX_CASE_MS = 2000
const EXPECTED_CODES: readonly ErrorCode[] = ['corrupt_batch', 'record_too_large', 'unsupported_version']

/**
 * Reads `iterations` hostile batches; the same seed gives the same ones. Rejects with the seed, the round and the bytes
 * in hex where a reader throws anything but our errors or takes too long.
 */
export async function fuzz(iterations: number, seed: number): Promise<void> {
  const codec = nodeCodec()
  const random = randomFrom(seed)
  for (let round = 0; round < iterations; round++) {
    const bytes = hostile(random)
    const startedAt = performance.now()
    const readers: (() => unknown)[] = [
      () => validateBatch(bytes, 0, { maxBatchBytes: MAX_BYTES }),
      () => validateBatch(bytes, 0, { maxBatchBytes: MAX_BYTES, allowCompacted: true }),
      () => [...eachBatch(bytes)],
      () => readControl(bytes, 0),
      () => decodeRecords(bytes, 0, codec, MAX_BYTES),
      () => joinBatches(bytes, { codec, compression: 'zstd', maxBytes: MAX_BYTES, skipRecords: random(3) }),
    ]
    for (const [index, read] of readers.entries()) {
      try {
        await read()
      } catch (error) {
        if (EXPECTED_CODES.some(code => isTributaryError(error, code))) continue
        // Joining asserts what its caller must see to: whole, contiguous batches of one producer.
        if (index === readers.length - 1 && isCallersBug(error)) continue
        fail(`reader ${index} threw ${messageOf(error)}`, error)
      }
    }
    if (performance.now() - startedAt > MAX_CASE_MS) fail(`reading took over ${MAX_CASE_MS} ms`, undefined)

    function fail(why: string, cause: unknown): never {
      const hex = Buffer.from(bytes).toString('hex')
      throw new Error(`batch fuzz, seed ${seed}, round ${round}: ${why}; bytes ${hex}`, { cause })
    }
  }
}

function isCallersBug(error: unknown): boolean {
  return error instanceof AssertionFailure && error.message.includes('join')
}

type Random = (bound: number) => number

/** Uniform integers below a bound (mulberry32). */
function randomFrom(seed: number): Random {
  let state = seed >>> 0
  return bound => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % bound
  }
}

/** Something like one to three batches, wrong in some way; half the time under a right CRC, so that decoders get to see it. */
function hostile(random: Random): Uint8Array {
  const parts: Uint8Array[] = []
  for (let count = 1 + random(3); count > 0; count--) {
    parts.push(random(10) === 0 ? randomBytes(random, random(150)) : damagedBatch(random, parts.length))
  }
  return Uint8Array.from(Buffer.concat(parts))
}

function damagedBatch(random: Random, baseOffset: number): Uint8Array {
  const records = Array.from({ length: 1 + random(4) }, () => randomRecord(random))
  const isControl = random(5) === 0
  const plain = buildBatch(records, {
    producerId: random(3) - 1,
    baseSequence: baseOffset,
    baseOffset,
    isControl,
  })
  const section = plain.slice(BATCH_HEADER_BYTES)
  for (let edits = random(4); edits > 0; edits--) section[random(section.length)] = random(256)
  const compression = random(8)
  const packed =
    compression === 1 ? gzipSync(section) : compression === 4 ? zstdCompressSync(section) : section
  const batch = new Uint8Array(BATCH_HEADER_BYTES + packed.length)
  batch.set(packed, BATCH_HEADER_BYTES)
  const extremes = [-1, 0, 1, 2 ** 31 - 1, -(2 ** 31), random(10)]
  const pick = (usual: number): number => (random(6) === 0 ? (extremes[random(extremes.length)] ?? 0) : usual)
  const header = readHeader(plain, 0)
  writeHeader(batch, 0, baseOffset, {
    ...header,
    sizeBytes: batch.length,
    attributes: compression | (random(4) === 0 ? random(256) : 0) | (isControl ? 32 : 0),
    lastOffsetDelta: pick(header.lastOffsetDelta),
    recordCount: pick(header.recordCount),
    producerEpoch: pick(header.producerEpoch),
    baseSequence: pick(header.baseSequence),
  })
  if (random(2) === 0) batch[random(batch.length)] = random(256)
  if (random(8) === 0) writeU32(batch, 8, random(2 ** 32))
  return random(8) === 0 ? batch.subarray(0, random(batch.length)) : batch
}

function randomRecord(random: Random): RecordInput {
  const maybe = (): Uint8Array | null => (random(4) === 0 ? null : randomBytes(random, random(20)))
  const headers = random(3) === 0 ? [{ key: `h${random(100)}`, value: maybe() }] : []
  return { key: maybe(), value: maybe(), headers, timestampMs: 1_700_000_000_000 + random(100_000) }
}

function randomBytes(random: Random, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, () => random(256))
}

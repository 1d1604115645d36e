import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  BufferPool,
  ByteReader,
  concat,
  equalBytes,
  readI16,
  readI32,
  readI64,
  readI64OrNaN,
  readU32,
  utf8,
  utf8Text,
  utf8TextStrict,
  varintBytes,
  writeI64,
  writeU16,
  writeU32,
  writeVarint,
} from '../../common/bytes.ts'
import { isTributaryError } from '../../common/errors.ts'

const safeInteger = fc.oneof(
  fc.maxSafeInteger(),
  fc.integer(),
  fc.integer({ min: -200, max: 200 }),
  fc.constantFrom(
    Number.MIN_SAFE_INTEGER,
    Number.MAX_SAFE_INTEGER,
    -0x40000000,
    0x40000000,
    0x3fffffff,
    -0x40000001,
  ),
)

/** The varint by its definition, in bigint. */
function varintByDefinition(value: number): number[] {
  const big = BigInt(value)
  let zigzag = BigInt.asUintN(64, (big << 1n) ^ (big >> 63n))
  const bytes: number[] = []
  while (zigzag >= 0x80n) {
    bytes.push(Number(zigzag & 0x7fn) | 0x80)
    zigzag >>= 7n
  }
  bytes.push(Number(zigzag))
  return bytes
}

test('varints are those of the definition, and read back', () => {
  fc.assert(
    fc.property(safeInteger, value => {
      const bytes = new Uint8Array(12)
      const end = writeVarint(bytes, 1, value)
      const expected = varintByDefinition(value)
      expect([...bytes.subarray(1, end)]).toEqual(expected)
      expect(varintBytes(value)).toBe(expected.length)
      const reader = new ByteReader(bytes, 1, end)
      expect(reader.varlong()).toBe(value)
      expect(reader.remaining()).toBe(0)
      if (value === (value | 0)) expect(new ByteReader(bytes, 1, end).varint()).toBe(value)
    }),
    { numRuns: 2000 },
  )
})

test('64-bit integers are those of DataView', () => {
  fc.assert(
    fc.property(safeInteger, value => {
      const bytes = new Uint8Array(16)
      writeI64(bytes, 3, value)
      expect(new DataView(bytes.buffer).getBigInt64(3)).toBe(BigInt(value))
      expect(readI64(bytes, 3)).toBe(value)
    }),
    { numRuns: 1000 },
  )
})

test('smaller integers are those of DataView', () => {
  fc.assert(
    fc.property(fc.integer(), value => {
      const bytes = new Uint8Array(8)
      const view = new DataView(bytes.buffer)
      writeU32(bytes, 1, value)
      expect(view.getInt32(1)).toBe(value)
      expect(readI32(bytes, 1)).toBe(value)
      expect(readU32(bytes, 1)).toBe(value >>> 0)
      writeU16(bytes, 5, value)
      expect(readI16(bytes, 5)).toBe(view.getInt16(5))
    }),
  )
})

test('a 64-bit integer beyond 2^53 is NaN for input and an assertion for our own data', () => {
  const bytes = new Uint8Array(8).fill(0x7f)
  expect(readI64OrNaN(bytes, 0)).toBeNaN()
  expect(() => readI64(bytes, 0)).toThrow(/beyond 2\^53/)
})

test('a varint that is too long, too large or cut off is corrupt', () => {
  const read = (bytes: number[]) => new ByteReader(Uint8Array.from(bytes), 0, bytes.length)
  const corrupt = (run: () => unknown, message: RegExp) => {
    expect(run).toThrow(message)
    expect(run).toThrow(expect.objectContaining({ code: 'corrupt_batch' }))
  }
  corrupt(() => read([0x80]).varint(), /ends in the middle/)
  corrupt(() => read([]).varlong(), /ends in the middle/)
  corrupt(() => read([0x80, 0x80, 0x80, 0x80, 0x80, 0]).varint(), /beyond 32 bits/)
  corrupt(() => read([0xff, 0xff, 0xff, 0xff, 0x1f]).varint(), /beyond 32 bits/)
  corrupt(() => read([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).varlong(), /beyond 2\^53/)
  corrupt(() => read(new Array(12).fill(0x80)).varlong(), /more than 10 bytes/)
  corrupt(() => read([1, 2]).slice(3), /length of 3 does not fit/)
  corrupt(() => read([1, 2]).slice(-2), /length of -2 does not fit/)
})

test('whatever bytes are read, a reader stays inside them and throws nothing but corrupt_batch', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 30 }), fc.nat(10), (bytes, margin) => {
      const end = Math.max(0, bytes.length - margin)
      const reader = new ByteReader(bytes, 0, end)
      try {
        while (reader.remaining() > 0) {
          expect(reader.slice(Math.abs(reader.varint()) % 5).length).toBeLessThan(5)
          reader.varlong()
        }
      } catch (error) {
        expect(isTributaryError(error, 'corrupt_batch')).toBe(true)
      }
      expect(reader.at).toBeLessThanOrEqual(end)
    }),
  )
})

test('concat and comparison', () => {
  const only = utf8('ab')
  expect(concat([only])).toBe(only)
  expect(concat([])).toEqual(new Uint8Array(0))
  expect(utf8Text(concat([only, new Uint8Array(0), utf8('é')]))).toBe('abé')
  expect(equalBytes(utf8('ab'), only)).toBe(true)
  expect(equalBytes(utf8('ac'), only)).toBe(false)
})

test('text that is not UTF-8 is told from text that is', () => {
  const inside = utf8('xsensor-°Cx').subarray(1, -1)
  expect(utf8Text(inside)).toBe('sensor-°C')
  expect(utf8TextStrict(inside)).toBe('sensor-°C')
  expect(utf8TextStrict(Uint8Array.of(0xff, 0x41))).toBeUndefined()
  expect(utf8TextStrict(Uint8Array.of(0xef, 0xbb, 0xbf, 0x41))).toBe('\u{feff}A')
})

test('a pool hands out again what was given back, up to its limit', () => {
  const pool = new BufferPool(12_000)
  const small = pool.take(10)
  const large = pool.take(5000)
  expect([small.length, large.length]).toEqual([4096, 8192])
  pool.give(large)
  pool.give(small)
  expect(pool.stats()).toEqual({ idleBytes: 8192, dropped: 1 })
  expect(pool.take(8192)).toBe(large)
  expect(pool.take(8192)).not.toBe(large)
  expect(pool.stats().idleBytes).toBe(0)
})

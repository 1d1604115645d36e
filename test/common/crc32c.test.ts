import fc from 'fast-check'
import { expect, test } from 'vitest'
import { utf8 } from '../../common/bytes.ts'
import { crc32c, crc32cIsNative, crc32cJs } from '../../common/crc32c.ts'

const ascending = Uint8Array.from({ length: 32 }, (_, index) => index)

// RFC 3720 appendix B.4, and the customary check value.
const VECTORS: [string, Uint8Array, number][] = [
  ['nothing', new Uint8Array(0), 0],
  ['zeroes', new Uint8Array(32), 0x8a9136aa],
  ['ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ['ascending', ascending, 0x46dd794e],
  ['descending', ascending.toReversed(), 0x113fdb5c],
  ['check', utf8('123456789'), 0xe3069283],
]

test.each(VECTORS)('known value: %s', (_, bytes, expected) => {
  expect(crc32c(bytes)).toBe(expected)
  expect(crc32cJs(bytes)).toBe(expected)
})

test('native and JavaScript agree at every length, alignment and seed', () => {
  expect(crc32cIsNative()).toBe(true)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.nat(7), fc.nat(0xffffffff), (bytes, from, seed) => {
      const part = bytes.subarray(from)
      expect(crc32c(part, seed)).toBe(crc32cJs(part, seed))
    }),
    { numRuns: 500 },
  )
})

test('parts can be summed one after another', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 900 }), fc.nat(900), (bytes, cut) => {
      expect(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut)))).toBe(crc32cJs(bytes))
    }),
  )
})

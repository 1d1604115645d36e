import { murmur2 as platformaticMurmur2 } from '@platformatic/kafka'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { utf8 } from '../../common/bytes.ts'
import { murmur2, partitionForKey } from '../../common/murmur2.ts'

// Kafka's own UtilsTest.testMurmur2.
const VECTORS: [string, number][] = [
  ['21', -973932308],
  ['foobar', -790332482],
  ['a-little-bit-long-string', -985981536],
  ['a-little-bit-longer-string', -1486304829],
  ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
  ['abc', 479470107],
]

test.each(VECTORS)('%s hashes as in Kafka', (key, hash) => {
  expect(murmur2(utf8(key))).toBe(hash)
})

test('any key hashes as in a Kafka client, and goes to its partition', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 50 }), fc.integer({ min: 1, max: 100 }), (key, partitions) => {
      const theirs = platformaticMurmur2(Buffer.from(key))
      expect(murmur2(key) | 0).toBe(theirs | 0)
      expect(partitionForKey(key, partitions)).toBe((theirs & 0x7fffffff) % partitions)
    }),
  )
})

test('no partitions is a bug', () => {
  expect(() => partitionForKey(utf8('k'), 0)).toThrow(/at least one partition/)
})

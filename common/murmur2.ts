import { assert } from './assert.ts'

/** Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2), so that a key goes where Kafka clients would put it. */

const SEED = 0x9747b28c
const MIX = 0x5bd1e995

/** 32-bit Murmur 2 of `key`, signed as in Java. */
export function murmur2(key: Uint8Array): number {
  const wholeEnd = key.length & ~3
  let hash = SEED ^ key.length
  let at = 0
  for (; at < wholeEnd; at += 4) {
    let word =
      (key[at] ?? 0) | ((key[at + 1] ?? 0) << 8) | ((key[at + 2] ?? 0) << 16) | ((key[at + 3] ?? 0) << 24)
    word = Math.imul(word, MIX)
    word = Math.imul(word ^ (word >>> 24), MIX)
    hash = Math.imul(hash, MIX) ^ word
  }
  const rest = key.length - wholeEnd
  if (rest > 0) {
    if (rest === 3) hash ^= (key[at + 2] ?? 0) << 16
    if (rest >= 2) hash ^= (key[at + 1] ?? 0) << 8
    hash = Math.imul(hash ^ (key[at] ?? 0), MIX)
  }
  hash = Math.imul(hash ^ (hash >>> 13), MIX)
  return hash ^ (hash >>> 15)
}

/** The partition of a key among `partitions`: toPositive(murmur2) modulo their number. */
export function partitionForKey(key: Uint8Array, partitions: number): number {
  assert(Number.isInteger(partitions) && partitions > 0, 'there must be at least one partition')
  return (murmur2(key) & 0x7fffffff) % partitions
}

import { expect, test } from 'vitest'
import type { Tail } from '../../../common/log/tail-cache.ts'
import { chunkHolding, emptyTail, TailCache } from '../../../common/log/tail-cache.ts'

function add(cache: TailCache, tail: Tail, firstOffset: number, sizeBytes: number): void {
  cache.add(tail, { firstOffset, endOffset: firstOffset + 1, bytes: new Uint8Array(sizeBytes) })
}

function held(tail: Tail): number[] {
  return tail.chunks.flatMap(chunk => chunk?.firstOffset ?? [])
}

test('the oldest chunks go first, whosever they are', () => {
  const cache = new TailCache(5 * 300)
  const [left, right] = [emptyTail(), emptyTail()]
  for (let at = 0; at < 3; at++) {
    add(cache, left, at, 100)
    add(cache, right, at, 100)
  }
  expect([held(left), held(right)]).toEqual([
    [1, 2],
    [0, 1, 2],
  ])
  expect([chunkHolding(left, 0), chunkHolding(right, 0)]).toEqual([-1, 0])
})

test('a tail that was cleared and filled again keeps its new chunks as long as others theirs', () => {
  const cache = new TailCache(4 * 300)
  const [left, right] = [emptyTail(), emptyTail()]
  for (let at = 0; at < 3; at++) add(cache, left, at, 100)
  cache.clear(left)
  add(cache, right, 0, 100)
  for (let at = 3; at < 6; at++) add(cache, left, at, 100)
  expect([held(left), held(right)]).toEqual([[3, 4, 5], [0]])
  add(cache, right, 1, 100)
  expect([held(left), held(right)]).toEqual([[3, 4, 5], [1]])
  expect(cache.sizeBytes()).toBe(4 * 300)
})

test('clearing again and again leaves nothing behind', () => {
  const cache = new TailCache(1_000_000)
  const [kept, cleared] = [emptyTail(), emptyTail()]
  add(cache, kept, 0, 100)
  for (let round = 0; round < 1_000; round++) {
    for (let at = 0; at < 10; at++) add(cache, cleared, at, 100)
    cache.clear(cleared)
  }
  expect(cache.sizeBytes()).toBe(300)
  expect(cache.places()).toBeLessThan(3_000)
  expect(held(kept)).toEqual([0])
})

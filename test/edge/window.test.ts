import { expect, test } from 'vitest'
import { utf8, utf8Text } from '../../common/bytes.ts'
import type { StateEntry } from '../../common/log/types.ts'
import { decodeHeld } from '../../edge/held.ts'
import { decodeSummary } from '../../edge/summary.ts'
import { Window } from '../../edge/window.ts'

/** What a window says of itself as commits come and fail. */

const record = (id: string) => ({
  topic: 't',
  lane: 0,
  key: utf8('k'),
  value: utf8(id),
  timestampMs: 1,
  headers: new Uint8Array(0),
  headerCount: 0,
})

function newWindow(undone: string[] = []) {
  const holdings = { bytes: 0 }
  const window = new Window({
    name: 't/0/1/0',
    reason: 'conflated',
    dueMs: 0,
    holdings,
    settled: (_, keys) => undone.push(...keys),
  })
  const hold = (key: string, id: string, takenMs: number) => window.hold(key, record(id), takenMs)
  const held = () =>
    window.oldest(Number.POSITIVE_INFINITY).map(([key, bytes]) => [key, utf8Text(decodeHeld(bytes).value)])
  return { window, holdings, hold, held }
}

const tallyOf = (entries: StateEntry[]) => {
  const value = entries.find(({ key }) => key.startsWith('tally/'))?.value
  return value ? decodeSummary(value) : null
}

test('the newest reading of each key stays, in order of arrival; what it replaced is counted', () => {
  const { window, hold, held } = newWindow()
  hold('a', 'a1', 10)
  hold('b', 'b1', 11)
  window.seal()
  hold('a', 'a2', 12)
  hold('a', 'a3', 13)
  expect(window.isSettled).toBe(false)
  expect(held()).toEqual([])
  const entries = window.seal()
  // What never was in a commit of its own is not written.
  expect(entries.map(({ key }) => key)).toEqual(['held/t/0/1/0/a', 'tally/t/0/1/0'])
  expect(tallyOf(entries)).toEqual({ reason: 'conflated', count: 2, keys: 1, firstMs: 10, lastMs: 13 })
  window.settle(true)
  window.settle(true)
  expect(window.isSettled).toBe(true)
  expect(held()).toEqual([
    ['b', 'b1'],
    ['a', 'a3'],
  ])
  expect(window.summary()).toEqual({ reason: 'conflated', count: 2, keys: 1, firstMs: 10, lastMs: 13 })
  expect(window.end().map(({ key, value }) => [key, value])).toEqual([['tally/t/0/1/0', null]])
})

test('a commit that fails takes back its readings, and what it had replaced stands again', () => {
  const { window, holdings, hold, held } = newWindow()
  hold('a', 'a1', 1)
  window.seal()
  hold('a', 'a2', 2)
  hold('b', 'b1', 2)
  window.seal()
  window.settle(true)
  window.settle(false)
  expect(held()).toEqual([['a', 'a1']])
  expect(window.summary()).toBeNull()
  expect([window.keys, window.bytes]).toEqual([1, holdings.bytes])
  window.forget(['a'])
  expect([window.keys, window.bytes, holdings.bytes]).toEqual([0, 0, 0])
})

test('what replaced a failed reading counts the one before that instead, or none', () => {
  const { window, hold, held } = newWindow()
  hold('a', 'a1', 1)
  window.seal()
  hold('a', 'a2', 2)
  hold('b', 'b2', 2)
  window.seal()
  hold('a', 'a3', 3)
  hold('b', 'b3', 3)
  window.seal()
  window.settle(true)
  window.settle(false)
  window.settle(true)
  expect(held()).toEqual([
    ['a', 'a3'],
    ['b', 'b3'],
  ])
  // a1 alone was acked and dropped.
  expect(window.summary()).toMatchObject({ count: 1, keys: 1 })
})

test('drops of a failed commit are not counted, and keys let through by it are told', () => {
  const undone: string[] = []
  const { window } = newWindow(undone)
  window.drop(5, true)
  window.seal()
  window.settle(true)
  window.pass('x')
  window.drop(6, false)
  window.drop(7, true)
  expect(tallyOf(window.seal())).toMatchObject({ count: 3, keys: 2, firstMs: 5, lastMs: 7 })
  window.settle(false)
  expect(undone).toEqual(['x'])
  expect(window.summary()).toMatchObject({ count: 1, keys: 1, firstMs: 5, lastMs: 5 })
})

test('what was stored is taken back in the order in which it came', () => {
  const { window, hold } = newWindow()
  for (const key of ['z', 'b', 'a']) hold(key, key, 1)
  hold('b', 'b2', 2)
  const entries = window.seal()
  const { window: again, held } = newWindow()
  const stored = entries
    .filter(({ key }) => key.startsWith('held/'))
    .map(({ key, value }): [string, Uint8Array] => [
      key.slice('held/t/0/1/0/'.length),
      value ?? new Uint8Array(0),
    ])
  again.restore(stored.toReversed(), tallyOf(entries))
  expect(held()).toEqual([
    ['z', 'z'],
    ['a', 'a'],
    ['b', 'b2'],
  ])
  expect(again.summary()).toMatchObject({ count: 1 })
  expect(again.oldest(1)).toHaveLength(1)
})

import { expect, test } from 'vitest'
import type { Ledger } from '../../demo/ledger.ts'
import { createLedger } from '../../demo/ledger.ts'

function published(count: number, acked: number[]): Ledger {
  const ledger = createLedger()
  for (let n = 0; n < count; n++) ledger.published('d', n)
  for (const n of acked) ledger.acked('d', n)
  return ledger
}

test('a faithful log counts nothing against itself', () => {
  const ledger = published(3, [0, 1, 2])
  for (const n of [0, 1, 2]) {
    ledger.stored('d', n)
    ledger.delivered('d', n, 10 * (n + 1), 0)
  }
  expect(ledger.report()).toEqual({
    published: 3,
    acked: 3,
    stored: 3,
    delivered: 3,
    lost: 0,
    duplicated: 0,
    reordered: 0,
    latencyMs: { p50: 20, p99: 20 },
  })
})

test('an acked reading that is not in the log is lost, an unacked one is not', () => {
  const ledger = published(3, [0, 2])
  ledger.stored('d', 0)
  expect(ledger.report()).toMatchObject({ acked: 2, stored: 1, lost: 1 })
})

test('copies and readings behind a later one are counted, in the log and in what was delivered', () => {
  const ledger = published(4, [0, 1, 2, 3])
  for (const n of [0, 2, 1, 1, 3]) ledger.stored('d', n)
  expect(ledger.report()).toMatchObject({ stored: 4, duplicated: 1, reordered: 1 })
  for (const n of [0, 0, 1]) ledger.delivered('d', n, 1, 0)
  expect(ledger.report()).toMatchObject({ delivered: 2, duplicated: 2, reordered: 1 })
})

test('devices are told apart', () => {
  const ledger = createLedger()
  for (const device of ['a', 'b']) {
    const n = ledger.published(device, 1)
    ledger.acked(device, n)
    ledger.stored(device, n)
  }
  expect(ledger.report()).toMatchObject({ published: 2, stored: 2, duplicated: 0, lost: 0 })
})

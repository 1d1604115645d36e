import { expect, test } from 'vitest'
import { createLaneGate } from '../../../../hub/endpoints/uplink/lane-gate.ts'

test('one failure is one refusal: what was pipelined behind it is dropped, and fails unheard', () => {
  const gate = createLaneGate()
  const before = gate.generation()
  expect(gate.admitsAppend(1, 999)).toBe(true)
  expect(gate.refuse(before, { run: 1, next: 10 })).toBe(true)
  expect(gate.refuse(before, { run: 1, next: 10 })).toBe(false)
  expect(gate.admitsAppend(1, 20)).toBe(false)
  expect(gate.admitsAppend(2, 10)).toBe(false)
  expect(gate.admitsAppend(1, 10)).toBe(true)
  expect(gate.isBlocked()).toBe(false)
  expect(gate.admitsAppend(1, 30)).toBe(true)
})

test('a gap across the place or the run that begins there unblocks; others do not', () => {
  const blocked = () => {
    const gate = createLaneGate()
    gate.refuse(gate.generation(), { run: 1, next: 10 })
    return gate
  }
  expect(blocked().admitsGap({ run: 1, from: 10, to: 12 })).toBe(true)
  expect(blocked().admitsGap({ run: 1, from: 0, to: 10 })).toBe(true)
  expect(blocked().admitsGap({ run: 1, from: 11, to: 12 })).toBe(false)
  expect(blocked().admitsGap({ run: 2, from: 10, to: 12 })).toBe(false)
  expect(blocked().admitsRun({ prev: { run: 1, end: 10 } })).toBe(true)
  expect(blocked().admitsRun({ prev: { run: 1, end: 60 } })).toBe(false)
  expect(blocked().admitsRun({ prev: null })).toBe(false)
})

test('without a place only an open helps, and what came before it fails unheard', () => {
  const gate = createLaneGate()
  const before = gate.generation()
  gate.refuse(before, null)
  expect(gate.admitsAppend(1, 0)).toBe(false)
  expect(gate.admitsRun({ prev: null })).toBe(false)
  expect(gate.admitsGap({ run: 1, from: 0, to: 1 })).toBe(false)
  gate.open()
  expect(gate.admitsRun({ prev: null })).toBe(true)
  expect(gate.refuse(before, null)).toBe(false)
  expect(gate.refuse(gate.generation(), null)).toBe(true)
})

test('an earlier frame that fails late is news where the lane stands further back for it', () => {
  const gate = createLaneGate()
  const before = gate.generation()
  expect(gate.refuse(before, { run: 1, next: 10 })).toBe(true)
  expect(gate.refuse(before, { run: 1, next: 10 })).toBe(false)
  expect(gate.refuse(before, { run: 1, next: 4 })).toBe(true)
  expect(gate.refuse(before, { run: 1, next: 4 })).toBe(false)
  expect(gate.admitsAppend(1, 10)).toBe(false)
  expect(gate.admitsAppend(1, 4)).toBe(true)
})

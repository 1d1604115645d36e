import { expect, test } from 'vitest'
import type { Published } from './verify.ts'
import { judge } from './verify.ts'

const published = (over: Partial<Published>): Published => ({
  client: 'c',
  qos: 2,
  constant: false,
  count: 3,
  unacked: new Set(),
  cutUnacked: new Map(),
  ...over,
})

test('a faithful log has no problems', () => {
  expect(judge(published({}), [0, 1, 2])).toEqual([])
})

test('a missing acked message is a problem, a missing unacked one is not', () => {
  expect(judge(published({}), [0, 2])).toEqual(['c: acked message 1 is missing'])
  expect(judge(published({ unacked: new Set([1]) }), [0, 2])).toEqual([])
})

test('QoS 2 allows no copy, QoS 1 one for each cut that caught the message without an ack', () => {
  expect(judge(published({ cutUnacked: new Map([[1, 1]]) }), [0, 1, 1, 2])).toHaveLength(1)
  expect(judge(published({ qos: 1, cutUnacked: new Map([[1, 1]]) }), [0, 1, 2, 1])).toEqual([])
  expect(judge(published({ qos: 1, cutUnacked: new Map([[1, 1]]) }), [0, 1, 2, 1, 1])).toHaveLength(1)
  expect(judge(published({ qos: 1 }), [0, 1, 1, 2])).toHaveLength(1)
})

test('order is judged on first copies', () => {
  expect(judge(published({}), [1, 0, 2])).toEqual(['c: message 0 stands behind 1'])
  expect(judge(published({ qos: 1, cutUnacked: new Map([[0, 1]]) }), [0, 1, 0, 2])).toEqual([])
})

test('constant payloads are counted', () => {
  expect(judge(published({ constant: true }), [0, 0, 0])).toEqual([])
  expect(judge(published({ constant: true }), [0, 0])).toHaveLength(1)
  expect(judge(published({ constant: true }), [0, 0, 0, 0])).toHaveLength(1)
  expect(judge(published({ constant: true, qos: 1, cutUnacked: new Map([[2, 1]]) }), [0, 0, 0, 0])).toEqual(
    [],
  )
})

test('a message nobody published is a problem', () => {
  expect(judge(published({}), [0, 1, 2, 7])).toEqual(['c: message 7 was never published'])
})

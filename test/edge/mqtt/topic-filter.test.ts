import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  compileFilter,
  isTopicFilter,
  isTopicName,
  SubscriptionIndex,
} from '../../../edge/mqtt/topic-filter.ts'

test.each([
  ['sport/tennis/#', 'sport/tennis', true],
  ['sport/tennis/#', 'sport/tennis/a/b', true],
  ['sport/tennis/#', 'sport', false],
  ['#', 'a/b', true],
  ['+', 'a', true],
  ['+', '/a', false],
  ['+/+', '/a', true],
  ['/+', '/a', true],
  ['sport/+', 'sport', false],
  ['sport/+', 'sport/', true],
  ['#', '$SYS/a', false],
  ['+/a', '$SYS/a', false],
  ['$SYS/#', '$SYS/a', true],
  ['a/+/c', 'a//c', true],
  ['A', 'a', false],
])('filter %s on topic %s: %s (MQTT 3.1.1 section 4.7)', (filter, topic, expected) => {
  expect(compileFilter(filter)(topic)).toBe(expected)
  const index = new SubscriptionIndex<string>()
  index.set(filter, 'one', 1)
  expect(index.match(topic).length).toBe(expected ? 1 : 0)
})

test('names and filters', () => {
  expect(['a', '/', 'a b', '$x'].every(isTopicName)).toBe(true)
  expect(['', '#', 'a/+', 'a\0', '/'.repeat(100)].some(isTopicName)).toBe(false)
  expect(['#', '+', 'a/+/b', '+/#', '/#'].every(isTopicFilter)).toBe(true)
  expect(['', 'a#', '#/a', 'a+', 'a/+b', 'a\0'].some(isTopicFilter)).toBe(false)
})

const level = fc.constantFrom('a', 'b', '', '$x')
const topics = fc.array(level, { minLength: 1, maxLength: 4 }).map(levels => levels.join('/'))
const filters = fc
  .tuple(fc.array(fc.oneof(level, fc.constant('+')), { minLength: 1, maxLength: 4 }), fc.boolean())
  .map(([levels, open]) => (open ? [...levels, '#'] : levels).join('/'))

test('the index finds what matching filter by filter finds, with the highest QoS, through changes', () => {
  const change = fc.record({
    filter: filters,
    key: fc.nat(3),
    qos: fc.nat(2),
    remove: fc.boolean(),
    topic: topics,
  })
  fc.assert(
    fc.property(fc.array(change, { maxLength: 30 }), changes => {
      const index = new SubscriptionIndex<number>()
      const model = new Map<string, Map<number, number>>()
      for (const { filter, key, qos, remove, topic } of changes) {
        const keys = model.get(filter) ?? new Map<number, number>()
        model.set(filter, keys)
        if (remove) {
          keys.delete(key)
          index.delete(filter, key)
        } else {
          keys.set(key, qos)
          index.set(filter, key, qos)
        }
        const expected = new Map<number, number>()
        for (const [candidate, holders] of model) {
          if (!compileFilter(candidate)(topic)) continue
          for (const [holder, granted] of holders) {
            expected.set(holder, Math.max(granted, expected.get(holder) ?? 0))
          }
        }
        expect(new Map(index.match(topic).map(match => [match.key, match.qos]))).toEqual(expected)
        expect(index.size).toBe([...model.values()].reduce((sum, holders) => sum + holders.size, 0))
      }
    }),
  )
})

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeHeaders } from '../../common/batch-builder.ts'
import type { Rule } from '../../common/config-edge.ts'
import { isTributaryError } from '../../common/errors.ts'
import { partitionForKey } from '../../common/murmur2.ts'
import type { RoutedRecord } from '../../edge/ports.ts'
import type { Router, RouterOptions } from '../../edge/router.ts'
import { createRouter, MAX_CACHED_ROUTES } from '../../edge/router.ts'

const routerOf = (rules: Rule[], topics: RouterOptions['topics'] = {}) =>
  createRouter({ edgeId: 'e', rules, topics })

const publish = (topic: string, payload = 'x', clientId = 'c') => ({
  topic,
  payload: Buffer.from(payload),
  clientId,
  nowMs: 1_000,
})

function routed(router: Router, topic: string, payload = 'x', clientId = 'c'): RoutedRecord {
  const record = router(publish(topic, payload, clientId))
  if (record === null) throw new Error('dropped')
  return record
}

const keyOf = (record: RoutedRecord) => Buffer.from(record.key ?? []).toString()
const headers = (...pairs: [string, string][]) =>
  encodeHeaders(pairs.map(([key, value]) => ({ key, value: Buffer.from(value) })))

describe('routing', () => {
  test('without rules everything goes to telemetry under <edge>/<MQTT topic>', () => {
    const record = routed(routerOf([]), 'plant/7/temp')
    expect({ ...record, key: keyOf(record), value: Buffer.from(record.value).toString() }).toEqual({
      topic: 'telemetry',
      lane: 0,
      key: 'e/plant/7/temp',
      value: 'x',
      timestampMs: 1_000,
      headers: headers(['mqtt.topic', 'plant/7/temp'], ['edge', 'e']),
      headerCount: 2,
    })
    expect(routed(routerOf([]), '$weird').topic).toBe('telemetry')
  })

  test('the first rule that matches decides', () => {
    const router = routerOf([
      { match: 'a/secret/#', drop: true },
      { match: 'a/+/temp', topic: 'temps', key: '{2}' },
      { match: 'a/#', topic: '{1}.{edge}', key: '{topic}@{client}' },
    ])
    expect(router(publish('a/secret'))).toBeNull()
    expect(router.stats().dropped).toBe(1)
    const temp = routed(router, 'a/7/temp')
    expect([temp.topic, keyOf(temp)]).toEqual(['temps', '7'])
    const other = routed(router, 'a/x/y', 'x', 'phone')
    expect([other.topic, keyOf(other)]).toEqual(['a.e', 'a/x/y@phone'])
    expect(keyOf(routed(router, 'a/x/y', 'x', 'tablet'))).toBe('a/x/y@tablet')
    expect(routed(router, 'b').topic).toBe('telemetry')
  })

  test('a leading wildcard leaves topics that start with $ to the default rule (MQTT-4.7.2-1)', () => {
    const router = routerOf([{ match: '#', topic: 'all' }])
    expect([routed(router, 'a').topic, routed(router, '$a').topic]).toEqual(['all', 'telemetry'])
  })

  test('hub topics are valid whatever the template yields', () => {
    const router = routerOf([{ match: '+/#', topic: '{1}' }])
    expect(routed(router, 'gr\u00f6\u00dfe nr/1').topic).toBe('gr__e_nr')
    expect(routed(router, '../x').topic).toBe('__')
    expect(routed(router, '/x').topic).toBe('_')
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1, maxLength: 400 }), topic => {
        const { topic: name } = routed(router, topic)
        expect(name === 'telemetry' || /^[A-Za-z0-9._-]{1,249}$/.test(name)).toBe(true)
        expect(name).not.toMatch(/^\.{1,2}$/)
      }),
    )
  })

  test('partitionBy key spreads keys over lanes as Kafka does, edge keeps lane 0', () => {
    const router = routerOf([], { telemetry: { partitionBy: 'key', lanes: 5 } })
    const lanes = Array.from({ length: 40 }, (_, index) => routed(router, `t/${index}`))
    for (const record of lanes) expect(record.lane).toBe(partitionForKey(record.key ?? Buffer.from(''), 5))
    expect(new Set(lanes.map(record => record.lane)).size).toBe(5)
    expect(routed(routerOf([], { telemetry: { lanes: 5 } }), 't').lane).toBe(0)
  })

  test('content type is the rule’s, else guessed where the payload is framed like JSON', () => {
    const guess = (payload: string) => routed(routerOf([]), 't', payload).headerCount
    expect([guess('{"a":1}'), guess('[1]'), guess('{"a":1'), guess('1'), guess('')]).toEqual([3, 3, 2, 2, 2])
    const router = routerOf([{ match: 't', contentType: 'text/csv' }])
    expect(routed(router, 't', '{}').headers).toEqual(
      headers(['mqtt.topic', 't'], ['edge', 'e'], ['content-type', 'text/csv']),
    )
  })

  test('the cache is bounded', () => {
    const router = routerOf([])
    for (let index = 0; index < MAX_CACHED_ROUTES + 100; index++) router(publish(`t/${index}`))
    router(publish('x'.repeat(60_000)))
    expect(router.stats().cachedRoutes).toBe(MAX_CACHED_ROUTES)
    expect(keyOf(routed(router, 't/0'))).toBe('e/t/0')
  })
})

describe('event time', () => {
  const at = (path: string, unit: 's' | 'ms' | 'us' | 'iso', payload: string) =>
    routed(routerOf([{ match: 't', eventTime: { path, unit } }]), 't', payload).timestampMs

  test('is read from the payload in the unit the rule names', () => {
    expect(at('$.ts', 's', '{"ts":1700000000.25}')).toBe(1_700_000_000_250)
    expect(at('$.ts', 'ms', '{"ts":"1700000000250"}')).toBe(1_700_000_000_250)
    expect(at('$.ts', 'us', '{"ts":1700000000250123}')).toBe(1_700_000_000_250)
    expect(at('$.a.b[1]', 'iso', '{"a":{"b":[0,"2024-01-02T03:04:05+01:00"]}}')).toBe(
      Date.UTC(2024, 0, 2, 2, 4, 5),
    )
    expect(at('$.ts', 'iso', '{"ts":"2024-01-02 03:04:05"}')).toBe(Date.UTC(2024, 0, 2, 3, 4, 5))
    expect(at('$[0]', 'ms', '[7]')).toBe(7)
  })

  test.each(['', 'no json', '{}', '{"ts":null}', '{"ts":"soon"}', '{"ts":-1}', '{"ts":1e300}', '{"ts":{}}'])(
    'falls back to the time of arrival, counted and marked, on %s',
    payload => {
      const router = routerOf([{ match: 't', eventTime: { path: '$.ts', unit: 'ms' } }])
      const record = routed(router, 't', payload)
      expect(record.timestampMs).toBe(1_000)
      expect(Buffer.from(record.headers).toString()).toContain('event.time.error')
      expect(router.stats().eventTimeFallbacks).toBe(1)
    },
  )
})

test.each([
  [{ match: 'a/#/b' }, 'rules[0].match'],
  [{ match: 'a', topic: '{nope}' }, 'rules[0].topic'],
  [{ match: 'a', key: '{0}' }, 'rules[0].key'],
  [{ match: 'a', eventTime: { path: 'ts', unit: 'ms' as const } }, 'rules[0].eventTime.path'],
])('a bad rule is refused by name: %j', (rule, name) => {
  let error: unknown
  try {
    routerOf([rule])
  } catch (thrown) {
    error = thrown
  }
  expect(isTributaryError(error, 'config_invalid') && error.message).toContain(name)
})

import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { utf8 } from '../../common/bytes.ts'
import { isTributaryError } from '../../common/errors.ts'
import { MAX_RECORD_HEADERS, recordFromJson, recordJson } from '../../common/record-json.ts'

const bytes = fc.oneof(
  fc.string({ unit: 'binary' }).map(text => utf8(text)),
  fc.uint8Array({ maxLength: 40 }),
)

function refusal(raw: unknown): string {
  try {
    recordFromJson(raw, 'records[2]', 5)
  } catch (error) {
    if (isTributaryError(error, 'invalid_argument')) return error.message
    throw error
  }
  return 'accepted'
}

describe('recordJson', () => {
  it('has the fields in the order the command documents', () => {
    const record = {
      offset: 7,
      sequence: -1,
      timestampMs: 1_700_000_000_000,
      key: utf8('k'),
      value: Uint8Array.of(0xff, 0x00),
      headers: [
        { key: 'edge', value: utf8('e1') },
        { key: 'twice', value: utf8('a') },
        { key: 'twice', value: null },
        { key: '__proto__', value: utf8('harmless') },
      ],
    }
    expect(recordJson('t', 3, record)).toBe(
      '{"topic":"t","partition":3,"offset":7,"timestamp":1700000000000,"key":"k","value":{"base64":"/wA="},' +
        '"headers":{"edge":"e1","twice":["a",null],"__proto__":"harmless"}}',
    )
  })

  it('gives back any bytes through recordFromJson', () => {
    void fc.assert(
      fc.property(
        fc.option(bytes),
        fc.option(bytes),
        fc.uniqueArray(fc.tuple(fc.string({ unit: 'grapheme' }), fc.option(bytes)), {
          selector: ([key]) => key,
        }),
        fc.maxSafeNat(),
        (key, value, pairs, timestampMs) => {
          const headers = pairs.map(([name, content]) => ({ key: name, value: content }))
          const record = { offset: 1, sequence: -1, timestampMs, key, value, headers }
          const shown = JSON.parse(recordJson('t', 0, record))
          const { topic: _topic, offset: _offset, ...request } = shown
          const again = recordFromJson(request, 'record', 0)
          expect(again.partition).toBe(0)
          expect(plain(again.key)).toEqual(plain(key))
          expect(plain(again.value)).toEqual(plain(value))
          expect(again.timestampMs).toBe(timestampMs)
          const byName = new Map(again.headers.map(header => [header.key, plain(header.value)]))
          expect(byName).toEqual(new Map(headers.map(header => [header.key, plain(header.value)])))
        },
      ),
    )
  })
})

function plain(content: Uint8Array | null): number[] | null {
  return content === null ? null : [...content]
}

describe('recordFromJson', () => {
  it('keeps other JSON as its text and takes the time given', () => {
    const record = recordFromJson({ key: 12, value: { a: [1] }, timestamp: '1970-01-01T00:00:01Z' }, 'r', 5)
    expect(record).toEqual({
      key: utf8('12'),
      value: utf8('{"a":[1]}'),
      headers: [],
      timestampMs: 1_000,
      partition: null,
    })
    expect(recordFromJson({ value: null }, 'r', 5)).toMatchObject({ value: null, timestampMs: 5 })
    expect(recordFromJson({ value: { base64: 'AA==', more: 1 } }, 'r', 5).value).toEqual(
      utf8('{"base64":"AA==","more":1}'),
    )
  })

  it.each([
    [7, 'records[2] is 7; it must be an object'],
    [{}, 'records[2].value is missing'],
    [{ value: 'v', timestmp: 1 }, 'records[2] has an unknown field "timestmp"; did you mean "timestamp"?'],
    [{ value: { base64: '***' } }, 'records[2].value.base64 is "***"; it must be base64'],
    [{ value: { base64: 5 } }, 'records[2].value.base64 is 5'],
    [{ value: 'v', timestamp: -1 }, 'records[2].timestamp is -1; it must be milliseconds'],
    [{ value: 'v', timestamp: 'soon' }, 'records[2].timestamp is "soon"'],
    [{ value: 'v', partition: 1.5 }, 'records[2].partition is 1.5; it must be a partition number'],
    [{ value: 'v', headers: [] }, 'records[2].headers is []; it must be an object'],
    [
      { value: 'v', headers: { a: Array.from({ length: MAX_RECORD_HEADERS + 1 }, () => 'x') } },
      `records[2].headers has ${MAX_RECORD_HEADERS + 1} headers`,
    ],
  ])('refuses %j', (raw, message) => {
    expect(refusal(raw)).toContain(message)
  })
})

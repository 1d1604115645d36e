import { decode as cborxDecode, Encoder } from 'cbor-x'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeCbor, encodeCbor } from '../../common/cbor.ts'
import { TributaryError } from '../../common/errors.ts'
import type { Frame } from '../../common/wire.ts'
import { WIRE_LIMITS } from '../../common/wire.ts'
import type { ExpectedFrames } from '../../common/wire-codec.ts'
import { decodeFrame, encodeFrame } from '../../common/wire-codec.ts'
import { anyFrame, SENDERS } from './wire-frames.ts'

const hex = (text: string) => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))

function refusal(bytes: Uint8Array, expected: keyof ExpectedFrames): string {
  try {
    decodeFrame(bytes, expected)
  } catch (error) {
    if (error instanceof TributaryError && error.code === 'protocol_error') return error.message
    throw error
  }
  return 'accepted'
}

describe('frames', () => {
  test('any frame comes back as it was', () => {
    void fc.assert(
      fc.property(anyFrame, ({ sender, frame }) => {
        expect(plain(decodeFrame(encodeFrame(frame), sender))).toEqual(plain(frame))
      }),
      { numRuns: 2_000 },
    )
  })

  test('another CBOR library reads our frames and we read its', () => {
    const encoder = new Encoder({ useRecords: false, tagUint8Array: false })
    void fc.assert(
      fc.property(anyFrame, ({ sender, frame }) => {
        expect(plain(decodeFrame(encoder.encode(frame), sender))).toEqual(plain(frame))
        const theirs: unknown = cborxDecode(encodeFrame(frame))
        expect(plain(theirs)).toEqual(plain(frame))
      }),
      { numRuns: 500 },
    )
  })

  test('golden bytes', () => {
    const golden: [Frame, string][] = [
      [{ t: 'ping', nowMs: 1_700_000_000_000 }, 'a2 6174 6470696e67 656e6f774d73 1b0000018bcfe56800'],
      [{ t: 'start', session: 7 }, 'a2 6174 657374617274 6773657373696f6e 07'],
      [
        { t: 'append', log: 3, batches: hex('01020304') },
        'a3 6174 66617070656e64 636c6f67 03 6762617463686573 44 01020304',
      ],
      [
        { t: 'ack', log: 3, run: 2 ** 52 + 1, next: 500, committed: 300 },
        'a5 6174 6361636b 636c6f67 03 6372756e 1b0010000000000001 646e657874 1901f4 69636f6d6d6974746564 19012c',
      ],
      [
        { t: 'run', log: 0, run: 5, prev: null, reason: 'first' },
        'a5 6174 6372756e 636c6f67 00 6372756e 05 6470726576 f6 66726561736f6e 656669727374',
      ],
    ]
    for (const [frame, bytes] of golden)
      expect(Buffer.from(encodeFrame(frame))).toEqual(Buffer.from(hex(bytes)))
  })

  test('batches are a view of the message, not a copy', () => {
    const message = encodeFrame({ t: 'append', log: 1, batches: new Uint8Array(100).fill(9) })
    const frame = decodeFrame(message, 'edge')
    if (frame.t !== 'append') throw new Error('not an append')
    expect(frame.batches.buffer).toBe(message.buffer)
  })

  test('the error names the frame, the field and what is allowed', () => {
    const open = { t: 'open', log: 1, topic: 'a', topicId: null, lane: 0, lanes: 1, partitionBy: 'edge' }
    const refuse = (change: object) => refusal(encodeCbor({ ...open, ...change }), 'edge')
    expect(refuse({ log: -1 })).toBe('open.log must be an integer >= 0, but is -1')
    expect(refuse({ log: 'x' })).toBe('open.log must be an integer >= 0, but is "x"')
    expect(refuse({ topic: undefined })).toBe('open.topic must be a text string, but is missing')
    expect(refuse({ topic: 'x'.repeat(250) })).toContain('open.topic must be at most 249 bytes')
    expect(refuse({ lane: 1 })).toBe('open.lane must be less than lanes, but is 1')
    expect(refuse({ lanes: 0 })).toContain('open.lanes must be an integer > 0')
    expect(refuse({ partitionBy: 'moon' })).toBe('open.partitionBy must be one of edge, key, but is "moon"')
    expect(refuse({ t: 'welcome' })).toBe('an edge may not send a frame of type "welcome" here')
    expect(refuse({ extra: { from: ['a', 'newer', 'peer'] } })).toBe('accepted')
    const report = {
      t: 'report',
      nowMs: 1,
      version: '1',
      diskBytes: 1,
      diskBudgetBytes: 1,
      lanes: [{ topic: 7 }],
    }
    expect(refusal(encodeCbor(report), 'edge')).toBe('report.lanes[0].topic must be a text string, but is 7')
    expect(refusal(encodeCbor({ t: 'start', session: 1 }), 'hello')).toContain('first frame must be hello')
  })

  test('an unknown error code from a newer peer is one to try again', () => {
    const bytes = encodeCbor({ t: 'error', code: 'moon_phase', message: 'm', fatal: true })
    expect(decodeFrame(bytes, 'edge')).toEqual({
      t: 'error',
      code: 'not_available',
      message: 'm',
      fatal: true,
    })
  })

  test('messages too long are cut and details that do not fit are left out', () => {
    const bytes = encodeFrame({
      t: 'response',
      id: 1,
      error: { code: 'timeout', message: 'ü'.repeat(9_000), details: { next: 4, odd: 1.5, nested: {} } },
    })
    const frame = decodeFrame(bytes, 'client-hub')
    if (frame.t !== 'response' || frame.error === undefined) throw new Error('not an error')
    expect(frame.error.message.length).toBeGreaterThan(1_000)
    expect(frame.error.details).toEqual({ next: 4 })
  })
})

describe('hostile CBOR', () => {
  const cases: [string, string, RegExp][] = [
    ['nothing', '', /ends too early/],
    ['a cut map', 'a2 6174', /ends too early|longer than the frame/],
    ['trailing bytes', 'a0 00', /bytes after the end/],
    ['a tag', 'c0 00', /tags/],
    ['a record definition of cbor-x', 'd9dfff 83 19e000 81 6161 01', /tags/],
    ['an indefinite map', 'bf ff', /indefinite/],
    ['an indefinite string', 'a1 6174 5f 41 00 ff', /indefinite/],
    ['2^32 array items', 'a1 6174 9affffffff', /longer than the frame/],
    ['2^63 map items', 'bb 7fffffffffffffff', /2\^53/],
    ['a byte string of 4 GiB', 'a1 6174 5affffffff', /longer than the frame/],
    ['an integer of 2^53', 'a1 6174 1b0020000000000000', /2\^53/],
    ['a fraction', 'a1 6174 fb3ff8000000000000', /integers/],
    ['NaN', 'a1 6174 f97e00', /simple values/],
    ['undefined', 'a1 6174 f7', /simple values/],
    ['a key twice', 'a2 6174 00 6174 00', /comes twice/],
    ['a number as key', 'a1 00 00', /key is not a text/],
    ['__proto__', 'a1 69 5f5f70726f746f5f5f a0', /__proto__/],
    ['bad UTF-8', 'a1 6174 62c328', /UTF-8/],
    ['an array for a frame', '80', /must be a CBOR map/],
  ]
  test.each(cases)('%s', (_name, bytes, message) => {
    for (const sender of SENDERS) expect(refusal(hex(bytes), sender)).toMatch(message)
  })

  test('deep nesting and item floods are refused before they cost anything', () => {
    expect(refusal(new Uint8Array(1_000_000).fill(0x81), 'edge')).toMatch(/nested deeper/)
    const flood = new Uint8Array(WIRE_LIMITS.maxValues + 100).fill(0xa0)
    flood.set([0x9a, 0, 1, 0, 0x5f])
    expect(refusal(flood, 'edge')).toMatch(/too many values/)
    expect(refusal(flood, 'client-hub')).toMatch(/must be a CBOR map/)
  })

  test('garbage is a protocol_error and nothing else', () => {
    void fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.constantFrom(...SENDERS), (bytes, sender) => {
        expect(refusal(bytes, sender)).not.toBe('accepted')
      }),
      { numRuns: 3_000 },
    )
  })

  test('details cannot reach a prototype', () => {
    const bytes = encodeCbor({
      t: 'response',
      id: 1,
      error: { code: 'timeout', message: '', details: { constructor: 1 } },
    })
    const frame = decodeFrame(bytes, 'client-hub')
    expect(frame).toMatchObject({ error: { details: { constructor: 1 } } })
    expect({}.constructor).toBe(Object)
  })

  test('largest and smallest integers', () => {
    for (const value of [Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER, 0, -1, -256, -(2 ** 32) - 1]) {
      expect(decodeCbor(encodeCbor(value))).toBe(value)
    }
  })
})

/** Evens out what compares apart yet means the same: Buffer and Uint8Array, cbor-x's bigints and numbers. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value)
  if (value instanceof Uint8Array) return `bytes ${Buffer.from(value).toString('hex')}`
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]))
}

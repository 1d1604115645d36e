import { decode as cborxDecode, Encoder } from 'cbor-x'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor } from '../../common/cbor.ts'
import { isTributaryError } from '../../common/errors.ts'
import type { ExpectedPeerFrames } from '../../common/wire-peer-codec.ts'
import { decodePeerFrame, encodePeerFrame } from '../../common/wire-peer-codec.ts'
import { anyPeerFrame } from './wire-peer-frames.ts'

const SENDERS = ['hello', 'dialler', 'server'] as const
const BATCHES = new Uint8Array(100).fill(9)
const REF = { topicId: 't', partition: 0, leaderEpoch: 4 }

/** Byte strings compare as bytes, whatever class holds them. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('hex') }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return typeof value === 'bigint' ? Number(value) : value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
}

/** The refusal, or what was understood instead. */
function refusal(frame: Parameters<typeof encodeCbor>[0], expected: keyof ExpectedPeerFrames): string {
  try {
    return `accepted: ${JSON.stringify(decodePeerFrame(encodeCbor(frame), expected))}`
  } catch (error) {
    if (isTributaryError(error, 'protocol_error')) return error.message
    throw error
  }
}

describe('frames between nodes', () => {
  test('any frame comes back as it was', () => {
    void fc.assert(
      fc.property(anyPeerFrame, ({ sender, frame }) => {
        expect(plain(decodePeerFrame(encodePeerFrame(frame), sender))).toEqual(plain(frame))
      }),
      { numRuns: 2_000 },
    )
  })

  test('another CBOR library reads our frames and we read its', () => {
    const encoder = new Encoder({ useRecords: false, tagUint8Array: false })
    void fc.assert(
      fc.property(anyPeerFrame, ({ sender, frame }) => {
        expect(plain(decodePeerFrame(encoder.encode(frame), sender))).toEqual(plain(frame))
        const theirs: unknown = cborxDecode(encodePeerFrame(frame))
        expect(plain(theirs)).toEqual(plain(frame))
      }),
      { numRuns: 500 },
    )
  })

  test('frames that were changed on the way are understood or refused, and do no more', () => {
    const change = fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 }), fc.nat(40))
    void fc.assert(
      fc.property(anyPeerFrame, fc.array(change, { minLength: 1, maxLength: 4 }), ({ frame }, changes) => {
        let message = Uint8Array.from(encodePeerFrame(frame))
        for (const [at, value, cut] of changes) {
          message[at % message.length] = value
          if (cut > 35) message = message.slice(0, Math.max(1, message.length - cut))
        }
        for (const sender of SENDERS) {
          try {
            decodePeerFrame(message, sender)
          } catch (error) {
            if (!isTributaryError(error, 'protocol_error')) throw error
          }
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test('what is only moved is a view of the message, not a copy', () => {
    const call = encodePeerFrame({
      t: 'call',
      id: 1,
      call: { c: 'append', ...REF, acks: -1, batches: BATCHES },
    })
    const asked = decodePeerFrame(call, 'dialler')
    if (asked.t !== 'call' || asked.call.c !== 'append') throw new Error('not an append')
    expect(asked.call.batches.buffer).toBe(call.buffer)
    const place = {
      topicId: 't',
      partition: 1,
      leaderEpoch: 1,
      offset: 0,
      highWatermark: 2,
      startOffset: 0,
      hubTimeMs: 3,
    }
    const fetched = encodePeerFrame({ t: 'fetched', seq: 1, partitions: [{ ...place, batches: BATCHES }] })
    const data = decodePeerFrame(fetched, 'server')
    if (data.t !== 'fetched') throw new Error('not fetched')
    expect(data.partitions[0]?.batches.buffer).toBe(fetched.buffer)
  })

  test('the error names the frame, the field and what is allowed', () => {
    const bounds = { c: 'bounds', ...REF }
    expect(refusal({ t: 'call', id: 1, call: { ...bounds, leaderEpoch: 'x' } }, 'dialler')).toBe(
      'call bounds.leaderEpoch must be an integer, but is "x"',
    )
    expect(refusal({ t: 'call', id: 1, call: { ...bounds, c: 'moon' } }, 'dialler')).toContain(
      'call.call.c must be one of controller, append',
    )
    expect(
      refusal({ t: 'call', id: 1, call: { c: 'append', ...REF, acks: 2, batches: BATCHES } }, 'dialler'),
    ).toBe('call append.acks must be -1, 0 or 1, but is 2')
    expect(refusal({ t: 'raft', messages: [BATCHES, 1] }, 'dialler')).toContain('item 1 is none')
    expect(refusal({ t: 'answer', id: 1 }, 'server')).toContain('there exactly where error is not')
    expect(refusal({ t: 'fetched', seq: 1, partitions: [] }, 'dialler')).toBe(
      'a dialling node may not send a frame of type "fetched" here',
    )
    expect(refusal({ t: 'raft', messages: [] }, 'server')).toContain('a node that was dialled may not send')
    expect(refusal({ t: 'hello', min: 1, max: 1, software: 's' }, 'hello')).toContain('must be peer-hello')
    expect(refusal({ t: 'raft', messages: [], extra: { from: ['a newer peer'] } }, 'dialler')).toContain(
      'accepted',
    )
  })

  test('details that do not fit are left out', () => {
    const details = { leader: 3, text: 'x', none: null, yes: true }
    const bytes = encodePeerFrame({
      t: 'answer',
      id: 1,
      error: { code: 'not_available', message: 'ü'.repeat(9_000), details: { ...details, half: 0.5 } },
    })
    const frame = decodePeerFrame(bytes, 'server')
    expect(frame).toMatchObject({ error: { code: 'not_available', details } })
    expect(JSON.stringify(frame)).not.toContain('half')
  })
})

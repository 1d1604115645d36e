import * as fc from 'fast-check'
import { isTributaryError } from '../../common/errors.ts'
import { decodeFrame, encodeFrame } from '../../common/wire-codec.ts'
import { anyFrame, SENDERS } from '../common/wire-frames.ts'

/**
 * Mutated frames into the frame decoder: whatever comes is a valid frame, which then survives another round, or a
 * `protocol_error`. Throws at the first input that is neither, with the bytes and the seed.
 */
export function fuzz(iterations: number, seed: number): void {
  const input = fc.record({
    frame: anyFrame,
    expected: fc.constantFrom(...SENDERS),
    edits: fc.array(fc.record({ at: fc.nat(), byte: fc.nat(255), kind: fc.nat(3) }), { maxLength: 6 }),
  })
  const property = fc.property(input, ({ frame, expected, edits }) => {
    let bytes = encodeFrame(frame.frame)
    for (const edit of edits) bytes = mutate(bytes, edit.at % (bytes.length + 1), edit.byte, edit.kind)
    checkDecode(bytes, expected)
  })
  void fc.assert(property, { numRuns: iterations, seed })
}

function mutate(bytes: Uint8Array, at: number, byte: number, kind: number): Uint8Array {
  const head = bytes.subarray(0, at)
  if (kind === 0) return Buffer.concat([head, bytes.subarray(at + 1)])
  if (kind === 1) return Buffer.concat([head, Uint8Array.of(byte), bytes.subarray(at)])
  if (kind === 2) return Buffer.concat([head])
  return Buffer.concat([head, Uint8Array.of(byte), bytes.subarray(at + 1)])
}

function checkDecode(bytes: Uint8Array, expected: (typeof SENDERS)[number]): void {
  let decoded: ReturnType<typeof decodeFrame>
  try {
    decoded = decodeFrame(bytes, expected)
  } catch (error) {
    if (isTributaryError(error, 'protocol_error')) return
    throw error
  }
  const again = decodeFrame(encodeFrame(decoded), expected)
  if (encodeFrame(again).length !== encodeFrame(decoded).length)
    throw new Error(`unstable frame ${decoded.t}`)
}

import type { CborInput } from './cbor.ts'
import { TributaryError } from './errors.ts'
import type { ErrorFrame } from './wire.ts'
import type { Fields } from './wire-fields.ts'
import { decodeError } from './wire-parts.ts'
import type { PeerHello, PeerMemory, PeerWelcome } from './wire-peer.ts'

/** The handshake of wire-peer.ts to and from CBOR. */

/** A hello or welcome as CBOR. */
export function encodableHandshake(frame: PeerHello | PeerWelcome): CborInput {
  const { memory } = frame
  return { ...frame, memory: memory === null ? null : encodableMemory(memory) }
}

function encodableMemory(memory: PeerMemory): CborInput {
  const { promised } = memory
  return { ...memory, promised: promised === null ? null : { ...promised } }
}

/** The first frame of a dialler, or why there is none. Throws `protocol_error`. */
export function decodeHello(f: Fields, t: string): PeerHello | ErrorFrame {
  if (t === 'error') return decodeError(f)
  if (t !== 'peer-hello') {
    throw new TributaryError(
      'protocol_error',
      `the first frame must be peer-hello, not ${JSON.stringify(t)}: is a node dialling here?`,
    )
  }
  const hello: PeerHello = {
    t,
    min: f.uint('min'),
    max: f.uint('max'),
    clusterId: f.nullableText('clusterId', 64),
    nodeId: f.uint('nodeId'),
    directoryId: f.text('directoryId', 64),
    software: f.text('software', 255),
    peerAddress: f.nullableText('peerAddress', 512),
    memory: decodeMemory(f),
    to: f.uint('to'),
  }
  if (hello.min > hello.max) f.bad('min', 'at most max')
  return hello
}

/** The answer to a hello. Throws `protocol_error`. */
export function decodeWelcome(f: Fields): PeerWelcome {
  return {
    t: 'peer-welcome',
    protocol: f.uint('protocol'),
    clusterId: f.nullableText('clusterId', 64),
    nodeId: f.uint('nodeId'),
    directoryId: f.text('directoryId', 64),
    software: f.text('software', 255),
    memory: decodeMemory(f),
    maxFrameBytes: f.positive('maxFrameBytes'),
    heartbeatMs: f.positive('heartbeatMs'),
    deadMs: f.positive('deadMs'),
  }
}

function decodeMemory(f: Fields): PeerMemory | null {
  const memory = f.nullableMap('memory')
  if (memory === null) return null
  const promised = memory.nullableMap('promised')
  return {
    incarnation: memory.uint('incarnation'),
    directoryId: memory.text('directoryId', 64),
    startId: memory.nullableText('startId', 64),
    othersVote: memory.bool('othersVote'),
    promised:
      promised === null
        ? null
        : {
            seat: promised.text('seat', 128),
            term: promised.uint('term'),
            index: promised.int('index'),
            entryTerm: promised.uint('entryTerm'),
          },
  }
}

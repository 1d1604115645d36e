import { unreachable } from './assert.ts'
import type { CborInput } from './cbor.ts'
import { decodeCbor, encodeCbor } from './cbor.ts'
import type { ErrorCode } from './errors.ts'
import { TributaryError } from './errors.ts'
import type { ErrorFrame } from './wire.ts'
import { WIRE_LIMITS } from './wire.ts'
import { Fields } from './wire-fields.ts'
import {
  clipMessage,
  decodeCommon,
  decodeGapRange,
  decodeLaneReport,
  decodeRunStart,
  decodeTip,
  encodableDetails,
  encodableTip,
} from './wire-parts.ts'
import type {
  AnswerFrame,
  DiallerFrame,
  FetchedFrame,
  FetchedPartition,
  FetchFrame,
  PeerAnswer,
  PeerBounds,
  PeerCall,
  PeerCallName,
  PeerFrame,
  PeerHello,
  PeerPresence,
  ServerFrame,
} from './wire-peer.ts'
import { PEER_LIMITS } from './wire-peer.ts'
import { decodeHello, decodeWelcome, encodableHandshake } from './wire-peer-hello.ts'

/** The frames of wire-peer.ts to and from bytes, validated field by field. */

/** The frames that `decodePeerFrame` accepts by where the message came from. */
export interface ExpectedPeerFrames {
  hello: PeerHello | ErrorFrame
  dialler: DiallerFrame
  server: ServerFrame
}

/** Encodes into one new buffer; `batches` is copied once. Over-long error messages are cut, all else is asserted. */
export function encodePeerFrame(frame: PeerFrame): Uint8Array {
  switch (frame.t) {
    case 'error':
      return encodeCbor({ ...frame, message: clipMessage(frame.message) })
    case 'fetch':
      return encodeCbor({
        ...frame,
        positions: frame.positions.map(position => ({ ...position })),
        forget: frame.forget.map(place => ({ ...place })),
      })
    case 'fetched':
      return encodeCbor({ ...frame, partitions: frame.partitions.map(encodableFetched) })
    case 'peer-hello':
    case 'peer-welcome':
      return encodeCbor(encodableHandshake(frame))
    case 'call':
      return encodeCbor({ t: 'call', id: frame.id, call: encodableCall(frame.call) })
    case 'answer':
      return encodeCbor({
        t: 'answer',
        id: frame.id,
        answer: frame.answer === undefined ? undefined : encodableAnswer(frame.answer),
        error: frame.error === undefined ? undefined : encodableError(frame.error),
      })
    default:
      return encodeCbor({ ...frame })
  }
}

function encodableFetched(partition: FetchedPartition): CborInput {
  const { diverging, ...rest } = partition
  return { ...rest, diverging: diverging === undefined ? undefined : { ...diverging } }
}

function encodableCall(call: PeerCall): CborInput {
  switch (call.c) {
    case 'start-run': {
      const { prev } = call.start
      return { ...call, start: { ...call.start, prev: prev === null ? null : { ...prev } } }
    }
    case 'declare-gap':
      return { ...call, gap: { ...call.gap } }
    case 'told-gaps':
      return { ...call, sources: call.sources.map(source => ({ ...source })) }
    default:
      return { ...call }
  }
}

function encodableAnswer(answer: PeerAnswer): CborInput {
  switch (answer.c) {
    case 'append-lane':
    case 'start-run':
    case 'declare-gap':
    case 'lane-tip':
      return { c: answer.c, tip: encodableTip(answer.tip) }
    case 'bounds':
    case 'read':
      return { ...answer, bounds: { ...answer.bounds } }
    case 'presence':
      return { ...answer, edges: answer.edges.map(encodablePresence) }
    default:
      return { ...answer }
  }
}

function encodablePresence(edge: PeerPresence): CborInput {
  const { report } = edge
  return {
    ...edge,
    report: report === null ? null : { ...report, lanes: report.lanes.map(lane => ({ ...lane })) },
  }
}

function encodableError({ code, message, details }: NonNullable<AnswerFrame['error']>): CborInput {
  return { code, message: clipMessage(message), details: encodableDetails(details) }
}

const DECODERS: { [E in keyof ExpectedPeerFrames]: (fields: Fields, t: string) => ExpectedPeerFrames[E] } = {
  hello: decodeHello,
  dialler: decodeDialler,
  server: decodeServer,
}

/**
 * Decodes one message from a peer that may send `expected` frames. Byte strings are views of `bytes`, not copies, and
 * their content is not looked at. Unknown keys are ignored. Throws `protocol_error` naming the frame and the field.
 */
export function decodePeerFrame<E extends keyof ExpectedPeerFrames>(
  bytes: Uint8Array,
  expected: E,
): ExpectedPeerFrames[E] {
  const limit = expected === 'hello' ? WIRE_LIMITS.maxHelloBytes : PEER_LIMITS.maxFrameBytes
  if (bytes.length > limit) {
    throw new TributaryError('protocol_error', `a frame of ${bytes.length} bytes came, the limit is ${limit}`)
  }
  const value = decodeCbor(bytes, PEER_LIMITS.maxValues)
  if (!(value instanceof Map)) throw new TributaryError('protocol_error', 'a frame must be a CBOR map')
  const fields = new Fields(value, 'frame')
  const t = fields.text('t', 32)
  fields.path = t
  return DECODERS[expected](fields, t)
}

function unexpected(t: string, from: string): never {
  throw new TributaryError('protocol_error', `${from} may not send a frame of type ${JSON.stringify(t)} here`)
}

function decodeDialler(f: Fields, t: string): DiallerFrame {
  switch (t) {
    case 'raft':
      return { t, messages: f.byteStrings('messages', PEER_LIMITS.maxMessages) }
    case 'call':
      return decodeCallFrame(f)
    case 'fetch':
      return decodeFetch(f)
    case 'node-heartbeat':
      return {
        t,
        nodeId: f.uint('nodeId'),
        incarnation: f.uint('incarnation'),
        appliedIndex: f.int('appliedIndex'),
      }
    case 'snapshot-chunk':
      return {
        t,
        message: f.bytes('message'),
        position: f.uint('position'),
        sizeBytes: f.uint('sizeBytes'),
        bytes: f.bytes('bytes'),
      }
    case 'ping':
    case 'pong':
    case 'error':
      return decodeCommon(f, t)
    default:
      return unexpected(t, 'a dialling node')
  }
}

function decodeServer(f: Fields, t: string): ServerFrame {
  switch (t) {
    case 'fetched':
      return decodeFetched(f)
    case 'answer':
      return decodeAnswerFrame(f)
    case 'peer-welcome':
      return decodeWelcome(f)
    case 'ping':
    case 'pong':
    case 'error':
      return decodeCommon(f, t)
    default:
      return unexpected(t, 'a node that was dialled')
  }
}

// ------------------------------------------------------------------------------------------ replication

function decodePlace(f: Fields): { topicId: string; partition: number } {
  return { topicId: f.text('topicId', 64), partition: f.uint('partition') }
}

function decodeFetch(f: Fields): FetchFrame {
  return {
    t: 'fetch',
    incarnation: f.uint('incarnation'),
    taken: f.uint('taken'),
    positions: f.maps('positions', PEER_LIMITS.maxPartitions, position => ({
      ...decodePlace(position),
      leaderEpoch: position.int('leaderEpoch'),
      offset: position.int('offset'),
      lastEpoch: position.int('lastEpoch'),
      durableEnd: position.uint('durableEnd'),
    })),
    forget: f.maps('forget', PEER_LIMITS.maxPartitions, decodePlace),
  }
}

function decodeFetched(f: Fields): FetchedFrame {
  return {
    t: 'fetched',
    seq: f.uint('seq'),
    partitions: f.maps('partitions', PEER_LIMITS.maxPartitions, decodeFetchedPartition),
  }
}

function decodeFetchedPartition(f: Fields): FetchedPartition {
  const partition: FetchedPartition = {
    ...decodePlace(f),
    leaderEpoch: f.int('leaderEpoch'),
    offset: f.int('offset'),
    highWatermark: f.uint('highWatermark'),
    startOffset: f.uint('startOffset'),
    hubTimeMs: f.int('hubTimeMs'),
    batches: f.bytes('batches'),
  }
  const diverging = f.optionalMap('diverging')
  if (diverging !== undefined) {
    partition.diverging = { epoch: diverging.int('epoch'), endOffset: diverging.int('endOffset') }
  }
  if (f.present('lostBefore')) partition.lostBefore = f.uint('lostBefore')
  if (f.present('error')) partition.error = f.code('error')
  return partition
}

// ------------------------------------------------------------------------------------- calls and answers

const CALLS: readonly PeerCallName[] = [
  'controller',
  'append',
  'append-lane',
  'start-run',
  'declare-gap',
  'remove-lane',
  'lane-tip',
  'bounds',
  'read',
  'offset-for-time',
  'producer-snapshot',
  'stretch',
  'presence',
  'tell-gaps',
  'told-gaps',
]

function inner(f: Fields, key: string): Fields {
  return f.optionalMap(key) ?? f.bad(key, 'a map')
}

function decodeCallFrame(f: Fields): DiallerFrame {
  const call = inner(f, 'call')
  const c = call.oneOf('c', CALLS)
  call.path = `call ${c}`
  return { t: 'call', id: f.uint('id'), call: decodeCall(call, c) }
}

function decodeRef(f: Fields): { topicId: string; partition: number; leaderEpoch: number } {
  return { ...decodePlace(f), leaderEpoch: f.int('leaderEpoch') }
}

function decodeLane(f: Fields) {
  return { ...decodeRef(f), edgeId: f.text('edgeId', WIRE_LIMITS.maxEdgeIdBytes), lane: f.uint('lane') }
}

function decodeCall(f: Fields, c: PeerCallName): PeerCall {
  switch (c) {
    case 'controller':
      return { c, name: f.text('name', 64), request: f.bytes('request') }
    case 'append':
      return { c, ...decodeRef(f), acks: decodeAcks(f), batches: f.bytes('batches') }
    case 'append-lane':
      return { c, ...decodeLane(f), batches: f.bytes('batches') }
    case 'start-run':
      return { c, ...decodeLane(f), start: decodeRunStart(inner(f, 'start')) }
    case 'declare-gap':
      return { c, ...decodeLane(f), gap: decodeGapRange(inner(f, 'gap')) }
    case 'remove-lane':
    case 'lane-tip':
      return { c, ...decodeLane(f) }
    case 'bounds':
    case 'producer-snapshot':
      return { c, ...decodeRef(f) }
    case 'read':
      return {
        c,
        ...decodeRef(f),
        offset: f.uint('offset'),
        lastEpoch: f.int('lastEpoch'),
        maxBytes: f.uint('maxBytes'),
        maxWaitMs: f.uint('maxWaitMs'),
      }
    case 'offset-for-time':
      return { c, ...decodeRef(f), timeMs: f.int('timeMs') }
    case 'stretch':
      return {
        c,
        ...decodeRef(f),
        fromOffset: f.uint('fromOffset'),
        toOffset: f.uint('toOffset'),
        maxBytes: f.uint('maxBytes'),
      }
    case 'presence':
      return { c, after: f.nullableText('after', WIRE_LIMITS.maxEdgeIdBytes) }
    case 'tell-gaps':
      return { c, ...decodeRef(f), notices: f.byteStrings('notices', PEER_LIMITS.maxNotices) }
    case 'told-gaps':
      return { c, ...decodeRef(f), sources: f.maps('sources', PEER_LIMITS.maxPartitions, decodePlace) }
    default:
      return unreachable(c)
  }
}

function decodeAcks(f: Fields): -1 | 0 | 1 {
  const acks = f.int('acks')
  return acks === -1 || acks === 0 || acks === 1 ? acks : f.bad('acks', '-1, 0 or 1')
}

function decodeAnswerFrame(f: Fields): AnswerFrame {
  const answer = f.optionalMap('answer')
  const error = f.optionalMap('error')
  if ((answer === undefined) === (error === undefined)) f.bad('answer', 'there exactly where error is not')
  const frame: AnswerFrame = { t: 'answer', id: f.uint('id') }
  if (error !== undefined) frame.error = decodeAnswerError(error)
  if (answer === undefined) return frame
  const c = answer.oneOf('c', CALLS)
  answer.path = `answer ${c}`
  return { ...frame, answer: decodeAnswer(answer, c) }
}

function decodeAnswerError(f: Fields): { code: ErrorCode; message: string; details: Details } {
  const details: Details = {}
  for (const [key, value] of Object.entries(inner(f, 'details').plain())) {
    if (isDetail(value)) details[key] = value
  }
  return { code: f.code('code'), message: f.message(), details }
}

function isDetail(value: unknown): value is Details[string] {
  return (
    value === null || typeof value === 'number' || typeof value === 'string' || typeof value === 'boolean'
  )
}

type Details = NonNullable<AnswerFrame['error']>['details']

function decodeAnswer(f: Fields, c: PeerCallName): PeerAnswer {
  switch (c) {
    case 'controller':
      return { c, value: f.bytes('value'), index: f.int('index') }
    case 'append':
      return { c, baseOffset: f.int('baseOffset') }
    case 'append-lane':
    case 'start-run':
    case 'declare-gap':
      return { c, tip: decodeTip(inner(f, 'tip')) }
    case 'remove-lane':
    case 'tell-gaps':
      return { c }
    case 'told-gaps':
      return { c, offsets: f.ints('offsets', PEER_LIMITS.maxPartitions) }
    case 'lane-tip': {
      const tip = f.nullableMap('tip')
      return { c, tip: tip === null ? null : decodeTip(tip) }
    }
    case 'bounds':
      return { c, bounds: decodeBounds(inner(f, 'bounds')) }
    case 'read':
      return {
        c,
        batches: f.bytes('batches'),
        nextOffset: f.uint('nextOffset'),
        lastEpoch: f.int('lastEpoch'),
        bounds: decodeBounds(inner(f, 'bounds')),
        isSettled: f.bool('isSettled'),
      }
    case 'offset-for-time':
      return { c, offset: f.uint('offset') }
    case 'producer-snapshot':
      return { c, offset: f.uint('offset'), bytes: f.bytes('bytes') }
    case 'stretch':
      return { c, batches: f.bytes('batches'), nextOffset: f.uint('nextOffset') }
    case 'presence':
      return { c, edges: f.maps('edges', PEER_LIMITS.maxPresences, decodePresence), more: f.bool('more') }
    default:
      return unreachable(c)
  }
}

function decodeBounds(f: Fields): PeerBounds {
  return {
    startOffset: f.uint('startOffset'),
    endOffset: f.uint('endOffset'),
    highWatermark: f.uint('highWatermark'),
    leaderEpoch: f.int('leaderEpoch'),
    sizeBytes: f.uint('sizeBytes'),
  }
}

function decodePresence(f: Fields): PeerPresence {
  const report = f.nullableMap('report')
  return {
    edgeId: f.text('edgeId', WIRE_LIMITS.maxEdgeIdBytes),
    connected: f.bool('connected'),
    session: f.uint('session'),
    lastSeenMs: f.int('lastSeenMs'),
    clockOffsetMs: f.int('clockOffsetMs'),
    report: report === null ? null : decodeReport(report),
  }
}

function decodeReport(f: Fields): NonNullable<PeerPresence['report']> {
  return {
    atMs: f.int('atMs'),
    diskBytes: f.uint('diskBytes'),
    diskBudgetBytes: f.uint('diskBudgetBytes'),
    lanes: f.maps('lanes', WIRE_LIMITS.maxReportLanes, decodeLaneReport),
  }
}

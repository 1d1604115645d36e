import { unreachable } from './assert.ts'
import type { CborInput } from './cbor.ts'
import { decodeCbor, encodeCbor } from './cbor.ts'
import { TributaryError } from './errors.ts'
import type {
  AckFrame,
  ClientFrame,
  ClientHubFrame,
  EdgeFrame,
  EndedFrame,
  ErrorFrame,
  Frame,
  HelloFrame,
  OpenedFrame,
  OpenFrame,
  RecordsFrame,
  RefusedFrame,
  ReportFrame,
  RequestFrame,
  ResponseFrame,
  SubscribeFrame,
  TopicInfo,
  UplinkHubFrame,
  WelcomeFrame,
} from './wire.ts'
import { WIRE_LIMITS } from './wire.ts'
import { Fields } from './wire-fields.ts'
import {
  clipMessage,
  decodeCommon,
  decodeError,
  decodeGapRange,
  decodeLaneReport,
  decodeRunStart,
  decodeTip,
  encodableDetails,
  encodableTip,
} from './wire-parts.ts'

/** The frames of wire.ts to and from bytes, validated field by field. */

/** Who may send what: the frames that `decodeFrame` accepts by where the message came from. */
export interface ExpectedFrames {
  hello: HelloFrame | ErrorFrame
  edge: EdgeFrame
  client: ClientFrame
  'uplink-hub': UplinkHubFrame
  'client-hub': ClientHubFrame
}

/** Encodes into one new buffer; `batches` is copied once. Over-long error messages are cut, all else is asserted. */
export function encodeFrame(frame: Frame): Uint8Array {
  switch (frame.t) {
    case 'error':
    case 'refused':
    case 'ended':
      return encodeCbor({ ...frame, message: clipMessage(frame.message) })
    case 'response':
      return encodeCbor({
        t: 'response',
        id: frame.id,
        result: frame.result === undefined ? undefined : { ...frame.result, partitions: partitionsOf(frame) },
        error: frame.error === undefined ? undefined : encodableError(frame.error),
      })
    case 'hello':
    case 'welcome':
      return encodeCbor({ ...frame, edge: frame.edge === undefined ? undefined : { ...frame.edge } })
    case 'opened':
      return encodeCbor({ ...frame, tip: encodableTip(frame.tip) })
    case 'run':
      return encodeCbor({ ...frame, prev: frame.prev === null ? null : { ...frame.prev } })
    case 'report':
      return encodeCbor({ ...frame, lanes: frame.lanes.map(lane => ({ ...lane })) })
    default:
      return encodeCbor({ ...frame })
  }
}

function partitionsOf(frame: ResponseFrame): CborInput | undefined {
  if (frame.result === undefined || !('partitions' in frame.result)) return undefined
  return frame.result.partitions.map(partition => ({ ...partition }))
}

function encodableError(error: NonNullable<ResponseFrame['error']>): CborInput {
  const { code, message, details = {} } = error
  return { code, message: clipMessage(message), details: encodableDetails(details) }
}

const DECODERS: { [E in keyof ExpectedFrames]: (fields: Fields, t: string) => ExpectedFrames[E] } = {
  hello: decodeHello,
  edge: decodeEdge,
  client: decodeClient,
  'uplink-hub': decodeUplinkHub,
  'client-hub': decodeClientHub,
}

/**
 * Decodes one message from a peer that may send `expected` frames. `batches` is a view of `bytes`, not a copy, and
 * its content is not looked at. Unknown keys are ignored. Throws `protocol_error` naming the frame and the field.
 */
export function decodeFrame<E extends keyof ExpectedFrames>(
  bytes: Uint8Array,
  expected: E,
): ExpectedFrames[E] {
  const limit = expected === 'hello' ? WIRE_LIMITS.maxHelloBytes : WIRE_LIMITS.maxFrameBytes
  if (bytes.length > limit) {
    throw new TributaryError('protocol_error', `a frame of ${bytes.length} bytes came, the limit is ${limit}`)
  }
  const value = decodeCbor(
    bytes,
    expected === 'client-hub' ? WIRE_LIMITS.maxClientValues : WIRE_LIMITS.maxValues,
  )
  if (!(value instanceof Map)) throw new TributaryError('protocol_error', 'a frame must be a CBOR map')
  const fields = new Fields(value, 'frame')
  const t = fields.text('t', 32)
  fields.path = t
  return DECODERS[expected](fields, t)
}

function unexpected(t: string, from: string): never {
  throw new TributaryError('protocol_error', `${from} may not send a frame of type ${JSON.stringify(t)} here`)
}

function decodeHello(f: Fields, t: string): HelloFrame | ErrorFrame {
  if (t === 'error') return decodeError(f)
  if (t !== 'hello')
    throw new TributaryError('protocol_error', `the first frame must be hello, not ${JSON.stringify(t)}`)
  const hello: HelloFrame = { t, min: f.uint('min'), max: f.uint('max'), software: f.text('software', 255) }
  if (hello.min > hello.max) f.bad('min', 'at most max')
  const edge = f.optionalMap('edge')
  if (edge === undefined) return hello
  const id = edge.text('id', WIRE_LIMITS.maxEdgeIdBytes)
  if (id === '') edge.bad('id', 'not empty')
  const clusterId = edge.nullableText('clusterId', 64)
  return { ...hello, edge: { id, session: edge.uint('session'), clusterId, nowMs: edge.int('nowMs') } }
}

function decodeEdge(f: Fields, t: string): EdgeFrame {
  switch (t) {
    case 'append':
      return { t, log: f.uint('log'), batches: f.bytes('batches') }
    case 'start':
      return { t, session: f.uint('session') }
    case 'open':
      return decodeOpen(f)
    case 'run':
      return { t, log: f.uint('log'), ...decodeRunStart(f) }
    case 'gap':
      return { t, log: f.uint('log'), ...decodeGapRange(f) }
    case 'report':
      return decodeReport(f)
    case 'ping':
    case 'pong':
    case 'error':
      return decodeCommon(f, t)
    default:
      return unexpected(t, 'an edge')
  }
}

function decodeClient(f: Fields, t: string): ClientFrame {
  switch (t) {
    case 'credit':
      return { t, sub: f.uint('sub'), bytes: f.uint('bytes') }
    case 'request':
      return decodeRequest(f)
    case 'subscribe':
      return decodeSubscribe(f)
    case 'unsubscribe':
      return { t, sub: f.uint('sub') }
    case 'ping':
    case 'pong':
    case 'error':
      return decodeCommon(f, t)
    default:
      return unexpected(t, 'a client')
  }
}

function decodeUplinkHub(f: Fields, t: string): UplinkHubFrame {
  switch (t) {
    case 'ack':
      return decodeAck(f)
    case 'refused':
      return decodeRefused(f)
    case 'welcome':
      return decodeWelcome(f)
    case 'opened':
      return decodeOpened(f)
    case 'throttle':
      return { t, delayMs: f.uint('delayMs') }
    case 'ping':
    case 'pong':
    case 'error':
      return decodeCommon(f, t)
    default:
      return unexpected(t, 'a hub')
  }
}

function decodeClientHub(f: Fields, t: string): ClientHubFrame {
  switch (t) {
    case 'records':
      return decodeRecords(f)
    case 'response':
      return decodeResponse(f)
    case 'welcome':
      return decodeWelcome(f)
    case 'ended':
      return decodeEnded(f)
    case 'ping':
    case 'pong':
    case 'error':
      return decodeCommon(f, t)
    default:
      return unexpected(t, 'a hub')
  }
}

function decodeWelcome(f: Fields): WelcomeFrame {
  const welcome: WelcomeFrame = {
    t: 'welcome',
    protocol: f.uint('protocol'),
    clusterId: f.text('clusterId', 64),
    nodeId: f.uint('nodeId'),
    nowMs: f.int('nowMs'),
    maxFrameBytes: f.uint('maxFrameBytes'),
    heartbeatMs: f.positive('heartbeatMs'),
    deadMs: f.positive('deadMs'),
  }
  if (f.present('nodes')) {
    welcome.nodes = f.texts('nodes', WIRE_LIMITS.maxNodes, WIRE_LIMITS.maxAddressBytes)
  }
  const edge = f.optionalMap('edge')
  if (edge === undefined) return welcome
  const verdict = edge.oneOf('verdict', ['ok', 'fork', 'hub-rollback'] as const)
  return { ...welcome, edge: { session: edge.uint('session'), verdict } }
}

function decodeOpen(f: Fields): OpenFrame {
  const open: OpenFrame = {
    t: 'open',
    log: f.uint('log'),
    topic: f.text('topic', WIRE_LIMITS.maxTopicBytes),
    topicId: f.nullableText('topicId', 64),
    lane: f.uint('lane'),
    lanes: f.positive('lanes'),
    partitionBy: f.oneOf('partitionBy', ['edge', 'key'] as const),
  }
  if (open.lanes > WIRE_LIMITS.maxLanes) f.bad('lanes', `at most ${WIRE_LIMITS.maxLanes}`)
  if (open.lane >= open.lanes) f.bad('lane', 'less than lanes')
  return open
}

function decodeOpened(f: Fields): OpenedFrame {
  const tip = f.nullableMap('tip')
  return {
    t: 'opened',
    log: f.uint('log'),
    topicId: f.text('topicId', 64),
    partition: f.uint('partition'),
    leaderEpoch: f.int('leaderEpoch'),
    maxRecordBytes: f.positive('maxRecordBytes'),
    maxBatchBytes: f.positive('maxBatchBytes'),
    tip: tip === null ? null : decodeTip(tip),
  }
}

function decodeAck(f: Fields): AckFrame {
  return { t: 'ack', log: f.uint('log'), ...decodeTip(f) }
}

function decodeRefused(f: Fields): RefusedFrame {
  const refused: RefusedFrame = {
    t: 'refused',
    log: f.uint('log'),
    code: f.code('code'),
    message: f.message(),
  }
  for (const key of ['run', 'next', 'sequence'] as const) {
    const value = f.optionalUint(key)
    if (value !== undefined) refused[key] = value
  }
  return refused
}

function decodeReport(f: Fields): ReportFrame {
  return {
    t: 'report',
    nowMs: f.int('nowMs'),
    version: f.text('version', 64),
    diskBytes: f.uint('diskBytes'),
    diskBudgetBytes: f.uint('diskBudgetBytes'),
    lanes: f.maps('lanes', WIRE_LIMITS.maxReportLanes, decodeLaneReport),
  }
}

function decodeRequest(f: Fields): RequestFrame {
  const base = { t: 'request', id: f.uint('id') } as const
  const op = f.oneOf('op', ['topic', 'offset', 'producer', 'produce'] as const)
  switch (op) {
    case 'topic':
      return {
        ...base,
        op,
        topic: f.text('topic', WIRE_LIMITS.maxTopicBytes),
        ...(f.present('produce') ? { produce: f.bool('produce') } : {}),
      }
    case 'producer':
      return { ...base, op }
    case 'offset':
      return { ...base, op, topicId: f.text('topicId', 64), partition: f.uint('partition'), at: decodeAt(f) }
    case 'produce': {
      const acks = f.has('acks', 'all')
        ? 'all'
        : f.has('acks', 1)
          ? 1
          : f.has('acks', 0)
            ? 0
            : f.bad('acks', '0, 1 or "all"')
      const topicId = f.text('topicId', 64)
      return { ...base, op, topicId, partition: f.uint('partition'), acks, batches: f.bytes('batches') }
    }
    default:
      return unreachable(op)
  }
}

function decodeAt(f: Fields): 'earliest' | 'latest' | { timeMs: number } {
  if (f.has('at', 'earliest')) return 'earliest'
  if (f.has('at', 'latest')) return 'latest'
  const at = f.nullableMap('at')
  return at === null ? f.bad('at', '"earliest", "latest" or { timeMs }') : { timeMs: at.int('timeMs') }
}

function decodeResponse(f: Fields): ResponseFrame {
  const response: ResponseFrame = { t: 'response', id: f.uint('id') }
  const result = f.optionalMap('result')
  const error = f.optionalMap('error')
  if ((result === undefined) === (error === undefined)) f.bad('result', 'there exactly where error is not')
  if (result !== undefined) response.result = decodeResult(result)
  if (error !== undefined) {
    const details = error.optionalMap('details')?.plain()
    response.error = { code: error.code('code'), message: error.message(), ...(details && { details }) }
  }
  return response
}

function decodeResult(f: Fields): NonNullable<ResponseFrame['result']> {
  if (f.present('topicId')) return decodeTopicInfo(f)
  if (f.present('offset')) return { offset: f.uint('offset'), leaderEpoch: f.int('leaderEpoch') }
  if (f.present('baseOffset')) return { baseOffset: f.int('baseOffset') }
  return { producerId: f.uint('producerId'), producerEpoch: f.uint('producerEpoch') }
}

function decodeTopicInfo(f: Fields): TopicInfo {
  return {
    topic: f.text('topic', WIRE_LIMITS.maxTopicBytes),
    topicId: f.text('topicId', 64),
    partitions: f.maps('partitions', WIRE_LIMITS.maxPartitions, partition => ({
      partition: partition.uint('partition'),
      startOffset: partition.uint('startOffset'),
      endOffset: partition.uint('endOffset'),
      highWatermark: partition.uint('highWatermark'),
      leaderEpoch: partition.int('leaderEpoch'),
    })),
    maxRecordBytes: f.positive('maxRecordBytes'),
  }
}

function decodeSubscribe(f: Fields): SubscribeFrame {
  return {
    t: 'subscribe',
    sub: f.uint('sub'),
    topicId: f.text('topicId', 64),
    partition: f.uint('partition'),
    offset: f.uint('offset'),
    leaderEpoch: f.int('leaderEpoch'),
    creditBytes: f.uint('creditBytes'),
  }
}

function decodeRecords(f: Fields): RecordsFrame {
  const highWatermark = f.optionalUint('highWatermark')
  return {
    t: 'records',
    sub: f.uint('sub'),
    batches: f.bytes('batches'),
    nextOffset: f.uint('nextOffset'),
    ...(highWatermark === undefined ? {} : { highWatermark }),
    leaderEpoch: f.int('leaderEpoch'),
  }
}

function decodeEnded(f: Fields): EndedFrame {
  const ended: EndedFrame = { t: 'ended', sub: f.uint('sub'), code: f.code('code'), message: f.message() }
  for (const key of ['startOffset', 'highWatermark', 'truncatedTo'] as const) {
    const value = f.optionalUint(key)
    if (value !== undefined) ended[key] = value
  }
  return ended
}

import * as fc from 'fast-check'
import { ERROR_CODES } from '../../common/errors.ts'
import { GAP_REASONS, isSummary } from '../../common/wire.ts'
import type { PeerFrame } from '../../common/wire-peer.ts'
import type { ExpectedPeerFrames } from '../../common/wire-peer-codec.ts'

/** Arbitrary valid frames between nodes, with who may send them. */

const uint = fc.oneof(
  fc.nat(300),
  fc.maxSafeNat(),
  fc.constantFrom(23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32),
)
const int = fc.oneof(uint, fc.maxSafeInteger(), fc.constant(-1))
const positive = uint.map(value => Math.max(1, value))
const text = fc.string({ unit: 'binary', maxLength: 20 })
const bytes = fc.uint8Array({ maxLength: 300 })
const code = fc.constantFrom(...Object.keys(ERROR_CODES))
const nullable = <T>(inner: fc.Arbitrary<T>) => fc.option(inner, { nil: null })

type Shape = Record<string, fc.Arbitrary<unknown>>

function record(fields: Shape, maybe: Shape = {}): fc.Arbitrary<object> {
  return fc.record({ ...fields, ...maybe }, { requiredKeys: Object.keys(fields) })
}

function frame(t: string, fields: Shape): fc.Arbitrary<object> {
  return record({ t: fc.constant(t), ...fields })
}

const place = { topicId: text, partition: uint }
const ref = { ...place, leaderEpoch: int }
const lane = { ...ref, edgeId: text, lane: uint }
const tip = record({ run: uint, next: uint, committed: uint })
const bounds = record({
  startOffset: uint,
  endOffset: uint,
  highWatermark: uint,
  leaderEpoch: int,
  sizeBytes: uint,
})
const both = [
  frame('ping', { nowMs: int }),
  frame('pong', { echoMs: int, nowMs: int }),
  frame('error', { code, message: text, fatal: fc.boolean() }),
]

const range = fc.tuple(uint, uint, uint, uint).chain(([a, b, c, d]) =>
  record({
    run: uint,
    from: fc.constant(Math.min(a, b)),
    to: fc.constant(Math.max(a, b)),
    reason: fc.constantFrom(...GAP_REASONS.filter(reason => !isSummary(reason))),
    firstMs: nullable(int),
    lastMs: nullable(int),
    localFrom: fc.constant(Math.min(c, d)),
    localTo: fc.constant(Math.max(c, d)),
  }),
)

const call = (c: string, fields: Shape): fc.Arbitrary<object> => record({ c: fc.constant(c), ...fields })

const calls = fc.oneof(
  call('controller', { name: text, request: bytes }),
  call('append', { ...ref, acks: fc.constantFrom(-1, 0, 1), batches: bytes }),
  call('append-lane', { ...lane, batches: bytes }),
  call('start-run', {
    ...lane,
    start: record({
      run: uint,
      prev: nullable(record({ run: uint, end: uint })),
      reason: fc.constantFrom('next', 'first', 'wiped', 'fork', 'moved'),
    }),
  }),
  call('declare-gap', { ...lane, gap: range }),
  call('remove-lane', lane),
  call('lane-tip', lane),
  call('bounds', ref),
  call('read', { ...ref, offset: uint, lastEpoch: int, maxBytes: uint, maxWaitMs: uint }),
  call('offset-for-time', { ...ref, timeMs: int }),
  call('producer-snapshot', ref),
  call('stretch', { ...ref, fromOffset: uint, toOffset: uint, maxBytes: uint }),
  call('presence', { after: nullable(text) }),
  call('tell-gaps', { ...ref, notices: fc.array(bytes, { maxLength: 5 }) }),
  call('told-gaps', { ...ref, sources: fc.array(record(place), { maxLength: 5 }) }),
)

const report = record({
  atMs: int,
  diskBytes: uint,
  diskBudgetBytes: uint,
  lanes: fc.array(
    record({
      topic: text,
      lane: uint,
      lagRecords: uint,
      lagBytes: uint,
      oldestMs: nullable(int),
      droppedRecords: uint,
    }),
    { maxLength: 3 },
  ),
})
const presence = record({
  edgeId: text,
  connected: fc.boolean(),
  session: uint,
  lastSeenMs: int,
  clockOffsetMs: int,
  report: nullable(report),
})

const answers = fc.oneof(
  call('controller', { value: bytes, index: int }),
  call('append', { baseOffset: int }),
  fc.constantFrom('append-lane', 'start-run', 'declare-gap').chain(c => call(c, { tip })),
  fc.constantFrom('remove-lane', 'tell-gaps').chain(c => call(c, {})),
  call('lane-tip', { tip: nullable(tip) }),
  call('told-gaps', { offsets: fc.array(int, { maxLength: 5 }) }),
  call('bounds', { bounds }),
  call('read', { batches: bytes, nextOffset: uint, lastEpoch: int, bounds, isSettled: fc.boolean() }),
  call('offset-for-time', { offset: uint }),
  call('producer-snapshot', { offset: uint, bytes }),
  call('stretch', { batches: bytes, nextOffset: uint }),
  call('presence', { edges: fc.array(presence, { maxLength: 3 }), more: fc.boolean() }),
)

const details = fc.dictionary(
  text.filter(key => key !== '__proto__'),
  fc.oneof(int, text, fc.boolean(), fc.constant(null)),
  { noNullPrototype: true, maxKeys: 4 },
)

const fetched = record(
  {
    ...place,
    leaderEpoch: int,
    offset: int,
    highWatermark: uint,
    startOffset: uint,
    hubTimeMs: int,
    batches: bytes,
  },
  { diverging: record({ epoch: int, endOffset: int }), error: code, lostBefore: uint },
)
const position = record({ ...ref, offset: int, lastEpoch: int, durableEnd: uint })

const promised = record({ seat: text, term: uint, index: int, entryTerm: uint })
const memory = nullable(
  record({
    incarnation: uint,
    directoryId: text,
    startId: nullable(text),
    othersVote: fc.boolean(),
    promised: nullable(promised),
  }),
)

const bySender: Record<keyof ExpectedPeerFrames, fc.Arbitrary<object>> = {
  hello: fc.tuple(uint, uint).chain(([one, other]) =>
    frame('peer-hello', {
      min: fc.constant(Math.min(one, other)),
      max: fc.constant(Math.max(one, other)),
      clusterId: nullable(text),
      nodeId: uint,
      directoryId: text,
      software: text,
      peerAddress: nullable(text),
      memory,
      to: uint,
    }),
  ),
  dialler: fc.oneof(
    frame('raft', { messages: fc.array(bytes, { maxLength: 5 }) }),
    frame('node-heartbeat', { nodeId: uint, incarnation: uint, appliedIndex: int }),
    frame('snapshot-chunk', { message: bytes, position: uint, sizeBytes: uint, bytes }),
    frame('fetch', {
      incarnation: uint,
      taken: uint,
      positions: fc.array(position, { maxLength: 4 }),
      forget: fc.array(record(place), { maxLength: 3 }),
    }),
    frame('call', { id: uint, call: calls }),
    ...both,
  ),
  server: fc.oneof(
    frame('peer-welcome', {
      protocol: uint,
      clusterId: nullable(text),
      nodeId: uint,
      directoryId: text,
      software: text,
      memory,
      maxFrameBytes: positive,
      heartbeatMs: positive,
      deadMs: positive,
    }),
    frame('fetched', { seq: uint, partitions: fc.array(fetched, { maxLength: 4 }) }),
    frame('answer', { id: uint, answer: answers }),
    frame('answer', { id: uint, error: record({ code, message: text, details }) }),
    ...both,
  ),
}

// Built field by field, out of the compiler's sight; the codec's own checks see to the rest.
function isFrame(value: unknown): value is PeerFrame {
  return typeof value === 'object' && value !== null && 't' in value
}

function asFrame(value: unknown): PeerFrame {
  if (!isFrame(value)) throw new Error('not a frame')
  return value
}

/** A valid frame and who sent it. */
export const anyPeerFrame: fc.Arbitrary<{ sender: keyof ExpectedPeerFrames; frame: PeerFrame }> = fc
  .constantFrom('hello', 'dialler', 'server')
  .chain(sender => bySender[sender].map(fields => ({ sender, frame: asFrame(fields) })))

import * as fc from 'fast-check'
import { ERROR_CODES } from '../../common/errors.ts'
import type { Frame } from '../../common/wire.ts'
import { GAP_REASONS, isSummary, WIRE_LIMITS } from '../../common/wire.ts'
import type { ExpectedFrames } from '../../common/wire-codec.ts'

/** Arbitrary valid frames, with who may send them. */

const uint = fc.oneof(
  fc.nat(300),
  fc.maxSafeNat(),
  fc.constantFrom(23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32),
)
const int = fc.oneof(uint, fc.maxSafeInteger(), fc.constant(-1))
const positive = uint.map(value => Math.max(1, value))
const text = fc.string({ unit: 'binary', maxLength: 60 })
const bytes = fc.uint8Array({ maxLength: 300 })
const code = fc.constantFrom(...Object.keys(ERROR_CODES))
const nullable = <T>(inner: fc.Arbitrary<T>) => fc.option(inner, { nil: null })
const tip = { run: uint, next: uint, committed: uint }
const past = fc.array(fc.record({ run: uint, next: uint }), { maxLength: WIRE_LIMITS.maxPastRuns })

function record(t: string, fields: Record<string, fc.Arbitrary<unknown>>, maybe: string[] = []) {
  const all: Record<string, fc.Arbitrary<unknown>> = { t: fc.constant(t), ...fields }
  return fc.record(all, { requiredKeys: Object.keys(all).filter(key => !maybe.includes(key)) })
}

const laneReport = fc.record({
  topic: text,
  lane: uint,
  lagRecords: uint,
  lagBytes: uint,
  oldestMs: nullable(int),
  droppedRecords: uint,
})
const partition = fc.record({
  partition: uint,
  startOffset: uint,
  endOffset: uint,
  highWatermark: uint,
  leaderEpoch: int,
})
const both = [
  record('ping', { nowMs: int }),
  record('pong', { echoMs: int, nowMs: int }),
  record('error', { code, message: text, fatal: fc.boolean(), ref: uint }, ['ref']),
]
const edgeHello = fc.record({
  id: text.map(id => `e${id}`),
  session: uint,
  clusterId: nullable(text),
  nowMs: int,
})
const hello = fc.tuple(uint, uint).chain(([one, other]) =>
  record(
    'hello',
    {
      min: fc.constant(Math.min(one, other)),
      max: fc.constant(Math.max(one, other)),
      software: text,
      edge: edgeHello,
    },
    ['edge'],
  ),
)
const welcome = record(
  'welcome',
  {
    protocol: uint,
    clusterId: text,
    nodeId: uint,
    nowMs: int,
    maxFrameBytes: uint,
    heartbeatMs: positive,
    deadMs: positive,
    edge: fc.record({ session: uint, verdict: fc.constantFrom('ok', 'fork', 'hub-rollback') }),
    nodes: fc.array(text, { maxLength: 3 }),
  },
  ['edge', 'nodes'],
)
const open = fc.tuple(fc.nat(1_023), fc.nat(1_023)).chain(([one, other]) =>
  record('open', {
    log: uint,
    topic: text,
    topicId: nullable(text),
    lane: fc.constant(Math.min(one, other)),
    lanes: fc.constant(Math.max(one, other) + 1),
    partitionBy: fc.constantFrom('edge', 'key'),
  }),
)
const summary = fc.nat().chain(from =>
  record('gap', {
    log: uint,
    run: uint,
    from: fc.constant(from),
    to: fc.constant(from + 1),
    reason: fc.constantFrom(...GAP_REASONS.filter(isSummary)),
    firstMs: nullable(int),
    lastMs: nullable(int),
    localFrom: fc.constant(from),
    localTo: fc.constant(from + 1),
    count: positive,
    keys: positive,
  }),
)
const gap = fc.tuple(uint, uint, uint, uint).chain(([a, b, c, d]) =>
  record('gap', {
    log: uint,
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
const request = fc.oneof(
  record('request', { id: uint, op: fc.constant('topic'), topic: text }),
  record('request', { id: uint, op: fc.constant('producer') }),
  record('request', {
    id: uint,
    op: fc.constant('offset'),
    topicId: text,
    partition: uint,
    at: fc.oneof(fc.constantFrom('earliest', 'latest'), fc.record({ timeMs: int })),
  }),
  record('request', {
    id: uint,
    op: fc.constant('produce'),
    topicId: text,
    partition: uint,
    acks: fc.constantFrom(0, 1, 'all'),
    batches: bytes,
  }),
)
const details = fc.dictionary(
  text.filter(key => key !== '__proto__'),
  fc.oneof(int, text, fc.boolean(), fc.constant(null)),
  { noNullPrototype: true },
)
const response = fc.oneof(
  record('response', {
    id: uint,
    result: fc.oneof(
      fc.record({ topic: text, topicId: text, partitions: fc.array(partition), maxRecordBytes: positive }),
      fc.record({ offset: uint, leaderEpoch: int }),
      fc.record({ producerId: uint, producerEpoch: uint }),
      fc.record({ baseOffset: int }),
    ),
  }),
  record('response', { id: uint, error: fc.record({ code, message: text, details }) }),
)

const bySender = {
  hello,
  edge: fc.oneof(
    record('start', { session: uint }),
    open,
    record('run', {
      log: uint,
      run: uint,
      prev: nullable(fc.record({ run: uint, end: uint })),
      reason: fc.constantFrom('next', 'first', 'wiped', 'fork', 'moved'),
    }),
    gap,
    summary,
    record('append', { log: uint, batches: bytes }),
    record('report', {
      nowMs: int,
      version: text,
      diskBytes: uint,
      diskBudgetBytes: uint,
      lanes: fc.array(laneReport),
    }),
    ...both,
  ),
  'uplink-hub': fc.oneof(
    welcome,
    record('opened', {
      log: uint,
      topicId: text,
      partition: uint,
      leaderEpoch: int,
      maxRecordBytes: positive,
      maxBatchBytes: positive,
      tip: nullable(fc.record({ ...tip, past }, { requiredKeys: ['run', 'next', 'committed'] })),
    }),
    record('ack', { log: uint, ...tip }),
    record('refused', { log: uint, code, message: text, run: uint, next: uint, sequence: uint }, [
      'run',
      'next',
      'sequence',
    ]),
    record('throttle', { delayMs: uint }),
    ...both,
  ),
  client: fc.oneof(
    request,
    record('subscribe', {
      sub: uint,
      topicId: text,
      partition: uint,
      offset: uint,
      leaderEpoch: int,
      creditBytes: uint,
    }),
    record('credit', { sub: uint, bytes: uint }),
    record('unsubscribe', { sub: uint }),
    ...both,
  ),
  'client-hub': fc.oneof(
    welcome,
    response,
    record(
      'records',
      { sub: uint, batches: bytes, nextOffset: uint, highWatermark: uint, leaderEpoch: int },
      ['highWatermark'],
    ),
    record(
      'ended',
      { sub: uint, code, message: text, startOffset: uint, highWatermark: uint, truncatedTo: uint },
      ['startOffset', 'highWatermark', 'truncatedTo'],
    ),
    ...both,
  ),
} satisfies Record<keyof ExpectedFrames, fc.Arbitrary<unknown>>

export const SENDERS = ['hello', 'edge', 'uplink-hub', 'client', 'client-hub'] as const

// The records above are built field by field, out of the compiler's sight; the codec's own checks see to the rest.
function isFrame(value: unknown): value is Frame {
  return typeof value === 'object' && value !== null && 't' in value
}

function asFrame(value: unknown): Frame {
  if (!isFrame(value)) throw new Error('not a frame')
  return value
}

/** A valid frame and who sent it. */
export const anyFrame: fc.Arbitrary<{ sender: keyof ExpectedFrames; frame: Frame }> = fc
  .constantFrom(...SENDERS)
  .chain(sender => bySender[sender].map(fields => ({ sender, frame: asFrame(fields) })))

import { z } from 'zod'
import type { CborInput, CborValue } from '../../../common/cbor.ts'
import { decodeCbor, encodeCbor } from '../../../common/cbor.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { CallName, CallRequest, CallResponse } from '../../controller/requests.ts'

/** Requests to the controller and its responses as they travel between nodes: CBOR of plain data, checked at its arrival. */

const count = z.int().min(0)
const nullableCount = count.nullable()
const text = z.string()
const topicConfig = z.object({
  retentionMs: nullableCount,
  retentionBytes: nullableCount,
  segmentBytes: count,
  maxRecordBytes: count,
  minInsyncReplicas: nullableCount,
  uncleanLeaderElection: z.boolean(),
})
/** Each setting may be absent, none undefined. */
const configChange = z.object({
  retentionMs: nullableCount.exactOptional(),
  retentionBytes: nullableCount.exactOptional(),
  segmentBytes: count.exactOptional(),
  maxRecordBytes: count.exactOptional(),
  minInsyncReplicas: nullableCount.exactOptional(),
  uncleanLeaderElection: z.boolean().exactOptional(),
})
const topic = z.object({
  name: text,
  topicId: text,
  partitions: count,
  replication: nullableCount,
  internal: z.boolean(),
  createdMs: z.int(),
  config: topicConfig,
})
const alarm = z.object({ kind: z.enum(['fork', 'clone', 'hub-rollback']), atMs: z.int(), message: text })
const named = z.object({ name: text })
const nothing = z.record(text, z.never())
const node = z.object({ nodeId: count })

type Codecs = {
  readonly [Name in CallName]: {
    readonly request: z.ZodType<CallRequest<Name>>
    readonly response: z.ZodType<CallResponse<Name>>
  }
}

const CALLS: Codecs = {
  'create-topic': {
    request: z.object({
      name: text,
      partitions: z.number().exactOptional(),
      replication: z.number().exactOptional(),
      config: configChange.exactOptional(),
    }),
    response: topic,
  },
  'topic-for-producer': { request: named, response: topic },
  'alter-topic': {
    request: z.object({
      name: text,
      change: z.object({
        partitions: z.number().exactOptional(),
        config: configChange.exactOptional(),
      }),
    }),
    response: topic,
  },
  'delete-topic': { request: named, response: topic },
  'connect-edge': {
    request: z.object({ edgeId: text, session: count, address: text, software: text }),
    response: z.object({
      session: count,
      verdict: z.enum(['ok', 'fork', 'hub-rollback']),
      alarm: alarm.nullable(),
    }),
  },
  'confirm-edge': { request: z.object({ edgeId: text, session: count }), response: alarm.nullable() },
  'remove-edge': { request: z.object({ edgeId: text }), response: z.null() },
  'bind-lane': {
    request: z.object({
      edgeId: text,
      topic: text,
      topicId: text.nullable(),
      lane: z.number(),
      lanes: z.number(),
      partitionBy: z.enum(['edge', 'key']),
    }),
    response: z.object({ topic, partition: count }),
  },
  'reserve-producer-ids': { request: nothing, response: z.object({ from: count, to: count }) },
  'register-node': {
    request: z.object({
      nodeId: count,
      directoryId: text,
      peerAddress: text.nullable(),
      httpAddress: text,
      rack: text.nullable(),
      software: text,
      startId: text.nullable(),
      lostData: z.boolean(),
    }),
    response: z.object({ incarnation: count }),
  },
  leave: { request: z.object({ nodeId: count, incarnation: count }), response: z.null() },
  'change-isr': {
    request: z.object({
      nodeId: count,
      incarnation: count,
      changes: z.array(
        z.object({
          topicId: text,
          partition: count,
          leaderEpoch: count,
          partitionEpoch: count,
          isr: z.array(z.object({ nodeId: count, incarnation: count })),
        }),
      ),
    }),
    response: z.object({
      results: z.array(
        z.object({ topicId: text, partition: count, outcome: z.enum(['ok', 'stale', 'refused']) }),
      ),
    }),
  },
  'drain-node': { request: z.object({ nodeId: count, draining: z.boolean() }), response: z.null() },
  'remove-node': { request: node, response: z.null() },
  'reassign-topic': {
    request: z.object({ name: text, replication: nullableCount }),
    response: z.object({ partitions: count }),
  },
  balance: { request: nothing, response: z.object({ moved: count }) },
  sync: { request: nothing, response: z.null() },
  'elect-unclean': {
    request: z.object({ name: text, partition: count }),
    response: z.object({ leader: count }),
  },
}

/** Whether there is such a call. */
export function isCallName(name: string): name is CallName {
  return Object.hasOwn(CALLS, name)
}

/** The CBOR of a request or response. */
export function encodePlain(value: object | null): Uint8Array {
  return encodeCbor(toCbor(value))
}

/** A request as it came. Throws `protocol_error`. */
export function decodeRequest<Name extends CallName>(name: Name, bytes: Uint8Array): CallRequest<Name> {
  return checked(CALLS[name].request, bytes, `request "${name}"`)
}

/** A response as it came. Throws `protocol_error`. */
export function decodeResponse<Name extends CallName>(name: Name, bytes: Uint8Array): CallResponse<Name> {
  return checked(CALLS[name].response, bytes, `response to "${name}"`)
}

function checked<T>(schema: z.ZodType<T>, bytes: Uint8Array, what: string): T {
  const parsed = schema.safeParse(fromCbor(decodeCbor(bytes)))
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new TributaryError(
    'protocol_error',
    `the ${what} of another node is malformed at ${issue?.path.join('.') || 'its start'}: ${issue?.message ?? 'unknown'}`,
  )
}

function toCbor(value: unknown): CborInput {
  if (value === null || typeof value === 'number' || typeof value === 'string') return value
  if (typeof value === 'boolean' || value instanceof Uint8Array) return value
  if (Array.isArray(value)) return value.map(toCbor)
  if (typeof value !== 'object') throw new TypeError(`${typeof value} is no plain data`)
  const fields = Object.entries(value).filter(([, field]) => field !== undefined)
  return Object.fromEntries(fields.map(([key, field]) => [key, toCbor(field)]))
}

function fromCbor(value: CborValue): unknown {
  if (value instanceof Map) {
    return Object.fromEntries([...value].map(([key, field]) => [key, fromCbor(field)]))
  }
  return Array.isArray(value) ? value.map(fromCbor) : value
}

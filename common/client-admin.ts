import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { z } from 'zod'
import { isErrorCode, messageOf, TributaryError } from './errors.ts'
import { MIB, SECOND_MS } from './limits.ts'
import { dialProblem } from './tls.ts'

/** Topics and edges over the hub's REST interface. */

/** A REST answer takes no longer. */
const REST_TIMEOUT_MS = 30 * SECOND_MS
/** The largest REST answer read. */
const MAX_REST_BYTES = 64 * MIB

const config = z.object({
  retentionMs: z.number().nullable(),
  retentionBytes: z.number().nullable(),
  segmentBytes: z.number(),
  maxRecordBytes: z.number(),
  minInsyncReplicas: z.number().nullable(),
  uncleanLeaderElection: z.boolean(),
})
const topicFields = {
  name: z.string(),
  topicId: z.string(),
  replication: z.number().nullable(),
  internal: z.boolean(),
  createdMs: z.number(),
  config,
}
const topicSummary = z.object({ ...topicFields, partitions: z.number() })
const topicDescription = z.object({
  ...topicFields,
  partitions: z.array(
    z.object({
      partition: z.number(),
      startOffset: z.number(),
      endOffset: z.number(),
      highWatermark: z.number(),
      leaderEpoch: z.number(),
      sizeBytes: z.number(),
    }),
  ),
})
const edgeSummary = z.object({
  id: z.string(),
  connected: z.boolean(),
  address: z.string(),
  software: z.string(),
  session: z.number(),
  firstSeenMs: z.number(),
  lastSeenMs: z.number(),
  clockOffsetMs: z.number(),
  alarms: z.array(z.object({ kind: z.string(), atMs: z.number(), message: z.string() })),
  report: z
    .object({
      atMs: z.number(),
      diskBytes: z.number(),
      diskBudgetBytes: z.number(),
      lanes: z.array(
        z.object({
          topic: z.string(),
          lane: z.number(),
          lagRecords: z.number(),
          lagBytes: z.number(),
          oldestMs: z.number().nullable(),
          droppedRecords: z.number(),
        }),
      ),
    })
    .nullable(),
  lag: z.object({ records: z.number(), bytes: z.number(), oldestMs: z.number().nullable() }).nullable(),
})

/** Settings of a topic: times in milliseconds of hub time, bytes per partition; null for no bound, of `minInsyncReplicas` for the default. */
export type TopicSettings = z.infer<typeof config>
/** A topic in a list; `partitions` counts them, `replication` is null where it is the cluster's default. */
export type TopicSummary = z.infer<typeof topicSummary>
/** A topic with where each partition stands. */
export type TopicDescription = z.infer<typeof topicDescription>
/** An edge with its last report, and the lag summed over its lanes. */
export type EdgeSummary = z.infer<typeof edgeSummary>

export interface TopicsAdmin {
  list(): Promise<TopicSummary[]>
  /** Rejects with `topic_exists`, `invalid_argument`, `limit_exceeded`. */
  create(request: {
    name: string
    partitions?: number
    /** Replicas of each partition; default: the cluster's, growing with its nodes. */
    replication?: number
    config?: Partial<TopicSettings>
  }): Promise<TopicDescription>
  /** Rejects with `unknown_topic`. */
  describe(name: string): Promise<TopicDescription>
  /** `partitions` may only grow. */
  alter(
    name: string,
    change: { partitions?: number; config?: Partial<TopicSettings> },
  ): Promise<TopicDescription>
  delete(name: string): Promise<void>
}

export interface EdgesAdmin {
  list(): Promise<EdgeSummary[]>
  /** Forgets an edge and how far its lanes are. Rejects with `not_found`, and where it is connected. */
  remove(id: string): Promise<void>
}

export interface RestOptions {
  /** `http:` or `https:`, without path. */
  httpUrl: string
  token?: string
  caPem?: string
}

export function createTopicsAdmin(rest: RestOptions): TopicsAdmin {
  const path = (name: string): string => `/v1/topics/${encodeURIComponent(name)}`
  return {
    list: async () =>
      (await call(rest, 'GET', '/v1/topics', z.object({ topics: z.array(topicSummary) }))).topics,
    create: request => call(rest, 'POST', '/v1/topics', topicDescription, request),
    describe: name => call(rest, 'GET', path(name), topicDescription),
    alter: (name, change) => call(rest, 'PATCH', path(name), topicDescription, change),
    delete: async name => {
      await call(rest, 'DELETE', path(name), z.null())
    },
  }
}

export function createEdgesAdmin(rest: RestOptions): EdgesAdmin {
  return {
    list: async () => (await call(rest, 'GET', '/v1/edges', z.object({ edges: z.array(edgeSummary) }))).edges,
    remove: async id => {
      await call(rest, 'DELETE', `/v1/edges/${encodeURIComponent(id)}`, z.null())
    },
  }
}

async function call<T>(
  rest: RestOptions,
  method: string,
  path: string,
  schema: z.ZodType<T>,
  body?: unknown,
): Promise<T> {
  const { status, text } = await exchange(
    rest,
    method,
    path,
    body === undefined ? null : JSON.stringify(body),
  )
  const where = `${method} ${rest.httpUrl}${path}`
  const json = parseJson(text, `${where} (HTTP ${status})`)
  if (status >= 400) throw restError(json, `${where} answered HTTP ${status}`)
  const parsed = schema.safeParse(json)
  if (parsed.success) return parsed.data
  throw new TributaryError(
    'protocol_error',
    `${where} answered something else than expected: ${z.prettifyError(parsed.error)}`,
  )
}

function parseJson(text: string, where: string): unknown {
  if (text === '') return null
  try {
    const json: unknown = JSON.parse(text)
    return json
  } catch (cause) {
    throw new TributaryError('protocol_error', `${where} did not answer JSON: is this a Tributary hub?`, {
      cause,
    })
  }
}

const errorBody = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    details: z.record(z.string(), z.unknown()).optional(),
  }),
})

function restError(json: unknown, fallback: string): TributaryError {
  const parsed = errorBody.safeParse(json)
  if (!parsed.success) return new TributaryError('not_available', fallback)
  const { code, message, details = {} } = parsed.data.error
  return new TributaryError(isErrorCode(code) ? code : 'not_available', message, { details })
}

/** One HTTP exchange. By node:http rather than fetch, which cannot be given a certificate authority. */
function exchange(
  rest: RestOptions,
  method: string,
  path: string,
  body: string | null,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const fail = (
      code: 'not_available' | 'timeout' | 'frame_too_large',
      why: string,
      cause?: unknown,
    ): void => reject(new TributaryError(code, `${method} ${rest.httpUrl}${path}: ${why}`, { cause }))
    const send = rest.httpUrl.startsWith('https:') ? httpsRequest : httpRequest
    const request = send(
      `${rest.httpUrl}${path}`,
      {
        method,
        timeout: REST_TIMEOUT_MS,
        ...(rest.caPem === undefined ? {} : { ca: rest.caPem }),
        headers: {
          accept: 'application/json',
          ...(rest.token === undefined ? {} : { authorization: `Bearer ${rest.token}` }),
          ...(body === null
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        },
      },
      response => {
        const parts: Buffer[] = []
        let sizeBytes = 0
        response.on('data', (part: Buffer) => {
          sizeBytes += part.length
          parts.push(part)
          if (sizeBytes <= MAX_REST_BYTES) return
          fail('frame_too_large', `the answer is over ${MAX_REST_BYTES} bytes`)
          request.destroy()
        })
        response.on('error', error => fail('not_available', messageOf(error), error))
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(parts).toString('utf8') }),
        )
      },
    )
    request.on('timeout', () => {
      fail('timeout', `no answer in ${REST_TIMEOUT_MS} ms`)
      request.destroy()
    })
    request.on('error', error => fail('not_available', dialProblem(error), error))
    request.end(body ?? undefined)
  })
}

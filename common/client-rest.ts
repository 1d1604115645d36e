import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { z } from 'zod'
import { isErrorCode, isTributaryError, messageOf, systemErrorCode, TributaryError } from './errors.ts'
import { MIB, SECOND_MS } from './limits.ts'
import { dialProblem } from './tls.ts'

/** Requests to a hub's REST interface. */

/** A REST answer takes no longer. */
const REST_TIMEOUT_MS = 30 * SECOND_MS
/** The largest REST answer read. */
const MAX_REST_BYTES = 64 * MIB

export interface RestOptions {
  /** `http:` or `https:`, without path: nodes of one hub, at least one. The one that answered last is moved to the front. */
  httpUrls: string[]
  token?: string
  caPem?: string
}

/**
 * One request; its answer as `schema` has it. A node that is not reached is passed over for the next. Rejects with the hub's own error,
 * `not_available`, `timeout`, `protocol_error`.
 */
export async function call<T>(
  rest: RestOptions,
  method: string,
  path: string,
  schema: z.ZodType<T>,
  body?: unknown,
): Promise<T> {
  const text = body === undefined ? null : JSON.stringify(body)
  const tried: string[] = []
  for (;;) {
    const httpUrl = rest.httpUrls[0] ?? ''
    try {
      return await callOne({ ...rest, httpUrl }, method, path, schema, text)
    } catch (error) {
      tried.push(httpUrl)
      if (!isTributaryError(error) || !isOfNode(error)) throw error
      // What comes next asks another one, also where this question must not be asked twice.
      rest.httpUrls.push(...rest.httpUrls.splice(0, 1))
      if (!mayGoOn(error, method) || tried.length >= rest.httpUrls.length) throw error
    }
  }
}

/** System errors of connections that were never made. */
const NOT_REACHED: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
])

/** Whether it is the node that fails, not what is asked of it. */
function isOfNode({ code, cause }: TributaryError): boolean {
  return code === 'not_available' || code === 'timeout' || NOT_REACHED.has(systemErrorCode(cause) ?? '')
}

/** Whether another node may be asked the same: this one has not heard the question, or the question changes nothing. */
function mayGoOn({ code, cause }: TributaryError, method: string): boolean {
  if (NOT_REACHED.has(systemErrorCode(cause) ?? '')) return true
  return method === 'GET' && (code === 'not_available' || code === 'timeout')
}

type OneNode = Omit<RestOptions, 'httpUrls'> & { httpUrl: string }

async function callOne<T>(
  rest: OneNode,
  method: string,
  path: string,
  schema: z.ZodType<T>,
  body: string | null,
): Promise<T> {
  const { status, text } = await exchange(rest, method, path, body)
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
  rest: OneNode,
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

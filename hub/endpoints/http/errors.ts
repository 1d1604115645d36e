import type { FastifyError, FastifyReply } from 'fastify'
import type { z } from 'zod'
import type { ErrorCode } from '../../../common/errors.ts'
import { ERROR_CODES, messageOf, TributaryError } from '../../../common/errors.ts'

/** Our errors as HTTP answers: the code's status and `{"error":{"code","message","details"}}`. */

/** The body of an error answer. */
export interface ErrorBody {
  error: { code: ErrorCode; message: string; details: Readonly<Record<string, unknown>> }
}

/** What clients wait before they try a retriable failure again. */
export const RETRY_AFTER_SECONDS = 1

export function errorBody(error: TributaryError): ErrorBody {
  return { error: { code: error.code, message: error.message, details: error.details } }
}

/** Answers with `error`; `status` where HTTP has a more exact one than the code's. */
export function sendError(reply: FastifyReply, error: TributaryError, status?: number): FastifyReply {
  const { httpStatus, retriable } = ERROR_CODES[error.code]
  if (error.code === 'unauthorized') reply.header('www-authenticate', 'Bearer')
  if (retriable) reply.header('retry-after', RETRY_AFTER_SECONDS)
  return reply
    .code(status ?? httpStatus)
    .type('application/json; charset=utf-8')
    .send(errorBody(error))
}

/** What fastify itself refuses, in our codes. Null: not a client's doing. */
export function fromFastify(error: FastifyError): { error: TributaryError; status: number } | null {
  const status = error.statusCode ?? 500
  if (status < 400 || status >= 500) return null
  const code: ErrorCode =
    status === 413 ? 'frame_too_large' : status === 429 || status === 408 ? 'throttled' : 'invalid_argument'
  const message = FASTIFY_HINTS[error.code] ?? messageOf(error)
  return { error: new TributaryError(code, message, { cause: error }), status }
}

const FASTIFY_HINTS: Readonly<Record<string, string>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE:
    'this content type is not taken here: send application/json (or text/plain lines to .../records)',
  FST_ERR_CTP_BODY_TOO_LARGE:
    'the body is over the limit (64 KiB; limits.maxBodyBytes for records): send it in smaller requests',
}

/** Runs a schema; throws `invalid_argument` naming every field, its value and what is allowed. */
export function parseWith<T>(schema: z.ZodType<T>, raw: unknown, what: string): T {
  const result = schema.safeParse(raw)
  if (result.success) return result.data
  const problems = result.error.issues.map(issue => {
    const field = [what, ...issue.path.map(String)].join('.')
    const value = valueAt(raw, issue.path)
    return { field, message: `${field} is ${shown(value)}: ${issue.message}` }
  })
  throw new TributaryError('invalid_argument', problems.map(problem => problem.message).join('; '), {
    details: { fields: problems.map(problem => problem.field) },
  })
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  let value = raw
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined
    value = Reflect.get(value, key)
  }
  return value
}

function shown(value: unknown): string {
  if (value === undefined) return 'missing'
  if (value instanceof Uint8Array) return 'plain text'
  const text = JSON.stringify(value)
  return text.length > 100 ? `${text.slice(0, 100)}...` : text
}

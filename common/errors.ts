/**
 * One error class and a closed list of codes for the whole product. Endpoints map a code to their own
 * protocol's (HTTP status, MQTT close, Kafka error code); nothing matches on messages.
 */

/** Every error code; `retriable` tells a client whether trying again unchanged can help. */
export const ERROR_CODES = {
  invalid_argument: { retriable: false, httpStatus: 400 },
  config_invalid: { retriable: false, httpStatus: 400 },
  unauthorized: { retriable: false, httpStatus: 401 },
  not_found: { retriable: false, httpStatus: 404 },
  unknown_topic: { retriable: false, httpStatus: 404 },
  topic_deleted: { retriable: false, httpStatus: 410 },
  topic_exists: { retriable: false, httpStatus: 409 },
  offset_out_of_range: { retriable: false, httpStatus: 416 },
  record_too_large: { retriable: false, httpStatus: 413 },
  frame_too_large: { retriable: false, httpStatus: 413 },
  limit_exceeded: { retriable: false, httpStatus: 429 },
  corrupt_batch: { retriable: false, httpStatus: 400 },
  out_of_order_sequence: { retriable: false, httpStatus: 409 },
  unknown_run: { retriable: false, httpStatus: 409 },
  fenced: { retriable: false, httpStatus: 409 },
  protocol_error: { retriable: false, httpStatus: 400 },
  unsupported_version: { retriable: false, httpStatus: 400 },
  timeout: { retriable: true, httpStatus: 504 },
  throttled: { retriable: true, httpStatus: 429 },
  not_available: { retriable: true, httpStatus: 503 },
  /** A failure that nobody foresaw; over REST alone: links say `not_available`, since an edge must keep its records. */
  internal: { retriable: false, httpStatus: 500 },
  disk_full: { retriable: true, httpStatus: 507 },
  disk_failed: { retriable: false, httpStatus: 503 },
  directory_in_use: { retriable: false, httpStatus: 500 },
  directory_newer_format: { retriable: false, httpStatus: 500 },
  port_in_use: { retriable: false, httpStatus: 500 },
  corrupt_log: { retriable: false, httpStatus: 500 },
  closed: { retriable: true, httpStatus: 503 },
} as const

export type ErrorCode = keyof typeof ERROR_CODES

/** An expected failure. The message says what happened and what to do next; `cause` keeps the original. */
export class TributaryError extends Error {
  override readonly name = 'TributaryError'
  readonly code: ErrorCode
  /** Machine-readable facts about the failure, such as `{ next: 17 }` with `out_of_order_sequence`. */
  readonly details: Readonly<Record<string, unknown>>

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.details = options.details ?? {}
  }

  /** Whether trying the same again can help. */
  get retriable(): boolean {
    return ERROR_CODES[this.code].retriable
  }
}

/** True for a TributaryError, of the given code if one is named. */
export function isTributaryError(error: unknown, code?: ErrorCode): error is TributaryError {
  return error instanceof TributaryError && (code === undefined || error.code === code)
}

/** True where `text` is one of our codes (a frame or REST answer from a newer peer may carry another). */
export function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === 'string' && Object.hasOwn(ERROR_CODES, text)
}

/** The `code` of a Node system error (`ENOSPC`, `EADDRINUSE`), or undefined. */
export function systemErrorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}

/** True where a system call failed for want of space: the disk's, or what a quota allows. */
export function isDiskFull(error: unknown): boolean {
  const code = systemErrorCode(error)
  return code === 'ENOSPC' || code === 'EDQUOT'
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

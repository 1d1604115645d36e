import type { TopicPolicy } from '../common/config-edge.ts'
import { TributaryError } from '../common/errors.ts'
import type { StateEntry } from '../common/log/types.ts'
import type { RoutedRecord } from './ports.ts'

/** What an append to the store costs, and why it may be refused. */

/** What a record takes, about. */
export function recordBytes(record: RoutedRecord): number {
  return record.value.length + (record.key?.length ?? 0) + record.headers.length + 48
}

/** What session changes take, about. */
export function sessionBytes(session: readonly StateEntry[]): number {
  let bytes = 0
  for (const { key, value } of session) bytes += key.length + (value?.length ?? 0) + 32
  return bytes
}

/** There is no room for a record, and nothing that may go for it. */
export function fullError(topic: string, onFull: TopicPolicy['onFull']): TributaryError {
  if (onFull === 'reject') {
    return new TributaryError(
      'disk_full',
      `the disk budget is used up and topic "${topic}" may drop nothing: let the hub catch up, or raise storage.budgetBytes`,
    )
  }
  return new TributaryError(
    'not_available',
    `the disk is full and nothing is left that topic "${topic}" may drop: free space on it`,
  )
}

/** A record fits no batch. */
export function tooLarge(topic: string, maxBatchBytes: number): TributaryError {
  return new TributaryError(
    'record_too_large',
    `a record for "${topic}" does not fit a batch of ${maxBatchBytes} bytes: send smaller messages`,
  )
}

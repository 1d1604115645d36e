import { assert } from '../assert.ts'
import { TributaryError } from '../errors.ts'

/** Names of files and folders in a data directory; data-dir.ts says what each is. */

/** What belongs to one segment; all but `.log` can be rebuilt. */
export const SEGMENT_SUFFIXES = ['.log', '.index', '.timeindex', '.meta'] as const

export const MAX_LOG_NAME_BYTES = 1024
const MAX_NAME_PART_BYTES = 200

const SEGMENT_FILE = /^(\d{20})\.(log|index|timeindex|meta)$/

/** Folder of a log. */
export function logFolder(directory: string, name: string): string {
  return `${directory}/logs/${name}`
}

/** Path of a segment's file without its suffix. */
export function segmentPath(folder: string, baseOffset: number): string {
  assert(Number.isSafeInteger(baseOffset) && baseOffset >= 0, 'segment base offset')
  return `${folder}/${String(baseOffset).padStart(20, '0')}`
}

/** Base offsets of the segments among the names of a folder, in order. */
export function segmentBases(names: readonly string[]): number[] {
  const bases: number[] = []
  for (const name of names) {
    const match = SEGMENT_FILE.exec(name)
    if (match?.[2] === 'log') bases.push(Number(match[1]))
  }
  return bases.sort((left, right) => left - right)
}

/** True for a file that belongs to a segment. */
export function isSegmentFile(name: string): boolean {
  return SEGMENT_FILE.test(name)
}

/** Throws `invalid_argument` unless `name` can be a log's folder below `logs/`. */
export function checkLogName(name: string): void {
  const refuse = (why: string): never => {
    throw new TributaryError('invalid_argument', `log name ${JSON.stringify(name)} ${why}`)
  }
  if (Buffer.byteLength(name) > MAX_LOG_NAME_BYTES) refuse(`is longer than ${MAX_LOG_NAME_BYTES} bytes`)
  for (const part of name.split('/')) {
    if (part === '' || part === '.' || part === '..') refuse('has an empty or dotted part')
    if (Buffer.byteLength(part) > MAX_NAME_PART_BYTES) refuse(`has a part over ${MAX_NAME_PART_BYTES} bytes`)
    if (SEGMENT_FILE.test(part)) refuse('has a part that looks like a segment file')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
    if (/[\u0000-\u001f\u007f\\]/.test(part)) refuse('has a control character or a backslash')
  }
}

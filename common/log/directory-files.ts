import { utf8, utf8Text } from '../bytes.ts'
import type { Disk, DiskFile, Env, OpenMode } from '../env.ts'
import { isDiskFull, messageOf, systemErrorCode, TributaryError } from '../errors.ts'
import { encodeCheckpoint } from './checkpoint.ts'
import { readCheckpoint } from './recover.ts'
import { journalPath } from './recover-journal.ts'
import type { DataDirOptions } from './types.ts'

/** The files of a data directory beside its logs: made once, read at each start. */

const FORMAT_VERSION = 1

/** What makes a directory itself. */
export interface Meta {
  formatVersion: number
  directoryId: string
  journalId: string
}

/** Why nothing can be opened at `path`. */
export function unusable(path: string, what: 'made' | 'written to', cause: unknown): TributaryError {
  if (isDiskFull(cause)) {
    return new TributaryError('disk_full', `no space left for the data directory ${path}: free some`, {
      cause,
    })
  }
  const code = systemErrorCode(cause)
  // What is missing would have been made.
  const why = code === 'ENOENT' ? 'ENOENT: nothing can be made there' : (code ?? messageOf(cause))
  return new TributaryError(
    'invalid_argument',
    `the data directory ${path} can't be ${what} (${why}): choose a place for it with --data`,
    { cause },
  )
}

/** Undefined where no directory was made yet. Rejects with `corrupt_log` where its meta.json is lost, `directory_newer_format`. */
export async function readMeta(disk: Disk, path: string): Promise<Meta | undefined> {
  const file = `${path}/meta.json`
  if (!(await disk.exists(file))) {
    // Made last: without it and without a checkpoint nothing was ever committed here.
    const checkpoint = await readCheckpoint(disk, path)
    const unused = checkpoint === undefined || (checkpoint.firstCommit === 1 && checkpoint.logs.length === 0)
    if (unused && (await disk.list(`${path}/logs`)).length === 0) return undefined
    throw new TributaryError(
      'corrupt_log',
      `${file} is missing though ${path} holds logs: restore it from a backup`,
    )
  }
  let found: unknown
  try {
    found = JSON.parse(utf8Text(await disk.readFile(file)))
  } catch (error) {
    throw new TributaryError('corrupt_log', `${file} is no JSON: restore it from a backup`, { cause: error })
  }
  const version = fieldOf(found, 'formatVersion')
  if (typeof version === 'number' && version > FORMAT_VERSION) {
    throw new TributaryError(
      'directory_newer_format',
      `${path} has format ${version}, this version knows ${FORMAT_VERSION}: upgrade tributary, or use another directory`,
    )
  }
  const directoryId = fieldOf(found, 'directoryId')
  const journalId = fieldOf(found, 'journalId')
  if (typeof version !== 'number' || typeof directoryId !== 'string' || typeof journalId !== 'string') {
    throw new TributaryError('corrupt_log', `${file} lacks its fields: restore it from a backup`)
  }
  return { formatVersion: version, directoryId, journalId }
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? Object.entries(value).find(([key]) => key === name)?.[1]
    : undefined
}

/** Makes an empty directory, `meta.json` last. */
export async function createDirectory(
  path: string,
  options: DataDirOptions,
  { disk, rng }: Pick<Env, 'rng' | 'disk'>,
): Promise<Meta> {
  const meta: Meta = {
    formatVersion: FORMAT_VERSION,
    directoryId: Buffer.from(rng.bytes(16)).toString('hex'),
    journalId: Buffer.from(rng.bytes(8)).toString('hex'),
  }
  await disk.mkdir(`${path}/logs`)
  await makeHalves(disk, path, options.journalBytes)
  await disk.replaceFile(
    `${path}/checkpoint`,
    encodeCheckpoint({
      directoryId: meta.directoryId,
      session: 1,
      firstCommit: 1,
      cleanShutdown: true,
      nextLogId: 1,
      logs: [],
      removing: [],
    }),
  )
  await disk.replaceFile(`${path}/meta.json`, utf8(`${JSON.stringify(meta, null, 2)}\n`))
  return meta
}

/** The journal's files, which are there. */
export async function openHalves(disk: Disk, path: string, mode: OpenMode): Promise<[DiskFile, DiskFile]> {
  return [await disk.open(journalPath(path, 0), mode), await disk.open(journalPath(path, 1), mode)]
}

/** Makes the journal's files, writing zeros over all of a new one, so that overwriting them later allocates nothing. */
export async function makeHalves(disk: Disk, path: string, halfBytes: number): Promise<void> {
  for (const half of [0, 1]) {
    const file = await disk.open(journalPath(path, half), 'write')
    try {
      await fillHalf(file, halfBytes)
    } finally {
      await file.close()
    }
  }
  await disk.syncDir(path)
}

async function fillHalf(file: DiskFile, halfBytes: number): Promise<void> {
  const size = await file.sizeBytes()
  if (size === halfBytes) return
  if (size > halfBytes) await file.truncate(halfBytes)
  const zeros = new Uint8Array(Math.min(halfBytes, 256 * 1024))
  for (let at = size; at < halfBytes; at += zeros.length) {
    await file.writev([zeros.subarray(0, Math.min(zeros.length, halfBytes - at))], at)
  }
  await file.datasync()
}

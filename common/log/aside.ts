import type { Disk, DiskFile } from '../env.ts'
import type { FilePool } from './files.ts'
import { readFully, scanBuffers } from './scan.ts'

/** Of one torn tail or damaged stretch so much is kept. */
const MAX_ASIDE_FILE_BYTES = 4 * 1024 * 1024
/** The oldest go when there are more. */
const MAX_ASIDE_FILES = 64

/** Bytes of an open file. */
export interface AsideRange {
  file: DiskFile
  from: number
  length: number
}

/**
 * Copies a stretch that recovery cuts or isolates into `aside/`, for people to look at; returns the path, or '' where
 * it could not be kept (a full disk must not keep the directory from opening).
 */
export async function keepAside(
  disk: Disk,
  files: FilePool,
  directory: string,
  stretch: { name: string; path: string; from: number; to: number },
): Promise<string> {
  const { name, path, from, to } = stretch
  try {
    return await files.use(path, file =>
      keepRangesAside(disk, directory, { name, from }, [{ file, from, length: to - from }]),
    )
  } catch {
    return ''
  }
}

/** The same for several ranges, end to end in one file named by `where`. */
export async function keepRangesAside(
  disk: Disk,
  directory: string,
  where: { name: string; from: number },
  ranges: readonly AsideRange[],
): Promise<string> {
  const total = ranges.reduce((sum, { length }) => sum + length, 0)
  const buffer = scanBuffers.take(Math.max(1, Math.min(total, MAX_ASIDE_FILE_BYTES)))
  try {
    const path = await newAside(disk, directory, where)
    const target = await disk.open(path, 'write')
    try {
      let position = 0
      for (const { file, from, length } of ranges) {
        const wanted = Math.min(length, MAX_ASIDE_FILE_BYTES - position)
        if (wanted <= 0) break
        const got = await readFully(file, buffer, wanted, from)
        await target.writev([buffer.subarray(0, got)], position)
        position += got
      }
    } finally {
      await target.close()
    }
    return path
  } catch {
    return ''
  } finally {
    scanBuffers.give(buffer)
  }
}

/** A new path in `aside/`; the oldest files make room. */
async function newAside(
  disk: Disk,
  directory: string,
  { name, from }: { name: string; from: number },
): Promise<string> {
  const folder = `${directory}/aside`
  await disk.mkdir(folder)
  const names = await disk.list(folder)
  const number = names.reduce((next, known) => Math.max(next, Number.parseInt(known, 10) + 1 || 0), 1)
  for (const old of names.slice(0, Math.max(0, names.length + 1 - MAX_ASIDE_FILES)))
    await disk.remove(`${folder}/${old}`)
  const safeName = name.replaceAll('/', '~').slice(0, 100)
  return `${folder}/${String(number).padStart(8, '0')}-${safeName}-${from}`
}

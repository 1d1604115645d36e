import type { Disk } from '../env.ts'
import type { FilePool } from './files.ts'
import { readFully, scanBuffers } from './scan.ts'

/** Of one torn tail or damaged stretch so much is kept. */
const MAX_ASIDE_FILE_BYTES = 4 * 1024 * 1024
/** The oldest go when there are more. */
const MAX_ASIDE_FILES = 64

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
  const length = Math.min(stretch.to - stretch.from, MAX_ASIDE_FILE_BYTES)
  const folder = `${directory}/aside`
  const buffer = scanBuffers.take(Math.max(1, length))
  try {
    await disk.mkdir(folder)
    const names = await disk.list(folder)
    const number = names.reduce((next, name) => Math.max(next, Number.parseInt(name, 10) + 1 || 0), 1)
    for (const old of names.slice(0, Math.max(0, names.length + 1 - MAX_ASIDE_FILES)))
      await disk.remove(`${folder}/${old}`)
    const safeName = stretch.name.replaceAll('/', '~').slice(0, 100)
    const path = `${folder}/${String(number).padStart(8, '0')}-${safeName}-${stretch.from}`
    const got = await files.use(stretch.path, file => readFully(file, buffer, length, stretch.from))
    const target = await disk.open(path, 'write')
    try {
      await target.writev([buffer.subarray(0, got)], 0)
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

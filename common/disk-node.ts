import { constants, fdatasync, fstat, ftruncate, read, writev } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Disk, DiskFile, OpenMode } from './env.ts'
import { systemErrorCode } from './errors.ts'
import { lockFolder } from './lock-node.ts'

/** The real disk. */

const datasyncFd = promisify(fdatasync)
const statFd = promisify(fstat)
const truncateFd = promisify(ftruncate)

/** Files and folders of this machine, errors as Node gives them. */
export function nodeDisk(): Disk {
  return {
    open: openFile,
    mkdir: makeFolder,
    list: async path => {
      try {
        return (await readdir(path)).sort()
      } catch (error) {
        if (systemErrorCode(error) === 'ENOENT') return []
        throw error
      }
    },
    exists: async path => {
      try {
        await stat(path)
        return true
      } catch (error) {
        // ENOTDIR: a file stands where a folder of its path would.
        if (['ENOENT', 'ENOTDIR'].includes(systemErrorCode(error) ?? '')) return false
        throw error
      }
    },
    rename,
    remove: path => rm(path, { recursive: true, force: true }),
    syncDir,
    readFile: path => readFile(path),
    replaceFile,
    space: async path => {
      const { bavail, blocks, bsize } = await statfs(path)
      return { freeBytes: bavail * bsize, totalBytes: blocks * bsize }
    },
    lock: lockFolder,
  }
}

/**
 * Made folders are as durable as the files that will be in them: each one's entry in its parent is synced. Level by level,
 * for Node's recursive mkdir tries for ever where a filesystem takes no folders (/proc).
 */
async function makeFolder(path: string): Promise<void> {
  const missing: string[] = []
  for (let at = resolve(path); !(await isFolder(at)); at = dirname(at)) missing.push(at)
  for (const folder of missing.reverse()) {
    try {
      await mkdir(folder)
    } catch (error) {
      // Somebody else made it meanwhile, or a link leads nowhere.
      if (systemErrorCode(error) !== 'EEXIST' || !(await isFolder(folder))) throw error
    }
    await syncDir(dirname(folder))
  }
}

/** False where nothing is; rejects with ENOTDIR where a file is. */
async function isFolder(path: string): Promise<boolean> {
  try {
    if ((await stat(path)).isDirectory()) return true
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false
    throw error
  }
  throw Object.assign(new Error(`ENOTDIR: not a directory, mkdir '${path}'`), { code: 'ENOTDIR' })
}

/** What Linux makes of it is what fdatasync does, in the same trip to the thread pool; elsewhere it may stop at the drive's cache. */
const HAS_DSYNC = process.platform === 'linux'

/** What one writev takes (Linux's IOV_MAX). */
const MAX_IOVECS = 1024

const OPEN_FLAGS: Readonly<Record<OpenMode, number>> = {
  read: constants.O_RDONLY,
  update: constants.O_RDWR,
  write: constants.O_RDWR | constants.O_CREAT,
  durable: constants.O_RDWR | constants.O_CREAT | (HAS_DSYNC ? constants.O_DSYNC : 0),
}

async function openFile(path: string, mode: OpenMode): Promise<DiskFile> {
  const handle = await open(path, OPEN_FLAGS[mode], 0o644)
  const { fd } = handle
  const writeDurably = async (buffers: readonly Uint8Array[], position: number): Promise<void> => {
    // A call for each IOV_MAX of them would be a sync for each.
    await writeAll(fd, buffers.length > MAX_IOVECS ? joined(buffers) : buffers, position)
    if (!HAS_DSYNC) await datasyncFd(fd)
  }
  return {
    writev: mode === 'durable' ? writeDurably : (buffers, position) => writeAll(fd, buffers, position),
    read: (target, targetOffset, length, position) => readSome(fd, target, targetOffset, length, position),
    datasync: () => datasyncFd(fd),
    truncate: sizeBytes => truncateFd(fd, sizeBytes),
    sizeBytes: async () => (await statFd(fd)).size,
    close: () => handle.close(),
  }
}

// The callback API on the bare descriptor: FileHandle's methods cost several times as much a call.
function readSome(
  fd: number,
  target: Uint8Array,
  targetOffset: number,
  length: number,
  position: number,
): Promise<number> {
  return new Promise((done, failed) => {
    read(fd, target, targetOffset, length, position, (error, count) => {
      if (error === null) done(count)
      else failed(error)
    })
  })
}

function writeSome(fd: number, buffers: readonly Uint8Array[], position: number): Promise<number> {
  return new Promise((done, failed) => {
    writev(fd, buffers, position, (error, count) => {
      if (error === null) done(count)
      else failed(error)
    })
  })
}

async function writeAll(fd: number, buffers: readonly Uint8Array[], position: number): Promise<void> {
  let total = 0
  for (const buffer of buffers) total += buffer.length
  let done = 0
  let rest = buffers
  while (done < total) {
    const count = await writeSome(fd, rest, position + done)
    done += count
    if (done < total) rest = skipBytes(rest, count)
  }
}

/** The same bytes in at most MAX_IOVECS buffers. */
function joined(buffers: readonly Uint8Array[]): Uint8Array[] {
  const each = Math.ceil(buffers.length / MAX_IOVECS)
  const parts: Uint8Array[] = []
  for (let at = 0; at < buffers.length; at += each) parts.push(Buffer.concat(buffers.slice(at, at + each)))
  return parts
}

/** `buffers` without their first `count` bytes. */
function skipBytes(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  const rest: Uint8Array[] = []
  let skip = count
  for (const buffer of buffers) {
    if (skip >= buffer.length) skip -= buffer.length
    else {
      rest.push(buffer.subarray(skip))
      skip = 0
    }
  }
  return rest
}

async function withHandle<T>(
  path: string,
  flags: string,
  work: (handle: FileHandle) => Promise<T>,
): Promise<T> {
  const handle = await open(path, flags)
  try {
    return await work(handle)
  } finally {
    await handle.close()
  }
}

async function syncDir(path: string): Promise<void> {
  await withHandle(path, 'r', handle => handle.sync())
}

async function replaceFile(path: string, content: Uint8Array): Promise<void> {
  const beside = `${path}.new`
  await withHandle(beside, 'w', async handle => {
    await handle.writeFile(content)
    await handle.sync()
  })
  await rename(beside, path)
  await syncDir(dirname(path))
}

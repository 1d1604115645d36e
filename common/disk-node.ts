import { randomBytes } from 'node:crypto'
import { constants, fdatasync, fstat, ftruncate, read, readFileSync, writev } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Disk, DiskFile, OpenMode } from './env.ts'
import { systemErrorCode, TributaryError } from './errors.ts'

/** The real disk. */

const datasyncFd = promisify(fdatasync)
const statFd = promisify(fstat)
const truncateFd = promisify(ftruncate)

/** Folders locked by this process, which its own lock files can't tell it. */
const lockedHere = new Set<string>()
const LOCK_ATTEMPTS = 5

/** Files and folders of this machine, errors as Node gives them. */
export function nodeDisk(): Disk {
  return {
    open: openFile,
    mkdir: async path => {
      await mkdir(path, { recursive: true })
    },
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
        if (systemErrorCode(error) === 'ENOENT') return false
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
    lock,
  }
}

async function openFile(path: string, mode: OpenMode): Promise<DiskFile> {
  const flags = mode === 'read' ? constants.O_RDONLY : constants.O_RDWR | constants.O_CREAT
  const handle = await open(path, flags, 0o644)
  const { fd } = handle
  return {
    writev: (buffers, position) => writeAll(fd, buffers, position),
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

interface Holder {
  pid: number
  /** Tells a process from a later one with its pid; '' where the system does not say. */
  startedAt: string
}

/** Clock ticks between boot and the start of the process, with the boot's id (Linux). */
function startOf(pid: number): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')
    return `${boot}/${fields?.[19] ?? ''}`
  } catch {
    return ''
  }
}

function isAlive(holder: Holder): boolean {
  try {
    process.kill(holder.pid, 0)
  } catch (error) {
    if (systemErrorCode(error) === 'ESRCH') return false
  }
  const now = startOf(holder.pid)
  return now === '' || holder.startedAt === '' || now === holder.startedAt
}

function parseHolder(text: string): Holder | undefined {
  const [pid, startedAt] = text.trim().split(' ')
  const number = Number(pid)
  return Number.isInteger(number) && number > 0 ? { pid: number, startedAt: startedAt ?? '' } : undefined
}

/**
 * A `lock` file naming process and start time, made by an exclusive create so that two starters cannot both have it; it
 * is taken over from a process that is no more.
 */
async function lock(path: string): Promise<() => Promise<void>> {
  const folder = resolve(path)
  const file = `${folder}/lock`
  if (lockedHere.has(folder)) throw inUse(folder, process.pid)
  lockedHere.add(folder)
  try {
    await takeLock(file, folder)
  } catch (error) {
    lockedHere.delete(folder)
    throw error
  }
  return async () => {
    if (lockedHere.delete(folder)) await rm(file, { force: true })
  }
}

async function takeLock(file: string, folder: string): Promise<void> {
  const mine = `${process.pid} ${startOf(process.pid)}\n`
  for (let attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
    try {
      await withHandle(file, 'wx', handle => handle.writeFile(mine))
      return
    } catch (error) {
      if (systemErrorCode(error) !== 'EEXIST') throw error
    }
    const text = await readFile(file, 'utf8').catch(() => '')
    const holder = parseHolder(text)
    if (holder !== undefined && holder.pid !== process.pid && isAlive(holder)) throw inUse(folder, holder.pid)
    await takeAway(file, text)
  }
  throw inUse(folder, 0)
}

/** Removes a dead holder's lock, but puts back what another starter has put there meanwhile. */
async function takeAway(file: string, text: string): Promise<void> {
  const aside = `${file}.${randomBytes(6).toString('hex')}`
  try {
    await rename(file, aside)
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return
    throw error
  }
  if ((await readFile(aside, 'utf8')) === text) await rm(aside, { force: true })
  else await rename(aside, file)
}

function inUse(folder: string, pid: number): TributaryError {
  const who = pid === 0 ? 'another process' : pid === process.pid ? 'this process' : `process ${pid}`
  return new TributaryError(
    'directory_in_use',
    `${folder} is in use by ${who}: stop it, or give this one another directory with --data`,
    { details: { pid } },
  )
}

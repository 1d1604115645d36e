import { randomBytes } from 'node:crypto'
import { constants, readFileSync } from 'node:fs'
import { copyFile, link, readdir, readFile, readlink, realpath, rm, stat, writeFile } from 'node:fs/promises'
import { systemErrorCode, TributaryError } from './errors.ts'

/**
 * The lock of a folder, without flock, which Node does not have. Its files are `lock-<n>`: whoever made the one with the highest
 * number holds the folder while the process that it names lives. A starter that finds the highest one dead (or given
 * back) makes the next number by link(2), which is exclusive and brings the content with it, and has
 * the folder if its number is the highest still. The highest file is never removed, so numbers never come again and a
 * starter that slept between looking and linking finds itself below somebody. A copy of a held folder carries the lock of
 * its original, which is told by the folder it names.
 */

/** Other starters may win so many numbers before this one gives up. */
const ATTEMPTS = 20
const LOCK_FILE = /^lock-(\d+)$/
/** What a starter links from; left behind by one that was killed there. */
const DRAFT_FILE = /^lock\.[0-9a-f]{12}$/

/** Content of a lock that was given back. */
const FREE = 'free\n'

/** Folders locked by this process, which its own lock files can't tell it where the system has no start times. */
const lockedHere = new Set<string>()

interface Holder {
  pid: number
  /** Tells a process from a later one with its pid; '' where the system does not say. */
  startedAt: string
  /** Device and inode of the folder it holds; '' in locks of before that was written. */
  folder: string
}

/** Takes the lock, see Disk.lock; the result gives it back. */
export async function lockFolder(path: string): Promise<() => Promise<void>> {
  const folder = await realpath(path)
  if (lockedHere.has(folder)) throw inUse(folder, process.pid)
  lockedHere.add(folder)
  try {
    const file = await takeLock(folder)
    return async () => {
      if (lockedHere.delete(folder)) await giveBack(file)
    }
  } catch (error) {
    lockedHere.delete(folder)
    throw error
  }
}

async function giveBack(file: string): Promise<void> {
  try {
    // Not where the folder was removed by whoever held it.
    await stat(file)
    await writeFile(file, FREE)
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw error
  }
}

async function takeLock(folder: string): Promise<string> {
  const draft = `${folder}/lock.${randomBytes(6).toString('hex')}`
  try {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const highest = await highestNumber(folder)
      if (highest > 0) {
        const holder = await holderOf(`${folder}/lock-${highest}`)
        if (holder === 'changing') continue
        if (holder !== 'free' && isAlive(holder) && !(await isOfAnother(holder, folder)))
          throw inUse(folder, holder.pid)
      }
      const mine = highest + 1
      if (!(await makeFrom(draft, folder, mine))) continue
      if ((await highestNumber(folder)) === mine) {
        await removeBelow(folder, mine, draft)
        return `${folder}/lock-${mine}`
      }
      await rm(`${folder}/lock-${mine}`, { force: true })
    }
  } finally {
    await rm(draft, { force: true })
  }
  throw inUse(folder, 0)
}

/** Makes the lock of that number with our name in it at once; false where it is there already. */
async function makeFrom(draft: string, folder: string, number: number): Promise<boolean> {
  await writeFile(draft, `${process.pid} ${startOf(process.pid)} ${await identityOf(folder)}\n`)
  try {
    await linkOrCopy(draft, `${folder}/lock-${number}`)
    return true
  } catch (error) {
    const code = systemErrorCode(error)
    // Whoever got the lock meanwhile has tidied up, our draft too.
    if (code === 'EEXIST' || code === 'ENOENT') return false
    throw error
  } finally {
    // Of its own inode next time: a lock that was lost must not share one with a lock that is held.
    await rm(draft, { force: true })
  }
}

/** Filesystems without hard links (exFAT) get an exclusive copy: its content comes a moment later, see holderOf. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    if (!NO_LINKS.has(systemErrorCode(error) ?? '')) throw error
    await copyFile(from, to, constants.COPYFILE_EXCL)
  }
}

const NO_LINKS: ReadonlySet<string> = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'])

async function highestNumber(folder: string): Promise<number> {
  let highest = 0
  for (const name of await readdir(folder)) highest = Math.max(highest, numberOf(name))
  return highest
}

function numberOf(name: string): number {
  return Number(LOCK_FILE.exec(name)?.[1] ?? 0)
}

async function removeBelow(folder: string, mine: number, draft: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const old = numberOf(name) > 0 && numberOf(name) < mine
    const stray = DRAFT_FILE.test(name) && `${folder}/${name}` !== draft
    if (old || stray) await rm(`${folder}/${name}`, { force: true })
  }
}

/** Who has the lock; `changing` where its file is being written or went meanwhile, since a higher one came. */
async function holderOf(file: string): Promise<Holder | 'free' | 'changing'> {
  try {
    const text = await readFile(file, 'utf8')
    if (!text.endsWith('\n')) return 'changing'
    const [pid, startedAt, folder] = text.trim().split(' ')
    const number = Number(pid)
    return Number.isInteger(number) && number > 0
      ? { pid: number, startedAt: startedAt ?? '', folder: folder ?? '' }
      : 'free'
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return 'changing'
    throw error
  }
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
  // An earlier process had our pid, as in a container that was started again: this one holds nothing yet.
  if (holder.pid === process.pid && (now === '' || holder.startedAt === '')) return false
  return now === '' || holder.startedAt === '' || now === holder.startedAt
}

async function identityOf(folder: string): Promise<string> {
  const { dev, ino } = await stat(folder, { bigint: true })
  return `${dev}:${ino}`
}

/**
 * True where the holder has another folder, of which this one is a copy. Inodes alone don't tell: exFAT draws new ones for a
 * folder that is there all the time. A holder that has no file open below this folder doesn't hold it.
 */
async function isOfAnother(holder: Holder, folder: string): Promise<boolean> {
  if (holder.folder === '' || holder.folder === (await identityOf(folder))) return false
  const files = `/proc/${holder.pid}/fd`
  try {
    const open = await Promise.all(
      (await readdir(files)).map(fd => readlink(`${files}/${fd}`).catch(() => '')),
    )
    return !open.some(path => path.startsWith(`${folder}/`))
  } catch {
    // Another user's, or no Linux.
    return false
  }
}

function inUse(folder: string, pid: number): TributaryError {
  const who = pid === 0 ? 'another process' : pid === process.pid ? 'this process' : `process ${pid}`
  return new TributaryError(
    'directory_in_use',
    `${folder} is in use by ${who}: stop it, or give this one another directory with --data`,
    { details: { pid } },
  )
}

import type { Disk, DiskFile, OpenMode } from '../../common/env.ts'
import type { FakeDisk } from '../fake-disk.ts'
import type { SimProcess } from './process.ts'

/** A fake disk as one process sees it: each call takes its time, and what a dead process asked for never comes back. */

/** What calls take at least, and on top of it by chance, on a healthy disk. */
const TAKES = {
  read: { leastMs: 0.02, moreMs: 0.2 },
  write: { leastMs: 0.01, moreMs: 0.1 },
  sync: { leastMs: 0.2, moreMs: 2 },
  meta: { leastMs: 0.01, moreMs: 0.05 },
} as const

type Call = keyof typeof TAKES

export function processDisk(process: SimProcess, disk: FakeDisk, slowness: () => number): Disk {
  const { rng } = process

  function takesMs(call: Call): number {
    const { leastMs, moreMs } = TAKES[call]
    // Mostly quick, with a long tail.
    const share = rng.float()
    return (leastMs + moreMs * share * share * share * 2) * slowness()
  }

  function pass(call: Call): Promise<void> {
    return new Promise(resolve => {
      process.schedule('disk', takesMs(call), resolve)
    })
  }

  /** What the call does happens at its beginning or at its end: a crash in between finds it done or not. */
  async function slow<T>(call: Call, start: () => Promise<T>): Promise<T> {
    if (!process.isAlive) return new Promise<never>(() => {})
    if (rng.below(2) === 0) {
      await pass(call)
      return start()
    }
    const result = await start().then(
      value => ({ value }),
      (error: unknown) => ({ error }),
    )
    await pass(call)
    if ('error' in result) throw result.error
    return result.value
  }

  const fileOf = (file: DiskFile): DiskFile => ({
    writev: (buffers, position) => slow('write', () => file.writev(buffers, position)),
    read: (target, at, length, position) => slow('read', () => file.read(target, at, length, position)),
    datasync: () => slow('sync', () => file.datasync()),
    truncate: sizeBytes => slow('meta', () => file.truncate(sizeBytes)),
    sizeBytes: () => slow('meta', () => file.sizeBytes()),
    close: () => slow('meta', () => file.close()),
  })

  return {
    open: (path, mode) => open(path, mode),
    mkdir: path => slow('meta', () => disk.mkdir(path)),
    list: path => slow('meta', () => disk.list(path)),
    exists: path => slow('meta', () => disk.exists(path)),
    rename: (from, to) => slow('meta', () => disk.rename(from, to)),
    remove: path => slow('meta', () => disk.remove(path)),
    syncDir: path => slow('sync', () => disk.syncDir(path)),
    readFile: path => slow('read', () => disk.readFile(path)),
    replaceFile: (path, content) => replaceFile(path, content),
    space: path => slow('meta', () => disk.space(path)),
    lock: path => slow('meta', () => disk.lock(path)),
  }

  async function open(path: string, mode: OpenMode): Promise<DiskFile> {
    if (mode !== 'durable') return fileOf(await slow('meta', () => disk.open(path, mode)))
    const file = await slow('meta', async () => {
      await disk.open(path, 'durable')
      return disk.open(path, 'update')
    })
    return {
      ...fileOf(file),
      // A crash in the middle finds any part of it.
      writev: async (buffers, position) => {
        if (!process.isAlive) return new Promise<never>(() => {})
        await file.writev(buffers, position)
        await pass('sync')
        await file.datasync()
      },
    }
  }

  /** In its steps, so that a crash may come between any two. */
  async function replaceFile(path: string, content: Uint8Array): Promise<void> {
    const beside = `${path}.new`
    const file = await open(beside, 'write')
    await file.truncate(0)
    await file.writev([content], 0)
    await file.datasync()
    await slow('meta', () => disk.rename(beside, path))
    await slow('sync', () => disk.syncDir(path.slice(0, path.lastIndexOf('/'))))
  }
}

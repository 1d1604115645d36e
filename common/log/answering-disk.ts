import type { Clock, Disk, DiskFile } from '../env.ts'

/**
 * A disk that knows when it last finished something it was asked to change. One that hangs without failing is told by that from one that
 * is slow: under load calls take long, yet now and then one ends.
 */
export interface AnsweringDisk extends Disk {
  /** Monotonic time of the last answer; negative infinity before the first. */
  answeredMs(): number
}

export function answeringDisk(disk: Disk, clock: Clock): AnsweringDisk {
  let answeredMs = Number.NEGATIVE_INFINITY

  async function noted<T>(call: Promise<T>): Promise<T> {
    try {
      return await call
    } finally {
      answeredMs = clock.monotonicMs()
    }
  }

  const fileOver = (file: DiskFile): DiskFile => ({
    writev: (buffers, position) => noted(file.writev(buffers, position)),
    read: (target, at, length, position) => file.read(target, at, length, position),
    datasync: () => noted(file.datasync()),
    truncate: sizeBytes => noted(file.truncate(sizeBytes)),
    sizeBytes: () => file.sizeBytes(),
    close: () => file.close(),
  })

  return {
    answeredMs: () => answeredMs,
    open: async (path, mode) => {
      const file = await disk.open(path, mode)
      return mode === 'read' ? file : fileOver(file)
    },
    mkdir: path => noted(disk.mkdir(path)),
    list: path => disk.list(path),
    exists: path => disk.exists(path),
    rename: (from, to) => noted(disk.rename(from, to)),
    remove: path => noted(disk.remove(path)),
    syncDir: path => noted(disk.syncDir(path)),
    readFile: path => disk.readFile(path),
    replaceFile: (path, content) => noted(disk.replaceFile(path, content)),
    space: path => disk.space(path),
    lock: path => disk.lock(path),
  }
}

import type { Disk, DiskFile, OpenMode } from '../env.ts'

/** Segment files kept open by one data directory; sockets need descriptors too. */
const MAX_OPEN_SEGMENT_FILES = 2048
/** Descriptors given up at once, which a sync may come before. */
const EVICTIONS_AT_ONCE = 4

interface PoolEntry {
  readonly path: string
  readonly file: Promise<DiskFile>
  users: number
  /** Written since its last datasync. */
  dirty: boolean
  forgotten: boolean
}

/**
 * Open segment files, at most `limit` besides those in use. A dirty file is synced before its descriptor is
 * given up: once closed, a later descriptor may not be told that writing a page back had failed.
 */
export class FilePool {
  readonly #disk: Disk
  readonly #limit: number
  readonly #entries = new Map<string, PoolEntry>()
  readonly #evicting: Promise<void>[] = Array.from({ length: EVICTIONS_AT_ONCE }, () => Promise.resolve())
  #evictions = 0
  #onSyncError: (error: unknown) => void = () => {}

  constructor(disk: Disk, limit: number = MAX_OPEN_SEGMENT_FILES) {
    this.#disk = disk
    this.#limit = limit
  }

  /** Told when the datasync before giving up a descriptor failed: final for the directory. */
  onSyncError(listener: (error: unknown) => void): void {
    this.#onSyncError = listener
  }

  /** Runs `work` with the file open; it must exist, or a read that raced a deletion would leave an empty file behind. */
  async use<T>(path: string, work: (file: DiskFile) => Promise<T>): Promise<T> {
    const entry = this.#enter(path, 'update')
    try {
      return await work(await entry.file)
    } finally {
      this.#leave(entry)
    }
  }

  /** Like `use`, for work that writes: the file is created if missing. */
  write<T>(path: string, work: (file: DiskFile) => Promise<T>): Promise<T> {
    return this.#write(path, 'write', work)
  }

  /** Like `write`, but it must exist. */
  rewrite<T>(path: string, work: (file: DiskFile) => Promise<T>): Promise<T> {
    return this.#write(path, 'update', work)
  }

  async #write<T>(path: string, mode: OpenMode, work: (file: DiskFile) => Promise<T>): Promise<T> {
    const entry = this.#enter(path, mode)
    entry.dirty = true
    try {
      return await work(await entry.file)
    } finally {
      // Again: a sync that began meanwhile need not cover what was written.
      entry.dirty = true
      this.#leave(entry)
    }
  }

  /** The next `sync` of `path` syncs it for what an earlier process left unsynced in it. */
  distrust(path: string): Promise<void> {
    return this.write(path, async () => {})
  }

  /** Makes durable what was written to `path`; nothing to do where it was synced or removed since. */
  async sync(path: string): Promise<void> {
    await Promise.all(this.#evicting)
    const entry = this.#entries.get(path)
    if (entry === undefined) {
      await Promise.all(this.#evicting)
      return
    }
    if (!entry.dirty) return
    entry.users++
    try {
      const file = await entry.file
      entry.dirty = false
      await file.datasync()
    } finally {
      this.#leave(entry)
    }
  }

  /** Closes the file when its users are done; what it holds no longer matters. */
  forget(path: string): void {
    const entry = this.#entries.get(path)
    if (entry === undefined) return
    this.#entries.delete(path)
    entry.forgotten = true
    if (entry.users === 0) void closeQuietly(entry)
  }

  async closeAll(): Promise<void> {
    await Promise.all(this.#evicting)
    const entries = [...this.#entries.values()]
    this.#entries.clear()
    await Promise.all(entries.map(closeQuietly))
  }

  #enter(path: string, mode: OpenMode): PoolEntry {
    let entry = this.#entries.get(path)
    if (entry === undefined) {
      entry = { path, file: this.#disk.open(path, mode), users: 0, dirty: false, forgotten: false }
      // Whoever awaits it is told; a failed open must not stay, nor be an unhandled rejection.
      const opened = entry
      opened.file.catch(() => {
        if (this.#entries.get(path) === opened) this.#entries.delete(path)
      })
    } else {
      this.#entries.delete(path)
    }
    // Re-inserted, so that the map's order is that of last use.
    this.#entries.set(path, entry)
    entry.users++
    return entry
  }

  #leave(entry: PoolEntry): void {
    entry.users--
    if (entry.forgotten) {
      if (entry.users === 0) void closeQuietly(entry)
    } else if (this.#entries.size > this.#limit) {
      this.#evict()
    }
  }

  #evict(): void {
    let victim: PoolEntry | undefined
    for (const entry of this.#entries.values()) {
      if (entry.users > 0) continue
      victim ??= entry
      if (!entry.dirty) {
        victim = entry
        break
      }
    }
    if (victim === undefined) return
    this.#entries.delete(victim.path)
    const evicted = victim
    const lane = this.#evictions++ % EVICTIONS_AT_ONCE
    const before = this.#evicting[lane] ?? Promise.resolve()
    this.#evicting[lane] = before.then(async () => {
      try {
        const file = await evicted.file
        if (evicted.dirty) await file.datasync()
        await file.close()
      } catch (error) {
        this.#onSyncError(error)
      }
    })
  }
}

async function closeQuietly(entry: PoolEntry): Promise<void> {
  try {
    const file = await entry.file
    await file.close()
  } catch {
    // Nothing that was promised depends on it: what had to be durable was synced before.
  }
}

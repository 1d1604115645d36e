import type { Clock, Codec, Disk, DiskFile, Env, Link, Rng } from '../../common/env.ts'
import type { FakeClock } from '../fake-clock.ts'

/** What a process of the spine runs on, and the switch that ends it. */
export interface Mortal {
  env: Env
  isAlive(): boolean
  /** From now on none of its timers, files or links does anything: as kill -9 leaves it. */
  kill(): void
  /** Its end of a connection. */
  link(link: Link): Link
}

export interface MortalOptions {
  clock: FakeClock
  rng: Rng
  disk: Disk
  codec: Codec
  dial(): Promise<Link>
  /** How far its wall clock is off. */
  wallShiftMs(): number
  /** How long the next fdatasync takes. */
  syncDelayMs(): number
  /** Told of what its callbacks throw: a broken invariant. */
  failed(error: unknown): void
  /** Told of every call to the disk. */
  active(): void
}

/** An environment that ends with its process, on a clock that all processes share. */
export function createMortal(options: MortalOptions): Mortal {
  const { clock, rng, disk, codec, failed } = options
  let alive = true

  const guarded = (callback: () => void): void => {
    if (!alive) return
    try {
      callback()
    } catch (error) {
      failed(error)
    }
  }

  /** What a dead process asked for never comes back to it. */
  async function living<T>(start: () => Promise<T>): Promise<T> {
    options.active()
    try {
      if (alive) {
        const value = await start()
        if (alive) return value
      }
    } catch (error) {
      if (alive) throw error
    }
    return new Promise<never>(() => {})
  }

  const mortalClock: Clock = {
    nowMs: () => clock.nowMs() + options.wallShiftMs(),
    monotonicMs: () => clock.monotonicMs(),
    setTimer: (callback, delayMs) => clock.setTimer(() => guarded(callback), delayMs),
    soon: callback => void setImmediate(() => guarded(callback)),
  }

  async function sync(file: DiskFile): Promise<void> {
    const delayMs = options.syncDelayMs()
    if (delayMs > 0) await new Promise<void>(resolve => mortalClock.setTimer(resolve, delayMs))
    await file.datasync()
  }

  const mortalFile = (file: DiskFile): DiskFile => ({
    writev: (buffers, position) => living(() => file.writev(buffers, position)),
    read: (target, at, length, position) => living(() => file.read(target, at, length, position)),
    datasync: () => living(() => sync(file)),
    truncate: sizeBytes => living(() => file.truncate(sizeBytes)),
    sizeBytes: () => living(() => file.sizeBytes()),
    close: () => living(() => file.close()),
  })

  const mortalDisk: Disk = {
    open: (path, mode) => living(async () => mortalFile(await disk.open(path, mode))),
    mkdir: path => living(() => disk.mkdir(path)),
    list: path => living(() => disk.list(path)),
    exists: path => living(() => disk.exists(path)),
    rename: (from, to) => living(() => disk.rename(from, to)),
    remove: path => living(() => disk.remove(path)),
    syncDir: path => living(() => disk.syncDir(path)),
    readFile: path => living(() => disk.readFile(path)),
    replaceFile: (path, content) => living(() => disk.replaceFile(path, content)),
    space: path => living(() => disk.space(path)),
    lock: path => living(() => disk.lock(path)),
  }

  return {
    env: { clock: mortalClock, rng, disk: mortalDisk, codec, net: { dial: () => living(options.dial) } },
    isAlive: () => alive,
    kill: () => {
      alive = false
    },
    link: inner => ({
      ...inner,
      handle: handlers =>
        inner.handle({
          message: data => guarded(() => handlers.message(data)),
          drain: () => guarded(() => handlers.drain()),
          close: closed => guarded(() => handlers.close(closed)),
        }),
    }),
  }
}

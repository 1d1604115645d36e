import type { Disk } from '../env.ts'

/**
 * Syncs of the folders above logs. Those asked for while one of the same folder is under way share the next one: the
 * partitions of a topic are made at once, and have their parents in common.
 */
export class FolderSyncs {
  readonly #disk: Pick<Disk, 'syncDir'>
  readonly #directory: string
  readonly #running = new Map<string, Promise<void>>()
  readonly #next = new Map<string, Promise<void>>()

  constructor(disk: Pick<Disk, 'syncDir'>, directory: string) {
    this.#disk = disk
    this.#directory = directory
  }

  /** Makes the making or removal of a log's folder durable: syncs every folder above it, up to the directory. */
  async parentsOf(name: string): Promise<void> {
    const parts = name.split('/')
    for (let depth = parts.length - 1; depth >= 0; depth--)
      await this.#sync([`${this.#directory}/logs`, ...parts.slice(0, depth)].join('/'))
  }

  #sync(path: string): Promise<void> {
    const running = this.#running.get(path)
    if (running === undefined) return this.#start(path)
    let next = this.#next.get(path)
    if (next === undefined) {
      next = running.then(
        () => this.#start(path),
        () => this.#start(path),
      )
      this.#next.set(path, next)
    }
    return next
  }

  #start(path: string): Promise<void> {
    this.#next.delete(path)
    const sync = this.#disk.syncDir(path).finally(() => {
      if (this.#running.get(path) === sync) this.#running.delete(path)
    })
    this.#running.set(path, sync)
    return sync
  }
}

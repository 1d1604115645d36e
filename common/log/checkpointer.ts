import type { Disk } from '../env.ts'
import { isDiskFull, systemErrorCode } from '../errors.ts'
import type { Checkpoint } from './checkpoint.ts'
import { encodeCheckpoint } from './checkpoint.ts'
import type { FilePool } from './files.ts'
import type { Reserve } from './reserve.ts'
import { eachAtMost } from './work.ts'

/** Syncs under way at once: the thread pool has other users. */
const MAX_SYNCS_AT_ONCE = 4
/** Nobody needs it any more; the filesystem syncs many files as fast as one. */
const MAX_LAST_SYNCS_AT_ONCE = 16

/** Keeps account of what commits wrote without sync, and makes it durable so that journal space may be used again. */
export class Checkpointer {
  readonly #options: {
    directory: string
    disk: Disk
    files: FilePool
    reserve: Reserve
    snapshot(firstCommit: number, cleanShutdown: boolean): Checkpoint
  }
  readonly #told: { written(): void; failed(error: unknown): void; hasFailed(): boolean }
  /** Segments (without suffix) and folders changed since the last checkpoint began. */
  #dirtyPaths = new Set<string>()
  #dirtyFolders = new Set<string>()

  constructor(
    options: {
      directory: string
      disk: Disk
      files: FilePool
      reserve: Reserve
      snapshot(firstCommit: number, cleanShutdown: boolean): Checkpoint
    },
    told: { written(): void; failed(error: unknown): void; hasFailed(): boolean },
  ) {
    this.#options = options
    this.#told = told
  }

  touched(path: string | undefined, folder: string | undefined): void {
    if (path !== undefined) this.#dirtyPaths.add(path)
    if (folder !== undefined) this.#dirtyFolders.add(folder)
  }

  /**
   * Syncs the segments and folders changed so far, then says so in the checkpoint file. False where the disk is full or
   * failed.
   */
  async write(firstCommit: number, cleanShutdown: boolean): Promise<boolean> {
    const { files, reserve } = this.#options
    const content = encodeCheckpoint(this.#options.snapshot(firstCommit, cleanShutdown))
    const paths = this.#dirtyPaths
    const folders = this.#dirtyFolders
    this.#dirtyPaths = new Set()
    this.#dirtyFolders = new Set()
    try {
      const limit = cleanShutdown ? MAX_LAST_SYNCS_AT_ONCE : MAX_SYNCS_AT_ONCE
      await eachAtMost(limit, [...paths], path => files.sync(`${path}.log`))
      await eachAtMost(limit, [...folders], folder => this.#syncFolder(folder))
    } catch (error) {
      // ENOSPC too, which thin volumes give here: the pages are dropped, and another sync would know nothing of it.
      this.#told.failed(error)
      return false
    }
    // A file given up meanwhile may have failed to sync.
    if (this.#told.hasFailed()) return false
    try {
      await this.#replace(content)
    } catch (error) {
      if (!isDiskFull(error)) this.#told.failed(error)
      return false
    }
    this.#told.written()
    reserve.restoreSoon()
    return true
  }

  /** A folder that is gone belonged to a log deleted meanwhile, which makes its removal durable itself. */
  async #syncFolder(folder: string): Promise<void> {
    try {
      await this.#options.disk.syncDir(folder)
    } catch (error) {
      if (systemErrorCode(error) !== 'ENOENT') throw error
    }
  }

  async #replace(content: Uint8Array): Promise<void> {
    const { disk, directory, reserve } = this.#options
    try {
      await disk.replaceFile(`${directory}/checkpoint`, content)
    } catch (error) {
      if (!isDiskFull(error)) throw error
      await reserve.giveUp()
      await disk.replaceFile(`${directory}/checkpoint`, content)
    }
  }
}

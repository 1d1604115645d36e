import type { Clock, Disk } from '../env.ts'
import { MIB } from '../limits.ts'

/** With less than this free, segments are written before commits are acked: nothing may be acked that finds no room later. */
const ROOM_BYTES = 64 * MIB
/** Free space is asked for again after so much was committed, or so long: others write to the disk too. */
const CHECK_EVERY_BYTES = 16 * MIB
const CHECK_EVERY_MS = 1_000

/** Whether the filesystem of a directory is known to have room for much more than is on its way to it. */
export class Room {
  readonly #disk: Disk
  readonly #clock: Clock
  readonly #directory: string
  /** What is free for all that is known. */
  #freeBytes = 0
  #spentBytes = 0
  #checkedMs = Number.NEGATIVE_INFINITY
  #checking = false

  constructor(disk: Disk, clock: Clock, directory: string) {
    this.#disk = disk
    this.#clock = clock
    this.#directory = directory
  }

  /** False where room is scarce, or nothing is known. So many bytes more are to be written. */
  spend(bytes: number): boolean {
    this.#spentBytes += bytes
    const stale = this.#clock.monotonicMs() - this.#checkedMs >= CHECK_EVERY_MS
    if (!this.#checking && (stale || this.#spentBytes >= CHECK_EVERY_BYTES)) void this.check()
    return this.#freeBytes - this.#spentBytes >= ROOM_BYTES
  }

  /** A write found none. */
  wasFull(): void {
    this.#freeBytes = 0
    this.#checkedMs = this.#clock.monotonicMs()
  }

  /** Asks the filesystem. */
  async check(): Promise<void> {
    this.#checking = true
    this.#checkedMs = this.#clock.monotonicMs()
    this.#spentBytes = 0
    try {
      const { freeBytes } = await this.#disk.space(this.#directory)
      this.#freeBytes = freeBytes
    } catch {
      this.#freeBytes = 0
    } finally {
      this.#checking = false
    }
  }
}

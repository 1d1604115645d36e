import type { Disk } from '../env.ts'

const CHUNK_BYTES = 256 * 1024

/**
 * A file of zeros that is given up when the disk is full, so that gaps and session state can still be written, and
 * made again when there is room.
 */
export class Reserve {
  readonly #disk: Disk
  readonly #path: string
  readonly #directory: string
  readonly #sizeBytes: number
  #held = false
  #work: Promise<void> = Promise.resolve()
  #queued = false
  #closed = false

  constructor(disk: Disk, directory: string, sizeBytes: number) {
    this.#disk = disk
    this.#directory = directory
    this.#path = `${directory}/reserve`
    this.#sizeBytes = sizeBytes
  }

  held(): boolean {
    return this.#held
  }

  /** Frees the space. */
  giveUp(): Promise<void> {
    this.#work = this.#work.then(async () => {
      this.#held = false
      await this.#disk.remove(this.#path)
    })
    return this.#work
  }

  /** Frees so much of it, rounded up, and keeps the rest. */
  yieldSome(bytes: number): Promise<void> {
    const left = Math.max(0, this.#sizeBytes - 2 * bytes - CHUNK_BYTES)
    if (left === 0) return this.giveUp()
    this.#work = this.#work.then(async () => {
      if (this.#held) await this.#shrink(left)
      this.#held = false
    })
    return this.#work
  }

  async #shrink(sizeBytes: number): Promise<void> {
    const file = await this.#disk.open(this.#path, 'update')
    try {
      await file.truncate(sizeBytes)
    } finally {
      await file.close()
    }
  }

  /** Makes the file again in the background where it is missing and there is twice the room for it. */
  restoreSoon(): void {
    if (this.#held || this.#queued || this.#sizeBytes === 0) return
    this.#queued = true
    this.#work = this.#work.then(async () => {
      this.#queued = false
      try {
        await this.#restore()
      } catch {
        // No room yet: the next checkpoint tries again.
        await this.#disk.remove(this.#path).catch(() => {})
      }
    })
  }

  async #restore(): Promise<void> {
    const { freeBytes } = await this.#disk.space(this.#directory)
    if (this.#closed || freeBytes < 2 * this.#sizeBytes) return
    const file = await this.#disk.open(this.#path, 'write')
    try {
      const zeros = new Uint8Array(Math.min(CHUNK_BYTES, this.#sizeBytes))
      let at = await file.sizeBytes()
      if (at > this.#sizeBytes) await file.truncate(this.#sizeBytes)
      for (; at < this.#sizeBytes && !this.#closed; at += zeros.length) {
        await file.writev([zeros.subarray(0, Math.min(zeros.length, this.#sizeBytes - at))], at)
      }
      this.#held = at >= this.#sizeBytes
    } finally {
      await file.close()
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#work.catch(() => {})
  }
}

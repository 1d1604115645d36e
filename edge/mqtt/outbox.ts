/** Gathers what a connection is sent in one turn of the event loop into one write: acks are four bytes each. */

import type { Socket } from 'node:net'

/** Small enough that ten thousand busy connections hold little, large enough for the acks of a full window. */
const PAGE_BYTES = 16 * 1024
/** Idle pages kept for reuse, for all connections together. */
const MAX_IDLE_PAGES = 64
/** What is larger is passed on as it is instead of copied. */
const MAX_COPIED_BYTES = 2 * 1024
const ACK_BYTES = 4
/** Kept by each connection for the ack or two that a turn mostly brings: a page each would be megabytes a commit with many connections. */
const SMALL_PAGE_BYTES = 64

const idlePages: Buffer[] = []

/** Pending output of one socket. `flush` must be called in the same turn or soon after. */
export class Outbox {
  readonly #socket: Socket
  #parts: Buffer[] = []
  #page: Buffer | null = null
  #pageStart = 0
  #pageEnd = 0
  #small: Buffer | null = null
  #pendingBytes = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** Bytes written and not yet taken by the kernel. */
  bufferedBytes(): number {
    return this.#pendingBytes + this.#socket.writableLength
  }

  /** Bytes that wait for `flush`. */
  pendingBytes(): number {
    return this.#pendingBytes
  }

  write(chunk: Uint8Array | string): void {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
    this.#pendingBytes += bytes.length
    if (bytes.length > MAX_COPIED_BYTES) {
      this.#closeRun()
      this.#parts.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
      return
    }
    this.#pageFor(bytes.length).set(bytes, this.#pageEnd)
    this.#pageEnd += bytes.length
  }

  /** Writes an ack: its first byte, remaining length 2, packet id. */
  writeAck(first: number, packetId: number): void {
    const page = this.#pageFor(ACK_BYTES)
    const at = this.#pageEnd
    page[at] = first
    page[at + 1] = 2
    page[at + 2] = packetId >>> 8
    page[at + 3] = packetId & 0xff
    this.#pageEnd = at + ACK_BYTES
    this.#pendingBytes += ACK_BYTES
  }

  /** The open page, with room for so many bytes at `#pageEnd`. */
  #pageFor(sizeBytes: number): Buffer {
    const open = this.#page
    if (open !== null && this.#pageEnd + sizeBytes <= open.length) return open
    if (open === null && sizeBytes <= SMALL_PAGE_BYTES) {
      this.#small ??= Buffer.allocUnsafe(SMALL_PAGE_BYTES)
      return this.#openPage(this.#small)
    }
    const page = idlePages.pop() ?? Buffer.allocUnsafeSlow(PAGE_BYTES)
    if (open !== null && open === this.#small) {
      // Moves on to a page, so that the turn's output stays in one piece.
      open.copy(page, 0, this.#pageStart, this.#pageEnd)
      this.#pageEnd -= this.#pageStart
      this.#pageStart = 0
      this.#page = page
      return page
    }
    this.#closeRun()
    return this.#openPage(page)
  }

  #openPage(page: Buffer): Buffer {
    this.#page = page
    this.#pageStart = 0
    this.#pageEnd = 0
    return page
  }

  flush(): void {
    if (this.#pendingBytes === 0) return
    const page = this.#page
    this.#closeRun()
    const parts = this.#parts
    this.#page = null
    this.#parts = []
    this.#pendingBytes = 0
    const socket = this.#socket
    if (!socket.writable) return
    const only = parts[0]
    if (parts.length === 1 && only !== undefined) {
      socket.write(only)
    } else {
      socket.cork()
      for (const part of parts) socket.write(part)
      socket.uncork()
    }
    // Nothing left with the socket means the kernel has its copy, so the page is ours again.
    const isOurs = socket.writableLength === 0
    if (!isOurs) this.#small = null
    else if (page !== null && page !== this.#small && idlePages.length < MAX_IDLE_PAGES) idlePages.push(page)
  }

  #closeRun(): void {
    if (this.#page === null || this.#pageEnd === this.#pageStart) return
    this.#parts.push(this.#page.subarray(this.#pageStart, this.#pageEnd))
    this.#pageStart = this.#pageEnd
  }
}

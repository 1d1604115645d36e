/** A run of batches as appended. */
export interface TailChunk {
  firstOffset: number
  /** One past its last offset. */
  endOffset: number
  bytes: Uint8Array
}

/** The newest chunks of one log, contiguous; `head` is the first still held. */
export interface Tail {
  chunks: (TailChunk | undefined)[]
  head: number
  /** Its oldest places in the cache's order that stand for chunks cleared since. */
  stale: number
}

/** Held per chunk beside its bytes. */
const CHUNK_OVERHEAD_BYTES = 200
/** The order is rewritten without its stale places when there are more than these and than half of it. */
const MAX_STALE_PLACES = 1024

/** A tail without chunks. */
export function emptyTail(): Tail {
  return { chunks: [], head: 0, stale: 0 }
}

/** The newest batches of all logs of a directory, at most `limitBytes`; the oldest go first, whosever they are. */
export class TailCache {
  readonly #limitBytes: number
  #order: Tail[] = []
  #orderHead = 0
  #bytes = 0
  #stale = 0

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  sizeBytes(): number {
    return this.#bytes
  }

  /** Places held in the order of chunks, which a flood of cleared tails must not make grow. */
  places(): number {
    return this.#order.length - this.#orderHead
  }

  add(tail: Tail, chunk: TailChunk): void {
    const cost = chunk.bytes.length + CHUNK_OVERHEAD_BYTES
    if (cost > this.#limitBytes) {
      this.clear(tail)
      return
    }
    tail.chunks.push(chunk)
    this.#order.push(tail)
    this.#bytes += cost
    while (this.#bytes > this.#limitBytes) this.#evict()
  }

  #evict(): void {
    const tail = this.#order[this.#orderHead++]
    if (tail !== undefined && tail.stale > 0) {
      tail.stale--
      this.#stale--
    } else if (tail !== undefined) this.#dropFirst(tail)
    if (this.#orderHead > 1024 && this.#orderHead * 2 > this.#order.length) {
      this.#order = this.#order.slice(this.#orderHead)
      this.#orderHead = 0
    }
  }

  #dropFirst(tail: Tail): void {
    const chunk = tail.chunks[tail.head]
    if (chunk === undefined) return
    tail.chunks[tail.head++] = undefined
    this.#bytes -= chunk.bytes.length + CHUNK_OVERHEAD_BYTES
    if (tail.head > 64 && tail.head * 2 > tail.chunks.length) {
      tail.chunks = tail.chunks.slice(tail.head)
      tail.head = 0
    }
  }

  /** Drops all of a log's chunks (truncation, deletion). */
  clear(tail: Tail): void {
    const places = tail.chunks.length - tail.head
    while (tail.head < tail.chunks.length) this.#dropFirst(tail)
    tail.chunks = []
    tail.head = 0
    tail.stale += places
    this.#stale += places
    if (this.#stale > MAX_STALE_PLACES && this.#stale * 2 > this.places()) this.#rewriteOrder()
  }

  #rewriteOrder(): void {
    const kept: Tail[] = []
    for (let at = this.#orderHead; at < this.#order.length; at++) {
      const tail = this.#order[at]
      if (tail === undefined) continue
      if (tail.stale > 0) tail.stale--
      else kept.push(tail)
    }
    this.#order = kept
    this.#orderHead = 0
    this.#stale = 0
  }
}

/** Forgets the chunks that end at or below `offset`, of a tail that is in no cache; returns their bytes. */
export function dropThrough(tail: Tail, offset: number): number {
  const { chunks } = tail
  let bytes = 0
  for (let chunk = chunks[tail.head]; chunk !== undefined && chunk.endOffset <= offset; ) {
    bytes += chunk.bytes.length
    chunks[tail.head++] = undefined
    chunk = chunks[tail.head]
  }
  if (tail.head === chunks.length || tail.head > 1024) {
    tail.chunks = chunks.slice(tail.head)
    tail.head = 0
  }
  return bytes
}

/** Index in `tail.chunks` of the one holding `offset`, or -1. */
export function chunkHolding(tail: Tail, offset: number): number {
  let low = tail.head
  let high = tail.chunks.length - 1
  while (low <= high) {
    const middle = (low + high) >>> 1
    const chunk = tail.chunks[middle]
    if (chunk === undefined) return -1
    if (offset < chunk.firstOffset) high = middle - 1
    else if (offset >= chunk.endOffset) low = middle + 1
    else return middle
  }
  // An offset that a gap jumped over is answered from the chunk after it.
  return low > tail.head && low < tail.chunks.length ? low : -1
}

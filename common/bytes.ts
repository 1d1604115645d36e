import { assert } from './assert.ts'
import { TributaryError } from './errors.ts'

/**
 * Big-endian integers, Kafka's zigzag varints, UTF-8 and pooled buffers over plain `Uint8Array`s. Writers trust their
 * caller for room; `ByteReader` trusts nothing and answers `corrupt_batch`.
 */

const TWO_32 = 4_294_967_296

/** Puts the parts end to end; a single part is returned as it is, not copied. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const only = parts[0]
  if (parts.length === 1 && only !== undefined) return only
  let sizeBytes = 0
  for (const part of parts) sizeBytes += part.length
  const joined = new Uint8Array(sizeBytes)
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}

/** True where both hold the same bytes. */
export function equalBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0
}

/** Unsigned 32 bits, big-endian, at `at`; the caller has checked that they are there. */
export function readU32(bytes: Uint8Array, at: number): number {
  return readI32(bytes, at) >>> 0
}

/** Signed 32 bits, big-endian. */
export function readI32(bytes: Uint8Array, at: number): number {
  assert(at >= 0 && at + 4 <= bytes.length, 'readI32 outside the buffer')
  return (
    ((bytes[at] ?? 0) << 24) |
    ((bytes[at + 1] ?? 0) << 16) |
    ((bytes[at + 2] ?? 0) << 8) |
    (bytes[at + 3] ?? 0)
  )
}

/** Signed 16 bits, big-endian. */
export function readI16(bytes: Uint8Array, at: number): number {
  assert(at >= 0 && at + 2 <= bytes.length, 'readI16 outside the buffer')
  return (((bytes[at] ?? 0) << 24) >> 16) | (bytes[at + 1] ?? 0)
}

/** Signed 64 bits, big-endian, or NaN where the value is no safe integer: for input that may be garbage. */
export function readI64OrNaN(bytes: Uint8Array, at: number): number {
  const value = readI32(bytes, at) * TWO_32 + readU32(bytes, at + 4)
  return Number.isSafeInteger(value) ? value : Number.NaN
}

/** Signed 64 bits, big-endian; asserts a safe integer, so only for bytes that we wrote or have validated. */
export function readI64(bytes: Uint8Array, at: number): number {
  const value = readI64OrNaN(bytes, at)
  assert(!Number.isNaN(value), 'a 64-bit integer in our own data is beyond 2^53')
  return value
}

/** Writes the low 32 bits of `value`, big-endian; takes signed and unsigned alike. */
export function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}

/** Writes the low 16 bits of `value`, big-endian. */
export function writeU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8
  bytes[at + 1] = value
}

/** Writes a safe integer as signed 64 bits, big-endian. */
export function writeI64(bytes: Uint8Array, at: number, value: number): void {
  assert(Number.isSafeInteger(value), 'writeI64 of what is no safe integer')
  const high = Math.floor(value / TWO_32)
  writeU32(bytes, at, high)
  writeU32(bytes, at + 4, value - high * TWO_32)
}

/** Bytes that `writeVarint` takes for a safe integer: 1 to 8. */
export function varintBytes(value: number): number {
  if (value >= -0x40000000 && value < 0x40000000) {
    const zigzag = (value << 1) ^ (value >> 31)
    return zigzag < 0x80 ? 1 : zigzag < 0x4000 ? 2 : zigzag < 0x200000 ? 3 : zigzag < 0x10000000 ? 4 : 5
  }
  let rest = Math.floor((value < 0 ? -value - 1 : value) / 64)
  let count = 1
  while (rest > 0) {
    rest = Math.floor(rest / 128)
    count++
  }
  return count
}

/** Writes a safe integer as a zigzag varint (Kafka's varint and varlong) and returns the position after it. */
export function writeVarint(bytes: Uint8Array, at: number, value: number): number {
  let end = at
  if (value >= -0x40000000 && value < 0x40000000) {
    let rest = (value << 1) ^ (value >> 31)
    while (rest >= 0x80) {
      bytes[end++] = rest | 0x80
      rest >>>= 7
    }
    bytes[end++] = rest
    return end
  }
  // Doubling such a value may leave the safe integers, so the sign bit is joined to the lowest six bits alone.
  const half = value < 0 ? -value - 1 : value
  bytes[end++] = ((half % 64) * 2 + (value < 0 ? 1 : 0)) | 0x80
  let rest = Math.floor(half / 64)
  while (rest >= 0x80) {
    bytes[end++] = (rest % 128) | 0x80
    rest = Math.floor(rest / 128)
  }
  bytes[end++] = rest
  return end
}

/** Reads varints and slices from untrusted bytes between `at` and `end`; throws `corrupt_batch` at whatever does not fit. */
export class ByteReader {
  readonly bytes: Uint8Array
  /** The next byte to be read. */
  at: number
  /** One past the last byte that may be read. */
  end: number

  constructor(bytes: Uint8Array, at: number, end: number) {
    assert(at >= 0 && at <= end && end <= bytes.length, 'ByteReader outside its buffer')
    this.bytes = bytes
    this.at = at
    this.end = end
  }

  remaining(): number {
    return this.end - this.at
  }

  /** Throws `corrupt_batch` naming `what` and the place. */
  fail(what: string): never {
    throw new TributaryError('corrupt_batch', `corrupt record data at byte ${this.at}: ${what}`)
  }

  byte(): number {
    if (this.at >= this.end) this.fail('it ends in the middle of a record')
    return this.bytes[this.at++] ?? 0
  }

  /** A zigzag varint of at most 32 bits. */
  varint(): number {
    let byte = this.byte()
    let zigzag = byte & 0x7f
    for (let shift = 7; byte >= 0x80; shift += 7) {
      byte = this.byte()
      if (shift === 28 && byte > 0x0f) this.fail('a varint is beyond 32 bits')
      zigzag |= (byte & 0x7f) << shift
    }
    return (zigzag >>> 1) ^ -(zigzag & 1)
  }

  /** A zigzag varint of at most 64 bits; what is no safe integer is refused as corrupt. */
  varlong(): number {
    let byte = this.byte()
    if (byte < 0x80) return (byte >>> 1) ^ -(byte & 1)
    const negative = (byte & 1) === 1
    let half = (byte & 0x7f) >>> 1
    let scale = 64
    for (let count = 1; byte >= 0x80; count++) {
      if (count === 10) this.fail('a varint has more than 10 bytes')
      byte = this.byte()
      half += (byte & 0x7f) * scale
      scale *= 128
    }
    const value = negative ? -half - 1 : half
    if (!Number.isSafeInteger(value)) this.fail('a number is beyond 2^53')
    return value
  }

  /** A view of the next `length` bytes. */
  slice(length: number): Uint8Array {
    this.skip(length)
    return this.bytes.subarray(this.at - length, this.at)
  }

  skip(length: number): void {
    if (length < 0 || length > this.end - this.at) this.fail(`a length of ${length} does not fit`)
    this.at += length
  }
}

/** The UTF-8 bytes of `text`. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text)
}

/** The text of UTF-8 bytes; what is not UTF-8 becomes U+FFFD. */
export function utf8Text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')
}

/** The text of UTF-8 bytes, or undefined where they are not UTF-8. */
export function utf8TextStrict(bytes: Uint8Array): string | undefined {
  try {
    return strictDecoder.decode(bytes)
  } catch {
    return undefined
  }
}

const encoder = new TextEncoder()
const strictDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

const SMALLEST_POOLED_BYTES = 4096

/**
 * Buffers by power of two, for work that needs one for a moment: a new one of 64 KiB and more is slow to come by.
 * Holds at most `maxIdleBytes` of idle ones; the rest is left to the garbage collector. A buffer taken holds whatever
 * was in it, and must not be touched after it is given back.
 */
export class BufferPool {
  readonly #maxIdleBytes: number
  readonly #idle = new Map<number, Buffer[]>()
  #idleBytes = 0
  #dropped = 0

  constructor(maxIdleBytes: number) {
    this.#maxIdleBytes = maxIdleBytes
  }

  /** A buffer of at least `minBytes`. */
  take(minBytes: number): Buffer {
    let sizeBytes = SMALLEST_POOLED_BYTES
    while (sizeBytes < minBytes) sizeBytes *= 2
    const idle = this.#idle.get(sizeBytes)?.pop()
    if (idle === undefined) return Buffer.allocUnsafeSlow(sizeBytes)
    this.#idleBytes -= sizeBytes
    return idle
  }

  /** Gives back a buffer that `take` returned. */
  give(buffer: Buffer): void {
    if (this.#idleBytes + buffer.length > this.#maxIdleBytes) {
      this.#dropped++
      return
    }
    this.#idleBytes += buffer.length
    const idle = this.#idle.get(buffer.length)
    if (idle === undefined) this.#idle.set(buffer.length, [buffer])
    else idle.push(buffer)
  }

  /** `dropped` counts buffers given back over the limit. */
  stats(): { idleBytes: number; dropped: number } {
    return { idleBytes: this.#idleBytes, dropped: this.#dropped }
  }
}

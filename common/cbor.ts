import { assert } from './assert.ts'
import { readU32, writeU32 } from './bytes.ts'
import { TributaryError } from './errors.ts'

/**
 * The part of CBOR (RFC 8949) that our frames use, read strictly: integers up to 2^53-1, byte and text strings, arrays, maps
 * with text keys, true, false, null. Written by hand because what comes in is not to be trusted: general decoders (cbor-x
 * among them) act on tags, compile code for records the peer defines and expand packed strings. Here tags, indefinite
 * lengths, duplicate keys and `__proto__` are refused, and depth and item count are bounded before anything is allocated.
 */

/** What `decodeCbor` gives. Maps are Map, so that no key can reach a prototype; byte strings are views of the input. */
export type CborValue = number | string | boolean | null | Uint8Array | CborValue[] | CborMap
export type CborMap = Map<string, CborValue>

/** What `encodeCbor` takes; keys that are undefined are left out. */
export type CborInput =
  | number
  | string
  | boolean
  | null
  | Uint8Array
  | readonly CborInput[]
  | { readonly [key: string]: CborInput | undefined }

/** Arrays and maps inside each other; our deepest frame has 4. */
const MAX_CBOR_DEPTH = 8
/** Values in one message unless told otherwise. Bounds the memory that a frame full of tiny values unfolds to. */
const MAX_CBOR_ITEMS = 262_144

const TWO_32 = 4_294_967_296
const INTEGER = 0
const NEGATIVE = 1
const BYTES = 2
const TEXT = 3
const ARRAY = 4
const MAP = 5
const FLOAT32 = 0xfa
const FLOAT64 = 0xfb
const FALSE = 0xf4
const TRUE = 0xf5
const NULL = 0xf6

/** Small values are written here first, which measures them by the way. */
const scratch = Buffer.allocUnsafeSlow(8_192)

/** Encodes into one buffer of exactly the right size: large byte strings are copied once. Asserts that numbers are safe integers. */
export function encodeCbor(value: CborInput): Uint8Array {
  const small = write(scratch, 0, value)
  if (small <= scratch.length) return Buffer.from(scratch.subarray(0, small))
  const sizeBytes = encodedBytes(value)
  const target = Buffer.allocUnsafe(sizeBytes)
  const end = write(target, 0, value)
  assert(end === sizeBytes, 'CBOR was measured and written differently')
  return target
}

function headBytes(argument: number): number {
  if (argument < 24) return 1
  if (argument < 0x100) return 2
  if (argument < 0x10000) return 3
  return argument < TWO_32 ? 5 : 9
}

function isList(value: object): value is readonly CborInput[] {
  return Array.isArray(value)
}

function encodedBytes(value: CborInput): number {
  if (typeof value === 'number') {
    // Asked first: a message made for each number costs more than its encoding.
    if (!Number.isSafeInteger(value)) assert(false, `frames carry safe integers only, not ${value}`)
    return headBytes(value < 0 ? -1 - value : value)
  }
  if (typeof value === 'string') {
    const length = Buffer.byteLength(value)
    return headBytes(length) + length
  }
  if (typeof value === 'boolean' || value === null) return 1
  if (value instanceof Uint8Array) return headBytes(value.length) + value.length
  let sizeBytes = 0
  let count = 0
  if (isList(value)) {
    for (const item of value) sizeBytes += encodedBytes(item)
    count = value.length
  } else {
    for (const key of Object.keys(value)) {
      const item = value[key]
      if (item === undefined) continue
      sizeBytes += encodedBytes(key) + encodedBytes(item)
      count++
    }
  }
  return sizeBytes + headBytes(count)
}

function writeHead(target: Buffer, at: number, major: number, argument: number): number {
  const type = major << 5
  if (argument < 24) {
    target[at] = type | argument
    return at + 1
  }
  if (argument < 0x100) {
    target[at] = type | 24
    target[at + 1] = argument
    return at + 2
  }
  if (argument < 0x10000) {
    target[at] = type | 25
    target[at + 1] = argument >>> 8
    target[at + 2] = argument
    return at + 3
  }
  if (argument < TWO_32) {
    target[at] = type | 26
    writeU32(target, at + 1, argument)
    return at + 5
  }
  target[at] = type | 27
  writeU32(target, at + 1, Math.floor(argument / TWO_32))
  writeU32(target, at + 5, argument)
  return at + 9
}

/** Gives where the value ends. Beyond the end of `target` nothing is written, and what is there is not whole. */
function write(target: Buffer, at: number, value: CborInput): number {
  if (typeof value === 'string') return writeText(target, at, value)
  if (typeof value === 'number') {
    // Asked first: a message made for each number costs more than its encoding.
    if (!Number.isSafeInteger(value)) assert(false, `frames carry safe integers only, not ${value}`)
    return value < 0 ? writeHead(target, at, NEGATIVE, -1 - value) : writeHead(target, at, INTEGER, value)
  }
  if (typeof value === 'boolean' || value === null) {
    target[at] = value === null ? NULL : value ? TRUE : FALSE
    return at + 1
  }
  if (value instanceof Uint8Array) {
    const start = writeHead(target, at, BYTES, value.length)
    const end = start + value.length
    if (end <= target.length) target.set(value, start)
    return end
  }
  if (isList(value)) {
    let end = writeHead(target, at, ARRAY, value.length)
    for (const item of value) {
      end = write(target, end, item)
      if (end > target.length) break
    }
    return end
  }
  return writeMap(target, at, value)
}

function writeMap(
  target: Buffer,
  at: number,
  value: { readonly [key: string]: CborInput | undefined },
): number {
  const keys = Object.keys(value)
  let count = keys.length
  const headAt = at
  let end =
    count < 24 ? at + 1 : writeHead(target, at, MAP, keys.filter(key => value[key] !== undefined).length)
  for (const key of keys) {
    const item = value[key]
    if (item === undefined) {
      count--
      continue
    }
    end = write(target, writeText(target, end, key), item)
    if (end > target.length) break
  }
  if (keys.length < 24) target[headAt] = (MAP << 5) | count
  return end
}

const MAX_PLAIN_TEXT = 23

function writeText(target: Buffer, at: number, text: string): number {
  const { length } = text
  if (length <= MAX_PLAIN_TEXT) {
    let index = 0
    for (; index < length; index++) {
      const code = text.charCodeAt(index)
      if (code >= 0x80) break
      target[at + 1 + index] = code
    }
    if (index === length) {
      target[at] = (TEXT << 5) | length
      return at + 1 + length
    }
  }
  const sizeBytes = Buffer.byteLength(text)
  const start = writeHead(target, at, TEXT, sizeBytes)
  if (start + sizeBytes <= target.length) target.write(text, start, 'utf8')
  return start + sizeBytes
}

/** Decodes one value that fills `bytes` exactly; throws `protocol_error` naming the byte at anything else. */
export function decodeCbor(bytes: Uint8Array, maxItems = MAX_CBOR_ITEMS): CborValue {
  const reader = new Reader(bytes, maxItems)
  const value = reader.value(0)
  if (reader.at !== bytes.length) reader.fail('bytes after the end of the value')
  return value
}

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
/** Longer strings go through the TextDecoder; keys and ids are shorter. */
const MAX_SHORT_TEXT_BYTES = 40

class Reader {
  readonly bytes: Uint8Array
  at = 0
  private itemsLeft: number

  constructor(bytes: Uint8Array, maxItems: number) {
    this.bytes = bytes
    this.itemsLeft = maxItems
  }

  fail(what: string): never {
    throw new TributaryError('protocol_error', `not a frame: ${what} (CBOR, byte ${this.at})`)
  }

  value(depth: number): CborValue {
    if (--this.itemsLeft < 0) this.fail('too many values')
    const head = this.byte()
    const major = head >> 5
    if (major === 7) return this.simple(head)
    if (major === 6) this.fail('tags are not used')
    const argument = this.argument(head & 0x1f)
    if (major === INTEGER) return argument
    if (major === NEGATIVE) {
      if (argument === Number.MAX_SAFE_INTEGER) this.fail('an integer below -(2^53-1)')
      return -1 - argument
    }
    if (major === BYTES) return this.take(argument)
    if (major === TEXT) return this.text(argument)
    if (depth >= MAX_CBOR_DEPTH) this.fail(`nested deeper than ${MAX_CBOR_DEPTH}`)
    return major === ARRAY ? this.array(argument, depth + 1) : this.map(argument, depth + 1)
  }

  private byte(): number {
    if (this.at >= this.bytes.length) this.fail('ends too early')
    return this.bytes[this.at++] ?? 0
  }

  private argument(code: number): number {
    if (code < 24) return code
    if (code > 27) this.fail('indefinite lengths are not used')
    const width = 1 << (code - 24)
    const start = this.at
    if (start + width > this.bytes.length) this.fail('ends too early')
    this.at = start + width
    if (width === 1) return this.bytes[start] ?? 0
    if (width === 2) return ((this.bytes[start] ?? 0) << 8) | (this.bytes[start + 1] ?? 0)
    if (width === 4) return readU32(this.bytes, start)
    const argument = readU32(this.bytes, start) * TWO_32 + readU32(this.bytes, start + 4)
    if (argument > Number.MAX_SAFE_INTEGER) this.fail('an integer beyond 2^53-1')
    return argument
  }

  private simple(head: number): CborValue {
    if (head === FALSE) return false
    if (head === TRUE) return true
    if (head === NULL) return null
    // Many CBOR libraries write integers over 32 bits as floats, so whole floats are integers here.
    const width = head === FLOAT64 ? 8 : head === FLOAT32 ? 4 : 0
    if (width === 0) this.fail('only true, false and null are used of the simple values')
    const slice = this.take(width)
    const view = new DataView(slice.buffer, slice.byteOffset, width)
    const value = width === 8 ? view.getFloat64(0) : view.getFloat32(0)
    if (!Number.isSafeInteger(value)) this.fail('numbers are integers up to 2^53-1')
    return value + 0
  }

  private take(length: number): Uint8Array {
    if (length > this.bytes.length - this.at) this.fail('a string is longer than the frame')
    const start = this.at
    this.at += length
    return this.bytes.subarray(start, this.at)
  }

  private text(length: number): string {
    const slice = this.take(length)
    if (length <= MAX_SHORT_TEXT_BYTES) {
      let text = ''
      let ascii = true
      for (const code of slice) {
        if (code >= 0x80) {
          ascii = false
          break
        }
        text += String.fromCharCode(code)
      }
      if (ascii) return text
    }
    try {
      return strictUtf8.decode(slice)
    } catch {
      return this.fail('a text string is not UTF-8')
    }
  }

  private array(count: number, depth: number): CborValue[] {
    // Every item takes a byte, so a larger count is a lie: refused before anything is made for it.
    if (count > this.bytes.length - this.at) this.fail('an array is longer than the frame')
    const values: CborValue[] = []
    for (let index = 0; index < count; index++) values.push(this.value(depth))
    return values
  }

  private map(count: number, depth: number): CborMap {
    if (count * 2 > this.bytes.length - this.at) this.fail('a map is longer than the frame')
    const map: CborMap = new Map()
    for (let index = 0; index < count; index++) {
      const head = this.byte()
      if (head >> 5 !== TEXT) this.fail('a map key is not a text string')
      const key = this.text(this.argument(head & 0x1f))
      if (key === '__proto__') this.fail('the key __proto__ is refused')
      if (map.has(key)) this.fail(`the key ${JSON.stringify(key.slice(0, 40))} comes twice`)
      map.set(key, this.value(depth))
    }
    return map
  }
}

import type { CborMap, CborValue } from './cbor.ts'
import type { ErrorCode } from './errors.ts'
import { isErrorCode, TributaryError } from './errors.ts'
import { WIRE_LIMITS } from './wire.ts'

/** Reads the fields of one decoded map; every failure is a `protocol_error` that names the field, what came and what is allowed. */
export class Fields {
  private readonly map: CborMap
  /** The frame type, then the fields on the way here: `open`, `report.lanes[3]`. */
  path: string

  constructor(map: CborMap, path: string) {
    this.map = map
    this.path = path
  }

  /** Throws for the field `key`. */
  bad(key: string, allowed: string): never {
    const value = this.map.get(key)
    throw new TributaryError(
      'protocol_error',
      `${this.path}.${key} must be ${allowed}, but is ${describe(value)}`,
    )
  }

  present(key: string): boolean {
    return this.map.has(key)
  }

  has(key: string, value: string | number): boolean {
    return this.map.get(key) === value
  }

  /** A safe integer of either sign. */
  int(key: string): number {
    const value = this.map.get(key)
    return typeof value === 'number' ? value : this.bad(key, 'an integer')
  }

  uint(key: string): number {
    const value = this.map.get(key)
    return typeof value === 'number' && value >= 0 ? value : this.bad(key, 'an integer >= 0')
  }

  positive(key: string): number {
    const value = this.uint(key)
    return value > 0 ? value : this.bad(key, 'an integer > 0')
  }

  optionalUint(key: string): number | undefined {
    return this.map.has(key) ? this.uint(key) : undefined
  }

  nullableInt(key: string): number | null {
    return this.map.get(key) === null ? null : this.int(key)
  }

  bool(key: string): boolean {
    const value = this.map.get(key)
    return typeof value === 'boolean' ? value : this.bad(key, 'true or false')
  }

  text(key: string, maxBytes: number): string {
    const value = this.map.get(key)
    if (typeof value !== 'string') return this.bad(key, 'a text string')
    return Buffer.byteLength(value) <= maxBytes ? value : this.bad(key, `at most ${maxBytes} bytes`)
  }

  nullableText(key: string, maxBytes: number): string | null {
    return this.map.get(key) === null ? null : this.text(key, maxBytes)
  }

  bytes(key: string): Uint8Array {
    const value = this.map.get(key)
    return value instanceof Uint8Array ? value : this.bad(key, 'a byte string')
  }

  message(): string {
    return this.text('message', WIRE_LIMITS.maxMessageBytes)
  }

  /** An error code; one that this build does not know comes from a newer peer and is `not_available`: to be tried again, later. */
  code(key: string): ErrorCode {
    const value = this.text(key, 64)
    return isErrorCode(value) ? value : 'not_available'
  }

  oneOf<T extends string>(key: string, allowed: readonly T[]): T {
    const value = this.map.get(key)
    const found = allowed.find(candidate => candidate === value)
    return found ?? this.bad(key, `one of ${allowed.join(', ')}`)
  }

  nullableMap(key: string): Fields | null {
    const value = this.map.get(key)
    if (value === null) return null
    return value instanceof Map ? new Fields(value, `${this.path}.${key}`) : this.bad(key, 'a map')
  }

  optionalMap(key: string): Fields | undefined {
    if (!this.map.has(key)) return undefined
    return this.nullableMap(key) ?? this.bad(key, 'a map')
  }

  /** An array of maps, each read by `read`. */
  maps<T>(key: string, maxCount: number, read: (item: Fields) => T): T[] {
    const value = this.map.get(key)
    if (!Array.isArray(value)) return this.bad(key, 'an array')
    if (value.length > maxCount) return this.bad(key, `at most ${maxCount} items long`)
    return value.map((item, index) =>
      item instanceof Map
        ? read(new Fields(item, `${this.path}.${key}[${index}]`))
        : this.bad(key, `an array of maps (item ${index} is none)`),
    )
  }

  /** An array of text strings. */
  texts(key: string, maxCount: number, maxBytes: number): string[] {
    const value = this.map.get(key)
    if (!Array.isArray(value)) return this.bad(key, 'an array')
    if (value.length > maxCount) return this.bad(key, `at most ${maxCount} items long`)
    return value.map((item, index) =>
      typeof item === 'string' && Buffer.byteLength(item) <= maxBytes
        ? item
        : this.bad(key, `an array of texts of at most ${maxBytes} bytes (item ${index} is none)`),
    )
  }

  /** An array of integers. */
  ints(key: string, maxCount: number): number[] {
    const value = this.map.get(key)
    if (!Array.isArray(value)) return this.bad(key, 'an array')
    if (value.length > maxCount) return this.bad(key, `at most ${maxCount} items long`)
    return value.map((item, index) =>
      typeof item === 'number' ? item : this.bad(key, `an array of integers (item ${index} is none)`),
    )
  }

  /** An array of byte strings. */
  byteStrings(key: string, maxCount: number): Uint8Array[] {
    const value = this.map.get(key)
    if (!Array.isArray(value)) return this.bad(key, 'an array')
    if (value.length > maxCount) return this.bad(key, `at most ${maxCount} items long`)
    return value.map((item, index) =>
      item instanceof Uint8Array ? item : this.bad(key, `an array of byte strings (item ${index} is none)`),
    )
  }

  /** The whole map as a plain object, for details that are passed on. */
  plain(): Record<string, unknown> {
    return Object.fromEntries([...this.map].filter(([, value]) => !(value instanceof Map)))
  }
}

function describe(value: CborValue | undefined): string {
  if (value === undefined) return 'missing'
  if (value instanceof Uint8Array) return `${value.length} bytes`
  if (value instanceof Map) return 'a map'
  if (Array.isArray(value)) return `an array of ${value.length}`
  return JSON.stringify(typeof value === 'string' ? value.slice(0, 60) : value)
}

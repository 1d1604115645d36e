import type { RoutedRecord } from './ports.ts'

/** A reading that is held back, as the state log keeps it until it becomes a record or a newer one takes its place. */
export interface HeldReading {
  /** Among the readings of its window. */
  order: number
  /** When the edge took it. */
  takenMs: number
  timestampMs: number
  key: Uint8Array | null
  value: Uint8Array
  /** In wire form, as in RoutedRecord. */
  headers: Uint8Array
  headerCount: number
}

/** order f64 · takenMs f64 · timestampMs f64 · headerCount u32 · headers length u32 · key length i32 (-1: none) · headers · key · value. */
const FIXED_BYTES = 36

/** Copies all of it: what came from a socket is not held on to. */
export function encodeHeld(record: RoutedRecord, order: number, takenMs: number): Uint8Array {
  const { key, value, headers, headerCount, timestampMs } = record
  const keyBytes = key?.length ?? 0
  const bytes = new Uint8Array(FIXED_BYTES + headers.length + keyBytes + value.length)
  const view = new DataView(bytes.buffer)
  view.setFloat64(0, order)
  view.setFloat64(8, takenMs)
  view.setFloat64(16, timestampMs)
  view.setUint32(24, headerCount)
  view.setUint32(28, headers.length)
  view.setInt32(32, key === null ? -1 : keyBytes)
  bytes.set(headers, FIXED_BYTES)
  if (key !== null) bytes.set(key, FIXED_BYTES + headers.length)
  bytes.set(value, FIXED_BYTES + headers.length + keyBytes)
  return bytes
}

/** What `encodeHeld` wrote; key, headers and value are views. */
export function decodeHeld(bytes: Uint8Array): HeldReading {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const headersEnd = FIXED_BYTES + view.getUint32(28)
  const keyBytes = view.getInt32(32)
  const keyEnd = headersEnd + Math.max(0, keyBytes)
  return {
    order: view.getFloat64(0),
    takenMs: view.getFloat64(8),
    timestampMs: view.getFloat64(16),
    headerCount: view.getUint32(24),
    headers: bytes.subarray(FIXED_BYTES, headersEnd),
    key: keyBytes < 0 ? null : bytes.subarray(headersEnd, keyEnd),
    value: bytes.subarray(keyEnd),
  }
}

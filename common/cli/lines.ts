import { TributaryError } from '../errors.ts'
import { MIB } from '../limits.ts'

/** A longer line is no record of any topic; without a bound, input without line ends would fill the memory. */
export const MAX_LINE_BYTES = 16 * MIB

const LINE_END = 0x0a

/** Cuts a stream of bytes at line ends. */
export interface LineCutter {
  /** The lines that end in `chunk`, without their ends. Throws `record_too_large` over MAX_LINE_BYTES. */
  cut(chunk: Uint8Array): Uint8Array[]
  /** What follows the last line end, or null where nothing does. */
  rest(): Uint8Array | null
}

/** Keeps bytes as they are: values need not be text. */
export function createLineCutter(): LineCutter {
  let parts: Uint8Array[] = []
  let partsBytes = 0
  let lines = 0
  const keep = (part: Uint8Array): void => {
    if (part.length === 0) return
    partsBytes += part.length
    if (partsBytes > MAX_LINE_BYTES) {
      throw new TributaryError(
        'record_too_large',
        `line ${lines + 1} of the input is longer than ${MAX_LINE_BYTES} bytes: every line is one record`,
      )
    }
    parts.push(part)
  }
  const take = (): Uint8Array => {
    const line = parts.length === 1 ? parts[0] : Buffer.concat(parts)
    parts = []
    partsBytes = 0
    lines++
    return line ?? new Uint8Array(0)
  }
  return {
    cut: chunk => {
      const found: Uint8Array[] = []
      let from = 0
      for (let end = chunk.indexOf(LINE_END); end >= 0; end = chunk.indexOf(LINE_END, from)) {
        keep(chunk.subarray(from, end))
        found.push(take())
        from = end + 1
      }
      keep(chunk.subarray(from))
      return found
    },
    rest: () => (partsBytes === 0 ? null : take()),
  }
}

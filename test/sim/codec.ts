import { zstdDecompressSync } from 'node:zlib'
import type { Codec } from '../../common/env.ts'

/**
 * A codec that answers at once and costs next to nothing: zstd frames of raw blocks (RFC 8878, 3.1.1), which any decoder reads.
 */
export const simCodec: Codec = {
  compress: async (kind, data) => {
    if (kind !== 'zstd') throw new Error('nothing in the simulation compresses with gzip')
    return rawFrame(data)
  },
  decompress: async (_kind, data, maxOutputLength) => zstdDecompressSync(data, { maxOutputLength }),
}

const HEAD_BYTES = 9
const BLOCK_HEAD_BYTES = 3
/** What a block may hold (RFC 8878, 3.1.1.2.3). */
const MAX_BLOCK_BYTES = 128 * 1_024

function rawFrame(data: Uint8Array): Uint8Array {
  const blocks = Math.max(1, Math.ceil(data.length / MAX_BLOCK_BYTES))
  const frame = new Uint8Array(HEAD_BYTES + blocks * BLOCK_HEAD_BYTES + data.length)
  const view = new DataView(frame.buffer)
  view.setUint32(0, 0xfd2fb528, true)
  // One segment, its size in four bytes; no checksum, no dictionary.
  frame[4] = 0xa0
  view.setUint32(5, data.length, true)
  let at = HEAD_BYTES
  for (let block = 0; block < blocks; block++) {
    const part = data.subarray(block * MAX_BLOCK_BYTES, (block + 1) * MAX_BLOCK_BYTES)
    const head = (part.length << 3) | (block === blocks - 1 ? 1 : 0)
    frame[at] = head & 0xff
    frame[at + 1] = (head >> 8) & 0xff
    frame[at + 2] = (head >> 16) & 0xff
    frame.set(part, at + BLOCK_HEAD_BYTES)
    at += BLOCK_HEAD_BYTES + part.length
  }
  return frame
}

import type { ZstdOptions } from 'node:zlib'
import { constants, gunzip, gzip, zstdCompress, zstdDecompress } from 'node:zlib'
import type { Codec } from './env.ts'
import { messageOf, systemErrorCode, TributaryError } from './errors.ts'

/** gzip and zstd in libuv's thread pool. */

/** Jobs in the thread pool at once, of its 16 threads (UV_THREADPOOL_SIZE): files and DNS need theirs. */
export const MAX_ACTIVE_CODEC_JOBS = 4
/** Jobs that wait for one of those; more are refused as `throttled`. */
export const MAX_WAITING_CODEC_JOBS = 1024

/** Measured on sensor JSON: 700 MB/s at 8.8 : 1; higher levels cost far more than they save. */
const ZSTD_LEVEL = 3
const GZIP_LEVEL = 1
/** 8 MiB, what RFC 8878 section 3.1.1.1.2 asks every decoder for: a frame that wants more is refused before it gets it. */
const MAX_ZSTD_WINDOW_LOG = 23

/** A Codec that tells how busy it is. */
export interface NodeCodec extends Codec {
  /** Jobs running, waiting, and refused so far because too many waited. */
  stats(): { active: number; waiting: number; refused: number }
}

type Done = (error: Error | null, result: Uint8Array) => void

/** The codec of a process; all who share one share its limits. */
export function nodeCodec(): NodeCodec {
  const waiting: (() => void)[] = []
  let active = 0
  let refused = 0

  async function run(job: (done: Done) => void): Promise<Uint8Array> {
    if (active >= MAX_ACTIVE_CODEC_JOBS) await turn()
    else active++
    try {
      return await new Promise((resolve, reject) => {
        job((error, result) => (error === null ? resolve(result) : reject(error)))
      })
    } finally {
      // The slot goes to the next in line without ever being free, so nobody slips in between.
      const next = waiting.shift()
      if (next === undefined) active--
      else next()
    }
  }

  function turn(): Promise<void> {
    if (waiting.length >= MAX_WAITING_CODEC_JOBS) {
      refused++
      throw new TributaryError(
        'throttled',
        `${MAX_WAITING_CODEC_JOBS} batches wait for compression: try again later`,
      )
    }
    return new Promise(resolve => waiting.push(resolve))
  }

  return {
    compress(kind, data) {
      return run(done => {
        if (kind === 'gzip') gzip(data, { level: GZIP_LEVEL }, done)
        else zstdCompress(data, zstdOptions(data.length), done)
      })
    },
    async decompress(kind, data, maxBytes) {
      const limits = { maxOutputLength: Math.max(1, maxBytes) }
      try {
        return await run(done => {
          if (kind === 'gzip') gunzip(data, limits, done)
          else
            zstdDecompress(
              data,
              { ...limits, params: { [constants.ZSTD_d_windowLogMax]: MAX_ZSTD_WINDOW_LOG } },
              done,
            )
        })
      } catch (error) {
        throw decompressFailure(error, kind, maxBytes)
      }
    },
    stats: () => ({ active, waiting: waiting.length, refused }),
  }
}

function zstdOptions(sizeBytes: number): ZstdOptions {
  // With its size in the frame a decoder allocates no more than the content needs.
  return { params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL }, pledgedSrcSize: sizeBytes }
}

function decompressFailure(error: unknown, kind: string, maxBytes: number): unknown {
  if (error instanceof TributaryError) return error
  const why =
    systemErrorCode(error) === 'ERR_BUFFER_TOO_LARGE' ? `grows over ${maxBytes} bytes` : messageOf(error)
  return new TributaryError('corrupt_batch', `${kind} data cannot be decompressed: ${why}`, { cause: error })
}

import { gzipSync, zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { MAX_ACTIVE_CODEC_JOBS, MAX_WAITING_CODEC_JOBS, nodeCodec } from '../../common/compression.ts'

const codec = nodeCodec()
const data = Uint8Array.from({ length: 100_000 }, (_, index) => (index % 251) ^ (index >> 10))

test.each(['gzip', 'zstd'] as const)('%s comes back as it was, and smaller on the way', async kind => {
  const packed = await codec.compress(kind, data)
  expect(packed.length).toBeLessThan(data.length / 2)
  expect(Buffer.compare(await codec.decompress(kind, packed, data.length), data)).toBe(0)
})

test.each(['gzip', 'zstd'] as const)('%s that grows over the limit is corrupt', async kind => {
  const packed = await codec.compress(kind, data)
  const decompressed = codec.decompress(kind, packed, data.length - 1)
  await expect(decompressed).rejects.toMatchObject({
    code: 'corrupt_batch',
    message: expect.stringMatching(/over 99999 bytes/),
  })
})

test.each(['gzip', 'zstd'] as const)('%s garbage is corrupt, whole or cut', async kind => {
  const corrupt = { code: 'corrupt_batch' }
  const packed = await codec.compress(kind, data)
  await expect(codec.decompress(kind, data, 1e6)).rejects.toMatchObject(corrupt)
  await expect(codec.decompress(kind, packed.subarray(0, -9), 1e6)).rejects.toMatchObject(corrupt)
  await expect(codec.decompress(kind, new Uint8Array(0), 1e6)).rejects.toMatchObject(corrupt)
})

test('a bomb is stopped at the limit', async () => {
  const zeroes = new Uint8Array(64 * 1024 * 1024)
  for (const [kind, bomb] of [
    ['gzip', gzipSync(zeroes)],
    ['zstd', zstdCompressSync(zeroes)],
  ] as const) {
    expect(bomb.length).toBeLessThan(100_000)
    await expect(codec.decompress(kind, bomb, 1024 * 1024)).rejects.toMatchObject({ code: 'corrupt_batch' })
  }
})

test('a zstd frame that asks for a huge window is refused', async () => {
  // Frame header: no single segment, no content size, window descriptor for 2^27 bytes.
  const frame = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 0x01, 0x00, 0x00)
  await expect(codec.decompress('zstd', frame, 1e9)).rejects.toMatchObject({
    code: 'corrupt_batch',
    message: expect.stringMatching(/memory/),
  })
})

test('jobs over the limits are refused, the others done, and nothing is left behind', async () => {
  const busy = nodeCodec()
  const limit = MAX_ACTIVE_CODEC_JOBS + MAX_WAITING_CODEC_JOBS
  const jobs = Array.from({ length: limit + 5 }, () => busy.compress('zstd', data.subarray(0, 100)))
  expect(busy.stats()).toEqual({ active: MAX_ACTIVE_CODEC_JOBS, waiting: MAX_WAITING_CODEC_JOBS, refused: 5 })
  const settled = await Promise.allSettled(jobs)
  expect(settled.filter(job => job.status === 'fulfilled')).toHaveLength(limit)
  for (const job of settled.slice(limit)) {
    expect(job).toMatchObject({ status: 'rejected', reason: { code: 'throttled' } })
  }
  expect(busy.stats()).toEqual({ active: 0, waiting: 0, refused: 5 })
})

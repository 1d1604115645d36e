import { eachBatch, validateBatch } from '../../common/batch.ts'
import { BatchBuilder, encodeHeaders } from '../../common/batch-builder.ts'
import { joinBatches } from '../../common/batch-join.ts'
import { decodePlain } from '../../common/batch-records.ts'
import { concat, utf8 } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median, thousands } from './measure.ts'

/** Record batches on one core: built, checked, decoded and joined. */

const RECORDS = 200_000
const VALUE_BYTES = 200
const BATCH_BYTES = 64 * 1024
const JOINED_BYTES = 1024 * 1024

/** About a second a run. */
export async function benchBatch({ runs, write }: BenchContext): Promise<void> {
  const codec = nodeCodec()
  const key = utf8('edge-17/plant/line4/temperature')
  const value = new Uint8Array(VALUE_BYTES).map((_, index) => 48 + (index % 10))
  const headers = encodeHeaders([
    { key: 'mqtt.topic', value: utf8('plant/line4/temperature') },
    { key: 'edge', value: utf8('edge-17') },
  ])
  const edgeTime = encodeHeaders([{ key: 'edge.time', value: utf8('1700000000000') }])

  function build(recordsPerBatch: number): Uint8Array[] {
    const builder = new BatchBuilder({ producerId: 2 ** 52 + 1, maxBytes: BATCH_BYTES })
    const batches: Uint8Array[] = []
    let offset = 0
    for (let index = 0; index < RECORDS; index++) {
      const timestampMs = 1_700_000_000_000 + index
      const full = builder.recordCount === recordsPerBatch
      if (full || !builder.appendRaw(timestampMs, key, value, headers, 3, edgeTime)) {
        const { recordCount } = builder
        batches.push(builder.finish(offset))
        offset += recordCount
        builder.appendRaw(timestampMs, key, value, headers, 3, edgeTime)
      }
    }
    batches.push(builder.finish(offset))
    return batches
  }

  const large = concat(build(RECORDS))
  const rows: string[][] = []
  const row = async (name: string, unit: string, amount: number, run: () => Promise<unknown>) => {
    rows.push([name, `${thousands(await rateOf(runs, amount, run))} ${unit}`])
  }
  await row('builder append, 64 KiB batches', 'records/s', RECORDS, async () => build(RECORDS))
  await row('builder append, 10 records a batch', 'records/s', RECORDS, async () => build(10))
  await row('builder append, 1 record a batch', 'records/s', RECORDS, async () => build(1))
  await row('validate, 64 KiB batches', 'MB/s', large.length / 1e6, async () => validateAll(large))
  await row('decode, 64 KiB batches', 'records/s', RECORDS, async () => decodeAll(large))
  for (const recordsPerBatch of [1, 10, 100]) {
    const groups = grouped(build(recordsPerBatch))
    for (const compression of ['none', 'zstd'] as const) {
      const name = `join, ${recordsPerBatch} records a batch, ${compression}`
      await row(name, 'records/s', RECORDS, async () => {
        for (const group of groups)
          await joinBatches(group, { codec, compression, maxBytes: 2 * JOINED_BYTES })
      })
    }
  }
  write(`${markdownTable([`record batches, ${VALUE_BYTES}-byte values, median of ${runs}`, 'rate'], rows)}\n`)
}

/** Median of `amount` a second; one run more warms up. */
async function rateOf(runs: number, amount: number, run: () => Promise<unknown>): Promise<number> {
  const rates: number[] = []
  await run()
  for (let count = 0; count < runs; count++) {
    const startedAt = performance.now()
    await run()
    rates.push((amount / (performance.now() - startedAt)) * 1000)
  }
  return median(rates)
}

function validateAll(bytes: Uint8Array): void {
  for (const { at } of eachBatch(bytes)) validateBatch(bytes, at, { maxBatchBytes: BATCH_BYTES })
}

function decodeAll(bytes: Uint8Array): void {
  for (const { at } of eachBatch(bytes)) decodePlain(bytes, at)
}

/** Batches end to end, about a megabyte a group, as the uplink reads them. */
function grouped(batches: readonly Uint8Array[]): Uint8Array[] {
  const groups: Uint8Array[] = []
  let open: Uint8Array[] = []
  let openBytes = 0
  for (const batch of batches) {
    if (openBytes + batch.length > JOINED_BYTES) {
      groups.push(concat(open))
      open = []
      openBytes = 0
    }
    open.push(batch)
    openBytes += batch.length
  }
  groups.push(concat(open))
  return groups
}

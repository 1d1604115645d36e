import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'

/** A batch of `count` small records of a run or client, from sequence `from` on. */
export function runOf(
  run: number,
  from: number,
  count: number,
  options: { epoch?: number; timeMs?: number } = {},
) {
  const timestampMs = options.timeMs ?? 1_000
  const records = Array.from({ length: count }, (_, index) => ({
    key: null,
    value: utf8(`${run}:${from + index}`),
    headers: [],
    timestampMs: timestampMs + index,
  }))
  return buildBatch(records, { producerId: run, producerEpoch: options.epoch ?? 0, baseSequence: from })
}

/** A batch without a producer. */
export function plainOf(values: readonly string[], timesMs: readonly number[] = []) {
  const records = values.map((value, index) => ({
    key: null,
    value: utf8(value),
    headers: [],
    timestampMs: timesMs[index] ?? 1_000,
  }))
  return buildBatch(records)
}

/** Runs for tests are 2^52 and a bit. */
export function testRun(number: number): number {
  return 2 ** 52 + number
}

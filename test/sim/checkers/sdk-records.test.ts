import { expect, test } from 'vitest'
import { SdkBook } from '../sdk-book.ts'
import { SdkRecordsChecker } from './sdk-records.ts'

const NEVER = Number.NEGATIVE_INFINITY
/** Of another leader, about when the record was sent. */
const ELECTED_MS = 98_600

/** One record, sent at 100 s, told to be at 0/451. From `from` on the log is of a leader that was elected at `electedMs`. */
function judge(acks: 0 | 1 | 'all', found: [number, number] | null, from = 0, electedMs = ELECTED_MS) {
  const book = new SdkBook()
  const record = book.send('c1.1', 'alpha', acks, 100_000)
  Object.assign(record, { outcome: 'acked', partition: 0, offset: 451 })
  const checker = new SdkRecordsChecker(book)
  if (found !== null) checker.found('alpha', found[0], found[1], record.id)
  const writerElectedMs = (_topic: string, _partition: number, offset: number) =>
    offset >= from ? electedMs : NEVER
  const facts = { startOf: () => 0, electedMs: () => electedMs, writerElectedMs, isCalm: false }
  return () => checker.check(facts)
}

test('where a deposed leader says that a record is, its successor may have something else', () => {
  for (const acks of [0, 1] as const) {
    expect(judge(acks, [0, 418], 418)).not.toThrow()
    expect(judge(acks, [0, 480], 440)).not.toThrow()
    expect(judge(acks, [0, 418], 418, 130_000)).not.toThrow()
  }
})

test('a wrong place is a mistake where both leaders have the same up to there, or none was deposed', () => {
  for (const acks of [0, 1] as const) {
    expect(judge(acks, [0, 418], 419)).toThrow('acked at 451 of alpha/0, is in partition 0 at 418')
    expect(judge(acks, [0, 480], 452)).toThrow('acked at 451 of alpha/0, is in partition 0 at 480')
    expect(judge(acks, [0, 418], 0, NEVER)).toThrow('is in partition 0 at 418')
    expect(judge(acks, [0, 418], 0, 79_000)).toThrow('is in partition 0 at 418')
    expect(judge(acks, [1, 451])).toThrow('is in partition 1 at 451')
  }
})

test('what is committed is where it was told to be, whoever leads', () => {
  for (const electedMs of [NEVER, ELECTED_MS, 130_000]) {
    expect(judge('all', [0, 418], 0, electedMs)).toThrow('is in partition 0 at 418')
    expect(judge('all', null, 0, electedMs)).toThrow('is gone')
    expect(judge('all', [0, 451], 0, electedMs)).not.toThrow()
  }
})

import { expect, test } from 'vitest'
import { judgeTrace } from './durability.ts'

const sync = '12 fdatasync(21) = 0'
const puback = '11 write(25, "\\x40\\x02\\x00\\x01", 4) = 4'
const lines = (count: number, each: string[]): string =>
  Array.from({ length: count }, () => each)
    .flat()
    .join('\n')

test('a sync before every PUBACK is what it wants to see', () => {
  expect(judgeTrace(lines(50, [sync, puback])).problems).toEqual([])
  expect(judgeTrace(lines(50, ['12 <... fdatasync resumed>) = 0', puback])).problems).toEqual([])
})

test('a PUBACK without a sync, with a failed one or one still under way is a problem', () => {
  expect(judgeTrace(`${puback}\n${lines(49, [sync, puback])}`).problems).toHaveLength(1)
  expect(
    judgeTrace(lines(50, ['12 fdatasync(21) = -1 EIO (Input/output error)', puback])).problems,
  ).toHaveLength(50)
  expect(judgeTrace(lines(50, ['12 fdatasync(21 <unfinished ...>', puback])).problems).toHaveLength(50)
})

test('missing PUBACKs are a problem', () => {
  expect(judgeTrace(lines(49, [sync, puback])).problems).toHaveLength(1)
})

import { expect, test } from 'vitest'
import { judgeTrace } from './durability.ts'

const opened = '12 openat(AT_FDCWD, "data/journal-0", O_RDWR|O_CREAT|O_DSYNC|O_CLOEXEC, 0644) = 21'
const sync = '12 pwrite64(21, "TRJ1\\x89\\x1f"..., 4096, 61440) = 4096'
const puback = '11 write(25, "\\x40\\x02\\x00\\x01", 4) = 4'
const lines = (count: number, each: string[], before = opened): string =>
  [before, ...Array.from({ length: count }, () => each).flat()].join('\n')

const problems = (trace: string): string[] => judgeTrace(trace).problems

test('a synced write before every PUBACK is what it wants to see', () => {
  expect(problems(lines(50, [sync, puback]))).toEqual([])
  const inTwo = [
    '12 pwrite64(21, "TRJ1\\x89"..., 4096, 61440 <unfinished ...>',
    '13 pwrite64(30, "x"..., 4, 0 <unfinished ...>',
    '12 <... pwrite64 resumed>) = 4096',
    '13 <... pwrite64 resumed>) = 4',
    puback,
  ]
  expect(problems(lines(50, inTwo))).toEqual([])
})

test('a PUBACK without one, with one that failed, was cut short or is still under way is a problem', () => {
  expect(problems(`${lines(0, [])}\n${puback}\n${lines(49, [sync, puback], '')}`)).toHaveLength(1)
  const failed = '12 pwrite64(21, "TRJ1"..., 4096, 61440) = -1 EIO (Input/output error)'
  const short = '12 pwrite64(21, "TRJ1"..., 4096, 61440) = 512'
  const underWay = '12 pwrite64(21, "TRJ1"..., 4096, 61440 <unfinished ...>'
  for (const write of [failed, short, underWay]) expect(problems(lines(50, [write, puback]))).toHaveLength(50)
})

test('a write to a descriptor that was not opened for it, or is another file since, is no sync', () => {
  const unsynced = '12 openat(AT_FDCWD, "data/journal-0", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 21'
  for (const before of [unsynced, '', `${opened}\n${unsynced}`]) {
    expect(problems(lines(50, [sync, puback], before))).toHaveLength(50)
  }
})

test('missing PUBACKs are a problem', () => {
  expect(problems(lines(49, [sync, puback]))).toHaveLength(1)
})

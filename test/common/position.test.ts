import { describe, expect, it } from 'vitest'
import { parseIsoTime, parsePosition } from '../../common/position.ts'

describe('parseIsoTime', () => {
  it.each([
    ['2026-01-31T12:00:00Z', Date.UTC(2026, 0, 31, 12)],
    ['2026-01-31T12:00:00', Date.UTC(2026, 0, 31, 12)],
    ['2026-01-31 12:00', Date.UTC(2026, 0, 31, 12)],
    ['2026-01-31', Date.UTC(2026, 0, 31)],
    ['2026-01-31T12:00:00+02:00', Date.UTC(2026, 0, 31, 10)],
    ['2026-01-31T12:00:00+0230', Date.UTC(2026, 0, 31, 9, 30)],
    ['2026-01-31T12:00:00.5Z', Date.UTC(2026, 0, 31, 12, 0, 0, 500)],
    ['2026-01-31t12:00:00.123456789z', Date.UTC(2026, 0, 31, 12, 0, 0, 123)],
    ['2024-02-29', Date.UTC(2024, 1, 29)],
    ['1970-01-01', 0],
  ])('reads %s', (text, timeMs) => {
    expect(parseIsoTime(text)).toBe(timeMs)
  })

  it.each([
    '',
    'yesterday',
    '2026',
    '2026-13-01',
    '2026-02-29',
    '2026-04-31',
    '2026-01-31T25:00',
    '1969-12-31',
    '1e3',
  ])('refuses %s', text => {
    expect(parseIsoTime(text)).toBeNull()
  })
})

describe('parsePosition', () => {
  it('takes words, offsets and times', () => {
    expect(parsePosition('earliest')).toEqual({ kind: 'earliest' })
    expect(parsePosition('latest')).toEqual({ kind: 'latest' })
    expect(parsePosition('1200')).toEqual({ kind: 'offset', offset: 1200 })
    expect(parsePosition('2026-01-31')).toEqual({ kind: 'time', timeMs: Date.UTC(2026, 0, 31) })
  })

  it('refuses what is none of them', () => {
    expect(parsePosition('-1')).toBeNull()
    expect(parsePosition('99999999999999999999')).toBeNull()
    expect(parsePosition('Latest')).toBeNull()
  })
})

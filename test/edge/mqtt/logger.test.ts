import { expect, test } from 'vitest'
import { limitLog } from '../../../edge/mqtt/logger.ts'
import { testClock, testLog } from './harness.ts'

test('lines over the limit are counted and told once the period is over', () => {
  const clock = testClock()
  const log = testLog()
  const limited = limitLog(log, clock)
  for (let line = 0; line < 250; line++) limited.warn({}, `line ${line}`)
  expect(log.lines.length).toBe(200)
  clock.skewMs += 10_000
  limited.info({}, 'after')
  expect(log.lines.slice(200)).toEqual([
    'lines about MQTT connections were left out {"lines":50}',
    'after {}',
  ])
})

import { expect, test } from 'vitest'
import { createIntake } from '../../common/intake.ts'
import { FakeClock } from '../fake-clock.ts'

function stage(maxBytes = 100, maxCount = 4) {
  const clock = new FakeClock()
  const said: string[] = []
  const intake = createIntake({
    clock,
    channel: {
      pause: () => said.push('pause'),
      resume: () => said.push('resume'),
      close: code => said.push(`close ${code}`),
    },
    maxBytes,
    maxCount,
    paused: () => said.push('paused'),
    leaving: () => said.push('leaving'),
  })
  return { clock, said, intake }
}

const turn = () => new Promise(resolve => setImmediate(resolve))

test('a connection is not read at a bound of bytes or of count, until half of both is left', () => {
  const { intake, said } = stage()
  intake.began(100)
  expect(said).toEqual([])
  intake.began(1)
  expect(said).toEqual(['paused', 'pause'])
  intake.done(1)
  expect(said).toHaveLength(2)
  intake.done(100)
  expect(said).toEqual(['paused', 'pause', 'resume'])
  for (let count = 0; count < 4; count++) intake.began(1)
  expect(said.slice(3)).toEqual(['paused', 'pause'])
  intake.done(1)
  expect(said).toHaveLength(5)
  intake.done(1)
  expect(said.slice(5)).toEqual(['resume'])
})

test('an orderly end waits for what is under way, and not for ever', async () => {
  const idle = stage()
  let isClosed = false
  const closed = idle.intake.drain().then(() => {
    isClosed = true
  })
  await turn()
  expect(idle.said).toEqual(['pause', 'leaving', 'close 1001'])
  expect([idle.intake.isDraining(), isClosed]).toEqual([true, false])
  idle.intake.closed()
  await closed
  await idle.intake.drain()

  const busy = stage()
  busy.intake.began(1)
  void busy.intake.drain()
  await turn()
  expect(busy.said).toEqual(['pause'])
  busy.intake.done(1)
  await turn()
  expect(busy.said).toEqual(['pause', 'leaving', 'close 1001'])

  const stuck = stage()
  stuck.intake.began(1)
  void stuck.intake.drain()
  stuck.clock.advance(10_000)
  expect(stuck.said).toEqual(['pause', 'leaving', 'close 1001'])
  stuck.intake.closed()
  stuck.intake.done(1)
  await turn()
  expect(stuck.said).toHaveLength(3)
})

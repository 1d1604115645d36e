import { expect, test } from 'vitest'
import type { Input } from '../../edge/forward-types.ts'
import { step, wakeAtMs } from '../../edge/forwarder.ts'
import { startRun } from '../../edge/ledger.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'
import { LIMITS, lane, script } from './forward-script.ts'

/** Who goes next and when: the window, turns of lanes, waits before the next attempt. */

test('the window, the socket’s back pressure and the hub’s throttle hold appends back', () => {
  const ledger = lane('t', 100, { topicId: 'T' })
  const { state, say, welcome, opened, ready, ack, transcript } = script([ledger], 7, 'A')
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(1, 10, 700)
  ready(2, 20, 400)
  ack(1, FIRST_RUN_ID, 10)
  say({ t: 'blocked' })
  ready(3, 30)
  say({ t: 'drained' })
  say({ t: 'frame', frame: { t: 'throttle', delayMs: 500 } }, 1_000)
  ready(4, 40)
  say({ t: 'tick' }, wakeAtMs(state, 1_000))
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 0, committed: 0}
      read t/0 [0, 100) of R96 as 1
    > read ticket=1 to=10
      read t/0 [10, 100) of R96 as 2
    > prepared ticket=1 bytes=700
      append ticket=1
    > read ticket=2 to=20
      read t/0 [20, 100) of R96 as 3
    > prepared ticket=2 bytes=400
    > ack log=1 run=R96 next=10 committed=10
      committed lane=t/0 offset=10
      append ticket=2
    > blocked
    > read ticket=3 to=30
    > prepared ticket=3 bytes=100
    > drained
      append ticket=3
      read t/0 [30, 100) of R96 as 4
    > throttle delayMs=500
    > read ticket=4 to=40
      read t/0 [40, 100) of R96 as 5
    > prepared ticket=4 bytes=100
    > tick
      append ticket=4"
  `)
})

test('lanes take turns, higher priority first, and none starves', () => {
  const order: string[] = []
  const ledgers = [
    lane('low', 1_000, { priority: 1 }),
    lane('high', 1_000, { priority: 9 }),
    lane('high2', 1_000, { priority: 9 }),
  ]
  for (const [index, ledger] of ledgers.entries()) {
    ledger.topicId = ledger.topic
    ledger.runs = []
    startRun(ledger, FIRST_RUN_ID + index, 0)
  }
  const { state, welcome } = script(ledgers, 7, 'A')
  welcome(8)
  const queue: Input[] = ledgers.map(({ topic }, index) => ({
    t: 'frame',
    frame: {
      t: 'opened',
      log: index + 1,
      topicId: topic,
      ...LIMITS,
      tip: { run: FIRST_RUN_ID + index, next: 0, committed: 0 },
    },
  }))
  for (let input = queue.shift(); input !== undefined && order.length < 64; input = queue.shift()) {
    for (const output of step(state, input, { nowMs: 0, random: 0.5 })) {
      if (output.t === 'read') {
        order.push(output.lane)
        queue.push(
          { t: 'read', ticket: output.ticket, to: output.from + 1 },
          { t: 'prepared', ticket: output.ticket, bytes: 10 },
        )
      }
      if (output.t === 'append') {
        for (const { run, end } of [...state.lanes.values()].map(each => ({
          run: each.run,
          end: each.inflight.at(-1)?.to ?? 0,
        }))) {
          const log = run - FIRST_RUN_ID + 1
          if (run > 0 && end > 0)
            queue.push({ t: 'frame', frame: { t: 'ack', log, run, next: end, committed: end } })
        }
      }
    }
  }
  const count = (topic: string): number => order.filter(each => each === `${topic}/0`).length
  expect(count('low')).toBeGreaterThan(3)
  expect(count('low')).toBeLessThan(16)
  expect(Math.abs(count('high') - count('high2'))).toBeLessThanOrEqual(4)
})

test('a partition without a leader is asked for again at once, and an alarm only where that lasts', () => {
  const { state, say, welcome, opened, ready, ack, transcript } = script(
    [lane('t', 10, { topicId: 'T' })],
    7,
    'A',
  )
  const refuse = (nowMs: number) =>
    say({ t: 'frame', frame: { t: 'refused', log: 1, message: '', code: 'not_available' } }, nowMs)
  const count = (text: string) => transcript().split(text).length - 1
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(1, 10)
  for (let round = 0; round < 3; round++) refuse(100)
  expect([count('send open'), count('alarm refused')]).toEqual([4, 0])
  refuse(100)
  expect([count('send open'), count('alarm refused'), wakeAtMs(state, 100)]).toEqual([4, 1, 1_100])
  say({ t: 'tick' }, 1_100)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(2, 10)
  ack(1, FIRST_RUN_ID, 10)
  refuse(2_000)
  expect([count('send open'), count('alarm refused')]).toEqual([6, 1])
})

test('reconnecting waits longer each time, at random, and starts over after progress', () => {
  const ledger = lane('t', 10, { topicId: 'T' })
  const { state, say, welcome, opened, ready, ack } = script([ledger], 7, 'A')
  const waits: number[] = []
  let nowMs = 0
  for (let attempt = 0; attempt < 9; attempt++) {
    say({ t: 'closed', reason: 'test', fenced: false, next: false }, nowMs)
    waits.push(wakeAtMs(state, nowMs) - nowMs)
    nowMs = wakeAtMs(state, nowMs)
    say({ t: 'tick' }, nowMs)
  }
  expect(waits).toEqual([1_000, 1_500, 3_000, 6_000, 12_000, 24_000, 45_000, 45_000, 45_000])
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(1, 10)
  ack(1, FIRST_RUN_ID, 10)
  say({ t: 'closed', reason: 'test', fenced: false, next: false }, nowMs)
  expect(wakeAtMs(state, nowMs) - nowMs).toBe(1_000)
})

test('another node of the hub is dialled at once; a fenced edge waits all the same', () => {
  const { state, say, transcript } = script([lane('t', 10, { topicId: 'T' })], 7, 'A')
  const dials = () => transcript().match(/^ {2}dial/gm)?.length ?? 0
  const before = dials()
  for (let attempt = 0; attempt < 4; attempt++) {
    say({ t: 'closed', reason: 'test', fenced: false, next: true }, 0)
  }
  expect(dials()).toBe(before + 4)
  say({ t: 'closed', reason: 'all failed', fenced: false, next: false }, 0)
  expect(wakeAtMs(state, 0)).toBe(1_000)
  say({ t: 'tick' }, 1_000)
  say({ t: 'closed', reason: 'fenced', fenced: true, next: true }, 1_000)
  expect(wakeAtMs(state, 1_000)).toBeGreaterThan(1_000)
})

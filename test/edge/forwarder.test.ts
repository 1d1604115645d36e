import { expect, test } from 'vitest'
import { STALL_MS } from '../../edge/forward-state.ts'
import { wakeAtMs } from '../../edge/forwarder.ts'
import { recut } from '../../edge/ledger.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'
import { lane, script } from './forward-script.ts'

test('the first connection: session, open, bind, run, append, ack', () => {
  const ledger = lane('t', 10)
  const { say, welcome, opened, ready, ack, transcript } = script([ledger])
  say({ t: 'tick' })
  welcome(1)
  opened(1, 'T')
  ledger.topicId = 'T'
  say({ t: 'changed', lane: 't/0', ok: true })
  ready(1, 6)
  ready(2, 10)
  ack(1, FIRST_RUN_ID, 6)
  ack(1, FIRST_RUN_ID, 10)
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=0 clusterId=null
    > tick
    > welcome A session 1 ok
      adopt session=1 clusterId=A verdict=ok
    > adopted ok=true
      send start session=1
      send open log=1 topic=t topicId=null lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip=null
      change t/0 {kind: bind, topicId: T}
    > changed lane=t/0 ok=true
      read t/0 [0, 10) of R96 as 1
      send run log=1 run=R96 prev=null reason=first
    > read ticket=1 to=6
      read t/0 [6, 10) of R96 as 2
    > prepared ticket=1 bytes=100
      append ticket=1
    > read ticket=2 to=10
    > prepared ticket=2 bytes=100
      append ticket=2
    > ack log=1 run=R96 next=6 committed=6
      committed lane=t/0 offset=6
    > ack log=1 run=R96 next=10 committed=10
      committed lane=t/0 offset=10"
  `)
})

test('a resume within the tip’s run announces nothing and sends what the hub lacks', () => {
  const ledger = lane('t', 10, { topicId: 'T', committed: 4 })
  const { welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 6, committed: 5 })
  ready(1, 10)
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 6, committed: 5}
      committed lane=t/0 offset=5
      read t/0 [6, 10) of R96 as 1
    > read ticket=1 to=10
    > prepared ticket=1 bytes=100
      append ticket=1"
  `)
})

test('a run that follows names its predecessor, after the rest of that', () => {
  const ledger = lane('t', 10, {
    topicId: 'T',
    runs: [
      { run: FIRST_RUN_ID, start: 0, end: 4, prev: null, reason: 'first' },
      { run: FIRST_RUN_ID + 1, start: 4, end: null, prev: { run: FIRST_RUN_ID, end: 4 }, reason: 'next' },
    ],
  })
  const { welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 1, committed: 1 })
  ready(1, 4)
  ready(2, 10)
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 1, committed: 1}
      committed lane=t/0 offset=1
      read t/0 [1, 4) of R96 as 1
    > read ticket=1 to=4
      read t/0 [4, 10) of R97 as 2
    > prepared ticket=1 bytes=100
      append ticket=1
      send run log=1 run=R97 prev={run: R96, end: 4} reason=next
    > read ticket=2 to=10
    > prepared ticket=2 bytes=100
      append ticket=2"
  `)
})

test('gaps are declared in their place, split at runs, and also where no record follows', () => {
  const ledger = lane('t', 12, {
    topicId: 'T',
    startOffset: 6,
    runs: [
      { run: FIRST_RUN_ID, start: 0, end: 4, prev: null, reason: 'first' },
      { run: FIRST_RUN_ID + 1, start: 4, end: null, prev: { run: FIRST_RUN_ID, end: 4 }, reason: 'next' },
    ],
    gaps: [
      { from: 2, to: 6, reason: 'disk-full', firstMs: 1, lastMs: 2 },
      { from: 10, to: 12, reason: 'refused', firstMs: null, lastMs: 3 },
    ],
    committed: 2,
  })
  const { welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 2, committed: 2 })
  ready(1, 10)
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 2, committed: 2}
      read t/0 [6, 10) of R97 as 1
      send gap log=1 run=R96 from=2 to=4 reason=disk-full firstMs=1 lastMs=2 localFrom=2 localTo=4
      send run log=1 run=R97 prev={run: R96, end: 4} reason=next
      send gap log=1 run=R97 from=0 to=2 reason=disk-full firstMs=1 lastMs=2 localFrom=4 localTo=6
    > read ticket=1 to=10
    > prepared ticket=1 bytes=100
      append ticket=1
      send gap log=1 run=R97 from=6 to=8 reason=refused firstMs=null lastMs=3 localFrom=10 localTo=12"
  `)
})

test('a hub that knows less is sent what is kept, and a gap for the rest', () => {
  const ledger = lane('t', 10, { topicId: 'T', committed: 8, startOffset: 5 })
  const { say, welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  welcome(8, 'hub-rollback')
  opened(1, 'T', { run: FIRST_RUN_ID, next: 2, committed: 2 })
  ledger.committed = 2
  ledger.gaps = [{ from: 2, to: 5, reason: 'hub-rollback', firstMs: null, lastMs: 1 }]
  say({ t: 'changed', lane: 't/0', ok: true })
  ready(1, 10)
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 hub-rollback
      alarm hub-rollback
      adopt session=8 clusterId=A verdict=hub-rollback
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 2, committed: 2}
      alarm hub-rollback
      committed lane=t/0 offset=2
      change t/0 {kind: lose, from: 2, to: 5, reason: hub-rollback}
    > changed lane=t/0 ok=true
      read t/0 [5, 10) of R96 as 1
      send gap log=1 run=R96 from=2 to=5 reason=hub-rollback firstMs=null lastMs=1 localFrom=2 localTo=5
    > read ticket=1 to=10
    > prepared ticket=1 bytes=100
      append ticket=1"
  `)
})

test('a wiped edge, and a hub without anything of a lane that goes on', () => {
  const wiped = lane('wiped', 3, { topicId: null })
  const known = lane('known', 9, {
    topicId: 'K',
    committed: 5,
    startOffset: 5,
    runs: [
      { run: FIRST_RUN_ID + 7, start: 5, end: null, prev: { run: FIRST_RUN_ID + 6, end: 5 }, reason: 'next' },
    ],
  })
  const { say, welcome, opened, transcript } = script([wiped, known], 7, 'A')
  welcome(8)
  opened(1, 'W', { run: FIRST_RUN_ID + 50, next: 90, committed: 90 })
  wiped.topicId = 'W'
  say({ t: 'changed', lane: 'wiped/0', ok: true })
  wiped.runs = [{ run: FIRST_RUN_ID + 97, start: 0, end: null, prev: null, reason: 'wiped' }]
  say({ t: 'changed', lane: 'wiped/0', ok: true })
  opened(2, 'K')
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane wiped/0
      dial session=7 clusterId=A
    > lane known/0
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=wiped topicId=null lane=0 lanes=1 partitionBy=edge
      send open log=2 topic=known topicId=K lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=W tip={run: 4503599627370546, next: 90, committed: 90}
      change wiped/0 {kind: bind, topicId: W}
    > changed lane=wiped/0 ok=true
      change wiped/0 {kind: recut, from: 0, reason: wiped}
    > changed lane=wiped/0 ok=true
      read wiped/0 [0, 3) of 4503599627370593 as 1
      send run log=1 run=4503599627370593 prev=null reason=wiped
    > opened log=2 topicId=K tip=null
      read known/0 [5, 9) of 4503599627370503 as 2
      send run log=2 run=4503599627370503 prev=null reason=wiped"
  `)
})

test('fork, and another cluster: stored first, then new runs', () => {
  const { welcome, transcript } = script([lane('t', 3)], 7, 'A')
  welcome(9, 'fork')
  const other = script([lane('t', 3)], 7, 'A')
  other.welcome(1, 'hub-rollback', 'B')
  const fresh = script([lane('t', 3)], 0, null)
  fresh.welcome(9, 'fork')
  expect([transcript(), other.transcript(), fresh.transcript()].join('\n\n')).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 9 fork
      alarm fork
      adopt session=9 clusterId=A verdict=fork
    > adopted ok=true
      send start session=9
      send open log=1 topic=t topicId=null lane=0 lanes=1 partitionBy=edge

    > lane t/0
      dial session=7 clusterId=A
    > welcome B session 1 hub-rollback
      alarm moved
      adopt session=1 clusterId=B verdict=moved
    > adopted ok=true
      send start session=1
      send open log=1 topic=t topicId=null lane=0 lanes=1 partitionBy=edge

    > lane t/0
      dial session=0 clusterId=null
    > welcome A session 9 fork
      adopt session=9 clusterId=A verdict=ok
    > adopted ok=true
      send start session=9
      send open log=1 topic=t topicId=null lane=0 lanes=1 partitionBy=edge"
  `)
})

test('refusals: rewind, backoff, dead letter, deleted topic', () => {
  const ledger = lane('t', 10, { topicId: 'T' })
  const { state, say, welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  const tip = (next: number) => ({ run: FIRST_RUN_ID, next, committed: next })
  const refused = { t: 'refused', log: 1, message: '', run: FIRST_RUN_ID } as const
  welcome(8)
  opened(1, 'T', tip(0))
  ready(1, 10)
  say({ t: 'frame', frame: { ...refused, code: 'out_of_order_sequence', next: 4 } })
  opened(1, 'T', tip(4))
  ready(2, 10)
  say({ t: 'frame', frame: { ...refused, code: 'record_too_large', next: 4, sequence: 6 } })
  ledger.gaps = [{ from: 6, to: 7, reason: 'refused', firstMs: null, lastMs: 1 }]
  say({ t: 'changed', lane: 't/0', ok: true })
  opened(1, 'T', tip(4))
  ready(3, 6)
  ready(4, 10)
  say({ t: 'frame', frame: { ...refused, code: 'not_available', next: 7 } }, 100)
  say({ t: 'tick' }, wakeAtMs(state, 100))
  say({ t: 'frame', frame: { ...refused, code: 'topic_deleted' } }, 5_000)
  ledger.gaps = [{ from: 4, to: 10, reason: 'refused', firstMs: null, lastMs: 1 }]
  ledger.committed = 4
  say({ t: 'changed', lane: 't/0', ok: true }, 5_000)
  ledger.topicId = null
  say({ t: 'changed', lane: 't/0', ok: true }, 5_000)
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 0, committed: 0}
      read t/0 [0, 10) of R96 as 1
    > read ticket=1 to=10
    > prepared ticket=1 bytes=100
      append ticket=1
    > refused log=1 message= run=R96 code=out_of_order_sequence next=4
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 4, committed: 4}
      committed lane=t/0 offset=4
      read t/0 [4, 10) of R96 as 2
    > read ticket=2 to=10
    > prepared ticket=2 bytes=100
      append ticket=2
    > refused log=1 message= run=R96 code=record_too_large next=4 sequence=6
      alarm dead-letter
      change t/0 {kind: bury, from: 6, to: 7, why: record_too_large}
    > changed lane=t/0 ok=true
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 4, committed: 4}
      committed lane=t/0 offset=4
      read t/0 [4, 6) of R96 as 3
    > read ticket=3 to=6
      read t/0 [7, 10) of R96 as 4
    > prepared ticket=3 bytes=100
      append ticket=3
      send gap log=1 run=R96 from=6 to=7 reason=refused firstMs=null lastMs=1 localFrom=6 localTo=7
    > read ticket=4 to=10
    > prepared ticket=4 bytes=100
      append ticket=4
    > refused log=1 message= run=R96 code=not_available next=7
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > tick
    > refused log=1 message= run=R96 code=topic_deleted
      alarm dead-letter
      change t/0 {kind: bury, from: 0, to: 10, why: topic_deleted}
    > changed lane=t/0 ok=true
      change t/0 {kind: recut, from: 4, reason: moved, topicId: null}
    > changed lane=t/0 ok=true
      send open log=1 topic=t topicId=null lane=0 lanes=1 partitionBy=edge"
  `)
})

test('a refusal while the lane’s ledger changes opens it again: the hub takes nothing more before', () => {
  const ledger = lane('t', 10, { topicId: 'T' })
  const { say, welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(1, 4)
  say({ t: 'oversize', ticket: 2, offset: 4 })
  const refused = { t: 'refused', log: 1, message: '', run: FIRST_RUN_ID, next: 0 } as const
  say({ t: 'frame', frame: { ...refused, code: 'disk_full' } })
  say({ t: 'changed', lane: 't/0', ok: true })
  expect(transcript()).toMatchInlineSnapshot(`
    "> lane t/0
      dial session=7 clusterId=A
    > welcome A session 8 ok
      adopt session=8 clusterId=A verdict=ok
    > adopted ok=true
      send start session=8
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge
    > opened log=1 topicId=T tip={run: R96, next: 0, committed: 0}
      read t/0 [0, 10) of R96 as 1
    > read ticket=1 to=4
      read t/0 [4, 10) of R96 as 2
    > prepared ticket=1 bytes=100
      append ticket=1
    > oversize ticket=2 offset=4
      drop ticket=2
      alarm dead-letter
      change t/0 {kind: bury, from: 4, to: 5, why: record_too_large}
    > refused log=1 message= run=R96 next=0 code=disk_full
    > changed lane=t/0 ok=true
      send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge"
  `)
})

test('a lane whose frames get no ack for long is opened again', () => {
  const ledger = lane('t', 10, { topicId: 'T' })
  const { state, say, welcome, opened, ready, transcript } = script([ledger], 7, 'A')
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(1, 10)
  for (let atMs = 0; atMs < STALL_MS; atMs = wakeAtMs(state, atMs)) say({ t: 'tick' }, atMs)
  say({ t: 'tick' }, STALL_MS)
  expect(transcript().split('\n').slice(-4)).toEqual([
    '> tick',
    '> tick',
    '  alarm stalled',
    '  send open log=1 topic=t topicId=T lane=0 lanes=1 partitionBy=edge',
  ])
})

test('a tip of another directory: on from the newest run before it that is known, under a new run', () => {
  const ledger = lane('t', 10, { topicId: 'T', committed: 8 })
  const { say, welcome, opened, transcript } = script([ledger], 7, 'A')
  const other = FIRST_RUN_ID + 90
  const past = [
    { run: other + 1, next: 3 },
    { run: FIRST_RUN_ID, next: 6 },
  ]
  welcome(8)
  opened(1, 'T', { run: other, next: 4, committed: 4, past })
  recut(ledger, 6, 'fork', () => FIRST_RUN_ID + 1)
  say({ t: 'changed', lane: 't/0', ok: true })
  expect(transcript().split('\n').slice(-7).join('\n')).toMatchInlineSnapshot(`
    "  alarm fork
      change t/0 {kind: recut, from: 6, reason: fork}
    > changed lane=t/0 ok=true
      alarm hub-rollback
      committed lane=t/0 offset=6
      read t/0 [6, 10) of R97 as 1
      send run log=1 run=R97 prev=null reason=fork"
  `)
})

test('a tip of another directory after many runs: what the hub may have, and does not remember, is sent again as of a fork', () => {
  const ledger = lane('t', 10, { topicId: 'T', committed: 8, startOffset: 7 })
  const { say, welcome, opened, transcript } = script([ledger], 7, 'A')
  const others = Array.from({ length: 12 }, (_, index) => ({ run: FIRST_RUN_ID + 50 + index, next: 3 }))
  welcome(8)
  const past = [...others, { run: FIRST_RUN_ID, next: 6 }]
  opened(1, 'T', { run: FIRST_RUN_ID + 90, next: 4, committed: 4, past })
  recut(ledger, 6, 'fork', () => FIRST_RUN_ID + 1)
  say({ t: 'changed', lane: 't/0', ok: true })
  expect(transcript().split('\n').slice(-3).join('\n')).toMatchInlineSnapshot(`
    "> changed lane=t/0 ok=true
      committed lane=t/0 offset=6
      change t/0 {kind: lose, from: 6, to: 7, reason: fork}"
  `)
  // Nor can one that has no ack say that the hub has nothing of it.
  const fresh = script([lane('t', 10, { topicId: 'T' })], 7, 'A')
  fresh.welcome(8)
  fresh.opened(1, 'T', { run: FIRST_RUN_ID + 90, next: 4, committed: 4, past: others })
  expect(fresh.transcript()).toContain('change t/0 {kind: recut, from: 0, reason: fork}')
})

test('a summary goes out as a gap of its one sequence, in its place', () => {
  const { say, welcome, opened, ready, ack, transcript } = script([lane('t', 10, { topicId: 'T' })], 7, 'A')
  const summary = { reason: 'thinned' as const, count: 40, keys: 3, firstMs: 1, lastMs: 2 }
  welcome(8)
  opened(1, 'T', { run: FIRST_RUN_ID, next: 0, committed: 0 })
  ready(1, 4)
  say({ t: 'summary', ticket: 2, summary })
  ready(3, 10)
  ack(1, FIRST_RUN_ID, 10)
  expect(transcript().split('\n').slice(8).join('\n')).toMatchInlineSnapshot(`
    "  read t/0 [0, 10) of R96 as 1
    > read ticket=1 to=4
      read t/0 [4, 10) of R96 as 2
    > prepared ticket=1 bytes=100
      append ticket=1
    > summary ticket=2 summary={reason: thinned, count: 40, keys: 3, firstMs: 1, lastMs: 2}
      send gap log=1 run=R96 from=4 to=5 reason=thinned firstMs=1 lastMs=2 localFrom=4 localTo=5 count=40 keys=3
      read t/0 [5, 10) of R96 as 3
    > read ticket=3 to=10
    > prepared ticket=3 bytes=100
      append ticket=3
    > ack log=1 run=R96 next=10 committed=10
      committed lane=t/0 offset=10"
  `)
})

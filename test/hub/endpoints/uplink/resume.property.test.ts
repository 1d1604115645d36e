import * as fc from 'fast-check'
import pino from 'pino'
import { expect, test } from 'vitest'
import { eachBatch } from '../../../../common/batch.ts'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { decodePlain } from '../../../../common/batch-records.ts'
import type { ErrorCode } from '../../../../common/errors.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type { LaneTip } from '../../../../common/wire.ts'
import { acceptUplink, createUplinkCounters } from '../../../../hub/endpoints/uplink/uplink.ts'
import type { FakePorts } from '../../../fake-ports.ts'
import { createFakePorts } from '../../../fake-ports.ts'
import { linkPair } from '../../../links.ts'
import { liveClock } from '../../../live-clock.ts'
import { rawPeer } from '../../../raw-peer.ts'

const RUN = 2 ** 52 + 3
const TOTAL = 120
const LIMITS = {
  maxFrameBytes: 1_000_000,
  maxInflightBytesPerConnection: 5_000,
  heartbeatMs: 20_000,
  deadMs: 60_000,
  helloTimeoutMs: 10_000,
}

/** What goes wrong, one after the other as batches are sent. */
interface Mishap {
  kind: 'none' | 'fail' | 'cut' | 'skip' | 'repeat' | 'garbage'
  code: ErrorCode
  count: number
}

const mishap: fc.Arbitrary<Mishap> = fc.record({
  kind: fc.constantFrom('none', 'none', 'none', 'fail', 'cut', 'skip', 'repeat', 'garbage'),
  code: fc.constantFrom('disk_full', 'not_available', 'out_of_order_sequence'),
  count: fc.integer({ min: 1, max: 6 }),
})

function batch(sequence: number, count: number): Uint8Array {
  const records = Array.from({ length: count }, (_, index) => ({
    key: null,
    value: Buffer.from(String(sequence + index)),
    headers: [],
    timestampMs: 1,
  }))
  return buildBatch(records, { producerId: RUN, producerEpoch: 0, baseSequence: sequence })
}

/** The plainest edge there could be: sends ahead, and goes back to where it is told. */
async function deliver(
  ports: FakePorts,
  mishaps: readonly Mishap[],
): Promise<{ refused: number; failures: number }> {
  const counters = createUplinkCounters()
  const plan = [...mishaps]
  let failures = 0
  let committed = 0
  for (let session = 0; committed < TOTAL; session++) {
    const pair = linkPair()
    const log = pino({ level: 'silent' })
    acceptUplink(pair.right, { ports, counters, log, env: { clock: liveClock }, limits: LIMITS })
    const edge = rawPeer(pair.left, 'uplink-hub')
    const open = () =>
      edge.send({ t: 'open', log: 1, topic: 't', topicId: null, lane: 0, lanes: 1, partitionBy: 'edge' })
    edge.send({
      t: 'hello',
      min: 1,
      max: 1,
      software: 't',
      edge: { id: 'e', session, clusterId: null, nowMs: 1 },
    })
    let tip: LaneTip | null = null
    let next = -1
    let rewound = false
    const sendAhead = () => {
      while (next >= 0 && next < Math.min(TOTAL, (tip?.next ?? 0) + 40)) {
        const { kind, code, count } = plan.shift() ?? { kind: 'none', code: 'disk_full', count: 5 }
        const size = Math.min(count, TOTAL - next)
        if (kind !== 'none') failures++
        if (kind === 'fail') ports.failNext('appendLane', new TributaryError(code, 'for now'))
        if (kind === 'cut') return pair.cut()
        if (kind === 'repeat')
          edge.send({ t: 'append', log: 1, batches: batch(Math.max(0, next - 3), Math.min(3, next) || 1) })
        if (kind === 'garbage') edge.send({ t: 'append', log: 1, batches: new Uint8Array(70) })
        // An edge may be wrong about what was sent, but goes on where a refusal says.
        if (kind !== 'skip' || rewound) edge.send({ t: 'append', log: 1, batches: batch(next, size) })
        next += size
        rewound = false
      }
    }
    try {
      const welcome = await edge.expect('welcome')
      edge.send({ t: 'start', session: welcome.edge?.session ?? -1 })
      open()
      while (committed < TOTAL) {
        const frame = await edge.next()
        if (frame.t === 'opened') {
          tip = frame.tip
          if (tip === null) edge.send({ t: 'run', log: 1, run: RUN, prev: null, reason: 'first' })
          next = tip?.next ?? 0
          committed = tip?.committed ?? 0
        } else if (frame.t === 'ack') {
          // What was promised is never taken back.
          expect(frame.committed).toBeGreaterThanOrEqual(committed)
          tip = frame
          committed = frame.committed
          // Everything was sent, yet something was skipped at the very end: nothing would ever refuse it.
          if (next >= TOTAL && frame.next < TOTAL) next = frame.next
        } else if (frame.t === 'refused') {
          if (frame.next === undefined) open()
          next = frame.next ?? -1
          rewound = true
        } else if (frame.t === 'error') throw new Error(frame.message)
        sendAhead()
      }
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes('closed 1006')) throw error
    }
    pair.cut()
  }
  return { refused: counters.refused, failures }
}

test('whatever is cut, refused, skipped or sent twice: each record stands once, in order', async () => {
  const property = fc.asyncProperty(fc.array(mishap, { maxLength: 60 }), async mishaps => {
    const ports = createFakePorts({ defaultPartitions: 1 })
    const { refused, failures } = await deliver(ports, mishaps)
    // However much is pipelined behind a failure, it is one refusal; and one more where the rewind is cut otherwise than what
    // had gone through meanwhile.
    expect(refused).toBeLessThanOrEqual(2 * failures)
    const { topicId } = ports.topics.byName('t')
    const { batches } = await ports.logs.read(topicId, 0, 0, 10_000_000)
    const stored = [...eachBatch(batches)].flatMap(({ at }) => decodePlain(batches, at))
    expect(stored.map(record => Buffer.from(record.value ?? []).toString())).toEqual(
      Array.from({ length: TOTAL }, (_, sequence) => String(sequence)),
    )
  })
  await fc.assert(property, { numRuns: 60 })
}, 60_000)

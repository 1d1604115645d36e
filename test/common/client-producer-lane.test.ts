import { expect, test } from 'vitest'
import { must } from '../../common/assert.ts'
import { readHeader } from '../../common/batch.ts'
import type { Live } from '../../common/client-connection.ts'
import type { ProducedRecord } from '../../common/client-producer.ts'
import { createProducerLane } from '../../common/client-producer-lane.ts'
import { nodeCodec } from '../../common/compression.ts'
import { TributaryError } from '../../common/errors.ts'
import type { ProducedInfo } from '../../common/wire.ts'
import { FakeClock, seededRng } from '../fake-clock.ts'

const TIMEOUT_MS = 1_000

function never(): never {
  throw new Error('a lane has no use for this')
}

/** A lane whose hub a test plays: what it sends, and the answers that it waits for. */
function laneStage(firstEpoch = 0) {
  const clock = new FakeClock()
  const sent: { place: string; answer: PromiseWithResolvers<ProducedInfo> }[] = []
  let ids = 0
  const live: Live = {
    clusterId: 'c',
    isOpen: () => true,
    onLost: never,
    topic: never,
    offset: never,
    subscribe: never,
    credit: never,
    unsubscribe: never,
    producer: async () => ({ producerId: ++ids, producerEpoch: firstEpoch }),
    produce: (_topicId, _partition, _acks, batches) => {
      const { producerId, producerEpoch, baseSequence, recordCount } = readHeader(batches, 0)
      const place = `${producerId}/${producerEpoch} ${baseSequence}+${recordCount}`
      const answer = Promise.withResolvers<ProducedInfo>()
      sent.push({ place, answer })
      return answer.promise
    },
  }
  const lane = createProducerLane(
    { clock, rng: seededRng(1), codec: nodeCodec(), net: { dial: never } },
    { acks: 'all', lingerMs: 0, maxBatchBytes: 1_000, maxInFlight: 5, deliveryTimeoutMs: TIMEOUT_MS },
    {
      partition: 0,
      live: async () => live,
      topicId: () => 't',
      released: () => {},
      batchStarted: () => {},
    },
  )

  async function turns(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
  }

  return {
    clock,
    turns,
    /** What becomes of one record: `stored`, or the code of why not. */
    async send(): Promise<{ fate: string }> {
      const seen = { fate: 'waits' }
      const call = {
        places: new Array<ProducedRecord>(1),
        left: 1,
        resolve: () => {
          seen.fate = 'stored'
        },
        reject: (error: TributaryError) => {
          seen.fate = error.code
        },
      }
      const input = { key: null, value: new Uint8Array(10), headers: [], timestampMs: 1 }
      lane.add({ input, bytes: 10, call, index: 0, sinceMs: clock.monotonicMs() })
      await turns()
      return seen
    },
    async answer(error: TributaryError | null): Promise<void> {
      const { answer } = must(sent.at(-1), 'nothing was sent')
      if (error === null) answer.resolve({ baseOffset: 0 })
      else answer.reject(error)
      await turns()
    },
    /** Producer id, epoch, first sequence and count of every batch sent. */
    places: () => sent.map(({ place }) => place),
  }
}

const lost = new TributaryError('not_available', 'the connection was lost')

test('what follows a batch that was given up has the same producer id, the next epoch, and begins at 0', async () => {
  const stage = laneStage()
  const [first] = [await stage.send()]
  await stage.answer(null)
  const second = await stage.send()
  stage.clock.advance(TIMEOUT_MS + 1)
  await stage.answer(lost)
  expect([first.fate, second.fate]).toEqual(['stored', 'timeout'])
  await stage.send()
  await stage.answer(new TributaryError('record_too_large', 'no'))
  const last = await stage.send()
  await stage.answer(null)
  expect(last.fate).toBe('stored')
  expect(stage.places()).toEqual(['1/0 0+1', '1/0 1+1', '1/1 0+1', '1/2 0+1'])
})

test('an id without further epochs is followed by another', async () => {
  const stage = laneStage(32_766)
  for (let round = 0; round < 3; round++) {
    await stage.send()
    await stage.answer(new TributaryError('record_too_large', 'no'))
  }
  expect(stage.places()).toEqual(['1/32766 0+1', '1/32767 0+1', '2/32766 0+1'])
})

test('an id that somebody else has, of a hub that went back, is left to them', async () => {
  const stage = laneStage()
  const refused = await stage.send()
  await stage.answer(new TributaryError('fenced', 'a newer instance has epoch 3'))
  expect(refused.fate).toBe('fenced')
  await stage.send()
  expect(stage.places()).toEqual(['1/0 0+1', '2/0 0+1'])
})

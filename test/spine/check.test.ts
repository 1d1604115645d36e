import { expect, it } from 'vitest'
import { buildBatch } from '../../common/batch-builder.ts'
import { utf8 } from '../../common/bytes.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'
import type { Topic } from '../../hub/ports.ts'
import type { RunControl } from '../../hub/replica/control.ts'
import { gapBatch, gapControl, runBatch } from '../../hub/replica/control.ts'
import { simCodec } from '../sim/codec.ts'
import type { Life } from './book.ts'
import { Book } from './book.ts'
import { readAll } from './check.ts'

const topic: Topic = {
  name: 'alpha',
  topicId: '00000000000000000000000000000000',
  partitions: 1,
  replication: null,
  internal: false,
  createdMs: 0,
  config: {
    retentionMs: 604_800_000,
    retentionBytes: null,
    segmentBytes: 256 * 1024 * 1024,
    maxRecordBytes: 1024 * 1024,
    minInsyncReplicas: null,
    uncleanLeaderElection: false,
  },
}
const lane = { edge: 'e1', lane: 0 }
const OWN = FIRST_RUN_ID + 1
const NEXT = FIRST_RUN_ID + 2
const nowhere = { from: 0, to: 0, localFrom: 0, localTo: 0, firstMs: null, lastMs: 0 }
const forkDeclared = gapBatch(gapControl(lane, { run: NEXT, reason: 'fork', ...nowhere }, null))
const first = runBatch({ ...lane, run: OWN, prev: null, reason: 'first' })

/** A directory whose run has five records, and a copy that was made after two of them and goes on with three others. */
function twins() {
  const book = new Book()
  const life: Life = { parent: null, edgeId: 'e1', lanes: new Map() }
  const offer = (by: Life): string => {
    const record = book.offer('e1', 'alpha', 0)
    book.ack(record, by)
    return record.id
  }
  const original = Array.from({ length: 5 }, () => offer(life))
  const copied: Life = { parent: life, edgeId: 'e1', lanes: new Map([['alpha/0', { base: 2, ids: [] }]]) }
  const copy = Array.from({ length: 3 }, () => offer(copied))
  const run = { run: OWN, start: 0, end: null, prev: null, reason: 'first' as const }
  book.seen(run, life, 'alpha', 0)
  const next = { run: NEXT, start: 2, end: null, prev: { run: OWN, end: 2 }, reason: 'next' as const }
  book.seen(next, copied, 'alpha', 0)
  return { book, original, copy }
}

function follows(end: number, reason: RunControl['reason'] = 'next'): Uint8Array {
  return runBatch({ ...lane, run: NEXT, prev: { run: OWN, end }, reason })
}

function data(producerId: number, baseSequence: number, ids: readonly string[]): Uint8Array {
  const records = ids.map(id => ({ key: null, value: utf8(id), headers: [], timestampMs: 0 }))
  return buildBatch(records, { producerId, baseSequence })
}

function judged(book: Book, ...batches: Uint8Array[]): Promise<unknown> {
  async function* read(): AsyncIterable<Uint8Array> {
    yield* batches
  }
  return readAll({ book, codec: simCodec, read }, [topic])
}

it('lets a copy go on where its own part of a run ended, where the hub says that it holds more of that', async () => {
  const { book, original, copy } = twins()
  await judged(book, first, data(OWN, 0, original), follows(2), forkDeclared, data(NEXT, 0, copy))
})

it('finds a lane that goes back without a word', async () => {
  const { book, original, copy } = twins()
  const undeclared = judged(book, first, data(OWN, 0, original), follows(2), data(NEXT, 0, copy))
  await expect(undeclared).rejects.toThrow('comes after offset 4')
})

it('finds a lane that goes back further than the declared fork', async () => {
  const { book, original, copy } = twins()
  const twoBack = judged(book, first, data(OWN, 0, original), follows(4), forkDeclared, data(NEXT, 0, copy))
  await expect(twoBack).rejects.toThrow('comes after offset 3')
})

it('takes a fork for no excuse where the run before was held to no more than its end', async () => {
  const { book, original, copy } = twins()
  const exact = judged(
    book,
    first,
    data(OWN, 0, original),
    follows(5, 'fork'),
    forkDeclared,
    data(NEXT, 0, copy),
  )
  await expect(exact).rejects.toThrow('comes after offset 4')
})

it('finds a run that follows what is neither held nor declared', async () => {
  const { book, original } = twins()
  const hole = judged(book, first, data(OWN, 0, original.slice(0, 1)), follows(2))
  await expect(hole).rejects.toThrow('of which 1 are told of')
})

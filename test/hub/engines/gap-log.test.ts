import { expect, it } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { utf8Text } from '../../../common/bytes.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { GapNotice } from '../../../hub/engines/cluster/gap-log.ts'
import { createGapLog, encodeNotice } from '../../../hub/engines/cluster/gap-log.ts'
import type { PartitionTable } from '../../../hub/engines/cluster/partitions.ts'
import type { Route } from '../../../hub/engines/cluster/routes.ts'
import type { Topic } from '../../../hub/ports.ts'
import type { Partition } from '../../../hub/replica/partition.ts'
import { openOn } from '../replica/harness.ts'

const REF = { topicId: 'gaps', partition: 0, leaderEpoch: 1 }
const ROUTE: Route = { at: 'here', leaderEpoch: 1 }

const TOPIC: Topic = {
  name: '_gaps',
  topicId: 'gaps',
  partitions: 1,
  replication: 2,
  internal: true,
  createdMs: 1,
  config: {
    retentionMs: null,
    retentionBytes: null,
    segmentBytes: 65_536,
    maxRecordBytes: 10_000,
    minInsyncReplicas: null,
    uncleanLeaderElection: false,
  },
}

function noticeAt(offset: number): GapNotice {
  const source = { topic: 't', topicId: 't', partition: 0, offset }
  const lost = { edge: 'e', lane: 0, run: 1, from: offset, to: offset + 1, count: 1, keys: null }
  return { ...source, ...lost, reason: 'retention', firstMs: null, lastMs: null, declaredMs: 1 }
}

/** `_gaps` led here with a follower that says how far it is when the test wants it; of the appends those named are refused. */
async function led(refused: readonly number[]) {
  const { partition } = await openOn({ leaderEpoch: 1 })
  const seats = { replicas: [1, 2], isr: [1, 2], leaderEpoch: 1, partitionEpoch: 1 }
  partition.assign({ kind: 'leader', self: 1, seats, required: 1 })
  let appends = 0
  const partitions: Pick<PartitionTable, 'peek' | 'use'> = {
    peek: () => partition,
    use: (_topic, _number, use) => {
      if (!refused.includes(++appends)) return use(partition)
      return Promise.reject(new TributaryError('throttled', 'too much waits for the disk'))
    },
  }
  const log = createGapLog({
    partitions,
    routes: {
      enter: async (_topic, _number, _waitMs, run) => run(ROUTE),
      now: () => ROUTE,
      topic: () => TOPIC,
    },
  })
  const commit = (): void => {
    if (partition.inSync()?.reported(2, 1, partition.bounds().endOffset) === true) partition.watermarkMoved()
  }
  return { partition, log, commit }
}

async function offsetsTold(partition: Partition): Promise<number[]> {
  const told: number[] = []
  const { batches } = await partition.read(0, 1_000_000)
  for (const { at } of eachBatch(batches)) {
    for (const { value } of decodePlain(batches, at))
      told.push(JSON.parse(utf8Text(value ?? new Uint8Array(0))).offset)
  }
  return told
}

/** Lets what is under way go on until it waits. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
}

const notices = [10, 20].map(offset => encodeNotice(noticeAt(offset)))

it('a notice that waits to be committed is not written again when another one of its call was refused', async () => {
  const { partition, log, commit } = await led([2])
  const first = log.write(REF, notices)
  first.catch(() => {})
  await turns()
  const again = log.write(REF, notices)
  await turns()
  commit()
  await expect(first).rejects.toMatchObject({ code: 'throttled' })
  await turns()
  commit()
  await again
  expect(await offsetsTold(partition)).toEqual([10, 20])
})

it('a notice written at once, that waits to be committed, is not written again by who was refused another one', async () => {
  const { partition, log, commit } = await led([2])
  const written = log.writeNow('gaps', noticeAt(10))
  const refused = log.writeNow('gaps', noticeAt(20))
  await expect(refused).rejects.toMatchObject({ code: 'throttled' })
  const again = log.write(REF, notices)
  await turns()
  commit()
  await written
  await turns()
  commit()
  await again
  expect(await offsetsTold(partition)).toEqual([10, 20])
})

import { describe, expect, it } from 'vitest'
import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { utf8, utf8Text } from '../../../common/bytes.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { Log } from '../../../common/log/types.ts'
import type { ImageRecord } from '../../../hub/controller/image.ts'
import type { MetadataRecord } from '../../../hub/controller/records.ts'
import { encodeRecord } from '../../../hub/controller/records.ts'
import { METADATA_LOG, openMetadata } from '../../../hub/engines/cluster/metadata.ts'
import { createSoleVoter } from '../../../hub/engines/cluster/sole-voter.ts'
import { memberId } from '../../../hub/raft/types.ts'
import { codeOf } from '../replica/harness.ts'
import { environment, storage } from './stage.ts'

const NEVER = Number.POSITIVE_INFINITY
const LOG_OPTIONS = {
  segmentBytes: 1 << 20,
  segmentMs: NEVER,
  retentionBytes: NEVER,
  retentionMs: NEVER,
  maxBatchBytes: 1 << 20,
}
const SELF = memberId(1, 'd')

async function emptyLog() {
  const env = environment()
  const dataDir = await openDataDir('/hub', storage, env)
  return { env, dataDir, log: await dataDir.openLog('raft', LOG_OPTIONS) }
}

/** Offset, term and value of each record; null is a leader's own. */
async function entriesIn(log: Log): Promise<[number, number, string | null][]> {
  const { batches } = await log.read(log.startOffset(), 1 << 20)
  return [...eachBatch(batches)].flatMap(({ at, header }) =>
    decodePlain(batches, at).map(({ offset, value }): [number, number, string | null] => {
      return [offset, header.leaderEpoch, value === null ? null : utf8Text(value)]
    }),
  )
}

function topicRecord(topicId: string): ImageRecord {
  const config = {
    retentionMs: null,
    retentionBytes: null,
    segmentBytes: 65_536,
    maxRecordBytes: 1_024,
    minInsyncReplicas: null,
    uncleanLeaderElection: false,
  }
  const common = { replication: null, internal: false, config, atMs: 1 }
  return { type: 'topic_created', topicId, name: topicId, partitions: 1, ...common }
}

describe('a sole voter', () => {
  it('has the offset as index and the leader epoch as term, and begins each with an entry of its own', async () => {
    const { env, dataDir, log } = await emptyLog()
    const first = createSoleVoter(log, env.clock, SELF, 0)
    expect(await entriesIn(log)).toEqual([])
    await first.commit([utf8('a'), utf8('b')])
    await first.commit([utf8('c')])
    await createSoleVoter(log, env.clock, SELF, 1).commit([utf8('d')])
    expect(await entriesIn(log)).toEqual([
      [0, 1, null],
      [1, 1, 'a'],
      [2, 1, 'b'],
      [3, 1, 'c'],
      [4, 2, null],
      [5, 2, 'd'],
    ])
    await dataDir.close()
  })

  it('commits all of a call or nothing, and after a refusal leads anew', async () => {
    const { env, dataDir, log } = await emptyLog()
    const voter = createSoleVoter(log, env.clock, SELF, 0)
    const large = new Uint8Array(LOG_OPTIONS.maxBatchBytes)
    expect(await codeOf(voter.commit([utf8('a'), large]))).toBe('record_too_large')
    expect(log.endOffset()).toBe(0)
    await voter.commit([utf8('b')])
    expect(await codeOf(voter.commit([large]))).toBe('record_too_large')
    await voter.commit([utf8('c')])
    expect(await entriesIn(log)).toEqual([
      [0, 2, null],
      [1, 2, 'b'],
      [2, 3, null],
      [3, 3, 'c'],
    ])
    await dataDir.close()
  })

  it('acks nothing before the disk has it', async () => {
    const { env, dataDir, log } = await emptyLog()
    const release = env.disk.holdSyncs()
    let done = false
    const commit = createSoleVoter(log, env.clock, SELF, 0)
      .commit([utf8('a')])
      .then(() => {
        done = true
      })
    for (let turn = 0; turn < 50; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(done).toBe(false)
    release()
    await commit
    await dataDir.close()
  })
})

describe('metadata', () => {
  it('has the records of one request in one entry', async () => {
    const env = environment()
    const dataDir = await openDataDir('/hub', storage, env)
    const metadata = await openMetadata(dataDir, env.clock, () => {})
    await metadata.submit(() => ({ records: [topicRecord('a'), topicRecord('b')], response: null }))
    await dataDir.close()
    const again = await openDataDir('/hub', storage, env)
    expect((await again.openLog(METADATA_LOG, LOG_OPTIONS)).endOffset()).toBe(2)
    await again.close()
  })

  it('of versions before the consensus core opens and goes on', async () => {
    const env = environment()
    const before = await openDataDir('/hub', storage, env)
    const log = await before.openLog(METADATA_LOG, LOG_OPTIONS)
    // One record a value, no terms, and snapshots within the log.
    const groups: MetadataRecord[][] = [
      [topicRecord('forgotten')],
      [{ type: 'snapshot' }, topicRecord('a')],
      [topicRecord('b'), { type: 'producer_ids', next: 7 }],
    ]
    for (const records of groups) {
      const values = records.map(record => ({
        key: null,
        value: encodeRecord(record),
        headers: [],
        timestampMs: 1,
      }))
      await log.append(buildBatch(values))
    }
    await before.close()
    for (const made of ['c', 'd']) {
      const dataDir = await openDataDir('/hub', storage, env)
      const metadata = await openMetadata(dataDir, env.clock, () => {})
      expect(metadata.image().nextProducerId()).toBe(7)
      await metadata.submit(() => ({ records: [topicRecord(made)], response: null }))
      await dataDir.close()
    }
    const dataDir = await openDataDir('/hub', storage, env)
    const metadata = await openMetadata(dataDir, env.clock, () => {})
    const names = metadata.image().topics()
    expect(names.map(({ name }) => name)).toEqual(['a', 'b', 'c', 'd'])
    await dataDir.close()
  })
})

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { eachBatch } from '../../../../common/batch.ts'
import { buildBatch } from '../../../../common/batch-builder.ts'
import { decodePlain } from '../../../../common/batch-records.ts'
import { openDataDir } from '../../../../common/log/data-dir.ts'
import type { Log, LogOptions } from '../../../../common/log/types.ts'
import type { MetadataRecord } from '../../../../hub/controller/records.ts'
import { decodeRecords, encodeRecord } from '../../../../hub/controller/records.ts'
import { METADATA_LOG } from '../../../../hub/engines/cluster/quorum/storage.ts'
import { SMALL_DISK_BYTES } from '../../../fake-disk.ts'
import { codeOf } from '../../replica/harness.ts'
import { environment, storage } from '../stage.ts'
import { connect, edgesOf, QuorumStage } from './stage.ts'

/** A cluster of one, whose voter has nobody to ask. */

const NEVER = Number.POSITIVE_INFINITY
const LOG_OPTIONS: LogOptions = {
  segmentBytes: 1 << 20,
  segmentMs: NEVER,
  retentionBytes: NEVER,
  retentionMs: NEVER,
  maxBatchBytes: 1 << 20,
}

let seeds = 0
let stage: QuorumStage

beforeEach(() => {
  stage = new QuorumStage(++seeds)
})

afterEach(() => stage.close())

/** The metadata log of a node that is down. */
async function withLog<T>(act: (log: Log) => Promise<T>): Promise<T> {
  const { disk } = stage.node(1)
  const dataDir = await openDataDir('/hub', storage, environment(disk, stage.clock))
  const result = await act(await dataDir.openLog(METADATA_LOG, LOG_OPTIONS))
  await dataDir.close()
  return result
}

/** Offset, term and types of the records of each entry; none of a leader's own. */
function entriesOnDisk(): Promise<[number, number, string][]> {
  return withLog(async log => {
    const { batches } = await log.read(log.startOffset(), 1 << 20)
    return [...eachBatch(batches)].flatMap(({ at, header }) =>
      decodePlain(batches, at).map(({ offset, value }): [number, number, string] => {
        const types = value === null ? [] : decodeRecords(value).map(({ type }) => type)
        return [offset, header.leaderEpoch, types.join(' ')]
      }),
    )
  })
}

describe('a sole voter', () => {
  it('has the offset as index and the leader epoch as term, and the records of a request in one entry', async () => {
    for (const id of ['a', 'b']) {
      const metadata = await stage.lead()
      await Promise.all([connect(metadata, id), connect(metadata, `${id}${id}`)])
      await stage.stop(1)
    }
    expect(await entriesOnDisk()).toEqual([
      [0, 1, ''],
      [1, 1, 'edge_registered session_granted'],
      [2, 1, 'edge_registered session_granted'],
      [3, 2, ''],
      [4, 2, 'edge_registered session_granted'],
      [5, 2, 'edge_registered session_granted'],
    ])
  })

  it('shows and answers nothing before the disk has it', async () => {
    const metadata = await stage.lead()
    const release = stage.node(1).disk.holdSyncs()
    let done = false
    const connected = connect(metadata, 'a').then(() => {
      done = true
    })
    await stage.pass(1_000)
    expect([done, edgesOf(metadata)]).toEqual([false, []])
    release()
    await connected
    expect(edgesOf(metadata)).toEqual(['a'])
  })

  it('refuses what the disk has no room for, forgets what was judged upon it, and goes on', async () => {
    stage.node(1).disk.setCapacity(SMALL_DISK_BYTES)
    const metadata = await stage.lead()
    await connect(metadata, 'a')
    const { disk } = stage.node(1)
    disk.setCapacity(disk.usedBytes() - storage.reserveBytes)
    const refused = ['b', 'b', 'c'].map(id => codeOf(connect(metadata, id)))
    expect(await stage.run(Promise.all(refused))).toEqual(['disk_full', 'disk_full', 'disk_full'])
    expect(await stage.run(codeOf(connect(metadata, 'd')))).toBe('disk_full')
    expect(edgesOf(metadata)).toEqual(['a'])
    disk.setCapacity(NEVER)
    expect(await stage.run(connect(metadata, 'b'))).toMatchObject({ session: 1 })
    await stage.stop(1)
    expect(edgesOf(await stage.lead())).toEqual(['a', 'b'])
  })

  it('waits where the disk has too much to do already', async () => {
    const metadata = await stage.lead()
    const { disk, up } = stage.node(1)
    const other = await up?.dataDir.openLog('other', { ...LOG_OPTIONS, segmentBytes: 1 << 30 })
    const release = disk.holdSyncs()
    let full = false
    const waiting: (Promise<unknown> | undefined)[] = []
    // Until not even a small one may wait for the disk any more.
    for (const size of [900_000, 90_000, 9_000, 900, 0]) {
      for (full = false; !full; await new Promise(resolve => setImmediate(resolve))) {
        const batch = buildBatch([{ key: null, value: new Uint8Array(size), headers: [], timestampMs: 1 }])
        const refused = (): void => {
          full = true
        }
        waiting.push(other?.append(batch).catch(refused))
      }
    }
    const connected = connect(metadata, 'a')
    await stage.pass(100)
    expect([edgesOf(metadata), metadata.status().role]).toEqual([[], 'leader'])
    release()
    await Promise.all(waiting)
    await stage.run(connected)
    expect([edgesOf(metadata), metadata.status().term]).toEqual([['a'], 1])
  })

  it('stops for good where a sync failed', async () => {
    const metadata = await stage.lead()
    await connect(metadata, 'a')
    stage.node(1).disk.failSyncs(1)
    expect(await codeOf(connect(metadata, 'b'))).toBe('disk_failed')
    expect(await codeOf(connect(metadata, 'c'))).toBe('disk_failed')
    expect(stage.node(1).failure?.code).toBe('disk_failed')
    expect(edgesOf(metadata)).toEqual(['a'])
  })

  it('has after a crash what it answered, whatever else was lost', async () => {
    for (let round = 0; round < 40; round++) {
      stage = new QuorumStage(1_000 + round)
      const answered: string[] = []
      for (let life = 0; life < 3; life++) {
        const metadata = await stage.lead()
        expect(edgesOf(metadata)).toEqual(expect.arrayContaining(answered))
        for (let at = 0; at < 6; at++) {
          const id = `${life}-${at}`
          connect(metadata, id).then(
            () => answered.push(id),
            () => {},
          )
          for (let turns = stage.rng.below(8); turns > 0; turns--)
            await new Promise(resolve => setImmediate(resolve))
        }
        stage.crash(1)
      }
      expect(edgesOf(await stage.lead())).toEqual(expect.arrayContaining(answered))
      await stage.close()
    }
  })

  it('keeps its log short by snapshots, and comes back from the newest', async () => {
    const metadata = await stage.lead()
    const software = 's'.repeat(200)
    let logBytes = 0
    for (let round = 0; round < 75; round++) {
      const connects = Array.from({ length: 1_000 }, (_, at) =>
        metadata.submit('connect-edge', { edgeId: `e${at}`, session: round, address: 'a', software }),
      )
      await stage.run(Promise.all(connects))
      logBytes = Math.max(logBytes, metadata.stats().logBytes)
    }
    expect(logBytes).toBeGreaterThan(3 << 20)
    expect(metadata.stats().logBytes).toBeLessThan(5 << 20)
    const sessions = metadata
      .image()
      .edges()
      .map(({ session }) => session.newest)
    stage.node(1).disk = stage.node(1).disk.copy()
    stage.crash(1)
    const again = await stage.lead()
    expect(
      again
        .image()
        .edges()
        .map(({ session }) => session.newest),
    ).toEqual(sessions)
    expect(again.stats().snapshotFailures).toBe(0)
  })

  it('goes on in a longer log where the disk has no room for a snapshot', async () => {
    const metadata = await stage.lead()
    const software = 's'.repeat(200)
    const { disk } = stage.node(1)
    for (let round = 0; metadata.stats().snapshotFailures === 0; round++) {
      const connects = Array.from({ length: 1_000 }, (_, at) =>
        metadata.submit('connect-edge', { edgeId: `e${at}`, session: round, address: 'a', software }),
      )
      await stage.run(Promise.all(connects))
      disk.setCapacity(disk.usedBytes() + 600_000)
    }
    disk.setCapacity(NEVER)
    await stage.run(connect(metadata, 'last'))
    await stage.stop(1)
    expect(edgesOf(await stage.lead())).toHaveLength(1_001)
  })

  it('starts with what is left where its log is damaged', async () => {
    const metadata = await stage.lead()
    for (const id of ['a', 'b', 'c']) await connect(metadata, id)
    await stage.stop(1)
    const { disk } = stage.node(1)
    const path = disk.paths().find(name => name.includes(METADATA_LOG) && name.endsWith('.log')) ?? ''
    disk.flipBit(path, Buffer.from(disk.contentOf(path)).indexOf('edge_registered'), 1)
    for (const expected of [
      ['b', 'c', 'd'],
      ['b', 'c', 'd', 'e'],
    ]) {
      const again = await stage.lead()
      await connect(again, expected.at(-1) ?? '')
      expect(edgesOf(again)).toEqual(expected)
      await stage.stop(1)
    }
  })

  it('starts with what is left where its snapshot is damaged', async () => {
    await openBefore([[edgeRecord('a')], [edgeRecord('b')]])
    await stage.lead()
    await stage.stop(1)
    const { disk } = stage.node(1)
    const path = '/hub/metadata.snapshot'
    disk.flipBit(path, Buffer.from(disk.contentOf(path)).indexOf('edge_registered'), 1)
    expect(edgesOf(await stage.lead())).toEqual(['b'])
  })
})

function edgeRecord(edgeId: string): MetadataRecord {
  return { type: 'edge_registered', edgeId, atMs: 1 }
}

/** A directory of versions before there was a quorum: several records a batch, no terms, snapshots within the log. */
async function openBefore(groups: readonly MetadataRecord[][]): Promise<void> {
  await withLog(async log => {
    for (const records of groups) {
      const values = records.map(record => ({
        key: null,
        value: encodeRecord(record),
        headers: [],
        timestampMs: 1,
      }))
      await log.append(buildBatch(values), { leaderEpoch: 3 })
    }
  })
}

describe('a directory of before', () => {
  it('opens and goes on, its terms behind the old ones', async () => {
    await openBefore([
      [edgeRecord('forgotten')],
      [{ type: 'snapshot' }, edgeRecord('a')],
      [edgeRecord('b'), { type: 'producer_ids', next: 7 }],
    ])
    for (const [at, made] of ['c', 'd'].entries()) {
      const metadata = await stage.lead()
      expect(metadata.status().term).toBe(4 + at)
      expect(metadata.image().nextProducerId()).toBe(7)
      await connect(metadata, made)
      await stage.stop(1)
    }
    expect(edgesOf(await stage.lead())).toEqual(['a', 'b', 'c', 'd'])
  })

  it('is whole where the first start of this version was cut short', async () => {
    for (let seed = 1; seed < 20; seed++) {
      stage = new QuorumStage(seed)
      await openBefore([[edgeRecord('a')], [edgeRecord('b')]])
      const starting = stage.start(1).then(() => stage.node(1).up?.metadata.start())
      for (let turns = seed; turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
      const { disk } = stage.node(1)
      const after = disk.crash()
      await starting.catch(() => {})
      stage.node(1).up = null
      stage.node(1).disk = after
      expect(edgesOf(await stage.lead())).toEqual(['a', 'b'])
      await stage.close()
    }
  })
})

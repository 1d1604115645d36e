import { describe, expect, it } from 'vitest'
import { buildBatch } from '../../../common/batch-builder.ts'
import { openDataDir } from '../../../common/log/data-dir.ts'
import type { ImageRecord } from '../../../hub/controller/image.ts'
import { METADATA_LOG, openMetadata } from '../../../hub/engines/cluster/metadata.ts'
import { plainOf } from '../replica/batches.ts'
import { codeOf } from '../replica/harness.ts'
import { environment, hello, restart, start, storage, values } from './stage.ts'

/** What the engine must survive: refusals of its own log, deletions cut short, more of something than it has room for. */

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

describe('metadata', () => {
  it('forgets what was judged when its log refused it, whatever the reason', async () => {
    const env = environment()
    const dataDir = await openDataDir('/hub', storage, env)
    const metadata = await openMetadata(dataDir, env.clock, () => {})
    const other = await dataDir.openLog('other', {
      segmentBytes: 1 << 30,
      segmentMs: Number.POSITIVE_INFINITY,
      retentionBytes: Number.POSITIVE_INFINITY,
      retentionMs: Number.POSITIVE_INFINITY,
      maxBatchBytes: 1 << 20,
    })
    await metadata.submit(() => ({ records: [topicRecord('kept')], response: null }))
    const release = env.disk.holdSyncs()
    const waiting: Promise<unknown>[] = []
    // Until not even a small one may wait for the disk any more.
    for (const size of [900_000, 90_000, 9_000, 900, 0]) {
      let full = false
      for (let at = 0; at < 160 && !full; at++) {
        const batch = buildBatch([{ key: null, value: new Uint8Array(size), headers: [], timestampMs: 1 }])
        waiting.push(
          other.append(batch).catch(() => {
            full = true
          }),
        )
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    const refused = metadata.submit(() => ({ records: [topicRecord('refused')], response: null }))
    expect(await codeOf(refused)).toBe('throttled')
    release()
    await Promise.all(waiting)
    await metadata.submit(() => ({ records: [topicRecord('later')], response: null }))
    const names = (): string[] =>
      metadata
        .image()
        .topics()
        .map(({ name }) => name)
    expect(names()).toEqual(['kept', 'later'])
    await dataDir.close()
  })

  it('whose snapshot does not fit the journal goes on in a longer log', async () => {
    let hub = await start()
    const software = 'x'.repeat(200)
    // An image of 2 MB where a commit takes 1 MB, written over until a snapshot is due.
    const sessions = new Map<string, number>()
    for (let round = 0; round < 9; round++) {
      for (let from = 0; from < 6_000; from += 500) {
        const connects = Array.from({ length: 500 }, async (_, at) => {
          const id = `edge-${from + at}`
          const granted = await hub.fleet.connect({ ...hello(id, sessions.get(id) ?? 0), software })
          sessions.set(id, granted.session)
        })
        await Promise.all(connects)
      }
    }
    expect(hub.engine.stats().metadata.snapshotFailures).toBeGreaterThan(0)
    hub = await restart(hub, 'kill')
    expect(hub.fleet.list().length).toBe(6_000)
    expect(hub.fleet.list().every(({ id, session }) => session === sessions.get(id))).toBe(true)
    await hub.engine.close()
  })

  it('opened by two is one log: the second is refused', async () => {
    const env = environment()
    const dataDir = await openDataDir('/hub', storage, env)
    await openMetadata(dataDir, env.clock, () => {})
    expect(await codeOf(openMetadata(dataDir, env.clock, () => {}))).toBe('invalid_argument')
    expect(dataDir.logNames()).toEqual([METADATA_LOG])
    await dataDir.close()
  })
})

describe('a deleted topic', () => {
  it('leaves no producer snapshots, also where the hub was stopped in between', async () => {
    let hub = await start()
    const { topicId } = await hub.topics.create({ name: 'a', partitions: 2 })
    const folder = `/hub/producers/${topicId}`
    for (const partition of [0, 1]) await hub.logs.append(topicId, partition, plainOf(['x']), 'all')
    const snapshots = (): string[] => hub.env.disk.paths().filter(path => path.startsWith(folder))
    await hub.env.disk.replaceFile(`${folder}/0/${'0'.repeat(19)}1.snapshot`, new Uint8Array(1))
    const before = hub.env.disk.copy()
    await hub.topics.delete('a')
    expect(snapshots()).toEqual([])
    await hub.engine.close()
    // The deletion was committed, and nothing removed yet.
    for (const path of before.paths().filter(known => known.startsWith(folder))) {
      await hub.env.disk.mkdir(path.slice(0, path.lastIndexOf('/')))
      await hub.env.disk.replaceFile(path, before.contentOf(path))
    }
    hub = await start(environment(hub.env.disk))
    expect(snapshots()).toEqual([])
    await hub.engine.close()
  })

  it('whose folders still wait for their sync fails nothing', async () => {
    const hub = await start()
    await hub.topics.create({ name: 'kept', partitions: 1 })
    for (let round = 0; round < 5; round++) {
      const { topicId } = await hub.topics.create({ name: 'a', partitions: 1 })
      await hub.logs.append(topicId, 0, plainOf(['x'.repeat(1_000)]), 'all')
      await hub.topics.delete('a')
      const kept = hub.topics.byName('kept').topicId
      // More than both halves of the journal, so that checkpoints are written.
      for (let at = 0; at < 12; at++)
        await hub.logs.append(kept, 0, plainOf([`${at}`.repeat(200_000)]), 'all')
    }
    expect(hub.notReadyReason()).toBeNull()
    expect((await values(hub, 'kept')).length).toBe(60)
    await hub.engine.close()
  })
})

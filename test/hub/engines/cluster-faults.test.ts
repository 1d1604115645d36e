import { describe, expect, it } from 'vitest'
import { plainOf } from '../replica/batches.ts'
import { environment, start, values } from './stage.ts'

/** What the engine must survive: deletions cut short, more of something than it has room for. */

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

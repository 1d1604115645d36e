import { expect, test } from 'vitest'
import { openDataDir } from '../../../../common/log/data-dir.ts'
import type { DataDir, FlushMode } from '../../../../common/log/types.ts'
import type { QuorumStorage } from '../../../../hub/engines/cluster/quorum/storage.ts'
import { openQuorumStorage } from '../../../../hub/engines/cluster/quorum/storage.ts'
import { FakeClock, seededRng } from '../../../fake-clock.ts'
import { FakeDisk } from '../../../fake-disk.ts'
import { storage } from '../stage.ts'

/** What the cluster makes of a directory that ran with `flush: async`. */

async function open(
  disk: FakeDisk,
  flush: FlushMode,
): Promise<{ disk: FakeDisk; dataDir: DataDir; quorum: QuorumStorage }> {
  const clock = new FakeClock()
  const dataDir = await openDataDir('/hub', { ...storage, flush }, { clock, rng: seededRng(2), disk })
  const quorum = await openQuorumStorage({
    dataDir,
    disk,
    clock,
    rng: seededRng(3),
    nodeId: 1,
    onDamage: () => {},
  })
  return { disk, dataDir, quorum }
}

test('an unclean stop costs the seats of its partitions once, whenever the cluster hears of it', async () => {
  const first = await open(new FakeDisk({ rng: seededRng(1) }), 'async')
  expect(first.quorum.lostData()).toBe(false)
  await first.quorum.saveClusterId('c')
  // Not told yet by the second start, which is cut short.
  const second = await open(first.disk.crash(), 'commit')
  const third = await open(second.disk.crash(), 'commit')
  expect([second.quorum.lostData(), third.quorum.lostData()]).toEqual([true, true])
  expect(third.quorum.clusterId()).toBe('c')
  await third.quorum.forgetLoss()
  const fourth = await open(third.disk.crash(), 'commit')
  expect(fourth.quorum.lostData()).toBe(false)
})

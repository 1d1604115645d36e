import type { Patch } from './patches.ts'

/** Constants of the product that are so large that what they lead to would not happen in half a minute; small ones here. */

const constant = (file: string, name: string, small: string): Patch => ({
  file,
  find: new RegExp(`const ${name} = .*`),
  replace: `const ${name} = ${small}`,
})

const KEEPER = 'hub/replica/snapshot-keeper.ts'

export const KNOBS: readonly Patch[] = [
  constant(
    'hub/engines/cluster/quorum/snapshots.ts',
    'SNAPSHOT_LIMITS: SnapshotLimits',
    '{ fromBytes: 8_000, atRatio: 2, keptEntries: 10 }',
  ),
  constant('hub/engines/cluster/maintenance.ts', 'MAINTENANCE_MS', '2 * SECOND_MS'),
  constant('hub/engines/cluster/duties.ts', 'VOTER_GONE_MS', '10 * SECOND_MS'),
  constant('edge/forwarder.ts', 'DELETED_RETRY_MS', '5_000'),
  constant(KEEPER, 'SNAPSHOT_AFTER_BYTES', '32_000'),
  constant(KEEPER, 'SNAPSHOT_FOR_RETENTION_MS', '3_000'),
  constant(KEEPER, 'SNAPSHOT_AFTER_MS', '10_000'),
]

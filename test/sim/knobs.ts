import type { Patch } from './patches.ts'

/** Constants of the product that are so large that what they lead to would not happen in half a minute; small ones here. */

const constant = (file: string, name: string, small: string): Patch => ({
  file,
  find: new RegExp(`const ${name} = .*`),
  replace: `const ${name} = ${small}`,
})

const SNAPSHOTS = 'hub/engines/cluster/quorum/snapshots.ts'
const KEEPER = 'hub/replica/snapshot-keeper.ts'

export const KNOBS: readonly Patch[] = [
  constant(SNAPSHOTS, 'SNAPSHOT_FROM_BYTES', '6_000'),
  constant(SNAPSHOTS, 'KEPT_ENTRIES', '20'),
  constant('hub/engines/cluster/maintenance.ts', 'MAINTENANCE_MS', '2 * SECOND_MS'),
  constant(KEEPER, 'SNAPSHOT_AFTER_BYTES', '32_000'),
  constant(KEEPER, 'SNAPSHOT_FOR_RETENTION_MS', '3_000'),
  constant(KEEPER, 'SNAPSHOT_AFTER_MS', '10_000'),
]

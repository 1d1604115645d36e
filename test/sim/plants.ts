import type { Patch } from './patches.ts'

/** Bugs to be planted in the production code: a checker that never fires is worth nothing. */

export interface Plant extends Patch {
  name: string
  /** Within so many seeds it must be caught. */
  seeds: number
}

export const PLANTS: readonly Plant[] = [
  {
    name: 'skip an fsync',
    file: 'common/log/data-dir.ts',
    find: "await disk.open(journalPath(path, 0), 'durable')",
    replace: "await disk.open(journalPath(path, 0), 'write')",
    seeds: 40,
  },
  {
    name: 'vote twice',
    file: 'hub/raft/election.ts',
    find: 'const free = raft.vote === message.from || (raft.vote === null && raft.leader === null)',
    replace: 'const free = true',
    seeds: 400,
  },
  {
    name: 'free edge data on next instead of committed',
    file: 'edge/forward-lane.ts',
    find: 'run.start + tip.committed, run.end',
    replace: 'run.start + tip.next, run.end',
    seeds: 100,
  },
]

/** The planted bug of that name. */
export function plantOf(name: string): Plant {
  const plant = PLANTS.find(each => each.name === name)
  if (plant === undefined) throw new Error(`there is no planted bug "${name}"`)
  return plant
}

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
    find: "flush === 'commit' ? 'durable' : 'write'",
    replace: "flush === 'commit' ? 'write' : 'write'",
    seeds: 60,
  },
  {
    name: 'ack before the in-sync set has it',
    file: 'hub/replica/in-sync.ts',
    find: 'for (const { durableEnd } of counted) if (durableEnd < least) least = durableEnd',
    replace: '',
    seeds: 200,
  },
  {
    name: 'count the un-synced end of the leader',
    file: 'hub/replica/partition.ts',
    find: 'this.#inSync?.own(durableEnd)',
    replace: 'this.#inSync?.own(this.#store?.log.endOffset() ?? durableEnd)',
    seeds: 400,
  },
  {
    name: 'count the un-synced end of a follower',
    file: 'hub/replica/following.ts',
    find: 'durableEnd: log.durableEndOffset() }',
    replace: 'durableEnd: log.endOffset() }',
    seeds: 400,
  },
  {
    name: 'truncate by high watermark instead of epoch',
    file: 'hub/replica/following.ts',
    find: 'store.cutAfter(divergence(store.epochs, before, told))',
    replace: 'store.cutAfter(Math.min(before, known.highWatermark))',
    seeds: 400,
  },
  {
    name: 'keep a producer snapshot past a truncation',
    file: 'hub/replica/store.ts',
    find: 'await snapshots.dropAfter(offset)\n',
    replace: '',
    seeds: 400,
  },
  {
    name: 'keep what producers did past a truncation',
    file: 'hub/replica/store.ts',
    find: 'await log.truncateAfter(offset)\n      await rebuild()',
    replace: 'await log.truncateAfter(offset)\n      reflected.end = log.endOffset()',
    seeds: 400,
  },
  {
    name: "lead under an old incarnation's epoch",
    file: 'hub/engines/cluster/replication.ts',
    find: "if (leaderIncarnation !== incarnation) return { kind: 'idle', leader: null, leaderEpoch }",
    replace: 'void [leaderIncarnation, incarnation]',
    seeds: 200,
  },
  {
    name: 'let a wiped directory keep its seat',
    file: 'hub/controller/nodes.ts',
    find: 'const lost = lostData || (known !== undefined && known.directoryId !== request.directoryId)',
    replace: 'const lost = lostData && known === undefined',
    seeds: 400,
  },
  {
    name: 'vote twice',
    file: 'hub/raft/election.ts',
    find: 'const free = raft.vote === message.from || (raft.vote === null && raft.leader === null)',
    replace: 'const free = true',
    seeds: 400,
  },
  {
    name: 'vote for a log that lacks what is committed',
    file: 'hub/raft/election.ts',
    find: 'const granted = raft.log.isUpToDate(message.last)',
    replace: 'const granted = true',
    seeds: 400,
  },
  {
    name: 'commit by counting what is not durable at followers',
    file: 'hub/raft/node.ts',
    find: 'after: dependent ? after : 0',
    replace: 'after: dependent ? 0 : 0',
    seeds: 400,
  },
  {
    name: 'evaluate two changes of an in-sync set against the same state',
    file: 'hub/controller/isr.ts',
    find: 'state.partitionEpoch !== change.partitionEpoch',
    replace: 'false',
    seeds: 400,
  },
  {
    name: 'elect whom the in-sync set lacks',
    file: 'hub/controller/nodes.ts',
    find: 'return image.topicById(topicId)?.config.uncleanLeaderElection ?? false',
    replace: 'return image.topicById(topicId) !== undefined',
    seeds: 200,
  },
  {
    name: 'serve beyond the high watermark',
    file: 'hub/replica/leader.ts',
    find: 'const [startOffset, highWatermark] = [log.startOffset(), inSync.highWatermark()]',
    replace: 'const [startOffset, highWatermark] = [log.startOffset(), log.durableEndOffset()]',
    seeds: 200,
  },
  {
    name: 'free edge data on next instead of committed',
    file: 'edge/forward-lane.ts',
    find: 'run.start + tip.committed, run.end',
    replace: 'run.start + tip.next, run.end',
    seeds: 400,
  },
  {
    name: "expire an edge's run",
    file: 'hub/replica/producers.ts',
    find: '    let expired = 0\n',
    replace:
      '    let expired = 0\n    for (const [key, { run }] of this.#lanes) if (this.#lanes.delete(key)) this.#runs.delete(run)\n',
    seeds: 100,
  },
  {
    name: 'drop a gap',
    file: 'hub/replica/producers.ts',
    find: 'return gapLeft(id, this.lane(id), gap)',
    replace: 'return gap.from % 2 === 1 ? null : gapLeft(id, this.lane(id), gap)',
    seeds: 200,
  },
  {
    name: 'take a batch that is there already',
    file: 'hub/replica/client-producers.ts',
    find: 'if (stored.baseSequence === baseSequence && stored.lastSequence === lastSequence) return stored',
    replace: 'if (stored.baseSequence === baseSequence && stored.lastSequence === lastSequence) return null',
    seeds: 100,
  },
]

/** The planted bug of that name. */
export function plantOf(name: string): Plant {
  const plant = PLANTS.find(each => each.name === name)
  if (plant === undefined) throw new Error(`there is no planted bug "${name}"`)
  return plant
}

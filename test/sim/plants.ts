import type { Patch } from './patches.ts'
import type { Wanted } from './swarm.ts'

/** Bugs to be planted in the production code: a checker that never fires is worth nothing. */

export interface Plant {
  name: string
  /** Several where one layer alone would make up for what another one lacks. */
  patches: readonly Patch[]
  /** Within so many seeds it must be caught. */
  seeds: number
  /** Makes what it does harm in come often; all of it comes in ordinary seeds too. */
  wanted?: Wanted
}

/** Power goes, often everywhere, while disks are slow. */
const POWER: Wanted = {
  nodes: 3,
  faults: ['all nodes power', 'node slow disk'],
  faultEveryMs: 1_000,
}
/** Leaders go, and those that follow them are not equally far. */
const FAILOVER: Wanted = {
  nodes: 3,
  faults: ['followers uneven', 'node slow disk'],
  faultEveryMs: 1_000,
  latencyMs: 10,
}

export const PLANTS: readonly Plant[] = [
  {
    name: 'skip an fsync',
    seeds: 40,
    patches: [
      {
        file: 'common/log/data-dir.ts',
        find: "flush === 'commit' ? 'durable' : 'write'",
        replace: "flush === 'commit' ? 'write' : 'write'",
      },
    ],
  },
  {
    name: 'ack before the in-sync set has it',
    seeds: 40,
    patches: [
      {
        file: 'hub/replica/in-sync.ts',
        find: 'for (const { durableEnd } of counted) if (durableEnd < least) least = durableEnd',
        replace: '',
      },
    ],
  },
  {
    name: 'count the un-synced end of the leader',
    seeds: 40,
    wanted: { nodes: 1, faults: ['node power', 'node slow disk'], faultEveryMs: 1_000 },
    patches: [
      {
        file: 'hub/replica/partition.ts',
        find: 'this.#inSync?.own(durableEnd)',
        replace: 'this.#inSync?.own(this.#store?.log.endOffset() ?? durableEnd)',
      },
    ],
  },
  {
    name: 'count the un-synced end of a follower',
    seeds: 20,
    wanted: POWER,
    patches: [
      {
        file: 'hub/replica/following.ts',
        find: 'durableEnd: log.durableEndOffset() }',
        replace: 'durableEnd: log.endOffset() }',
      },
    ],
  },
  {
    name: 'truncate by high watermark instead of epoch',
    seeds: 60,
    wanted: FAILOVER,
    patches: [
      {
        file: 'hub/replica/following.ts',
        find: 'store.cutAfter(divergence(store.epochs, before, told))',
        replace: 'store.cutAfter(Math.min(before, known.highWatermark))',
      },
    ],
  },
  {
    name: 'keep a producer snapshot past a truncation',
    seeds: 120,
    wanted: FAILOVER,
    patches: [
      { file: 'hub/replica/store.ts', find: 'await snapshots.dropAfter(offset)\n', replace: '' },
      { file: 'hub/replica/log-access.ts', find: 'await snapshots.dropAfter(end)\n', replace: '' },
      {
        file: 'hub/replica/snapshot-keeper.ts',
        find: 'if (!(await whenCovered(offset))) return',
        replace: 'void whenCovered',
      },
    ],
  },
  {
    name: 'keep what producers did past a truncation',
    seeds: 40,
    wanted: FAILOVER,
    patches: [
      {
        file: 'hub/replica/store.ts',
        find: 'await log.truncateAfter(offset)\n      await rebuild()',
        replace: 'await log.truncateAfter(offset)\n      reflected.end = log.endOffset()',
      },
    ],
  },
  {
    name: "lead under an old incarnation's epoch",
    seeds: 40,
    patches: [
      {
        file: 'hub/engines/cluster/replication.ts',
        find: "if (leaderIncarnation !== incarnation) return { kind: 'idle', leader: null, leaderEpoch }",
        replace: 'void [leaderIncarnation, incarnation]',
      },
      {
        file: 'hub/controller/election.ts',
        find: 'nodes.incarnation(leader) === leaderIncarnation &&',
        replace: '',
      },
      {
        file: 'hub/controller/nodes.ts',
        find: 'const next = { ...given, ...times, nodeId, incarnation, fenced: true,',
        replace: 'const next = { ...given, ...times, nodeId, incarnation, fenced: known?.fenced ?? true,',
      },
    ],
  },
  {
    name: 'let a wiped directory keep its seat',
    seeds: 60,
    patches: [
      {
        file: 'hub/controller/nodes.ts',
        find: 'const lost = lostData || (known !== undefined && known.directoryId !== request.directoryId)',
        replace: 'const lost = lostData && known === undefined',
      },
      {
        file: 'hub/controller/nodes.ts',
        find: 'if (known !== undefined && !known.fenced && known.directoryId !== directoryId) {',
        replace: 'if (known !== undefined && !known.fenced && directoryId === null) {',
      },
      {
        file: 'hub/controller/nodes.ts',
        find: 'const next = { ...given, ...times, nodeId, incarnation, fenced: true,',
        replace: 'const next = { ...given, ...times, nodeId, incarnation, fenced: known?.fenced ?? true,',
      },
    ],
  },
  {
    name: 'vote twice',
    seeds: 120,
    patches: [
      {
        file: 'hub/raft/election.ts',
        find: 'const free = raft.vote === message.from || (raft.vote === null && raft.leader === null)',
        replace: 'const free = true',
      },
    ],
  },
  {
    name: 'vote for a log that lacks what is committed',
    seeds: 60,
    patches: [
      {
        file: 'hub/raft/election.ts',
        find: 'const granted = raft.log.isUpToDate(message.last)',
        replace: 'const granted = true',
      },
    ],
  },
  {
    name: 'commit by counting what is not durable at followers',
    seeds: 20,
    wanted: POWER,
    patches: [
      { file: 'hub/raft/node.ts', find: 'after: dependent ? after : 0', replace: 'after: dependent ? 0 : 0' },
    ],
  },
  {
    name: 'evaluate two changes of an in-sync set against the same image',
    seeds: 40,
    patches: [
      {
        file: 'hub/engines/cluster/quorum/speculation.ts',
        find: 'const image = speculativeImage()',
        replace: 'const image = context.image().copy()',
      },
    ],
  },
  {
    name: 'elect whom the in-sync set lacks',
    seeds: 40,
    patches: [
      {
        file: 'hub/controller/nodes.ts',
        find: 'return image.topicById(topicId)?.config.uncleanLeaderElection ?? false',
        replace: 'return image.topicById(topicId) !== undefined',
      },
    ],
  },
  {
    name: 'serve beyond the high watermark',
    seeds: 40,
    patches: [
      {
        file: 'hub/replica/leader.ts',
        find: 'const [startOffset, highWatermark] = [log.startOffset(), inSync.highWatermark()]',
        replace: 'const [startOffset, highWatermark] = [log.startOffset(), log.durableEndOffset()]',
      },
    ],
  },
  {
    name: 'free edge data on next instead of committed',
    seeds: 60,
    wanted: {
      ...FAILOVER,
      faults: ['followers uneven', 'node slow disk', 'node cut off', 'partition one way'],
    },
    patches: [
      {
        file: 'edge/forward-lane.ts',
        find: 'run.start + tip.committed, run.end',
        replace: 'run.start + tip.next, run.end',
      },
    ],
  },
  {
    name: "expire an edge's run",
    seeds: 40,
    patches: [
      {
        file: 'hub/replica/producers.ts',
        find: '    let expired = 0\n',
        replace:
          '    let expired = 0\n    for (const [key, { run }] of this.#lanes) if (this.#lanes.delete(key)) this.#runs.delete(run)\n',
      },
    ],
  },
  {
    name: 'drop a gap',
    seeds: 40,
    patches: [
      {
        file: 'hub/replica/producers.ts',
        find: 'return gapLeft(id, this.lane(id), gap)',
        replace: 'return gap.from % 2 === 1 ? null : gapLeft(id, this.lane(id), gap)',
      },
    ],
  },
  {
    name: 'take a batch that is there already',
    seeds: 40,
    patches: [
      {
        file: 'hub/replica/client-producers.ts',
        find: 'if (stored.baseSequence === baseSequence && stored.lastSequence === lastSequence) return stored',
        replace:
          'if (stored.baseSequence === baseSequence && stored.lastSequence === lastSequence) return null',
      },
    ],
  },
]

/** The planted bug of that name. */
export function plantOf(name: string): Plant {
  const plant = PLANTS.find(each => each.name === name)
  if (plant === undefined) throw new Error(`there is no planted bug "${name}"`)
  return plant
}

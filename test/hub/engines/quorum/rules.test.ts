import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { NodeState } from '../../../../hub/controller/types.ts'
import {
  decodeConfig,
  decodeHardState,
  decodeMessage,
  encodeConfig,
  encodeHardState,
  encodeMessage,
} from '../../../../hub/engines/cluster/quorum/codec.ts'
import { foundingStep } from '../../../../hub/engines/cluster/quorum/founding.ts'
import {
  decodeSnapshotFile,
  encodeSnapshotFile,
} from '../../../../hub/engines/cluster/quorum/snapshot-file.ts'
import type { VotersStep } from '../../../../hub/engines/cluster/quorum/voters.ts'
import { nextStep } from '../../../../hub/engines/cluster/quorum/voters.ts'
import type { Config, MemberId, Message } from '../../../../hub/raft/types.ts'
import { memberId, nodeIdOf } from '../../../../hub/raft/types.ts'

/** What is decided, and how it is written, without a shell. */

function node(nodeId: number, change: Partial<NodeState> = {}): NodeState {
  return {
    nodeId,
    directoryId: `d${nodeId}`,
    incarnation: nodeId,
    peerAddress: null,
    httpAddress: '',
    rack: null,
    software: '',
    startId: null,
    registeredMs: 0,
    changedMs: 0,
    fenced: false,
    left: false,
    draining: false,
    ...change,
  }
}

const seat = (id: number, directory = `d${id}`): MemberId => memberId(id, directory)

/** Takes steps until there is none; the leader moves with `transfer`. */
function settle(
  config: Config,
  nodes: readonly NodeState[],
  longGone: readonly number[] = [],
  leader = config.voters[0] ?? seat(1),
  unheard: readonly number[] = [],
): { steps: string[]; config: Config } {
  const steps: string[] = []
  let self = leader
  let now = config
  for (;;) {
    const step = nextStep({
      config: now,
      self,
      nodes,
      hasLog: member => !unheard.includes(nodeIdOf(member)),
      isLongGone: id => longGone.includes(id),
    })
    if (step === null) return { steps, config: now }
    steps.push(`${step.t} ${step.t === 'transfer' ? step.to : step.member}`)
    if (steps.length > 30) throw new Error(`no end: ${steps.join(', ')}`)
    if (step.t === 'transfer') self = step.to
    else now = changed(now, step)
  }
}

function changed({ voters, learners }: Config, step: Exclude<VotersStep, { t: 'transfer' }>): Config {
  const { t, member } = step
  const others = { voters: voters.filter(v => v !== member), learners: learners.filter(l => l !== member) }
  if (t === 'promote') return { ...others, voters: [...others.voters, member] }
  return t === 'remove' ? others : { ...others, learners: [...others.learners, member] }
}

function votersOf({ voters }: Config): number[] {
  return voters.map(nodeIdOf).sort((left, right) => left - right)
}

describe('seats', () => {
  const alone: Config = { voters: [seat(1)], learners: [] }
  const three: Config = { voters: [1, 2, 3].map(id => seat(id)), learners: [] }

  it('are one vote for one and two nodes, three for three and four, five from five on', () => {
    const wanted = [1, 1, 3, 3, 5, 5]
    for (const [at, count] of wanted.entries()) {
      const nodes = Array.from({ length: at + 1 }, (_, index) => node(index + 1))
      const { config } = settle(alone, nodes)
      expect(config.voters).toHaveLength(count)
      expect(config.voters.length + config.learners.length).toBe(nodes.length)
    }
  })

  it('grow to three only when both that are wanted are there', () => {
    const nodes = [node(1), node(2), node(3, { fenced: true })]
    expect(settle(alone, nodes).config.voters).toEqual([seat(1)])
  })

  it('of a former directory go first, and the node comes back as a learner that is promoted', () => {
    const nodes = [node(1), node(2), node(3, { directoryId: 'new' })]
    expect(settle(three, nodes).steps).toEqual(['remove 3/d3', 'add-learner 3/new', 'promote 3/new'])
  })

  it('of a node that drains are given away before they are given up, by a leader too', () => {
    const nodes = [node(1, { draining: true }), node(2), node(3), node(4)]
    const { steps, config } = settle({ ...three, learners: [seat(4)] }, nodes)
    expect(steps).toEqual(['promote 4/d4', 'transfer 2/d2', 'demote 1/d1'])
    expect(votersOf(config)).toEqual([2, 3, 4])
  })

  it('shrink with the cluster, the one of a drained sole voter goes to the other node', () => {
    expect(votersOf(settle(three, [node(1, { draining: true }), node(2), node(3)]).config)).toEqual([2])
    expect(votersOf(settle(three, [node(1), node(2)]).config)).toEqual([1])
    expect(votersOf(settle(alone, [node(1, { draining: true }), node(2)]).config)).toEqual([2])
  })

  it('of a node that is gone for long go to another, where there is one', () => {
    const gone = node(3, { fenced: true })
    expect(settle(three, [node(1), node(2), gone], [3]).steps).toEqual([])
    const { steps } = settle({ ...three, learners: [seat(4)] }, [node(1), node(2), gone, node(4)], [3])
    expect(steps).toEqual(['demote 3/d3', 'promote 4/d4'])
  })

  it('of a node that is gone for long stay while another voter is silent: those that are left could decide nothing', () => {
    const [lost, gone] = [node(1, { fenced: true }), node(3, { fenced: true })]
    const four: Config = { ...three, learners: [seat(4)] }
    expect(settle(four, [lost, node(2), gone, node(4)], [3], seat(2)).steps).toEqual([])
    const { steps } = settle(four, [lost, node(2), node(3), node(4)], [1], seat(2))
    expect(steps).toEqual(['demote 1/d1', 'promote 4/d4'])
  })

  it('of a node that is gone for long stay until who is left has acked to this leader: it may have died with the one before', () => {
    const four: Config = { ...three, learners: [seat(4)] }
    const nodes = [node(1, { fenced: true }), node(2), node(3), node(4)]
    expect(settle(four, nodes, [1], seat(2), [3]).steps).toEqual([])
    expect(settle(four, nodes, [1], seat(2)).steps).toEqual(['demote 1/d1', 'promote 4/d4'])
  })

  it('of a leader whose node was removed go when another leads', () => {
    expect(settle(three, [node(2), node(3)]).steps.slice(0, 2)).toEqual(['transfer 2/d2', 'remove 1/d1'])
  })

  it('come to rest, odd in number and never without the leader, whatever the nodes', () => {
    const anyNode = fc.record({ fenced: fc.boolean(), draining: fc.boolean(), wiped: fc.boolean() })
    fc.assert(
      fc.property(fc.array(anyNode, { minLength: 1, maxLength: 7 }), fc.array(fc.nat(6)), (given, gone) => {
        const nodes = given.map(({ fenced, draining, wiped }, at) => {
          const leads = at === 0
          const directoryId = wiped && !leads ? 'new' : `d${at + 1}`
          return node(at + 1, { fenced: fenced && !leads, draining, directoryId })
        })
        const silent = nodes.filter(({ fenced, nodeId }) => fenced && gone.includes(nodeId))
        const voters = nodes.slice(0, 3).map(({ nodeId }) => seat(nodeId))
        const { config } = settle(
          { voters, learners: [] },
          nodes,
          silent.map(({ nodeId }) => nodeId),
        )
        expect(config.voters.length).toBeGreaterThan(0)
        const members = [...config.voters, ...config.learners].map(nodeIdOf)
        expect(new Set(members).size).toBe(members.length)
        expect(members.length).toBe(nodes.length)
      }),
    )
  })
})

describe('an empty directory', () => {
  const step = (nodeId: number, heard: Record<number, string | null>) =>
    foundingStep({
      nodeId,
      peers: [1, 2, 3],
      heard: new Map(Object.entries(heard).map(([id, cluster]) => [Number(id), cluster])),
    })

  it('founds alone', () => {
    expect(foundingStep({ nodeId: 4, peers: [], heard: new Map() })).toEqual({ t: 'found' })
    expect(foundingStep({ nodeId: 4, peers: [4], heard: new Map() })).toEqual({ t: 'found' })
  })

  it('founds as the lowest, when all others say that they are part of none', () => {
    expect(step(1, {})).toEqual({ t: 'wait', nodes: [2, 3] })
    expect(step(1, { 2: null })).toEqual({ t: 'wait', nodes: [3] })
    expect(step(1, { 2: null, 3: null })).toEqual({ t: 'found' })
    expect(step(2, { 1: null, 3: null })).toEqual({ t: 'wait', nodes: [1] })
  })

  it('joins what anybody is part of, also as the one that founded it once', () => {
    expect(step(1, { 2: 'c' })).toEqual({ t: 'join', clusterId: 'c' })
    expect(step(3, { 1: null, 2: 'c' })).toEqual({ t: 'join', clusterId: 'c' })
  })

  it('takes neither of two clusters', () => {
    expect(step(3, { 1: 'a', 2: 'b' })).toEqual({ t: 'torn', clusterIds: ['a', 'b'] })
  })
})

/** Buffers and plain byte arrays look alike. */
function bytesAsText(key: string, value: unknown): unknown {
  if (key !== 'payload' || typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => {
      return [name, field instanceof Uint8Array ? Array.from(field).join(' ') : field]
    }),
  )
}

describe('bytes', () => {
  const common = { from: seat(1), to: seat(2), term: 7 }
  const position = { index: -1, term: 0 }
  const config = { voters: [seat(1)], learners: [seat(2), seat(3)] }
  const messages: Message[] = [
    { ...common, t: 'pre-vote', last: position },
    { ...common, t: 'pre-vote-reply', granted: true },
    { ...common, t: 'vote', last: { index: 5, term: 3 }, transfer: true },
    { ...common, t: 'vote-reply', granted: false },
    { ...common, t: 'append', prev: position, commit: -1, entries: [] },
    {
      ...common,
      t: 'append',
      prev: { index: 3, term: 2 },
      commit: 2,
      entries: [
        { index: 4, term: 2, payload: { t: 'noop' } },
        { index: 5, term: 2, payload: { t: 'data', bytes: new Uint8Array([1, 2]) } },
        { index: 6, term: 7, payload: { t: 'data', bytes: new Uint8Array(0) } },
        { index: 7, term: 7, payload: { t: 'config', config } },
      ],
    },
    { ...common, t: 'append-ok', match: 9 },
    { ...common, t: 'append-refused', prevIndex: 8, hint: position },
    { ...common, t: 'heartbeat', acked: { index: 5, term: 3 }, commit: 4 },
    { ...common, t: 'heartbeat-reply' },
    { ...common, t: 'snapshot', snapshot: { index: 9, term: 4, config } },
    { ...common, t: 'timeout-now' },
  ]

  it('of messages, members, terms and votes say what went in', () => {
    for (const message of messages) {
      const plain = (value: Message): unknown => JSON.parse(JSON.stringify(value, bytesAsText))
      expect(plain(decodeMessage(encodeMessage(message)))).toEqual(plain(message))
    }
    expect(decodeConfig(encodeConfig(config))).toEqual(config)
    for (const vote of [null, seat(1)])
      expect(decodeHardState(encodeHardState({ term: 3, vote }))).toEqual({ term: 3, vote })
  })

  it('that are no message are refused as such', () => {
    const whole = messages.map(encodeMessage)
    fc.assert(
      fc.property(fc.constantFrom(...whole), fc.nat(), fc.nat(255), (bytes, at, value) => {
        const broken = Uint8Array.from(bytes)
        broken[at % broken.length] = value
        try {
          decodeMessage(broken)
        } catch (error) {
          expect(error).toMatchObject({ code: 'protocol_error' })
        }
      }),
    )
  })

  it('of a snapshot cost the records that are damaged, and no others', () => {
    const records = [1, 2, 3].map(value => new Uint8Array(20).fill(value))
    const mark = { index: 3, term: 2, config }
    const file = encodeSnapshotFile(mark, records)
    expect(decodeSnapshotFile(file)).toEqual({ mark, records, damaged: 0 })
    const at = Buffer.from(file).indexOf(2, file.length - 60)
    const damaged = Uint8Array.from(file)
    damaged[at + 3] = 9
    expect(decodeSnapshotFile(damaged)).toEqual({ mark, records: [records[0], records[2]], damaged: 1 })
    expect(decodeSnapshotFile(file.subarray(0, file.length - 5))).toMatchObject({ damaged: 1 })
  })
})

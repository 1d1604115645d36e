import { assert, must } from '../../../common/assert.ts'
import { utf8 } from '../../../common/bytes.ts'
import type { Rng } from '../../../common/env.ts'
import type { Raft } from '../../../hub/raft/state.ts'
import type { ConfigChange, MemberId, Message } from '../../../hub/raft/types.ts'
import { seededRng } from '../../rng.ts'
import type { Seen } from './invariants.ts'
import { createInvariants } from './invariants.ts'
import type { Member } from './stage.ts'
import { emptyDisk, founding, Stage, seat } from './stage.ts'

const STEPS = 2_000
const MAX_NETWORK = 80
/** Healed, the members must agree again within so many rounds of one tick each. */
const RECOVERY_ROUNDS = 150
const CHANGES: readonly ConfigChange['t'][] = [
  'add-learner',
  'add-learner',
  'promote',
  'promote',
  'demote',
  'remove',
]

/**
 * One schedule of faults: members crash and lose what was not synced, messages are lost, doubled, reordered and cut off,
 * members come and go, snapshots are taken at any time. Then all heals, and the members must agree on all that was
 * committed and go on. Throws where a promise is broken.
 */
export function runSchedule(seed: number): Seen {
  const rng = seededRng(seed)
  const invariants = createInvariants()
  const options = { electionTicks: 3 + rng.below(8), maxMessageEntries: 1 + rng.below(4) }
  const stage = new Stage(invariants, options)
  const voters = rng.below(2) === 0 ? [1, 2, 3] : [1, 2, 3, 4, 5]
  const mark = founding(voters, rng.below(2) === 0 ? [] : [6])
  const random = (): number => rng.float()
  for (const id of voters) stage.add(seat(id), emptyDisk(mark), random)
  stage.add(seat(6), emptyDisk(mark.config.learners.length > 0 ? mark : founding([])), random)
  stage.add(seat(7), emptyDisk(founding([])), random)
  const play = createPlay(stage, rng, invariants.started)
  for (let at = 0; at < STEPS; at++) play.act()
  play.heal()
  recover(stage, play, invariants.committed.length)
  return invariants.seen
}

function createPlay(stage: Stage, rng: Rng, started: (member: Member) => void) {
  const ids = [...stage.members.keys()]
  const cut = new Set<string>()
  const lossOneIn = 4 + rng.below(30)
  let proposals = 0

  function pick<T>(from: readonly T[]): T | undefined {
    return from[rng.below(from.length)]
  }

  function upMembers(fits: (raft: Raft) => boolean = () => true): MemberId[] {
    return ids.filter(id => {
      const { raft } = stage.member(id)
      return raft !== null && fits(raft)
    })
  }

  const hasWrites = (id: MemberId): boolean => stage.member(id).writes.length > 0
  const leaders = (): MemberId[] => upMembers(raft => raft.role === 'leader')

  function lose(message: Message): void {
    if (message.t === 'snapshot') stage.transferred(message, false)
  }

  function deliver(): void {
    // Mostly in order, sometimes any.
    const at = rng.below(3) === 0 ? rng.below(stage.network.length) : 0
    const [message] = stage.network.splice(at, 1)
    if (message === undefined) return
    if (cut.has(`${message.from} ${message.to}`) || rng.below(lossOneIn) === 0) {
      lose(message)
      return
    }
    if (rng.below(12) === 0) stage.network.push(message)
    stage.deliver(message)
  }

  function propose(): void {
    const leader = pick(leaders())
    if (leader === undefined) return
    const count = 1 + rng.below(3)
    const data = Array.from({ length: count }, () => utf8(`p${proposals++}`))
    stage.step(leader, { t: 'propose', data })
  }

  function change(): void {
    const leader = pick(leaders())
    const [t, member] = [pick(CHANGES), pick(ids)]
    if (leader !== undefined && t !== undefined && member !== undefined) {
      stage.step(leader, { t: 'change', change: { t, member } })
    }
  }

  function transfer(): void {
    const [leader, to] = [pick(leaders()), pick(ids)]
    if (leader !== undefined && to !== undefined) stage.step(leader, { t: 'transfer', to })
  }

  function snapshot(): void {
    const id = pick(upMembers(raft => raft.applied > raft.snapshot.index))
    if (id === undefined) return
    const { disk } = stage.member(id)
    const { applied, configs, log } = stage.raft(id)
    const term = must(log.termAt(applied), 'what is applied is held')
    // A snapshot stands beside the log: until a write that was handed out before it is through, the log is as it was.
    if (stage.member(id).writes.length > 0) return
    disk.snapshot = { index: applied, term, config: configs.at(applied) }
    disk.entries = disk.entries.filter(entry => entry.index > applied)
    stage.step(id, { t: 'snapshotted', index: applied, keepFrom: Math.max(0, applied + 1 - rng.below(4)) })
  }

  function restart(id: MemberId): void {
    stage.start(id)
    started(stage.member(id))
  }

  function crash(): void {
    const id = pick(upMembers())
    if (id !== undefined) stage.crash(id)
  }

  /** A leader goes while most of what it said is still on its way: what it began is left in every state there is. */
  function overthrow(): void {
    const leader = pick(leaders())
    if (leader === undefined) return
    const kept: Message[] = []
    const lost: Message[] = []
    for (const message of stage.network) (rng.below(3) === 0 ? kept : lost).push(message)
    stage.network = kept
    for (const message of lost) lose(message)
    if (rng.below(2) === 0) stage.sync(leader)
    stage.crash(leader)
  }

  function cutOrHeal(): void {
    if (cut.size > 0 && rng.below(2) === 0) {
      cut.clear()
      return
    }
    const [from, to] = [pick(ids), pick(ids)]
    if (from === undefined || to === undefined) return
    // One way, both ways, or all of one member's links.
    const others = rng.below(3) === 0 ? ids : [to]
    for (const other of others) {
      cut.add(`${from} ${other}`)
      if (rng.below(2) === 0) cut.add(`${other} ${from}`)
    }
  }

  /** Mostly a tick, sometimes all patience at once: elections are where it gets hard. */
  function tick(id: MemberId): void {
    const ticks = rng.below(8) === 0 ? 2 * stage.options.electionTicks : 1
    for (let at = 0; at < ticks; at++) stage.step(id, { t: 'tick' })
  }

  const usual: readonly [number, () => void][] = [
    [90, deliver],
    [50, () => void withOne(ids.filter(hasWrites), id => stage.sync(id))],
    [
      30,
      () =>
        void withOne(
          upMembers(raft => raft.configs.current().voters.includes(raft.self)),
          tick,
        ),
    ],
    [5, () => void withOne(upMembers(), tick)],
    [14, propose],
    [5, change],
    [2, transfer],
    [5, snapshot],
    [3, crash],
    [3, overthrow],
    [
      6,
      () =>
        void withOne(
          ids.filter(id => stage.member(id).raft === null),
          restart,
        ),
    ],
    [3, cutOrHeal],
  ]
  // Each schedule has a temper of its own: what is rare in one is common in another.
  const actions = usual.map(([weight, action]) => [weight * (0.2 + 3 * rng.float() ** 2), action] as const)
  const total = actions.reduce((sum, [weight]) => sum + weight, 0)

  function withOne(from: readonly MemberId[], act: (id: MemberId) => void): void {
    const id = pick(from)
    if (id !== undefined) act(id)
  }

  return {
    act: (): void => {
      let at = rng.float() * total
      for (const [weight, action] of actions) {
        at -= weight
        if (at >= 0) continue
        action()
        break
      }
      for (const lost of stage.network.splice(0, stage.network.length - MAX_NETWORK)) lose(lost)
    },
    heal: (): void => {
      cut.clear()
      for (const id of ids) if (stage.member(id).raft === null) restart(id)
    },
    leaders,
  }
}

/** Without faults: a leader comes up, takes a proposal, and every member of its configuration applies it all. */
function recover(stage: Stage, play: ReturnType<typeof createPlay>, committed: number): void {
  let wanted: { index: number; term: number } | null = null
  for (let round = 0; round < RECOVERY_ROUNDS; round++) {
    for (const id of stage.members.keys()) {
      stage.step(id, { t: 'tick' })
      stage.settle()
    }
    const leader = play.leaders().sort((left, right) => stage.raft(right).term - stage.raft(left).term)[0]
    if (leader === undefined) continue
    const raft = stage.raft(leader)
    if (wanted === null || wanted.term !== raft.term) {
      const { outcome } = stage.step(leader, { t: 'propose', data: [utf8('last')] })
      wanted = outcome?.taken ? outcome : null
      continue
    }
    const { voters, learners } = raft.configs.current()
    const { index } = wanted
    if ([...voters, ...learners].every(id => stage.raft(id).applied >= index)) {
      assert(raft.applied >= committed - 1, 'committed entries are lost')
      return
    }
  }
  throw new Error('healed, the members do not come to agree')
}

import { assert } from '../../common/assert.ts'
import { Durability } from './durability.ts'
import { RaftLog } from './log.ts'
import { Configs } from './membership.ts'
import type { Progress } from './progress.ts'
import type {
  Config,
  Entry,
  HardState,
  MemberId,
  Message,
  MessageBody,
  Outcome,
  Promised,
  RaftOptions,
  Role,
  SnapshotMark,
} from './types.ts'

/** What a member finds on its disk, or is founded with. */
export interface Restored {
  readonly hardState: HardState
  /** The newest snapshot. A founder has one before the first entry, with the first voters; who joins has one without members. */
  readonly snapshot: SnapshotMark
  /** What is durable behind the snapshot, without a hole. */
  readonly entries: readonly Entry[]
}

/** A leader that hands over (thesis 3.10). */
export interface Transfer {
  readonly to: MemberId
  ticks: number
  /** The target was told to stand. */
  told: boolean
}

/** A message of the step under way; `dependent`: it promises what may not be durable yet. */
interface Said {
  readonly message: Message
  readonly dependent: boolean
}

/** A member's state: the core's own, to be changed by `step` alone (node.ts). */
export interface Raft {
  readonly options: RaftOptions
  readonly self: MemberId
  /** currentTerm and votedFor (paper Figure 2). */
  term: number
  vote: MemberId | null
  role: Role
  leader: MemberId | null
  log: RaftLog
  configs: Configs
  /** The newest snapshot a follower can be sent. */
  snapshot: SnapshotMark
  /** commitIndex (paper Figure 2). */
  commit: number
  /** Handed to the shell (lastApplied in paper Figure 2). */
  applied: number
  readonly durability: Durability
  /** Since the leader was heard, or a vote given; a leader's: since it last looked for its majority. */
  elapsedTicks: number
  /** Drawn anew whenever `elapsedTicks` starts over (paper section 5.2). */
  timeoutTicks: number
  heartbeatTicks: number
  /** Cast for this member as (pre-)candidate. */
  votes: Map<MemberId, boolean>
  /** A leader's, of all other members. */
  progress: Map<MemberId, Progress>
  /** What others promised this member since it came up. */
  promises: Map<MemberId, Promised>
  /** This member's log lacks what it acked. */
  forgot: boolean
  transfer: Transfer | null
  /** Bytes of the entries a leader has not committed. */
  uncommittedBytes: number
  /** Of the step under way, in [0, 1). */
  random: number
  said: Said[]
  outcome: Outcome | null
  installed: SnapshotMark | null
  /** Entries from here on were not handed out for writing. */
  unwrittenFrom: number
  writtenHardState: HardState
}

/** A member as it comes up: a follower that knows no leader (paper section 5.2). `random` is in [0, 1). */
export function createRaft(options: RaftOptions, restored: Restored, random: number): Raft {
  const { hardState, snapshot, entries } = restored
  assert(options.heartbeatTicks < options.electionTicks, 'heartbeats must be more frequent than elections')
  const log = new RaftLog(snapshot, entries)
  const configs = new Configs(snapshot.index, snapshot.config)
  configs.appended(entries)
  const raft: Raft = {
    options,
    self: options.self,
    term: hardState.term,
    vote: hardState.vote,
    role: 'follower',
    leader: null,
    log,
    configs,
    snapshot,
    commit: snapshot.index,
    applied: snapshot.index,
    durability: new Durability(hardState, log.lastIndex()),
    elapsedTicks: 0,
    timeoutTicks: 0,
    heartbeatTicks: 0,
    votes: new Map(),
    progress: new Map(),
    promises: new Map(),
    forgot: false,
    transfer: null,
    uncommittedBytes: 0,
    random,
    said: [],
    outcome: null,
    installed: null,
    unwrittenFrom: log.lastIndex() + 1,
    writtenHardState: hardState,
  }
  assert(hardState.term >= log.last().term, 'the log holds a term that the hard state does not know')
  restartTimeout(raft)
  return raft
}

/** The members that count. */
export function configOf(raft: Raft): Config {
  return raft.configs.current()
}

/** Starts the wait for an election over, with a new length (paper section 5.2: randomised, so that votes rarely split). */
export function restartTimeout(raft: Raft): void {
  const { electionTicks } = raft.options
  raft.elapsedTicks = 0
  raft.timeoutTicks = electionTicks + Math.floor(raft.random * electionTicks)
}

/**
 * Goes back to following, in `term` (paper Figure 2, "Rules for Servers": a larger term seen is taken over). The vote
 * lasts as long as the term.
 */
export function becomeFollower(raft: Raft, term: number, leader: MemberId | null): void {
  assert(term >= raft.term, `term ${term} is behind ${raft.term}`)
  if (term > raft.term) {
    raft.term = term
    raft.vote = null
  }
  raft.role = 'follower'
  raft.leader = leader
  raft.votes.clear()
  raft.progress.clear()
  raft.transfer = null
  restartTimeout(raft)
}

/** Says something that holds whatever the disk does; it may leave at once. */
export function say(raft: Raft, to: MemberId, body: MessageBody, term = raft.term): void {
  raft.said.push({ message: { from: raft.self, to, term, ...body }, dependent: false })
}

/** Says something that promises state, so that it may leave only when all of this member's state is durable (thesis 3.8). */
export function promise(raft: Raft, to: MemberId, body: MessageBody): void {
  raft.said.push({ message: { from: raft.self, to, term: raft.term, ...body }, dependent: true })
}

/** Appends behind what is there, members included. */
export function appendEntries(raft: Raft, entries: readonly Entry[]): void {
  raft.log.append(entries)
  raft.configs.appended(entries)
}

/** Takes back the entries from `index` on, which were never committed (paper Figure 2, AppendEntries rule 3). */
export function truncateFrom(raft: Raft, index: number): void {
  assert(index > raft.commit, `entry ${index} is committed (to ${raft.commit}) and can't be taken back`)
  raft.log.truncateFrom(index)
  raft.configs.truncatedFrom(index)
  raft.durability.replacedFrom(index)
  raft.unwrittenFrom = Math.min(raft.unwrittenFrom, index)
}

import type { Clock, Rng } from '../../../common/env.ts'
import { isTributaryError, messageOf, TributaryError } from '../../../common/errors.ts'
import { KIB, MIB } from '../../../common/limits.ts'
import type { RaftFrame, SnapshotChunk } from '../../../common/wire-peer.ts'
import type { Plan } from '../../controller/controller.ts'
import type { Image } from '../../controller/image.ts'
import type { ConfigChange, MemberId, Outcome, RaftOptions, Status } from '../../raft/types.ts'
import { BEFORE_FIRST, nodeIdOf } from '../../raft/types.ts'
import type { Asking, ControllerPeers, Judge } from './quorum/asking.ts'
import { createAsking } from './quorum/asking.ts'
import { createAttempts } from './quorum/attempts.ts'
import { decodeMessage } from './quorum/codec.ts'
import type { Member } from './quorum/member.ts'
import { createMember } from './quorum/member.ts'
import type { LoadedMember } from './quorum/opening.ts'
import { createOutbox } from './quorum/outbox.ts'
import type { SnapshotLimits } from './quorum/snapshots.ts'
import { createSnapshotKeeper } from './quorum/snapshots.ts'
import type { Judged, Speculation } from './quorum/speculation.ts'
import { createSpeculation } from './quorum/speculation.ts'
import { createStanding } from './quorum/standing.ts'
import { createStateMachine } from './quorum/state-machine.ts'
import type { QuorumStorage } from './quorum/storage.ts'
import { createSnapshotReceiver, createSnapshotSender } from './quorum/transfer.ts'
import type { Metadata, Peers } from './types.ts'

/**
 * The cluster's metadata on this node: a member of the quorum, the image of what is committed, the way to the active controller, which
 * may be this node.
 */

/** The only voter whose write failed stands again after so long, or when something is asked of it. */
const RETURN_MS = 250
/** Ticks of an election timeout. */
const ELECTION_TICKS = 10

const RAFT_OPTIONS = {
  electionTicks: ELECTION_TICKS,
  heartbeatTicks: 1,
  maxMessageEntries: 1_000,
  maxMessageBytes: 512 * KIB,
  maxInflightMessages: 16,
  maxInflightBytes: 4 * MIB,
  maxUncommittedEntries: 100_000,
  maxUncommittedBytes: 64 * MIB,
  maxPromotionLagEntries: 1_000,
} satisfies Omit<RaftOptions, 'self'>

export interface MetadataContext {
  clock: Clock
  rng: Rng
  nodeId: number
  electionTimeoutMs: number
  storage: QuorumStorage
  snapshots: SnapshotLimits
  judge: Judge
  /** The node is heard no more, see disk-watch.ts. */
  isAside(): boolean
  peers: Pick<Peers, 'send'> & ControllerPeers
  /** Other nodes that may know the controller, by what is configured and what the metadata says. */
  otherNodes(): readonly number[]
}

export interface QuorumMetadata extends Metadata {
  /** Judges as the active controller, where this node is that. */
  propose<Response>(rule: (image: Image) => Plan<Response>): Promise<Judged<Response>>
  /** The term in which this node is the active controller, else null. */
  activeTerm(): number | null
  /** Called whenever this node becomes the active controller, ceases to be it, or another is heard of. */
  onController(listener: () => void): void
  /** Called once when the metadata can't go on: the process must end. */
  onFailed(listener: (error: TributaryError) => void): void
  /** Answers another node's request. */
  answer: Asking['answer']
  /** As the member tells; see there. */
  kept: Member['kept']
  promisedBy: Member['promisedBy']
  /** The directory turned out to be an older copy: the seat is given up, and the metadata can't go on in this process. */
  retire(): Promise<void>
  /** The metadata can't go on. */
  fail(error: TributaryError): void
  receive(frame: RaftFrame | SnapshotChunk): void
  /** The process of a node is gone: where that led, nobody need wait for it. */
  suspect(nodeId: number): void
  /** A node answers again: who waits for a controller may try. */
  back(nodeId: number): void
  change(change: ConfigChange): Outcome | null
  transfer(to: MemberId): Outcome | null
  status(): Status
  /** Whether the member acked to this leader and has the log, as far as that knows, but for a little. */
  hasLog(member: MemberId): boolean
  /** Who this node is in the quorum. */
  seat(): MemberId
  /** The leader that was heard last, and when; null before any. */
  leaderHeard(): LeaderHeard | null
  /** Whether nobody else has a vote. */
  isAlone(): boolean
  /** Stands for election at once where nobody else could. */
  start(): void
  stats(): MetadataStats
  /** Finishes what is written, refuses what is asked from now on. */
  close(): Promise<void>
}

export interface LeaderHeard {
  readonly nodeId: number
  /** Monotonic. */
  readonly atMs: number
}

export interface MetadataStats {
  requests: number
  commits: number
  /** Elections that this node stood in. */
  elections: number
  term: number
  /** The node that leads the quorum, null where none is known. */
  leader: number | null
  isActive: boolean
  commitIndex: number
  appliedIndex: number
  voters: number
  learners: number
  snapshotFailures: number
  logBytes: number
  /** This node's disk hangs, and it stands aside. */
  isAside: boolean
}

/** The metadata over what was loaded. It follows until `start`, or an election, makes it lead. */
export function createQuorumMetadata(context: MetadataContext, loaded: LoadedMember): QuorumMetadata {
  const { clock, rng, nodeId, storage, judge, peers } = context
  const controllerListeners: (() => void)[] = []
  const failedListeners: ((error: TributaryError) => void)[] = []
  let commits = 0
  let failure: TributaryError | null = null
  let closed = false

  const machine = createStateMachine({
    mark: loaded.restored.snapshot,
    image: loaded.image,
    recordsOf: (index, term) => speculation.recordsOf(index, term),
  })
  const speculation: Speculation = createSpeculation({
    image: machine.image,
    appliedIndex: machine.appliedIndex,
    feed: input => {
      commits++
      return member.feed(input)
    },
    hasOthers: () => !member.isAlone(),
    onActive: () => tellController(),
  })
  const attempts = createAttempts(clock)
  const sendMessage = createOutbox(peers)
  const sendSnapshot = createSnapshotSender({
    clock,
    file: storage.snapshotFile,
    send: peers.send,
    isUp: peers.isUp,
    sent: (to, ok) => {
      member.feed({ t: 'snapshot-sent', to, ok })
    },
  })
  const takeChunk = createSnapshotReceiver()

  const member: Member = createMember(
    {
      clock,
      rng,
      storage,
      options: RAFT_OPTIONS,
      tickMs: context.electionTimeoutMs / ELECTION_TICKS,
      isAside: context.isAside,
      host: {
        send: message => {
          if (message.t === 'snapshot') sendSnapshot(message)
          else sendMessage(message)
        },
        committed: entries =>
          guarded(() => {
            const applied = machine.appliedIndex()
            machine.apply(entries)
            speculation.applied(entries.filter(({ index }) => index > applied))
            keeper.consider()
          }),
        installed: (mark, values) =>
          guarded(() => {
            if (machine.install(mark, values)) speculation.skippedTo(mark.index)
          }),
        changed: status => {
          speculation.changed(status)
          standing.changed(status)
          tellController()
        },
        crashed: error => {
          lastCrash = error
          if (!member.isAlone()) return
          speculation.dropQueue(error)
          attempts.fail(error)
        },
        returned: lastIndex => {
          if (member.isAlone()) {
            speculation.lostBeyond(lastIndex, lastCrash)
            clock.setTimer(member.standAlone, RETURN_MS)
          }
          attempts.wake()
        },
        forgot: () => void retire(),
        failed: fail,
      },
    },
    loaded,
  )
  let lastCrash: unknown = null
  let leaderHeard: LeaderHeard | null = null
  const keeper = createSnapshotKeeper({ clock, storage, member, machine, limits: context.snapshots })
  const standing = createStanding({ clock, rng, nodeId, feed: member.feed, status: member.status })

  function tellController(): void {
    attempts.wake()
    for (const listener of controllerListeners) listener()
  }

  /** Metadata that can't be read stops the node. */
  function guarded(act: () => void): void {
    try {
      act()
    } catch (error) {
      if (!isTributaryError(error)) throw error
      fail(error)
    }
  }

  function fail(cause: unknown): void {
    if (failure !== null) return
    const error = isTributaryError(cause) ? cause : metadataLost(cause)
    failure = error
    member.stop()
    standing.stop()
    speculation.dropQueue(error)
    speculation.lostBeyond(Number.NEGATIVE_INFINITY, error)
    attempts.fail(error)
    for (const listener of failedListeners.splice(0)) listener(error)
  }

  async function retire(): Promise<void> {
    if (failure !== null || closed) return
    member.stop()
    standing.stop()
    const forfeit = await storage.forfeitSeat().then(
      () => olderDirectory(nodeId),
      error => error,
    )
    fail(forfeit)
  }

  function controllerId(): number | null {
    const { leader } = member.status()
    return leader === null ? null : nodeIdOf(leader)
  }

  const asking = createAsking({
    clock,
    nodeId,
    judge,
    peers,
    otherNodes: context.otherNodes,
    stopped: () => failure ?? (closed ? new TributaryError('closed', 'the node is stopping') : null),
    controllerId,
    machine,
    speculation,
    member,
    attempts,
  })

  return {
    image: machine.image,
    appliedIndex: machine.appliedIndex,
    submit: asking.submit,
    onApplied: machine.onApplied,
    controllerId,
    propose: rule => {
      if (failure !== null) return Promise.reject(failure)
      return speculation.request(rule)
    },
    activeTerm: speculation.activeTerm,
    onController: listener => {
      controllerListeners.push(listener)
    },
    onFailed: listener => {
      if (failure !== null) listener(failure)
      else failedListeners.push(listener)
    },
    answer: asking.answer,
    receive: frame => {
      if (frame.t === 'snapshot-chunk') {
        const received = takeChunk(frame)
        if (received !== null) member.receiveSnapshot(received.message, received.file, received.values)
        return
      }
      for (const bytes of frame.messages) {
        const message = decodeMessage(bytes)
        // Its contents come in pieces.
        if (message.t !== 'snapshot') member.feed({ t: 'message', message })
        if (message.from === member.status().leader) {
          leaderHeard = { nodeId: nodeIdOf(message.from), atMs: clock.monotonicMs() }
        }
      }
    },
    kept: member.kept,
    promisedBy: member.promisedBy,
    retire,
    fail,
    suspect: standing.gone,
    back: back => {
      standing.back(back)
      attempts.wake()
    },
    change: change => member.feed({ t: 'change', change }),
    transfer: to => member.feed({ t: 'transfer', to }),
    status: member.status,
    hasLog: seat => {
      const match = member.matchOf(seat)
      // In a short log nothing at all is but a little behind, and so is a member that never answered.
      if (match === null || match === BEFORE_FIRST) return false
      return match + RAFT_OPTIONS.maxPromotionLagEntries >= member.lastIndex()
    },
    seat: storage.self,
    leaderHeard: () => leaderHeard,
    isAlone: member.isAlone,
    start: () => {
      member.standAlone()
    },
    stats: () => ({
      ...standingOf(member.status()),
      requests: asking.requests(),
      commits,
      isActive: speculation.activeTerm() !== null,
      appliedIndex: machine.appliedIndex(),
      elections: member.elections(),
      snapshotFailures: keeper.failures(),
      logBytes: storage.logBytes(),
      isAside: context.isAside(),
    }),
    close: async () => {
      closed = true
      member.stop()
      standing.stop()
      const reason = new TributaryError('closed', 'the node is stopping')
      speculation.dropQueue(reason)
      speculation.lostBeyond(Number.NEGATIVE_INFINITY, reason)
      attempts.fail(reason)
      await keeper.idle()
    },
  }
}

function olderDirectory(nodeId: number): TributaryError {
  const message = `the data directory is older than what the cluster knows of node ${nodeId} (put back from a copy, or a copy itself): it gave up its seat; start the node again, and it takes from the others what it lacks`
  return new TributaryError('fenced', message)
}

function metadataLost(cause: unknown): TributaryError {
  const message = `the metadata can't be read or written (${messageOf(cause)}): check the disk, then restart`
  return new TributaryError('disk_failed', message, { cause })
}

function standingOf({ term, leader, commit, config }: Status) {
  return {
    term,
    leader: leader === null ? null : nodeIdOf(leader),
    commitIndex: commit,
    voters: config.voters.length,
    learners: config.learners.length,
  }
}

import { assert } from '../../../../common/assert.ts'
import type { Clock, Rng, Timer } from '../../../../common/env.ts'
import { isTributaryError } from '../../../../common/errors.ts'
import { step } from '../../../raft/node.ts'
import type { Kept } from '../../../raft/promises.ts'
import type { Raft } from '../../../raft/state.ts'
import { createRaft } from '../../../raft/state.ts'
import type {
  Entry,
  Input,
  MemberId,
  Message,
  Outcome,
  Outgoing,
  Promised,
  RaftOptions,
  SnapshotMark,
  Status,
} from '../../../raft/types.ts'
import { BEFORE_FIRST } from '../../../raft/types.ts'
import type { Loaded, QuorumStorage } from './storage.ts'

/**
 * The shell of the consensus core: feeds it time, messages and proposals, makes its writes durable, lets its messages leave when what
 * they promise is, hands on what is committed. A write that fails takes the member down; it comes back as it would after a crash.
 */

/** A member that crashes again and again, as on a full disk, reads its log so often at most; the first time at once. */
const RELOAD_MIN_MS = 100
const RELOAD_MAX_MS = 2_000

/** What a member tells. None of these may call back into the member within the same turn. */
export interface MemberHost {
  /** May lose the message; says `snapshot-sent` of a snapshot. */
  send(message: Message): void
  /** Committed and durable here, in order; after a crash some come again. */
  committed(entries: readonly Entry[]): void
  /** The snapshot is durable and stands for all entries to its index. */
  installed(mark: SnapshotMark, values: readonly Uint8Array[]): void
  changed(status: Status): void
  /** A write failed: what was proposed and is not committed may be lost. */
  crashed(error: unknown): void
  /** Up again; entries beyond `lastIndex` are not there. */
  returned(lastIndex: number): void
  /** The directory turned out to lack what this member promised: it takes part in nothing more. */
  forgot(): void
  /** Can't go on: the disk failed for good, or can't be read. */
  failed(error: unknown): void
}

export interface MemberContext {
  clock: Clock
  rng: Rng
  storage: QuorumStorage
  options: Omit<RaftOptions, 'self'>
  tickMs: number
  /** It says nothing, and no time passes for it: others do without it. */
  isAside(): boolean
  host: MemberHost
}

export interface Member {
  /** Takes an input; null while it is down. Not from within a callback of its host. */
  feed(input: Input): Outcome | null
  /** Takes a snapshot's message, whose contents have arrived. */
  receiveSnapshot(message: Message, file: Uint8Array, values: readonly Uint8Array[]): void
  /** Stands for election at once where it is the only voter; true where that may help. */
  standAlone(): boolean
  status(): Status
  /** Whether nobody else has a vote. */
  isAlone(): boolean
  /** Term and log, as far as promises are judged by them; null while it is down. */
  kept(): Kept | null
  /** What another member told this one since it came up. */
  promisedBy(member: MemberId): Promised | null
  /** How far another member's log is known to be this leader's; null where nothing is known. */
  matchOf(member: MemberId): number | null
  lastIndex(): number
  /** Place, term and members as of an entry that was handed out as committed; null while it is not held. */
  markAt(index: number): SnapshotMark | null
  /** A snapshot of all to `index` is durable: entries below `keepFrom` go. False where that has to wait for the next one. */
  snapshotted(index: number, keepFrom: number): boolean
  elections(): number
  stop(): void
}

type Loading = Extract<Loaded, { t: 'member' }>

/** A member over what was loaded; it follows, and knows no leader. */
export function createMember(context: MemberContext, loaded: Loading): Member {
  const { clock, rng, storage, host } = context
  const options = { ...context.options, self: storage.self() }
  let raft: Raft | null = createRaft(options, loaded.restored, rng.float())
  let latest: Status = statusOf(raft)
  let held: Outgoing[] = []
  let durableTicket = 0
  let stepping = false
  let stopped = false
  let elections = 0
  let timer: Timer | null = null
  let returning: Timer | null = null
  /** Since a write last succeeded. */
  let crashes = 0
  let incoming: { file: Uint8Array; values: readonly Uint8Array[] } | null = null

  function feed(input: Input): Outcome | null {
    if (raft === null || stopped) return null
    assert(!stepping, 'the quorum was called from within')
    stepping = true
    try {
      return take(raft, input)
    } finally {
      stepping = false
    }
  }

  function take(mine: Raft, input: Input): Outcome | null {
    const { write, send, committed, outcome, status } = step(mine, input, rng.float())
    if (write !== null) {
      const { ticket, snapshot } = write
      const install = snapshot === null ? null : incoming
      storage.write(write, install?.file ?? null).then(
        () => persisted(mine, ticket, snapshot, install?.values ?? []),
        error => crashed(mine, error),
      )
    }
    release(send)
    if (committed.length > 0) host.committed(committed)
    report(status)
    return outcome
  }

  function release(send: readonly Outgoing[]): void {
    // As if lost on the way.
    if (context.isAside()) return
    for (const outgoing of send) {
      if (outgoing.after <= durableTicket) host.send(outgoing.message)
      else held.push(outgoing)
    }
  }

  function persisted(
    mine: Raft,
    ticket: number,
    snapshot: SnapshotMark | null,
    values: readonly Uint8Array[],
  ): void {
    if (raft !== mine || stopped) return
    durableTicket = ticket
    crashes = 0
    if (snapshot !== null) host.installed(snapshot, values)
    const waiting = held
    held = []
    release(waiting)
    feed({ t: 'persisted', ticket })
  }

  function report(status: Status): void {
    const { role, term, leader, config } = latest
    const same = status.role === role && status.term === term && status.leader === leader
    const forgets = status.forgot && !latest.forgot
    latest = status
    if (forgets) host.forgot()
    if (same && status.config === config) return
    if (status.role === 'candidate' && (role !== 'candidate' || status.term !== term)) elections++
    schedule()
    host.changed(status)
  }

  function crashed(mine: Raft, error: unknown): void {
    if (raft !== mine || stopped) return
    const lastRole = latest.role
    raft = null
    held = []
    incoming = null
    durableTicket = 0
    latest = { ...latest, role: 'follower', leader: null }
    if (isTributaryError(error, 'disk_failed')) {
      stop()
      host.failed(error)
      return
    }
    // The reason first: what waits is told it, and not that the leader is gone.
    host.crashed(error)
    if (lastRole !== 'follower') host.changed(latest)
    if (crashes++ === 0) comeBack()
    else {
      const delayMs = Math.min(RELOAD_MAX_MS, RELOAD_MIN_MS * 2 ** Math.min(crashes, 10))
      returning = clock.setTimer(comeBack, delayMs)
    }
  }

  function comeBack(): void {
    if (stopped) return
    reload().catch(failure => {
      stop()
      host.failed(failure)
    })
  }

  /** As after a crash of the process: with what is on the disk. */
  async function reload(): Promise<void> {
    const again = await storage.load()
    if (stopped) return
    assert(again.t === 'member' && !again.unsaved, 'the quorum can not be read again')
    raft = createRaft(options, again.restored, rng.float())
    const { snapshot } = again.restored
    if (snapshot.index > BEFORE_FIRST) host.installed(snapshot, again.values)
    latest = statusOf(raft)
    schedule()
    host.returned(raft.log.lastIndex())
  }

  function isAlone(): boolean {
    const { voters } = latest.config
    return voters.length === 1 && voters[0] === options.self
  }

  /** Alone there is nobody to hear, and time changes nothing. */
  function schedule(): void {
    const idle = stopped || (isAlone() && latest.config.learners.length === 0)
    if (idle) {
      timer?.cancel()
      timer = null
    } else timer ??= clock.setTimer(tick, context.tickMs)
  }

  function tick(): void {
    timer = null
    if (!context.isAside()) feed({ t: 'tick' })
    schedule()
  }

  function stop(): void {
    stopped = true
    returning?.cancel()
    timer?.cancel()
    timer = null
  }

  schedule()
  return {
    feed,
    receiveSnapshot: (message, file, values) => {
      if (raft === null || message.t !== 'snapshot') return
      incoming = { file, values }
      feed({ t: 'message', message })
      incoming = null
    },
    standAlone: () => {
      if (raft === null || !isAlone() || raft.role !== 'follower') return false
      feed({ t: 'campaign' })
      return true
    },
    status: () => latest,
    isAlone,
    kept: () => raft,
    promisedBy: member => raft?.promises.get(member) ?? null,
    matchOf: member => raft?.progress.get(member)?.match ?? null,
    lastIndex: () => raft?.log.lastIndex() ?? BEFORE_FIRST,
    markAt: index => {
      const term = raft?.log.termAt(index) ?? null
      if (raft === null || term === null || index > raft.applied) return null
      return { index, term, config: raft.configs.at(index) }
    },
    snapshotted: (index, keepFrom) => {
      if (raft === null || index > raft.applied || index <= raft.snapshot.index) return false
      feed({ t: 'snapshotted', index, keepFrom })
      return true
    },
    elections: () => elections,
    stop,
  }
}

function statusOf({ role, term, leader, commit, configs, forgot }: Raft): Status {
  return { role, term, leader, commit, config: configs.current(), forgot }
}

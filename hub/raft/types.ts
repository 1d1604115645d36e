/**
 * The vocabulary of the consensus core. "Paper" is Ongaro and Ousterhout, "In Search of an Understandable Consensus
 * Algorithm" (extended version); "thesis" is Ongaro, "Consensus: Bridging Theory and Practice".
 *
 * Indexes are offsets of the metadata log, so they start at 0; `BEFORE_FIRST` (-1) stands where the paper has index 0.
 * Terms start at 0, which is nobody's: it marks what was written before there were elections.
 */

/** The index before any entry (the paper's 0, Figure 2). */
export const BEFORE_FIRST = -1
/** Where a log begins that holds nothing. */
export const NOWHERE = { index: BEFORE_FIRST, term: 0 } as const

/**
 * Who votes and who holds a seat: a node id together with the id of its directory, so that a node whose directory was
 * wiped or replaced is someone else, who has promised nothing. Made by `memberId` alone.
 */
export type MemberId = string

/** The seat of one directory of one node. */
export function memberId(nodeId: number, directoryId: string): MemberId {
  return `${nodeId}/${directoryId}`
}

/** The node of a seat. */
export function nodeIdOf(member: MemberId): number {
  return Number(member.slice(0, member.indexOf('/')))
}

/** Who takes part: voters elect and commit, learners only follow (thesis 4.2.1). A member is one or the other. */
export interface Config {
  readonly voters: readonly MemberId[]
  readonly learners: readonly MemberId[]
}

/** What an entry carries. `noop` is what a new leader commits first (paper section 8); `config` is whole, not a change (thesis 4.1). */
export type Payload =
  | { readonly t: 'noop' }
  | { readonly t: 'data'; readonly bytes: Uint8Array }
  | { readonly t: 'config'; readonly config: Config }

/** One entry of the log (paper section 5.3). It is committed whole or not at all. */
export interface Entry {
  readonly index: number
  readonly term: number
  readonly payload: Payload
}

/** Place and term of an entry: together they name its whole prefix (log matching, paper section 5.3). */
export interface Position {
  readonly index: number
  readonly term: number
}

/** What must survive a crash beside the log (paper Figure 2, "Persistent state"; thesis 3.8). */
export interface HardState {
  readonly term: number
  /** Who got this member's vote in `term`. */
  readonly vote: MemberId | null
}

/** A snapshot without its contents, which are the shell's: the last entry it covers, and the members as of that entry (paper section 7). */
export interface SnapshotMark extends Position {
  readonly config: Config
}

export type Role = 'follower' | 'pre-candidate' | 'candidate' | 'leader'

/** What members say to each other; `term` is the sender's, save in pre-votes (see there). */
export type Message = { readonly from: MemberId; readonly to: MemberId; readonly term: number } & MessageBody

export type MessageBody =
  /** "Would you vote for me?" in `term`, which is the one after the sender's (thesis 9.6). Changes nothing at the receiver. */
  | { readonly t: 'pre-vote'; readonly last: Position }
  /** Granted: `term` is the one asked about. Refused: the refuser's own. */
  | { readonly t: 'pre-vote-reply'; readonly granted: boolean }
  /** RequestVote (paper Figure 2). `transfer`: the leader asked for it, so its lease doesn't count (thesis 3.10, 4.2.3). */
  | { readonly t: 'vote'; readonly last: Position; readonly transfer: boolean }
  | { readonly t: 'vote-reply'; readonly granted: boolean }
  /** AppendEntries (paper Figure 2): `prev` is prevLogIndex and prevLogTerm, `commit` is leaderCommit. */
  | {
      readonly t: 'append'
      readonly prev: Position
      readonly entries: readonly Entry[]
      readonly commit: number
    }
  /** The receiver's log is durably the leader's up to `match`. */
  | { readonly t: 'append-ok'; readonly match: number }
  /** No entry like `prev` here; `hint` is the last place where the logs may agree (end of paper section 5.3). */
  | { readonly t: 'append-refused'; readonly prevIndex: number; readonly hint: Position }
  /**
   * Keeps the leader's lease. `acked`: the last entry that the receiver acked in this term; who does not hold it has an older directory than
   * it had. `commit`: how far it may apply, never beyond that.
   */
  | { readonly t: 'heartbeat'; readonly acked: Position; readonly commit: number }
  | { readonly t: 'heartbeat-reply' }
  /** InstallSnapshot (paper Figure 13). The shell moves the contents and delivers this once they are all there. */
  | { readonly t: 'snapshot'; readonly snapshot: SnapshotMark }
  /** Stand for election at once (thesis 3.10). */
  | { readonly t: 'timeout-now' }

/** A message and when it may leave: once the write `after` and all before it are durable; 0: at once. */
export interface Outgoing {
  readonly message: Message
  readonly after: number
}

/** What one member told another and must never forget: that it was in `term`, and held the log to `acked` in it; nowhere, where it voted only. */
export interface Promised {
  readonly term: number
  readonly acked: Position
}

/** One change of the members; voters come and go one at a time (thesis 4.1), and come by way of learning (thesis 4.2.1). */
export interface ConfigChange {
  readonly t: 'add-learner' | 'promote' | 'demote' | 'remove'
  readonly member: MemberId
}

/** What happens to a member. */
export type Input =
  /** One unit of time went by; timeouts are counted in them. */
  | { readonly t: 'tick' }
  | { readonly t: 'message'; readonly message: Message }
  /** Entries to append, all in this order and next to each other, each committed on its own. Only a leader takes them. */
  | { readonly t: 'propose'; readonly data: readonly Uint8Array[] }
  | { readonly t: 'change'; readonly change: ConfigChange }
  /** Hand leadership to a voter (thesis 3.10). */
  | { readonly t: 'transfer'; readonly to: MemberId }
  /** Stand for election without waiting for a timeout: a sole voter at its start. */
  | { readonly t: 'campaign' }
  /**
   * The member's process is known to be gone. Where it led, its lease is over: this member votes, and follows whoever is elected. Nothing
   * rests on its being true.
   */
  | { readonly t: 'gone'; readonly member: MemberId }
  /** The write of this ticket and all before it are durable. */
  | { readonly t: 'persisted'; readonly ticket: number }
  /**
   * A snapshot of all entries to `index`, which were handed out as committed, is durable. Entries below `keepFrom` (at
   * most index + 1) may be forgotten; what is kept spares slow followers the snapshot.
   */
  | { readonly t: 'snapshotted'; readonly index: number; readonly keepFrom: number }
  /** How the transfer of a snapshot to `to` went; the shell says so for every `snapshot` message it took. */
  | { readonly t: 'snapshot-sent'; readonly to: MemberId; readonly ok: boolean }

/** Why a proposal or change was not taken. */
export type Refusal =
  | 'not-leader'
  /** Leadership is being handed over. */
  | 'transferring'
  /** `maxUncommittedBytes` or `maxUncommittedEntries` is reached: try again when some are committed. */
  | 'too-much-uncommitted'
  /** The leader has committed nothing in its own term yet: a change now could commit behind an older one's back. */
  | 'no-commit-in-term'
  /** The change before this one isn't committed. */
  | 'change-under-way'
  /** The change makes no sense for the members as they are. */
  | 'invalid-change'
  /** A learner is too far behind to vote: it would hold up commits (thesis 4.2.1). */
  | 'not-caught-up'

/** What became of a `propose`, `change` or `transfer`: appended at `index` of `term`, to be committed or lost. */
export type Outcome =
  | { readonly taken: true; readonly index: number; readonly term: number }
  | { readonly taken: false; readonly reason: Refusal }

/**
 * What must become durable, in the order of the tickets, as one: the snapshot replaces the whole log, then the entries
 * replace whatever is there from the first one's index on.
 */
export interface Write {
  readonly ticket: number
  readonly hardState: HardState | null
  readonly snapshot: SnapshotMark | null
  readonly entries: readonly Entry[]
}

/** Where a member stands; nothing of it need survive. */
export interface Status {
  readonly role: Role
  readonly term: number
  /** The leader of `term`, where known. */
  readonly leader: MemberId | null
  /** Committed as far as this member knows. */
  readonly commit: number
  readonly config: Config
  /** The leader knows of acks that this member's log can't have given: its directory is an older copy. It takes part in nothing more. */
  readonly forgot: boolean
}

/** What comes of a step. The shell writes, sends what may be sent, applies; and says `persisted` when a write is durable. */
export interface Ready {
  readonly write: Write | null
  readonly send: readonly Outgoing[]
  /** Committed and durable here, in order, each once; a snapshot in a `write` stands for all to its index. */
  readonly committed: readonly Entry[]
  readonly outcome: Outcome | null
  readonly status: Status
}

/** Settings of a member. Ticks are the shell's; everything is bounded. */
export interface RaftOptions {
  readonly self: MemberId
  /** A follower waits for the leader from so many ticks up to twice as many (paper section 5.2); a leader keeps in touch with a majority within as many. */
  readonly electionTicks: number
  /** Far fewer than `electionTicks` (paper section 5.6). */
  readonly heartbeatTicks: number
  /** Per message of entries; a single larger entry goes alone. */
  readonly maxMessageEntries: number
  readonly maxMessageBytes: number
  /** Messages and bytes of entries under way to one follower (pipelining, thesis 10.2.1). */
  readonly maxInflightMessages: number
  readonly maxInflightBytes: number
  /** Proposals a leader holds uncommitted; beyond it they are refused. */
  readonly maxUncommittedEntries: number
  readonly maxUncommittedBytes: number
  /** A learner this many entries behind may still be promoted. */
  readonly maxPromotionLagEntries: number
}

import type {
  AckFrame,
  GapFrame,
  GapReason,
  OpenedFrame,
  OpenFrame,
  RefusedFrame,
  RunFrame,
  StartFrame,
  ThrottleFrame,
  WelcomeFrame,
} from '../common/wire.ts'
import type { Ledger, Verdict } from './ledger.ts'
import type { BreakReason } from './runs.ts'
import type { Summary } from './summary.ts'

/** What goes into and comes out of the forwarder. */

export interface ForwarderOptions {
  /** Bytes sent and not yet committed, over all lanes. */
  windowBytes: number
  backoffMinMs: number
  backoffMaxMs: number
}

/** The time and a random number in [0, 1) for this step; `nowMs` is monotonic. */
export interface StepContext {
  nowMs: number
  random: number
}

/** What an edge keeps of its sessions. */
export interface SessionState {
  session: number
  clusterId: string | null
}

/** A change of a ledger that must be durable before the lane goes on; the shell answers with `changed`. */
export type LedgerChange =
  /** The hub's topic of that name. */
  | { kind: 'bind'; topicId: string }
  /** All records from `from` on go out under new runs without predecessor; `topicId` replaces the stored one if given. */
  | { kind: 'recut'; from: number; reason: BreakReason; topicId?: string | null }
  /** Declares [from, to) lost. */
  | { kind: 'lose'; from: number; to: number; reason: GapReason }
  /** Copies records from `from` on, at least one and never past `to`, to `_dead`, and declares them refused, in one commit. */
  | { kind: 'bury'; from: number; to: number; why: string }

export type Input =
  /** A lane the forwarder has not heard of. */
  | { t: 'lane'; ledger: Ledger }
  /** Something about that lane's ledger changed: more is durable, or a gap came. */
  | { t: 'wake'; lane: string }
  | { t: 'welcome'; welcome: WelcomeFrame }
  /** The connection ended, or could not be made; `next`: there is another node of the hub to go to at once. */
  | { t: 'closed'; reason: string; fenced: boolean; next: boolean }
  | { t: 'frame'; frame: OpenedFrame | AckFrame | RefusedFrame | ThrottleFrame }
  /** The session number, and what its verdict asks for, is durable; not ok: it could not be stored. */
  | { t: 'adopted'; ok: boolean }
  | { t: 'changed'; lane: string; ok: boolean }
  /** What was read for the ticket ends at `to`; the next read may begin. */
  | { t: 'read'; ticket: number; to: number }
  /** Its append frame is ready and has so many bytes. */
  | { t: 'prepared'; ticket: number; bytes: number }
  /** It could not be read: [from, to) is damaged for good, or (null) it went below the log's start or the error may pass. */
  | { t: 'unreadable'; ticket: number; damage: { from: number; to: number } | null }
  /** A summary stands where the ticket begins. */
  | { t: 'summary'; ticket: number; summary: Summary }
  /** One record of the ticket is too large for any batch this hub takes. */
  | { t: 'oversize'; ticket: number; offset: number }
  | { t: 'blocked' }
  | { t: 'drained' }
  | { t: 'tick' }
  /** Says no more: closes the connection and dials no more. */
  | { t: 'stop' }

/** What an operator must see; `lane` where it is about one. */
export interface ForwarderAlarm {
  kind: 'fenced' | 'fork' | 'moved' | 'hub-rollback' | 'refused' | 'dead-letter' | 'stalled' | 'protocol'
  message: string
  lane?: string
}

export type Output =
  /** Connect, and say hello with what is stored; answer by `welcome` or `closed`. */
  | { t: 'dial'; session: number; clusterId: string | null }
  | { t: 'send'; frame: StartFrame | OpenFrame | RunFrame | GapFrame }
  /** Read raw batches of [from, limit), as many as are worth a frame, none larger than `maxBytes`, and prepare their append frame for handle `log`. */
  | {
      t: 'read'
      ticket: number
      lane: string
      log: number
      run: number
      runStart: number
      from: number
      limit: number
      maxBytes: number
      maxRecordBytes: number
    }
  /** Send what was prepared. */
  | { t: 'append'; ticket: number }
  /** Forget it, prepared or not. */
  | { t: 'drop'; ticket: number }
  /** Store the session number and cluster id durably, and in the same commit what the verdict does to each lane. */
  | { t: 'adopt'; session: number; clusterId: string; verdict: Verdict }
  | { t: 'change'; lane: string; change: LedgerChange }
  /** The hub committed everything below `offset` (or, after it went back, only that). */
  | { t: 'committed'; lane: string; offset: number }
  /** Close in order; `closed` follows. */
  | { t: 'close' }
  | { t: 'alarm'; alarm: ForwarderAlarm }

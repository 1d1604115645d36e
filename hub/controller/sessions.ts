/**
 * Which of two directories that carry one edge's name is the newest. Each connection is granted a number that edge and
 * hub both hold durably before the first append, so an edge that presents an older number than one it once held
 * was copied or rolled back.
 *
 * A grant counts as held by the edge once it said so (`start`) or presented it. An answer may get lost between grant
 * and `start`, so every number granted since the last confirmed one may come back and is no fork.
 */

/** The hub's view of an edge's numbers. */
export interface SessionState {
  /** The highest number the edge is known to hold durably. */
  confirmed: number
  /** Grants [grantedFrom, newest] are out and unconfirmed; none where grantedFrom > newest. */
  grantedFrom: number
  /** The highest number ever granted or confirmed. */
  newest: number
}

export interface Fork {
  /** The number presented. */
  presented: number
  atMs: number
}

export type Verdict = 'ok' | 'fork' | 'hub-rollback'

export interface Grant {
  /** The number for this connection. */
  session: number
  verdict: Verdict
  state: SessionState
  fork: Fork | null
  alarm: 'fork' | 'clone' | 'hub-rollback' | null
}

/** Two forks within this time, the later with a higher number, are two agents taking turns. */
export const CLONE_WINDOW_MS = 60 * 60_000

/** State of an edge the hub has never heard of. */
export const NO_SESSION: SessionState = { confirmed: 0, grantedFrom: 1, newest: 0 }

/** Judges the number an edge presents and grants the next. */
export function grantSession(
  state: SessionState,
  lastFork: Fork | null,
  presented: number,
  nowMs: number,
): Grant {
  const { confirmed, grantedFrom, newest } = state
  if (presented < confirmed) {
    const session = newest + 1
    const granted = { confirmed, grantedFrom: Math.min(grantedFrom, session), newest: session }
    const fork = { presented, atMs: nowMs }
    const alarm = isClone(lastFork, fork) ? 'clone' : 'fork'
    return { session, verdict: 'fork', state: granted, fork, alarm }
  }
  if (presented === confirmed || (presented >= grantedFrom && presented <= newest)) {
    const session = newest + 1
    return {
      session,
      verdict: 'ok',
      // Presenting a grant proves that the edge holds it, whether or not its `start` came through. Later grants stay
      // good: who holds them has not been seen to append either.
      state: {
        confirmed: presented,
        grantedFrom: Math.max(Math.min(grantedFrom, session), presented + 1),
        newest: session,
      },
      fork: lastFork,
      alarm: null,
    }
  }
  // The number is one this hub never granted: its directory went back, or the edge comes from another cluster. It stays
  // unconfirmed, so that the verdict is given again if this answer gets lost.
  const session = Math.max(newest, presented) + 1
  return {
    session,
    verdict: 'hub-rollback',
    state: { confirmed, grantedFrom: presented > newest ? session : grantedFrom, newest: session },
    fork: lastFork,
    alarm: 'hub-rollback',
  }
}

/** A rolled back edge that retries presents the same number again; a clone presents the one it was granted in between. */
function isClone(last: Fork | null, fork: Fork): boolean {
  return last !== null && fork.presented > last.presented && fork.atMs - last.atMs <= CLONE_WINDOW_MS
}

/** The state once the edge holds `session` durably; null where it isn't the newest and so fenced. */
export function confirmSession(state: SessionState, session: number): SessionState | null {
  if (session !== state.newest) return null
  return { confirmed: session, grantedFrom: session + 1, newest: session }
}

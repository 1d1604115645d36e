import type { RaftOptions } from './types.ts'
import { BEFORE_FIRST } from './types.ts'

interface Inflight {
  readonly lastIndex: number
  readonly bytes: number
}

/**
 * What a leader knows of one other member (paper Figure 2, "Volatile state on leaders"), and how it sends to it:
 * - `probe`: where the logs agree is not known; one message at a time until it is.
 * - `replicate`: entries are sent ahead of their acks, within bounds (thesis 10.2.1).
 * - `snapshot`: what it lacks is forgotten here; nothing is sent until the snapshot is through.
 */
export interface Progress {
  mode: 'probe' | 'replicate' | 'snapshot'
  /** matchIndex: it holds the leader's log durably up to here. */
  match: number
  /** nextIndex: the first entry not sent yet. */
  next: number
  /** Heard from since the last check of the quorum. */
  active: boolean
  /** In `probe`: the message is out and no sign of life came since. */
  awaiting: boolean
  /** A sign of life came while acks are owed: messages may be lost, so ask whether the last one arrived. */
  inDoubt: boolean
  /** The commit index last told it. */
  toldCommit: number
  inflight: Inflight[]
  inflightBytes: number
}

/** Of a member nothing is known about, by a leader whose log ends before `next` (paper Figure 2: nextIndex, matchIndex). */
export function newProgress(next: number): Progress {
  return {
    mode: 'probe',
    match: BEFORE_FIRST,
    next,
    active: false,
    awaiting: false,
    inDoubt: false,
    toldCommit: BEFORE_FIRST,
    inflight: [],
    inflightBytes: 0,
  }
}

function enter(progress: Progress, mode: Progress['mode'], next: number): void {
  progress.mode = mode
  progress.next = next
  progress.awaiting = false
  progress.inDoubt = false
  progress.inflight = []
  progress.inflightBytes = 0
}

/** Whether another message of entries may go out. */
export function maySend(progress: Progress, options: RaftOptions): boolean {
  if (progress.mode === 'snapshot') return false
  if (progress.mode === 'probe') return !progress.awaiting
  const { inflight, inflightBytes } = progress
  return inflight.length < options.maxInflightMessages && inflightBytes < options.maxInflightBytes
}

/** Entries up to `lastIndex` are on their way. */
export function sent(progress: Progress, lastIndex: number, bytes: number): void {
  if (progress.mode === 'probe') {
    progress.awaiting = true
    return
  }
  progress.inflight.push({ lastIndex, bytes })
  progress.inflightBytes += bytes
  progress.next = lastIndex + 1
}

/** A snapshot is on its way. */
export function sendingSnapshot(progress: Progress): void {
  enter(progress, 'snapshot', progress.next)
}

/** The transfer of the snapshot ended: what it holds now is found out by probing from behind it. */
export function snapshotEnded(progress: Progress, nextIndex: number): void {
  if (progress.mode !== 'snapshot') return
  enter(progress, 'probe', Math.max(progress.match + 1, nextIndex))
  // It goes on with the next sign of life: what was sent may still be on its way.
  progress.awaiting = true
}

/** Its log is the leader's up to `match`; `firstIndex` is the first entry that can still be sent to it. */
export function acked(progress: Progress, match: number, firstIndex: number): void {
  progress.match = Math.max(progress.match, match)
  if (progress.mode === 'replicate') {
    progress.next = Math.max(progress.next, match + 1)
    for (
      let first = progress.inflight[0];
      first !== undefined && first.lastIndex <= match;
      first = progress.inflight[0]
    ) {
      progress.inflight.shift()
      progress.inflightBytes -= first.bytes
    }
    return
  }
  // However it got there: from here on the log suffices, and an answer to an older message changes nothing.
  if (progress.match + 1 >= firstIndex) enter(progress, 'replicate', progress.match + 1)
}

/**
 * It has no entry like the one at `prevIndex`; the logs may agree at `agreement` (paper section 5.3: nextIndex is
 * decremented). Answers to messages before the latest are told apart by where they stand and change nothing.
 */
export function refused(progress: Progress, prevIndex: number, agreement: number): void {
  if (progress.mode === 'replicate') {
    if (prevIndex > progress.match) enter(progress, 'probe', progress.match + 1)
    return
  }
  if (progress.mode === 'snapshot' || progress.next - 1 !== prevIndex) return
  const next = Math.max(Math.min(prevIndex, agreement + 1), progress.match + 1)
  // Refused where it had acked, it is asked again with its next sign of life: at once would be for ever, as fast as the network is.
  if (next === progress.next) return
  progress.next = next
  progress.awaiting = false
}

/** It answered a heartbeat. */
export function heard(progress: Progress): void {
  progress.active = true
  progress.awaiting = false
  if (progress.mode === 'replicate' && progress.inflight.length > 0) progress.inDoubt = true
}

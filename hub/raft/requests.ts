import { entryBytes } from './log.ts'
import { changedConfig } from './membership.ts'
import { appendOwn } from './replication.ts'
import type { Raft } from './state.ts'
import { configOf, say } from './state.ts'
import type { ConfigChange, MemberId, Outcome, Payload, Refusal } from './types.ts'

/** What a leader is asked for: entries, changes of the members, handing over. */

function refuse(reason: Refusal): Outcome {
  return { taken: false, reason }
}

function take(raft: Raft, payloads: readonly Payload[]): Outcome {
  return { taken: true, index: appendOwn(raft, payloads), term: raft.term }
}

function notServing(raft: Raft): Refusal | null {
  if (raft.role !== 'leader') return 'not-leader'
  return raft.transfer === null ? null : 'transferring'
}

/** Appends entries (paper section 5.3), within the bounds; where nothing is uncommitted any size is taken. */
export function propose(raft: Raft, data: readonly Uint8Array[]): Outcome {
  const refusal = notServing(raft)
  if (refusal !== null) return refuse(refusal)
  const { maxUncommittedBytes, maxUncommittedEntries } = raft.options
  const payloads = data.map(bytes => ({ t: 'data' as const, bytes }))
  const waiting = raft.log.lastIndex() - raft.commit
  const bytes = payloads.reduce((total, payload) => total + entryBytes({ payload }), raft.uncommittedBytes)
  const tooMuch = bytes > maxUncommittedBytes || waiting + data.length > maxUncommittedEntries
  if (waiting > 0 && tooMuch) return refuse('too-much-uncommitted')
  return take(raft, payloads)
}

/**
 * Changes the members by one. None before an entry of the leader's own term is committed: else two leaders could each
 * change the same configuration by one, in ways whose majorities don't meet (Ongaro's correction to thesis 4.1).
 */
export function change(raft: Raft, wanted: ConfigChange): Outcome {
  const refusal = notServing(raft)
  if (refusal !== null) return refuse(refusal)
  if (raft.log.termAt(raft.commit) !== raft.term) return refuse('no-commit-in-term')
  if (raft.configs.currentIndex() > raft.commit) return refuse('change-under-way')
  const config = changedConfig(configOf(raft), wanted)
  if (config === null) return refuse('invalid-change')
  if (wanted.t === 'promote') {
    const progress = raft.progress.get(wanted.member)
    const lag = raft.log.lastIndex() - (progress?.match ?? 0)
    if (progress?.mode !== 'replicate' || lag > raft.options.maxPromotionLagEntries) {
      return refuse('not-caught-up')
    }
  }
  return take(raft, [{ t: 'config', config }])
}

/** Starts handing over to another voter (thesis 3.10): no more proposals until it leads or an election's time is over. */
export function startTransfer(raft: Raft, to: MemberId): Outcome {
  const refusal = notServing(raft)
  if (refusal !== null) return refuse(refusal)
  if (to === raft.self || !configOf(raft).voters.includes(to)) return refuse('invalid-change')
  raft.transfer = { to, ticks: 0, told: false }
  return { taken: true, index: raft.log.lastIndex(), term: raft.term }
}

/** Tells the successor to stand once it has the whole log. */
export function hurryTransfer(raft: Raft): void {
  const { transfer } = raft
  if (transfer === null || transfer.told) return
  if (raft.progress.get(transfer.to)?.match !== raft.log.lastIndex()) return
  transfer.told = true
  say(raft, transfer.to, { t: 'timeout-now' })
}

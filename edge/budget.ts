import type { Lane } from './lane.ts'

/**
 * The edge's disk budget: how much its logs may take, and what goes when they take more. What the hub has goes first; then,
 * where a topic's policy is `drop-oldest`, the oldest of whoever holds most.
 */

/** Room is made from this far below the limit on, so that appends seldom wait for it. */
const SLACK_SHARE = 1 / 16

export interface BudgetOptions {
  budgetBytes: number
  /** Share of it kept for gaps and session state. */
  reservePercent: number
}

/** What the budget is spent on, as of now. */
export interface Usage {
  /** Bytes of all local logs. */
  usedBytes: number
  /** Free on the filesystem, beyond what is reserved there. */
  freeBytes: number
}

/** Bytes that records may take: the budget less the reserve, or less where the filesystem itself is short. */
function recordLimit(options: BudgetOptions, usage: Usage): number {
  const ofBudget = options.budgetBytes * (1 - options.reservePercent / 100)
  return Math.min(ofBudget, usage.usedBytes + Math.max(0, usage.freeBytes))
}

/** Whether so many bytes more fit; `soon`: they do, and it is time to make room for others. */
export function fits(options: BudgetOptions, usage: Usage, bytes: number): 'yes' | 'soon' | 'no' {
  const limit = recordLimit(options, usage)
  const total = usage.usedBytes + bytes
  if (total > limit) return 'no'
  return total > limit * (1 - SLACK_SHARE) ? 'soon' : 'yes'
}

/** What to delete next: up to `offset` of `lane`; `isLoss` where the hub has not all of it. */
export interface Victim {
  lane: Lane
  offset: number
  isLoss: boolean
}

/** The next to go; null where nothing may. */
export function pickVictim(
  lanes: Iterable<Lane>,
  freeableEnd: (lane: Lane) => number,
  mayDrop: (lane: Lane) => boolean,
): Victim | null {
  let acked: { lane: Lane; bytes: number; end: number } | undefined
  let pending: { lane: Lane; bytes: number } | undefined
  for (const lane of lanes) {
    const end = freeableEnd(lane)
    const bytes = lane.bytesBefore(end)
    if (bytes > (acked?.bytes ?? 0)) acked = { lane, bytes, end }
    if (!mayDrop(lane)) continue
    const all = lane.bytesBefore(lane.ledger.durableEnd)
    if (all > (pending?.bytes ?? 0)) pending = { lane, bytes: all }
  }
  if (acked !== undefined) {
    const offset = acked.lane.nextFree(acked.end)
    if (offset !== null) return { lane: acked.lane, offset, isLoss: false }
  }
  if (pending === undefined) return null
  const offset = pending.lane.nextFree(pending.lane.ledger.durableEnd)
  return offset === null ? null : { lane: pending.lane, offset, isLoss: true }
}

import type { GapFrame, LaneTip, RunFrame } from '../../../common/wire.ts'

/** Where a refused lane goes on: the run and sequence the edge must send next; null where only `open` helps. */
export type BlockedAt = Pick<LaneTip, 'run' | 'next'> | null

/**
 * Decides what of a lane's frames is applied, see RefusedFrame: after a refusal everything pipelined behind it is dropped,
 * until a frame comes that continues exactly where the refusal said. Pure.
 */
export interface LaneGate {
  /** Frames handed on now belong to this generation; a refusal or an open starts the next. */
  generation(): number
  /** Whether a refusal stands, so that `admits...` need to be asked. */
  isBlocked(): boolean
  /** False where the append that starts at `sequence` of `run` is to be dropped. */
  admitsAppend(run: number, sequence: number): boolean
  admitsGap(gap: Pick<GapFrame, 'run' | 'from' | 'to'>): boolean
  admitsRun(run: Pick<RunFrame, 'prev'>): boolean
  /**
   * A frame of `generation` failed and the lane stands at `at`. True where that is news to the edge; false for what was
   * pipelined behind a refusal, unless the lane now stands before the place that refusal named.
   */
  refuse(generation: number, at: BlockedAt): boolean
  /** The lane was opened (again). */
  open(): void
}

export function createLaneGate(): LaneGate {
  let generation = 0
  let blocked: { at: BlockedAt } | null = null

  const unblock = (matches: boolean): boolean => {
    if (matches) blocked = null
    return matches
  }

  /** A commit that fails late takes back what the refusal in force counted on. */
  function isFurtherBack(at: BlockedAt): boolean {
    const told = blocked?.at ?? null
    return told !== null && at !== null && at.run === told.run && at.next < told.next
  }

  return {
    generation: () => generation,
    isBlocked: () => blocked !== null,
    admitsAppend: (run, sequence) => {
      if (blocked === null) return true
      return unblock(blocked.at !== null && run === blocked.at.run && sequence === blocked.at.next)
    },
    admitsGap: ({ run, from, to }) => {
      if (blocked === null) return true
      const { at } = blocked
      return unblock(at !== null && run === at.run && from <= at.next && at.next <= to)
    },
    admitsRun: ({ prev }) => {
      if (blocked === null) return true
      const { at } = blocked
      return unblock(at !== null && prev !== null && prev.run === at.run && prev.end === at.next)
    },
    refuse: (failed, at) => {
      if (failed !== generation && !isFurtherBack(at)) return false
      generation++
      blocked = { at }
      return true
    },
    open: () => {
      generation++
      blocked = null
    },
  }
}

import { concat } from '../../common/bytes.ts'
import type { LaneTip } from '../../common/wire.ts'
import { admitBatches, countFresh, takeFresh } from './admission.ts'
import type { AppendContext } from './client-appends.ts'
import { gapBatch, gapControl, runBatch, runControl } from './control.ts'
import type { GapRange, LaneId, LaneState, RunAnnouncement } from './lanes.ts'
import { laneKey } from './lanes.ts'
import type { Pipeline } from './pipeline.ts'
import type { Producers, Undo } from './producers.ts'

export interface LaneOperations {
  append(id: LaneId, batches: Uint8Array): Promise<LaneTip>
  open(id: LaneId): Promise<LaneTip | null>
  startRun(id: LaneId, start: RunAnnouncement): Promise<LaneTip>
  declareGap(id: LaneId, gap: GapRange): Promise<LaneTip>
  remove(id: LaneId): Promise<void>
  tip(id: LaneId): LaneTip | null
}

/** What edges do in a partition. Each resolves with the lane's tip once what it asked for is committed, by itself or by an earlier call. */
export function laneOperations(
  { log, clock, limits, counters, onGap }: AppendContext,
  producers: Producers,
  { commit, committed }: Pipeline,
): LaneOperations {
  /** Lanes with appends in flight: how far they are committed. Of others, all is. */
  const inFlight = new Map<string, { run: number; committed: number }>()

  function tip(id: LaneId): LaneTip | null {
    const state = producers.lane(id)
    if (state === undefined) return null
    const { run, next } = state
    const held = inFlight.get(laneKey(id))
    return { run, next, committed: held === undefined ? next : held.run === run ? held.committed : 0 }
  }

  /** A lane that was removed meanwhile has no tip; its run's caller learns that nothing is held. */
  function tipNow(id: LaneId): LaneTip {
    return tip(id) ?? { run: 0, next: 0, committed: 0 }
  }

  function openedTip(id: LaneId): LaneTip {
    const past = producers.lane(id)?.past ?? []
    return past.length === 0 ? tipNow(id) : { ...tipNow(id), past }
  }

  /** Commits what moved the lane from `before` to where it is now. */
  function commitLane(
    id: LaneId,
    before: LaneState | undefined,
    bytes: Uint8Array,
    isData: boolean,
    undo: readonly Undo[],
    onCommit?: () => void,
  ): Promise<LaneTip> {
    const key = laneKey(id)
    const after = producers.lane(id)
    if (!inFlight.has(key)) inFlight.set(key, { run: before?.run ?? -1, committed: before?.next ?? 0 })
    return commit(bytes, { isData, undo, until: 'committed' }, () => {
      onCommit?.()
      if (after === undefined || producers.lane(id) === after) inFlight.delete(key)
      else inFlight.set(key, { run: after.run, committed: after.next })
      return tipNow(id)
    })
  }

  return {
    tip,
    append: (id, batches) => {
      const admitted = admitBatches(batches, limits())
      const before = producers.lane(id)
      const nowMs = clock.nowMs()
      const fresh = takeFresh(
        admitted,
        batches,
        header => producers.judgeLane(id, header),
        header => producers.applyBatch(header, -1, nowMs),
      )
      if (fresh !== null)
        return commitLane(id, before, fresh.bytes, true, fresh.undo, () =>
          countFresh(counters, admitted, fresh),
        )
      return committed('committed', () => {
        countFresh(counters, admitted, null)
        return tipNow(id)
      })
    },
    open: id => committed('committed', () => (producers.lane(id) === undefined ? null : openedTip(id))),
    startRun: (id, start) => {
      const declared = producers.judgeRun(id, start)
      // Who opens a lane asks so, and is told what came before.
      if (declared === null) return committed('committed', () => openedTip(id))
      const before = producers.lane(id)
      const undo = [producers.applyRun(id, start)]
      const announced = runBatch(runControl(id, start))
      counters.runs++
      if (declared.gap === null) return commitLane(id, before, announced, false, undo)
      const lastMs = Math.round(clock.nowMs())
      const nowhere = { from: 0, to: 0, localFrom: 0, localTo: 0, firstMs: null, lastMs }
      const gap = gapControl(id, { run: start.run, reason: declared.gap, ...nowhere }, null)
      const offset = log.endOffset()
      const done = commitLane(id, before, concat([announced, gapBatch(gap)]), false, undo)
      if (log.endOffset() === offset) return done
      counters.gaps++
      onGap(gap, offset + 1)
      return done
    },
    declareGap: (id, gap) => {
      const left = producers.judgeGap(id, gap)
      if (left === null) return committed('committed', () => tipNow(id))
      const before = producers.lane(id)
      const undo = [producers.applyGap(left.run, left.to)]
      const count = left.count ?? left.to - left.from
      const control = gapControl(id, left, count)
      const offset = log.endOffset()
      const done = commitLane(id, before, gapBatch(control), false, undo)
      if (log.endOffset() === offset) return done
      if (control.keys !== null) counters.summarised += count
      else {
        counters.gaps++
        counters.gapRecords += count
      }
      onGap(control, offset)
      return done
    },
    remove: async id => {
      const state = producers.lane(id)
      if (state === undefined) return committed('committed', () => undefined)
      const control = runControl(id, { run: state.run, prev: null, reason: 'first' })
      const undo = [producers.removeLane(id)]
      await commitLane(id, state, runBatch({ ...control, reason: 'removed' }), false, undo)
    },
  }
}

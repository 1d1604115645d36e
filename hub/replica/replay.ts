import { eachBatch } from '../../common/batch.ts'
import { readEdgeControl } from './control.ts'
import type { GapPlaces } from './gap-places.ts'
import type { LeaderEpochs } from './leader-epochs.ts'
import type { Producers } from './producers.ts'

/** What is derived from a partition's log. */
export interface History {
  readonly producers: Producers
  readonly epochs: LeaderEpochs
  readonly gaps: GapPlaces
}

/**
 * Brings a history up to date from batches of the log, producers from `fromOffset` on. Reads headers; only control batches are decoded.
 * Client producers get `nowMs` as the time they were last seen, which errs on remembering them.
 */
export function replayBatches(
  { producers, epochs, gaps }: History,
  bytes: Uint8Array,
  fromOffset: number,
  nowMs: number,
): void {
  for (const { at, header } of eachBatch(bytes)) {
    if (header.leaderEpoch !== epochs.last()) epochs.assign(header.leaderEpoch, header.baseOffset)
    if (header.baseOffset < fromOffset) continue
    if (!header.isControl) {
      producers.applyBatch(header, header.baseOffset, nowMs)
      continue
    }
    const control = readEdgeControl(bytes, at)
    if (control === null) continue
    if (control.type === 'gap') {
      gaps.note(header.baseOffset)
      if (control.gap.count !== null) producers.applyGap(control.gap.run, control.gap.to)
      continue
    }
    const { edge, lane, run, prev, reason } = control.run
    if (reason === 'removed') producers.removeLane({ edge, lane })
    else producers.applyRun({ edge, lane }, { run, prev, reason })
  }
}

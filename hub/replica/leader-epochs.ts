/**
 * Which leader wrote what of a partition's log: for each leader epoch the offset of its first batch (Kafka's leader epoch cache,
 * KIP-101 with the corrections of KIP-279). By it a follower finds out how far its log is the leader's.
 */

/** Newest epochs remembered of a partition. A follower that stopped before them cuts its log where the oldest begins. */
const MAX_EPOCHS = 4_096

export interface EpochStart {
  readonly epoch: number
  readonly startOffset: number
}

/** Where an epoch ends in a log. */
export interface EpochEnd {
  epoch: number
  endOffset: number
}

export interface LeaderEpochs {
  /** The epoch of the last batch, or of the leadership just begun; -1 without any. */
  last(): number
  /** The epoch goes on from `startOffset`, which is the log's end. What an older entry says of it or of later epochs was wrong. */
  assign(epoch: number, startOffset: number): void
  /**
   * Of the largest epoch known that is not above `epoch`, the end in a log that ends at `logEnd`: what a leader tells a follower
   * whose last batch is of `epoch`. Where all that is known is newer, `epoch` itself ends where the oldest begins. Null without any.
   */
  endOf(epoch: number, logEnd: number): EpochEnd | null
  /** The log was cut: it ends at `endOffset`. */
  cutAfter(endOffset: number): void
  /** The log starts at `startOffset` now: what lies below is forgotten, but not whose the first batch is. */
  cutBefore(startOffset: number): void
  entries(): readonly EpochStart[]
  /** Another history takes the place of this one. */
  replaceBy(entries: readonly EpochStart[]): void
}

/** The history that `entries` tell, oldest first. */
export function createLeaderEpochs(entries: readonly EpochStart[] = []): LeaderEpochs {
  let starts: EpochStart[] = [...entries]

  return {
    last: () => starts.at(-1)?.epoch ?? -1,
    assign: (epoch, startOffset) => {
      const last = starts.at(-1)
      if (last?.epoch === epoch) return
      if (last !== undefined && (last.epoch > epoch || last.startOffset >= startOffset)) {
        // An epoch without batches, or one that a damaged header told.
        starts = starts.filter(known => known.epoch <= epoch && known.startOffset < startOffset)
        if (starts.at(-1)?.epoch === epoch) return
      }
      starts.push({ epoch, startOffset })
      if (starts.length > MAX_EPOCHS) starts.shift()
    },
    endOf: (epoch, logEnd) => {
      let above = logEnd
      for (let at = starts.length - 1; at >= 0; at--) {
        const known = starts[at]
        if (known === undefined) break
        if (known.epoch <= epoch) return { epoch: known.epoch, endOffset: above }
        above = known.startOffset
      }
      return starts.length === 0 ? null : { epoch, endOffset: above }
    },
    cutAfter: endOffset => {
      if ((starts.at(-1)?.startOffset ?? -1) < endOffset) return
      starts = starts.filter(known => known.startOffset < endOffset)
    },
    cutBefore: startOffset => {
      const first = starts.findLastIndex(known => known.startOffset <= startOffset)
      if (first <= 0) return
      starts = starts.slice(first)
    },
    entries: () => starts,
    replaceBy: others => {
      starts = [...others]
    },
  }
}

/**
 * Where a follower cuts its log, told by the leader that its own log parts from it (KIP-279): at the end of the leader's epoch where
 * the follower has it too, else at the end of what it has of older ones, to be asked again from there.
 */
export function divergence(own: LeaderEpochs, ownEnd: number, told: EpochEnd): number {
  const mine = own.endOf(told.epoch, ownEnd)
  if (mine === null || mine.epoch === told.epoch) {
    return Math.min(told.endOffset, mine?.endOffset ?? ownEnd, ownEnd)
  }
  return Math.min(mine.endOffset, ownEnd)
}

/**
 * Where a follower's log, which ends at `offset` with a batch of `lastEpoch` (-1: without any), parts from the leader's: what the
 * leader tells it. Null where all that the follower has is the leader's too.
 */
export function parting(
  leader: LeaderEpochs,
  leaderEnd: number,
  lastEpoch: number,
  offset: number,
): EpochEnd | null {
  const end = lastEpoch < 0 ? null : leader.endOf(lastEpoch, leaderEnd)
  if (end === null) return offset <= leaderEnd ? null : { epoch: -1, endOffset: leaderEnd }
  return end.epoch === lastEpoch && offset <= end.endOffset ? null : end
}

/** Where the newest gaps stand in a partition's log: what its next leader may have to tell of, because the one before did not get to it. */

/** Of one partition; older ones are forgotten. */
const MAX_GAP_PLACES = 1_000

export interface GapPlaces {
  /** A gap stands at `offset`, and nothing behind it yet. */
  note(offset: number): void
  /** Those above `offset`, in order. */
  above(offset: number): number[]
  entries(): readonly number[]
  /** The log was cut: it ends at `endOffset`. */
  cutAfter(endOffset: number): void
  replaceBy(offsets: readonly number[]): void
}

export function createGapPlaces(offsets: readonly number[] = []): GapPlaces {
  let places = [...offsets]

  return {
    note: offset => {
      // What stood there or behind it was taken back by a full disk.
      if ((places.at(-1) ?? -1) >= offset) places = places.filter(place => place < offset)
      places.push(offset)
      if (places.length > MAX_GAP_PLACES) places.shift()
    },
    above: offset => places.filter(place => place > offset),
    entries: () => places,
    cutAfter: endOffset => {
      if ((places.at(-1) ?? -1) >= endOffset) places = places.filter(place => place < endOffset)
    },
    replaceBy: others => {
      places = [...others]
    },
  }
}

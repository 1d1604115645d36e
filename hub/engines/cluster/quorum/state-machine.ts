import type { Image, ImageRecord } from '../../../controller/image.ts'
import { emptyImage } from '../../../controller/image.ts'
import { decodeRecords } from '../../../controller/records.ts'
import type { Entry, SnapshotMark } from '../../../raft/types.ts'

/** The committed metadata of this node: entries in, an image out. */
export interface StateMachine {
  image(): Image
  appliedIndex(): number
  /** Takes committed entries; those it has are passed over. Throws `directory_newer_format`, `corrupt_log`. */
  apply(entries: readonly Entry[]): void
  /** Takes a snapshot in place of all to its index, unless it has as much; gives whether it did. Throws as `apply` does. */
  install(mark: SnapshotMark, values: readonly Uint8Array[]): boolean
  onApplied(listener: Listener): void
  /** Resolves when the entry at `index` is applied here. */
  whenApplied(index: number): Promise<void>
}

type Listener = (records: readonly ImageRecord[] | null) => void

export interface StateMachineContext {
  mark: SnapshotMark
  /** As of `mark`; it is changed from now on. */
  image: Image
  /** Records of an entry where they are known without decoding. */
  recordsOf(index: number, term: number): readonly ImageRecord[] | undefined
}

export function createStateMachine(context: StateMachineContext): StateMachine {
  const listeners: Listener[] = []
  let { image } = context
  let applied = context.mark.index
  let waiting: { index: number; resolve(): void }[] = []

  function settle(records: readonly ImageRecord[] | null): void {
    if (records === null || records.length > 0) for (const listener of listeners) listener(records)
    if (waiting.length === 0) return
    const reached = waiting.filter(({ index }) => index <= applied)
    waiting = waiting.filter(({ index }) => index > applied)
    for (const { resolve } of reached) resolve()
  }

  return {
    image: () => image,
    appliedIndex: () => applied,
    apply: entries => {
      const records: ImageRecord[] = []
      for (const { index, term, payload } of entries) {
        if (index <= applied) continue
        if (payload.t === 'data') {
          for (const record of context.recordsOf(index, term) ?? imageRecords(payload.bytes)) {
            image.replay(record)
            records.push(record)
          }
        }
        applied = index
      }
      settle(records)
    },
    install: (mark, values) => {
      if (mark.index <= applied) return false
      image = imageOf(values)
      applied = mark.index
      settle(null)
      return true
    },
    onApplied: listener => {
      listeners.push(listener)
    },
    whenApplied: index => {
      if (index <= applied) return Promise.resolve()
      return new Promise(resolve => waiting.push({ index, resolve }))
    },
  }
}

/** The image that values of the metadata log make. Before there were snapshot files the log held snapshots, each beginning the image anew. */
export function imageOf(values: readonly Uint8Array[]): Image {
  let image = emptyImage()
  for (const value of values) {
    if (value.length === 0) continue
    for (const record of decodeRecords(value)) {
      if (record.type === 'snapshot') image = emptyImage()
      else image.replay(record)
    }
  }
  return image
}

/** None where a leader only showed that it still led. */
function imageRecords(value: Uint8Array): ImageRecord[] {
  if (value.length === 0) return []
  return decodeRecords(value).filter(record => record.type !== 'snapshot')
}

import { TributaryError } from '../../../../common/errors.ts'
import { MIB } from '../../../../common/limits.ts'
import type { Plan } from '../../../controller/controller.ts'
import type { Image, ImageRecord } from '../../../controller/image.ts'
import { encodeRecords } from '../../../controller/records.ts'
import type { Entry, Input, Outcome, Status } from '../../../raft/types.ts'

/**
 * The active controller: judges requests one after another against what is committed and what it has itself proposed, proposes the
 * records of each as one entry, and answers when that is committed. Requests that come while others are on their way to a
 * majority share the next proposal.
 */

/** Requests waiting to be judged; beyond it they are refused as `throttled`. */
const MAX_QUEUED_REQUESTS = 100_000
/** Requests that share a proposal. */
const MAX_GROUP_REQUESTS = 1_000
/** Proposals under way at once. */
const MAX_GROUPS = 2
/** The largest entry: it must fit a frame between nodes. */
const MAX_ENTRY_BYTES = 8 * MIB

/** What became of a request. */
export type Judged<Response> =
  | { readonly t: 'done'; readonly response: Response; readonly index: number }
  /** Nothing of it will ever be committed; `reason` is why where that is this node's own trouble. */
  | { readonly t: 'not-taken'; readonly reason: unknown }
  /** Proposed, and whether it was committed is not known. */
  | { readonly t: 'unknown' }

interface Waiting {
  /** Judges; gives the records and how to answer at an index. Throws the rule's refusal. */
  judge(image: Image): { records: readonly ImageRecord[]; answer(index: number): void }
  resolve(judged: Exclude<Judged<never>, { t: 'done' }>): void
  reject(error: unknown): void
}

/** An entry without records. */
const NOTHING = new Uint8Array(0)
const UNKNOWN = { t: 'unknown' } as const
const NOT_TAKEN = { t: 'not-taken', reason: null } as const

/** Judged upon all to `index`, of which the entry there was this term's. */
interface Pending {
  readonly index: number
  readonly term: number
  readonly request: Waiting
  answer(index: number): void
}

/** What this leader proposed and has not seen committed. */
interface Proposed {
  readonly index: number
  readonly term: number
  readonly records: readonly ImageRecord[]
}

export interface SpeculationContext {
  /** What is committed. */
  image(): Image
  appliedIndex(): number
  feed(input: Input): Outcome | null
  /** Whether other nodes vote too. */
  hasOthers(): boolean
  /** Called when requests can be judged: the entry that begins this leader's term is committed. */
  onActive(term: number): void
}

export interface Speculation {
  /** Judges when the turn comes; `not-taken` where this node does not lead. Rejects with the rule's refusal. */
  request<Response>(rule: (image: Image) => Plan<Response>): Promise<Judged<Response>>
  /** The term in which requests are judged here; null where they aren't. */
  activeTerm(): number | null
  changed(status: Status): void
  /** The records of an entry that this leader proposed, so that they need not be decoded; undefined for others. */
  recordsOf(index: number, term: number): readonly ImageRecord[] | undefined
  /** The entries were applied. */
  applied(entries: readonly Entry[]): void
  /** Entries to `index` came as a snapshot. */
  skippedTo(index: number): void
  /** Nobody else can have entries beyond `lastIndex`: what was proposed there is lost for this reason. */
  lostBeyond(lastIndex: number, reason: unknown): void
  /** Refuses what was not judged yet. */
  dropQueue(reason: unknown): void
}

/** Judges nothing before this node leads. */
export function createSpeculation(context: SpeculationContext): Speculation {
  let queue: Waiting[] = []
  let pending: Pending[] = []
  let leading: { readonly term: number; active: boolean } | null = null
  /** Null: to be made anew of what is committed and what is proposed. */
  let speculative: Image | null = null
  let proposed: Proposed[] = []
  /** The last indexes of the proposals under way. */
  let groups: number[] = []
  let pumping = false

  function pumpSoon(): void {
    if (pumping) return
    pumping = true
    queueMicrotask(() => {
      pumping = false
      pump()
    })
  }

  function pump(): void {
    while (queue.length > 0 && leading !== null && leading.active && groups.length < MAX_GROUPS) {
      const group = queue.slice(0, MAX_GROUP_REQUESTS)
      queue = queue.slice(group.length)
      judgeGroup(group, leading.term)
    }
  }

  function speculativeImage(): Image {
    if (speculative !== null) return speculative
    const made = context.image().copy()
    for (const { records } of proposed) for (const record of records) made.replay(record)
    speculative = made
    return made
  }

  function judgeGroup(group: readonly Waiting[], term: number): void {
    const image = speculativeImage()
    const entries: Uint8Array[] = []
    const records: (readonly ImageRecord[])[] = []
    const judged: { request: Waiting; answer(index: number): void; after: number }[] = []
    for (const request of group) {
      let answer: (index: number) => void
      try {
        const plan = request.judge(image)
        if (plan.records.length > 0) {
          entries.push(encodeEntry(plan.records))
          records.push(plan.records)
          for (const record of plan.records) image.replay(record)
        }
        answer = plan.answer
      } catch (error) {
        // A refusal rests on what was judged before it, too.
        answer = () => request.reject(error)
      }
      judged.push({ request, answer, after: entries.length })
    }
    // Another node may lead by now and this one not know it: only what it commits after the judgement shows that it did.
    const confirms = context.hasOthers()
    if (confirms && entries.length === 0) {
      entries.push(NOTHING)
      records.push([])
    }
    const base = propose(entries, records, term)
    for (const { request, answer, after } of judged) {
      if (base === null) request.resolve(NOT_TAKEN)
      else whenApplied(base + (confirms ? Math.max(1, after) : after), term, request, answer)
    }
  }

  /** Gives the index before the first entry; null where they were not taken. */
  function propose(
    entries: readonly Uint8Array[],
    records: readonly (readonly ImageRecord[])[],
    term: number,
  ): number | null {
    if (entries.length === 0) return proposed.at(-1)?.index ?? context.appliedIndex()
    const outcome = context.feed({ t: 'propose', data: entries })
    if (!outcome?.taken || outcome.term !== term) {
      speculative = null
      return null
    }
    const first = outcome.index
    records.forEach((of, at) => {
      proposed.push({ index: first + at, term, records: of })
    })
    groups.push(first + entries.length - 1)
    return first - 1
  }

  function whenApplied(index: number, term: number, request: Waiting, answer: (index: number) => void): void {
    if (index <= context.appliedIndex()) answer(index)
    else pending.push({ index, term, request, answer })
  }

  function stopLeading(): void {
    leading = null
    speculative = null
    groups = []
    dropQueue(null)
  }

  function dropQueue(reason: unknown): void {
    const dropped = queue
    queue = []
    for (const request of dropped) request.resolve({ t: 'not-taken', reason })
  }

  return {
    request: rule => {
      if (leading === null || !leading.active) return Promise.resolve(NOT_TAKEN)
      if (queue.length >= MAX_QUEUED_REQUESTS) {
        const message = `${MAX_QUEUED_REQUESTS} metadata requests wait for the disk; try again`
        return Promise.reject(new TributaryError('throttled', message))
      }
      return new Promise((resolve, reject) => {
        queue.push({
          judge: image => {
            const { records, response } = rule(image)
            return { records, answer: index => resolve({ t: 'done', response, index }) }
          },
          resolve,
          reject,
        })
        pumpSoon()
      })
    },
    activeTerm: () => (leading?.active === true ? leading.term : null),
    changed: ({ role, term }) => {
      if (role !== 'leader') {
        if (leading !== null) stopLeading()
        return
      }
      if (leading?.term === term) return
      if (leading !== null) stopLeading()
      // What an earlier leadership left unfinished was replaced, or comes back as anybody's.
      proposed = []
      leading = { term, active: false }
    },
    recordsOf: (index, term) => {
      // Mostly without holes: but for members, all of a leader's own are here.
      const guess = proposed[index - (proposed[0]?.index ?? 0)]
      const known = guess?.index === index ? guess : proposed.find(entry => entry.index === index)
      return known?.term === term ? known.records : undefined
    },
    applied: entries => {
      const first = entries[0]?.index ?? 0
      const last = entries.at(-1)
      if (last === undefined) return
      proposed = proposed.slice(countTo(proposed, last.index))
      groups = groups.filter(index => index > last.index)
      const reached = pending.slice(0, countTo(pending, last.index))
      pending = pending.slice(reached.length)
      for (const { index, term, request, answer } of reached) {
        const entry = entries[index - first]
        if (entry === undefined) request.resolve(UNKNOWN)
        else if (entry.term === term) answer(index)
        else request.resolve(NOT_TAKEN)
      }
      if (leading !== null && !leading.active && leading.term === last.term) {
        leading.active = true
        context.onActive(last.term)
      }
      if (queue.length > 0) pumpSoon()
    },
    skippedTo: index => {
      proposed = proposed.filter(entry => entry.index > index)
      const skipped = pending.filter(waiting => waiting.index <= index)
      pending = pending.filter(waiting => waiting.index > index)
      for (const { request } of skipped) request.resolve(UNKNOWN)
    },
    lostBeyond: (lastIndex, reason) => {
      proposed = proposed.filter(entry => entry.index <= lastIndex)
      const lost = pending.filter(waiting => waiting.index > lastIndex)
      pending = pending.filter(waiting => waiting.index <= lastIndex)
      for (const { request } of lost) request.resolve({ t: 'not-taken', reason })
    },
    dropQueue,
  }
}

/** How many of the first ones lie at or below `index`. */
function countTo(list: readonly { readonly index: number }[], index: number): number {
  let count = 0
  for (; count < list.length; count++) if ((list[count]?.index ?? 0) > index) break
  return count
}

function encodeEntry(records: readonly ImageRecord[]): Uint8Array {
  const bytes = encodeRecords(records)
  if (bytes.length <= MAX_ENTRY_BYTES) return bytes
  throw new TributaryError(
    'limit_exceeded',
    `the records of this request take ${bytes.length} bytes, one entry of the metadata holds ${MAX_ENTRY_BYTES}: ask for less at once`,
  )
}

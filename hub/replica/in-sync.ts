/**
 * What the leader of a partition knows of its replicas: how far each is durable, and so how far the partition is committed, and who
 * belongs into the in-sync set. Kafka's rules (KIP-497, KIP-966) with durable ends in place of log ends. Values in, values out: no
 * clock, no network.
 */

/** What the controller says of a partition, see PartitionState. */
export interface Seats {
  readonly replicas: readonly number[]
  readonly isr: readonly number[]
  readonly leaderEpoch: number
  readonly partitionEpoch: number
}

/** Where the leader's own log stands when it begins to lead. */
export interface LeaderStart {
  endOffset: number
  durableEnd: number
  /** What it knew as a follower. */
  highWatermark: number
}

/** An in-sync set as proposed to the controller. */
export interface Proposal {
  leaderEpoch: number
  partitionEpoch: number
  /** Without the incarnations of those that stay, which the metadata knows. */
  isr: readonly number[]
  /** Of those that join: who fetched what they are judged by. */
  joining: ReadonlyMap<number, number>
}

export interface InSync {
  /** One past the last offset that is committed: durable at the leader, in the whole in-sync set and at those proposed for it. */
  highWatermark(): number
  /** Whether the watermark is where the log ended when this leader began: only then it knows of all that was acked before. */
  settled(): boolean
  /** Whether there are as many in sync as an acks=all append needs. */
  mayCommit(): boolean
  /** How many are in sync, and how many must be. */
  standing(): { inSync: number; required: number }
  /** Offsets that the replica furthest behind has yet to make durable; of one that said nothing, all. */
  lag(): number
  /** No other replica has a say. */
  alone(): boolean
  inSync(nodeId: number): boolean
  /** The leader's own log is durable to here. Tells whether the watermark moved, as the others below do. */
  own(durableEnd: number): boolean
  /** A replica whose log is the leader's as far as it goes is durable to `durableEnd`, under an incarnation of its node. */
  reported(nodeId: number, incarnation: number, durableEnd: number): boolean
  /** A replica's fetches ended: it is proposed for nothing until it reports again. What it reported stays true. */
  gone(nodeId: number): void
  /** Other seats under the same leader epoch, and how many must be in sync. */
  update(seats: Seats, required: number): boolean
  /** Whether a replica outside the in-sync set has all that its members must have. */
  hasCandidate(): boolean
  /**
   * Looks after laggards; call it once in a while, as long as it returns true. A member lags that at `nowMs` has not got to where the
   * leader was `maxLagMs` before.
   */
  sweep(nowMs: number, maxLagMs: number): boolean
  /** What to propose now, or null; from then on those that join count until `resolved` or a newer partition epoch. */
  propose(eligible: (nodeId: number, incarnation: number) => boolean): Proposal | null
  /** The proposal under way, to be made again where it is not known what became of it. */
  outstanding(): Proposal | null
  /**
   * The proposal under way was refused. It may have been made more than once, and one of them may still be taken: so the set as it is is
   * proposed instead, and those who would have joined count until that is taken, which makes all earlier ones stale.
   */
  withdraw(): void
}

interface Member {
  durableEnd: number
  incarnation: number
  fetching: boolean
  lags: boolean
  /** Where the leader was when the member was looked at, to be passed by it in time; -1: none. */
  markEnd: number
  markMs: number
}

/** A leader that begins: nothing is known of the others. `required`: in-sync replicas that acks=all needs. */
export function createInSync(self: number, first: Seats, firstRequired: number, start: LeaderStart): InSync {
  const electedEnd = start.endOffset
  let seats = first
  let required = firstRequired
  let ownEnd = start.durableEnd
  let watermark = Math.min(start.highWatermark, start.durableEnd)
  let proposal: Proposal | null = null
  const members = new Map<number, Member>()
  /** Whose durable ends the watermark waits for, but the leader's own. */
  let counted: Member[] = []

  function member(nodeId: number): Member {
    const known = members.get(nodeId)
    if (known !== undefined) return known
    const made = { durableEnd: -1, incarnation: -1, fetching: false, lags: false, markEnd: -1, markMs: 0 }
    members.set(nodeId, made)
    return made
  }

  function forgive(one: Member): void {
    one.lags = false
    one.markEnd = -1
  }

  function count(): void {
    const ids = new Set([...seats.isr, ...(proposal?.joining.keys() ?? [])])
    ids.delete(self)
    counted = [...ids].map(member)
  }

  function advance(): boolean {
    if (seats.isr.length < required) return false
    let least = ownEnd
    for (const { durableEnd } of counted) if (durableEnd < least) least = durableEnd
    if (least <= watermark) return false
    watermark = least
    return true
  }

  /** KIP-497's rule: nothing committed is missing there, nor anything that was there when this epoch began. */
  function caughtUp({ durableEnd, fetching }: Member): boolean {
    return fetching && durableEnd >= watermark && durableEnd >= electedEnd
  }

  function candidates(): number[] {
    return seats.replicas.filter(id => id !== self && !seats.isr.includes(id) && caughtUp(member(id)))
  }

  count()
  advance()
  return {
    highWatermark: () => watermark,
    settled: () => watermark >= electedEnd,
    mayCommit: () => seats.isr.length >= required,
    standing: () => ({ inSync: seats.isr.length, required }),
    lag: () => {
      const others = seats.replicas.filter(id => id !== self)
      return others.reduce(
        (most, id) => Math.max(most, ownEnd - Math.max(0, members.get(id)?.durableEnd ?? 0)),
        0,
      )
    },
    alone: () => counted.length === 0 && seats.replicas.length === 1,
    inSync: nodeId => seats.isr.includes(nodeId),
    own: durableEnd => {
      ownEnd = durableEnd
      return advance()
    },
    reported: (nodeId, incarnation, durableEnd) => {
      if (!seats.replicas.includes(nodeId)) return false
      const known = member(nodeId)
      if (known.incarnation !== incarnation) forgive(known)
      known.durableEnd = durableEnd
      known.incarnation = incarnation
      known.fetching = true
      if (known.markEnd >= 0 && durableEnd >= known.markEnd) known.lags = false
      return advance()
    },
    gone: nodeId => {
      const known = members.get(nodeId)
      if (known !== undefined) known.fetching = false
    },
    update: (next, nextRequired) => {
      // Who comes back is looked at anew.
      for (const id of next.isr) if (!seats.isr.includes(id)) forgive(member(id))
      seats = next
      required = nextRequired
      if (proposal !== null && next.partitionEpoch > proposal.partitionEpoch) proposal = null
      for (const id of members.keys()) if (!next.replicas.includes(id)) members.delete(id)
      count()
      return advance()
    },
    hasCandidate: () => seats.isr.length < seats.replicas.length && candidates().length > 0,
    sweep: (nowMs, maxLagMs) => {
      let behind = false
      for (const id of seats.isr) {
        if (id === self) continue
        const known = member(id)
        if (known.durableEnd >= ownEnd) {
          forgive(known)
          continue
        }
        behind = true
        if (known.markEnd < 0 || known.durableEnd >= known.markEnd) {
          known.markEnd = ownEnd
          known.markMs = nowMs
        } else if (nowMs - known.markMs > maxLagMs) known.lags = true
      }
      return behind
    },
    propose: eligible => {
      if (proposal !== null) return null
      const joining = new Map<number, number>()
      for (const id of candidates()) {
        const { incarnation } = member(id)
        if (eligible(id, incarnation)) joining.set(id, incarnation)
      }
      const staying = seats.isr.filter(id => id === self || !member(id).lags)
      if (joining.size === 0 && staying.length === seats.isr.length) return null
      const { leaderEpoch, partitionEpoch } = seats
      proposal = { leaderEpoch, partitionEpoch, isr: [...staying, ...joining.keys()], joining }
      count()
      return proposal
    },
    outstanding: () => proposal,
    withdraw: () => {
      if (proposal !== null) proposal = { ...proposal, isr: seats.isr }
    },
  }
}

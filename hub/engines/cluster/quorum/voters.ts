import type { NodeState } from '../../../controller/types.ts'
import type { Config, ConfigChange, MemberId } from '../../../raft/types.ts'
import { memberId, nodeIdOf } from '../../../raft/types.ts'

/**
 * Who has a seat in the quorum: every registered node follows, and as many vote as the cluster's size asks for. One change at a
 * time; whoever can't do its part any more makes room for one who can.
 */

export interface VotersView {
  readonly config: Config
  /** The leader, who asks. */
  readonly self: MemberId
  readonly nodes: readonly NodeState[]
  /** Acked to the leader since that was elected, and has the log, as far as it knows: may vote now. */
  hasLog(member: MemberId): boolean
  /** Silent for so long that another should have its vote. */
  isLongGone(nodeId: number): boolean
}

export type VotersStep = ConfigChange | { readonly t: 'transfer'; readonly to: MemberId }

/** Voters of a cluster of so many nodes: an odd number, since an even one more is one more to wait for and survives no more failures. */
function votersWanted(nodes: number): number {
  if (nodes < 3) return 1
  return nodes < 5 ? 3 : 5
}

/** The next step towards the seats as they should be; null where they are. */
export function nextStep(view: VotersView): VotersStep | null {
  // A cluster that is being founded: its first node is not registered yet.
  if (view.nodes.length === 0) return null
  return goneSeat(view) ?? missingSeat(view) ?? changeVoters(view)
}

function seatOf({ nodeId, directoryId }: NodeState): MemberId {
  return memberId(nodeId, directoryId)
}

/** Seats of former directories, and of nodes that were removed; the leader's own is the next leader's to take. */
function goneSeat({ config, self, nodes }: VotersView): ConfigChange | null {
  const seats = new Set(nodes.map(seatOf))
  const gone = (member: MemberId): boolean => member !== self && !seats.has(member)
  const member = config.learners.find(gone) ?? config.voters.find(gone)
  return member === undefined ? null : { t: 'remove', member }
}

function missingSeat({ config, nodes }: VotersView): ConfigChange | null {
  const members = new Set([...config.voters, ...config.learners])
  const member = nodes.map(seatOf).find(seat => !members.has(seat))
  return member === undefined ? null : { t: 'add-learner', member }
}

function changeVoters(view: VotersView): VotersStep | null {
  const { config, self, nodes } = view
  const { voters } = config
  const stateOf = new Map(nodes.map(node => [node.nodeId, node]))
  const drains = (member: MemberId): boolean => stateOf.get(nodeIdOf(member))?.draining ?? true
  const isGone = (member: MemberId): boolean => member !== self && view.isLongGone(nodeIdOf(member))
  const isLive = (member: MemberId): boolean => stateOf.get(nodeIdOf(member))?.fenced === false
  const standsWithout = (member: MemberId): boolean => {
    const others = voters.filter(other => other !== member)
    // Live is also who died with the controller before this one, until its session is over: only who acked to this leader counts.
    const decides = (other: MemberId): boolean => other === self || (isLive(other) && view.hasLog(other))
    return others.filter(decides).length * 2 > others.length
  }
  const staying = nodes.filter(node => !node.draining)
  const wanted = votersWanted(staying.length)
  const candidates = config.learners
    .filter(member => isLive(member) && !drains(member) && view.hasLog(member))
    .sort(byNode)

  const unfit = [...voters].sort(byNode).filter(member => drains(member) || isGone(member))
  const [candidate] = candidates
  const [leaving] = unfit
  if (voters.length > wanted || (leaving !== undefined && voters.length > 1 && voters.length % 2 === 0)) {
    const demoted = leaving ?? [...voters].sort(byNode).findLast(member => member !== self)
    return demoted === undefined || !standsWithout(demoted) ? null : demote(demoted, self, voters, unfit)
  }
  if (candidate === undefined) return null
  // Gone for long: its vote goes first, so that no majority ever counts on it and the new one both. But not while others are silent: who
  // has a vote may be back, and heard of by nobody yet; without it the rest could do nothing any more.
  const gone = unfit.find(isGone)
  if (gone !== undefined && voters.length > 2) {
    return standsWithout(gone) ? { t: 'demote', member: gone } : null
  }
  const room = wanted - voters.length
  // An even number is only passed through: the next one must be there already.
  const suffices = voters.length % 2 === 0 || candidates.length > 1
  if ((room > 0 && suffices) || leaving !== undefined) return { t: 'promote', member: candidate }
  return null
}

/** A leader hands over before it gives up its vote. */
function demote(
  member: MemberId,
  self: MemberId,
  voters: readonly MemberId[],
  unfit: readonly MemberId[],
): VotersStep | null {
  if (member !== self) return { t: 'demote', member }
  const to = [...voters].sort(byNode).find(other => other !== self && !unfit.includes(other))
  return to === undefined ? null : { t: 'transfer', to }
}

function byNode(left: MemberId, right: MemberId): number {
  return nodeIdOf(left) - nodeIdOf(right)
}

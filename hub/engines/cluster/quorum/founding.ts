/** How an empty directory comes to a cluster: it founds one, or joins the one that others are part of. */

export interface FoundingView {
  readonly nodeId: number
  /** Ids of the nodes that it was told of; this node may be among them. */
  readonly peers: readonly number[]
  /** What the nodes that were reached say: the id of their cluster, or null for none. */
  readonly heard: ReadonlyMap<number, string | null>
}

export type FoundingStep =
  | { readonly t: 'found' }
  | { readonly t: 'join'; readonly clusterId: string }
  /** For these nodes to be reached, or to have founded. */
  | { readonly t: 'wait'; readonly nodes: readonly number[] }
  /** The nodes reached belong to different clusters. */
  | { readonly t: 'torn'; readonly clusterIds: readonly string[] }

/**
 * What to do with an empty directory. Whoever is part of a cluster is joined; so a node whose directory was wiped comes back to its own,
 * and founds no second one. Where nobody is, the node with the lowest id founds, and only when it has heard so from every
 * other one: one of them might be the one that knows.
 */
export function foundingStep({ nodeId, peers, heard }: FoundingView): FoundingStep {
  const others = peers.filter(peer => peer !== nodeId)
  if (others.length === 0) return { t: 'found' }
  const clusterIds = [...new Set([...heard.values()].filter(clusterId => clusterId !== null))]
  const [clusterId] = clusterIds
  if (clusterIds.length > 1) return { t: 'torn', clusterIds }
  if (clusterId !== undefined) return { t: 'join', clusterId }
  const lowest = Math.min(nodeId, ...others)
  if (lowest !== nodeId) return { t: 'wait', nodes: [lowest] }
  const missing = others.filter(peer => !heard.has(peer))
  return missing.length === 0 ? { t: 'found' } : { t: 'wait', nodes: missing }
}

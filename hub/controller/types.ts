/**
 * Nodes and partitions as the metadata knows them. "KIP" is Kafka's: the rules are those of KIP-497 (in-sync sets by the
 * controller), KIP-455 (reassignment), KIP-631 (registration, incarnations, fencing) and KIP-966 (what an empty in-sync set means).
 */

/** A node of the cluster, with the directory that holds its seats. */
export interface NodeState {
  readonly nodeId: number
  /** Who registers with another one has lost what the seats of this node were given for. */
  readonly directoryId: string
  /** Goes up with each registration in the cluster, so no two have the same; epochs are granted to one incarnation. */
  readonly incarnation: number
  /** HOST:PORT for other nodes; null for a node that listens for none. */
  readonly peerAddress: string | null
  /** HOST:PORT for edges and clients. */
  readonly httpAddress: string
  readonly rack: string | null
  readonly software: string
  /** See RegisterNode; null for nodes of older versions, and where the disk had no room to keep it. */
  readonly startId: string | null
  readonly registeredMs: number
  /** Registered and not (yet, or any more) alive: leads nothing, is in no in-sync set that has a live member. */
  readonly fenced: boolean
  /** Fenced by its own orderly stop: only another registration makes it live again. */
  readonly left: boolean
  /** When `fenced` last changed. */
  readonly changedMs: number
  /** Gets no new replicas and gives away what it has. */
  readonly draining: boolean
}

/** A partition's replicas (KIP-497's LeaderAndIsr with KIP-455's reassignment). */
export interface PartitionState {
  readonly topicId: string
  readonly partition: number
  /** Node ids, the preferred leader first; while a reassignment runs, `adding` and `removing` are among them. */
  readonly replicas: readonly number[]
  /** In-sync: hold all that is committed, in the order of `replicas`. Empty where the last one lost its data: an operator must choose. */
  readonly isr: readonly number[]
  /** Replicas that came with the reassignment under way; nobody else's turn before they are in sync. */
  readonly adding: readonly number[]
  /** Replicas that go when all of `adding` are in sync. */
  readonly removing: readonly number[]
  readonly leader: number | null
  /** Of the leader that the epoch was granted to: it leads under no other. */
  readonly leaderIncarnation: number
  /** Goes up with each choice of a leader; stamped into batches. */
  readonly leaderEpoch: number
  /** Goes up with each change of this state; a change proposed upon an older one is refused. */
  readonly partitionEpoch: number
}

/** How many in-sync replicas an acks=all append needs: as configured, else two of three and more, one of fewer; never more than there are. */
function requiredInSync(configured: number | null, replicas: number): number {
  return Math.max(1, Math.min(configured ?? (replicas >= 3 ? 2 : 1), replicas))
}

/** The same for a partition: replicas that a reassignment adds don't count before it is done, or they would keep it from being written to. */
export function requiredInSyncOf(configured: number | null, { replicas, adding }: PartitionState): number {
  return requiredInSync(configured, replicas.length - adding.length)
}

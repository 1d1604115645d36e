import { z } from 'zod'
import type { RestOptions } from './client-rest.ts'
import { call } from './client-rest.ts'

/** The cluster over the hub's REST interface; any node answers. */

const status = z.object({
  clusterId: z.string(),
  controllerId: z.number().nullable(),
  term: z.number(),
  nodes: z.number(),
  activeNodes: z.number(),
  partitions: z.number(),
  leaderless: z.number(),
  underReplicated: z.number(),
  belowMinInSync: z.number(),
  reassigning: z.number(),
  /** Partitions without a leader or with too few in sync, worst first; of many the first. */
  unwell: z
    .array(
      z.object({
        topic: z.string(),
        partition: z.number(),
        leader: z.number().nullable(),
        replicas: z.array(z.number()),
        isr: z.array(z.number()),
        minInSync: z.number(),
      }),
    )
    .default([]),
})
const node = z.object({
  nodeId: z.number(),
  state: z.enum(['active', 'fenced', 'draining']),
  isController: z.boolean(),
  isVoter: z.boolean(),
  peerAddress: z.string().nullable(),
  httpAddress: z.string(),
  rack: z.string().nullable(),
  software: z.string(),
  registeredMs: z.number(),
  leaders: z.number(),
  replicas: z.number(),
  outOfSync: z.number(),
})
const nodeIds = z.array(z.number())
const placement = z.object({
  partition: z.number(),
  leader: z.number().nullable(),
  leaderEpoch: z.number(),
  replicas: nodeIds,
  isr: nodeIds,
  adding: nodeIds,
  removing: nodeIds,
})

/** How the cluster is; counts of nodes and partitions. */
export type ClusterSummary = z.infer<typeof status>
/** A node, and what it holds. */
export type NodeSummary = z.infer<typeof node>
/** Where a partition's replicas are; node ids. */
export type PlacementSummary = z.infer<typeof placement>

export interface ClusterAdmin {
  status(): Promise<ClusterSummary>
  nodes(): Promise<NodeSummary[]>
  /** By partition number. Rejects with `unknown_topic`. */
  placement(topic: string): Promise<PlacementSummary[]>
  /** Gives a node's replicas to the others, or (`draining` false) stops that; done when `nodes` shows none left. */
  drain(nodeId: number, draining?: boolean): Promise<void>
  /** Forgets a node. Rejects while it holds replicas or is alive. */
  remove(nodeId: number): Promise<void>
  /** Gives preferred replicas their leadership back. */
  balance(): Promise<{ moved: number }>
  /** Spreads a topic's replicas anew; done when `placement` shows none being added or removed. */
  reassign(topic: string, replication?: number): Promise<{ partitions: number }>
  /** Lets a replica lead that may lack committed records; what only others held is lost. */
  electUnclean(topic: string, partition: number): Promise<{ leader: number }>
}

export function createClusterAdmin(rest: RestOptions): ClusterAdmin {
  const ofTopic = (topic: string, what: string): string => `/v1/topics/${encodeURIComponent(topic)}/${what}`
  return {
    status: () => call(rest, 'GET', '/v1/cluster', status),
    nodes: async () =>
      (await call(rest, 'GET', '/v1/cluster/nodes', z.object({ nodes: z.array(node) }))).nodes,
    placement: async topic =>
      (await call(rest, 'GET', ofTopic(topic, 'placement'), z.object({ partitions: z.array(placement) })))
        .partitions,
    drain: async (nodeId, draining = true) => {
      await call(rest, 'POST', `/v1/cluster/nodes/${nodeId}/drain`, z.null(), { draining })
    },
    remove: async nodeId => {
      await call(rest, 'DELETE', `/v1/cluster/nodes/${nodeId}`, z.null())
    },
    balance: () => call(rest, 'POST', '/v1/cluster/balance', z.object({ moved: z.number() }), {}),
    reassign: (topic, replication) =>
      call(rest, 'POST', ofTopic(topic, 'reassign'), z.object({ partitions: z.number() }), {
        replication: replication ?? null,
      }),
    electUnclean: (topic, partition) =>
      call(rest, 'POST', ofTopic(topic, 'elect-unclean'), z.object({ leader: z.number() }), { partition }),
  }
}

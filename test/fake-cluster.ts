import { TributaryError } from '../common/errors.ts'
import type { Cluster, NodeInfo, Placement } from '../hub/ports.ts'

/** A cluster of three in memory, for endpoint tests: a drained node gives one replica away each time somebody looks. */
export function createFakeCluster(): Cluster {
  const nodes = new Map([1, 2, 3].map(nodeId => [nodeId, nodeOf(nodeId)]))
  const node = (nodeId: number): NodeInfo => {
    const found = nodes.get(nodeId)
    if (found !== undefined) return found
    throw new TributaryError('not_found', `there is no node ${nodeId}; see "tributary cluster nodes"`)
  }
  const placement = (partition: number): Placement => {
    const none = { adding: [], removing: [] }
    return { partition, leader: 2, leaderEpoch: 4, replicas: [1, 2, 3], isr: [2, 3], ...none }
  }
  return {
    status: () => ({
      clusterId: 'fake-cluster',
      controllerId: 1,
      term: 7,
      nodes: nodes.size,
      activeNodes: nodes.size,
      partitions: 12,
      leaderless: 0,
      underReplicated: 3,
      belowMinInSync: 1,
      reassigning: 0,
      unwell: [
        { topic: 'telemetry', partition: 1, leader: 2, replicas: [1, 2, 3], isr: [2], minInSync: 2 },
        { topic: 'telemetry', partition: 2, leader: null, replicas: [3], isr: [], minInSync: 1 },
      ],
    }),
    nodes: () => {
      const shown = [...nodes.values()].map(one => ({ ...one }))
      for (const one of nodes.values()) if (one.state === 'draining' && one.replicas > 0) one.replicas--
      return shown
    },
    placements: () => [placement(0), placement(1)],
    drain: async (nodeId, draining) => {
      node(nodeId).state = draining ? 'draining' : 'active'
    },
    remove: async nodeId => {
      if (node(nodeId).replicas > 0) {
        throw new TributaryError('invalid_argument', `node ${nodeId} holds replicas: drain it first`)
      }
      nodes.delete(nodeId)
    },
    balance: async () => ({ moved: 2 }),
    reassign: async () => ({ partitions: 12 }),
    electUnclean: async () => ({ leader: 3 }),
  }
}

function nodeOf(nodeId: number): NodeInfo {
  return {
    nodeId,
    state: 'active',
    isController: nodeId === 1,
    isVoter: true,
    peerAddress: `10.0.0.${nodeId}:7700`,
    httpAddress: `10.0.0.${nodeId}:7600`,
    rack: null,
    software: 'tributary/0.0.0',
    registeredMs: 0,
    leaders: 4,
    replicas: 3,
    outOfSync: 0,
  }
}

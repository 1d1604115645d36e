import { isTributaryError } from '../../common/errors.ts'
import type { Cluster } from '../../hub/ports.ts'
import { isPassing } from './checkers/admin.ts'
import type { HubHost } from './hub-host.ts'
import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import { flipSealedBit } from './nemesis-tools.ts'
import type { Sim } from './sim.ts'
import type { Fault } from './swarm.ts'

/**
 * What only a cluster stands: directories that are lost, go back or are damaged, nodes that come and go. What is acked is on
 * several disks; so one may be damaged, and the next only when the cluster is whole again.
 */

type ClusterFault = Extract<
  Fault,
  | 'node wipe'
  | 'node rollback'
  | 'node clone'
  | 'bit flip'
  | 'node added'
  | 'node drained'
  | 'node removed'
  | 'leaders balanced'
  | 'topic reassigned'
>

const DOWN_MS = 4_000
/** So long the cluster is waited for to be whole. */
const WHOLE_MS = 8_000
const MAX_NODES = 5
const POLL_MS = 100

export function clusterFaults(): Record<ClusterFault, FaultHandler> {
  let isDamaged = false

  /**
   * Does it where the cluster is whole, and lets nothing else be damaged before it is whole again. Until the others know that they
   * must do without the node, no fault keeps them from each other: else the node that has nothing left might be the last one
   * that counts as in sync.
   */
  async function damage(
    { sim, take, quietly }: FaultContext,
    work: (node: HubHost) => Promise<boolean>,
    isFoundAtOnce = true,
  ): Promise<boolean> {
    if (isDamaged || sim.nodes.length < 3) return false
    isDamaged = true
    const isDone = await quietly(async () => {
      let isWorked = false
      await take(sim.nodes, async node => {
        if (!(await becomesWhole(sim))) return
        sim.world.say(() => `${node.host} is damaged`)
        isWorked = await work(node)
      })
      if (isWorked) await becomesWhole(sim)
      return isWorked
    })
    // What rots is found late: nothing else may be damaged in this run.
    if (isDone && !isFoundAtOnce) return true
    if (isDone) while (!isWhole(sim)) await sim.world.sleep(POLL_MS)
    isDamaged = false
    return isDone
  }

  return {
    'node wipe': context =>
      damage(context, async node => {
        node.powerOff()
        node.wipe()
        await context.pause(10, DOWN_MS)
        node.powerOn()
        return true
      }),
    'node rollback': context => damage(context, node => rollBack(context, node)),
    'node clone': context => damage(context, node => clone(context, node)),
    'bit flip': context => {
      const { world } = context.sim
      return damage(
        context,
        async ({ disk }) => flipSealedBit(world, context.rng, disk, '/hub/logs/t/'),
        false,
      )
    },
    'node added': addNode,
    'node drained': context => drain(context, false),
    'node removed': context => drain(context, true),
    'leaders balanced': ({ sim }) => asked(() => sim.ask(({ cluster }) => cluster.balance())),
    'topic reassigned': ({ sim, rng }) => {
      const replication = [null, 1, 2, 3][rng.below(4)] ?? null
      const topics = sim.ports()?.topics.list() ?? []
      const topic = topics[rng.below(Math.max(1, topics.length))]
      const name = topic?.name ?? 'alpha'
      // Fewer replicas than stand a damaged disk are for those who want that.
      const safe = replication === 1 ? 2 : replication
      const request = () => sim.ask(({ cluster }) => cluster.reassign(name, safe))
      // By id: who comes after it under its name has settings of its own.
      const key = `topic ${topic?.topicId ?? name} replication`
      return asked(safe === null ? request : () => sim.admin.set({ [key]: String(safe) }, request))
    },
  }
}

/** Errors of requests that come too early or too late are the operator's to read. */
async function asked(request: () => Promise<unknown>): Promise<boolean> {
  try {
    return (await request()) !== null
  } catch (error) {
    const isExpected = ['invalid_argument', 'not_found', 'unknown_topic', 'topic_deleted', 'limit_exceeded']
    if (isPassing(error) || (isTributaryError(error) && isExpected.includes(error.code))) return false
    throw error
  }
}

/** All nodes run, and all replicas of all partitions are in sync, as the controller knows. */
function isWhole(sim: Sim): boolean {
  const ports = sim.controllerPorts()
  if (ports === null) return false
  if (!sim.nodes.every(({ running, process }) => running !== null && process?.isPaused === false))
    return false
  const { nodes, activeNodes, underReplicated, leaderless, reassigning } = ports.cluster.status()
  // What was damaged is forgotten by a quorum that does without it.
  if (ports.cluster.nodes().filter(({ isVoter }) => isVoter).length < 3) return false
  return nodes === activeNodes && underReplicated === 0 && leaderless === 0 && reassigning === 0
}

async function becomesWhole(sim: Sim): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < WHOLE_MS; waitedMs += POLL_MS) {
    if (isWhole(sim)) return true
    await sim.world.sleep(POLL_MS)
  }
  return false
}

/** A directory restored from a copy: the others went on without it, so nothing rests on what it forgot. */
async function rollBack(context: FaultContext, node: HubHost): Promise<boolean> {
  const { sim, pause } = context
  const copy = node.disk.copy()
  await pause(200, DOWN_MS)
  if (!(await becomesWhole(sim))) return false
  node.powerOff()
  await othersGoOn(sim, node)
  node.restore(copy)
  node.powerOn()
  return true
}

/** Until the node is in no in-sync set but its own. */
async function othersGoOn(sim: Sim, node: HubHost): Promise<void> {
  for (let waitedMs = 0; waitedMs < WHOLE_MS; waitedMs += POLL_MS) {
    const ports = sim.controllerPorts()
    const isFenced = ports?.cluster
      .nodes()
      .some(({ nodeId, state }) => nodeId === node.nodeId && state === 'fenced')
    if (isFenced === true) return
    await sim.world.sleep(POLL_MS)
  }
}

/** A copy of its directory runs on another machine, under the same id, until an operator sees it. */
async function clone(context: FaultContext, node: HubHost): Promise<boolean> {
  const { sim, pause } = context
  const twin = sim.twin(node)
  twin.restore(node.disk.copy())
  await pause(10, 1_000)
  twin.start()
  await pause(500, 5_000)
  twin.kill()
  return true
}

async function addNode({ sim }: FaultContext): Promise<boolean> {
  const nodeId = 1 + Math.max(...sim.nodes.map(node => node.nodeId))
  if (sim.nodes.length >= MAX_NODES || sim.nodes.length < 3) return false
  sim.addNode(nodeId).start()
  return true
}

/** Its replicas go to others; then it is asked back, or removed. */
async function drain(context: FaultContext, isRemoved: boolean): Promise<boolean> {
  const { sim, take, pause, rng } = context
  if (sim.nodes.length < (isRemoved ? 4 : 3)) return false
  return take(sim.nodes, async node => {
    const { nodeId } = node
    const set = (state: string, request: (cluster: Cluster) => Promise<void>): Promise<boolean> => {
      const ask = () => sim.ask(({ cluster }) => request(cluster).then(() => true))
      return asked(() => sim.admin.set({ [`node ${nodeId}`]: state }, ask))
    }
    const isAsked = await set('draining', cluster => cluster.drain(nodeId, true))
    if (!isAsked) return
    await pause(2_000, 8_000)
    if (!isRemoved) {
      await set('active', cluster => cluster.drain(nodeId, false))
      return
    }
    const isEmpty = sim
      .controllerPorts()
      ?.cluster.nodes()
      .some(each => each.nodeId === nodeId && each.replicas === 0)
    if (isEmpty !== true) return
    await Promise.race([node.stop(), sim.world.sleep(10_000)])
    node.kill()
    // If it comes again it has all to begin with.
    const isGone = await set('active', cluster => cluster.remove(nodeId))
    if (!isGone) {
      node.start()
      return
    }
    sim.world.count('node gone')
    // The id comes again, with another machine, or never.
    node.wipe()
    if (rng.below(2) === 0) node.start()
    else sim.forgetNode(node)
  })
}

import { KIB } from '../../common/limits.ts'
import type { EdgeCopy, EdgeHost } from './edge-host.ts'
import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import { bounce, fill, flipSealedBit, freeze, jumpClock } from './nemesis-tools.ts'
import { edgeConfig, SMALL_TOPIC } from './sim.ts'
import type { Fault } from './swarm.ts'

/** Faults of edges and clients. */

type EdgeFault = Extract<
  Fault,
  | 'edge kill'
  | 'edge power'
  | 'edge restart'
  | 'edge pause'
  | 'edge clock'
  | 'edge disk full'
  | 'edge sync failed'
  | 'edge budget'
  | 'edge clone'
  | 'edge rollback'
  | 'edge wipe'
  | 'edge bit flip'
  | 'edge lanes'
  | 'record too large'
  | 'client kill'
>

const DOWN_MS = 4_000
const PAUSE_MS = 5_000
const SMALL_BUDGET_BYTES = 320 * KIB

export function edgeFaults(): Record<EdgeFault, FaultHandler> {
  const copies = new Map<string, EdgeCopy>()
  return {
    'edge kill': context => context.take(context.sim.edges, edge => bounce(context, edge, 'kill', DOWN_MS)),
    'edge power': context => context.take(context.sim.edges, edge => bounce(context, edge, 'power', DOWN_MS)),
    'edge restart': context =>
      context.take(context.sim.edges, edge => bounce(context, edge, 'stop', DOWN_MS)),
    'edge pause': context => context.take(context.sim.edges, edge => freeze(context, edge, PAUSE_MS)),
    'edge clock': async ({ sim, rng }) => {
      jumpClock(rng, sim.edges[rng.below(sim.edges.length)]?.clock)
      return true
    },
    'edge disk full': context =>
      context.take(context.sim.edges, edge => {
        context.sim.book.excuse(edge.edgeId, 'edge-full')
        return fill(context, edge)
      }),
    'edge sync failed': async ({ sim, rng }) => {
      sim.edges[rng.below(sim.edges.length)]?.disk.failSyncs(1)
      return true
    },
    'edge budget': context => context.take(context.sim.edges, edge => overflow(context, edge)),
    'edge clone': context => clone(context),
    'edge rollback': context => context.take(context.sim.edges, edge => rollBack(context, edge, copies)),
    'edge wipe': context =>
      context.take(context.sim.edges, async edge => {
        context.sim.book.excuse(edge.edgeId, 'wiped')
        edge.powerOff()
        context.sim.book.gone(edge.life, null)
        edge.restore(null)
        await context.pause(10, DOWN_MS)
        edge.powerOn()
      }),
    'edge bit flip': async ({ sim, rng }) => {
      const edge = sim.edges[rng.below(sim.edges.length)]
      if (edge === undefined || !flipSealedBit(sim.world, rng, edge.disk, '/edge/logs/')) return false
      sim.book.excuse(edge.edgeId, 'damage')
      return true
    },
    'edge lanes': context =>
      context.take(context.sim.edges, async edge => {
        const lanes = 1 + context.rng.below(3)
        edge.config = edgeConfig(edge.edgeId, { ...context.sim.plan.edge, lanes })
        await bounce(context, edge, context.rng.below(2) === 0 ? 'stop' : 'power', DOWN_MS)
      }),
    'record too large': async ({ sim, rng }) => {
      const edge = sim.edges[rng.below(sim.edges.length)]
      if (edge === undefined || edge.running === null || edge.process?.isPaused !== false) return false
      sim.book.excuse(edge.edgeId, 'large')
      for (let count = 1 + rng.below(6); count > 0; count--) {
        const bytes = rng.below(2) === 0 ? 1_100 + rng.below(4_000) : rng.below(300)
        edge.offer(SMALL_TOPIC, rng.below(edge.lanes()), bytes)
      }
      return true
    },
    'client kill': async ({ sim, rng, pause }) => {
      const client = sim.clients[rng.below(sim.clients.length)]
      client?.kill()
      await pause(10, DOWN_MS)
      client?.start()
      return true
    },
  }
}

/** More than its budget comes to an edge whose hub is away. */
async function overflow(context: FaultContext, edge: EdgeHost): Promise<void> {
  const { sim, rng } = context
  const { edgeId, host } = edge
  sim.book.excuse(edgeId, 'edge-full')
  edge.config = edgeConfig(edgeId, sim.plan.edge, SMALL_BUDGET_BYTES)
  await bounce(context, edge, 'stop', 10)
  const isOffline = rng.float() < 0.7
  if (isOffline) for (const node of sim.nodes) sim.network.block(host, node.host)
  const topic = rng.float() < 0.6 ? 'alpha' : 'beta'
  for (let bytes = rng.below(640 * KIB); bytes > 0; ) {
    const size = rng.below(16 * KIB)
    bytes -= size
    if (edge.running !== null) edge.offer(rng.float() < 0.8 ? topic : 'alpha', rng.below(edge.lanes()), size)
    if (rng.float() < 0.3) await sim.world.sleep(rng.below(50))
  }
  if (isOffline) for (const node of sim.nodes) sim.network.unblock(host, node.host)
}

function copyOf(edge: EdgeHost, copies: Map<string, EdgeCopy>): EdgeCopy {
  const copy = copies.get(edge.host) ?? edge.copy()
  copies.set(edge.host, copy)
  return copy
}

/** The directory becomes what it was some time ago. */
async function rollBack(context: FaultContext, edge: EdgeHost, copies: Map<string, EdgeCopy>): Promise<void> {
  const { sim, pause } = context
  const copy = copyOf(edge, copies)
  await pause(100, 4_000)
  sim.book.excuse(edge.edgeId, 'fork')
  edge.powerOff()
  const lost = edge.life
  edge.restore(copy)
  sim.book.gone(lost, edge.life)
  copies.delete(edge.host)
  await pause(10, DOWN_MS)
  edge.powerOn()
}

/** A copy of the directory runs beside it under the same name. */
async function clone(context: FaultContext): Promise<boolean> {
  const { sim, rng, pause } = context
  const edge = sim.edges[rng.below(sim.edges.length)]
  if (edge === undefined) return false
  const copy = edge.copy()
  await pause(10, 3_000)
  if (sim.edges.some(({ host, edgeId }) => edgeId === edge.edgeId && host !== edge.host)) return false
  sim.book.excuse(edge.edgeId, 'fork')
  const twin = sim.addEdge(edge.edgeId, `${edge.host}b`, sim.plan.edge)
  twin.restore(copy)
  twin.start()
  return true
}

import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import { bounce } from './nemesis-tools.ts'
import type { Fault } from './swarm.ts'

/** Faults between the machines. */

type NetworkFault = Extract<
  Fault,
  | 'partition one way'
  | 'partition both ways'
  | 'node cut off'
  | 'link cut'
  | 'link stalled'
  | 'dials refused'
  | 'slow network'
  | 'edge offline'
  | 'followers uneven'
>

const PARTITION_MS = { least: 50, most: 8_000 }
const SLOW_MS = 400
/** Before a node goes another one has heard nothing of it for so long. */
const UNEVEN_MS = { least: 1, most: 300 }
const DOWN_MS = 4_000

export function networkFaults(): Record<NetworkFault, FaultHandler> {
  return {
    'partition one way': context => partition(context, false),
    'partition both ways': context => partition(context, true),
    'node cut off': cutOff,
    'followers uneven': loseLeader,
    'link cut': async ({ sim }) => sim.network.cutOne(() => true),
    'link stalled': async ({ sim, rng }) => {
      const ms = 50 + rng.below(8_000)
      if (!sim.network.stallOne(() => true, ms)) return false
      await sim.world.sleep(ms)
      return true
    },
    'dials refused': async ({ sim, rng, pause }) => {
      const node = sim.nodes[rng.below(sim.nodes.length)]
      if (node === undefined) return false
      sim.network.refuse(node.address, true)
      await pause(100, 5_000)
      sim.network.refuse(node.address, false)
      return true
    },
    'slow network': async ({ sim, rng, pause }) => {
      const { network } = sim
      const mostMs = rng.below(SLOW_MS)
      const delayMs = (): number => rng.float() * mostMs
      network.delays.add(delayMs)
      await pause(100, 6_000)
      network.delays.delete(delayMs)
      return true
    },
    'edge offline': async context => {
      const { sim, rng, pause } = context
      const edge = sim.edges[rng.below(sim.edges.length)]
      if (edge === undefined) return false
      const block = (isBlocked: boolean): void => {
        for (const { host } of sim.nodes) set(context, edge.host, host, isBlocked)
        for (const { host } of sim.nodes) set(context, host, edge.host, isBlocked)
      }
      block(true)
      if (rng.below(2) === 0) sim.network.cutOne((from, to) => from === edge.host || to === edge.host)
      await pause(200, 10_000)
      block(false)
      return true
    },
  }
}

function set({ sim }: FaultContext, from: string, to: string, isBlocked: boolean): void {
  if (isBlocked) sim.network.block(from, to)
  else sim.network.unblock(from, to)
}

/** Between any two machines, at least one of them a node. */
async function partition(context: FaultContext, bothWays: boolean): Promise<boolean> {
  const { sim, rng, pause } = context
  const hosts = [...sim.nodes, ...sim.edges, ...sim.clients].map(({ host }) => host)
  const node = sim.nodes[rng.below(sim.nodes.length)]?.host ?? ''
  // Between nodes, half of the time where there are several.
  const others = (
    sim.nodes.length > 1 && rng.below(2) === 0 ? sim.nodes.map(({ host }) => host) : hosts
  ).filter(host => host !== node)
  const other = others[rng.below(others.length)]
  if (other === undefined) return false
  const [from, to] = rng.below(2) === 0 ? [node, other] : [other, node]
  set(context, from, to, true)
  if (bothWays) set(context, to, from, true)
  await pause(PARTITION_MS.least, PARTITION_MS.most)
  set(context, from, to, false)
  if (bothWays) set(context, to, from, false)
  return true
}

/** From all other nodes; edges and clients may still reach it. */
async function cutOff(context: FaultContext): Promise<boolean> {
  const { sim, rng, pause } = context
  const node = sim.nodes[rng.below(sim.nodes.length)]
  if (node === undefined || sim.nodes.length < 2) return false
  const ways = rng.below(3)
  const block = (isBlocked: boolean): void => {
    for (const { host } of sim.nodes) {
      if (host === node.host) continue
      if (ways !== 1) set(context, node.host, host, isBlocked)
      if (ways !== 2) set(context, host, node.host, isBlocked)
    }
  }
  block(true)
  await pause(PARTITION_MS.least, PARTITION_MS.most)
  block(false)
  return true
}

/** A node goes that one of those that follow it has not heard all of: the next leader may have less than who follows it. */
async function loseLeader(context: FaultContext): Promise<boolean> {
  const { sim, rng, take, pause } = context
  if (sim.nodes.length < 3) return false
  return take(sim.nodes, async node => {
    const others = sim.nodes.filter(({ host }) => host !== node.host)
    const other = others[rng.below(others.length)]?.host ?? ''
    const block = (isBlocked: boolean): void => {
      set(context, node.host, other, isBlocked)
      set(context, other, node.host, isBlocked)
    }
    block(true)
    await pause(UNEVEN_MS.least, UNEVEN_MS.most)
    const bounced = bounce(context, node, rng.below(2) === 0 ? 'kill' : 'power', DOWN_MS)
    block(false)
    await bounced
  })
}

import type { FaultHandler } from './nemesis-tools.ts'
import { bounce, fill, freeze, jumpClock, slowDisk } from './nemesis-tools.ts'
import type { Fault } from './swarm.ts'

/** Faults of the hub's nodes. */

type HubFault = Extract<
  Fault,
  | 'node kill'
  | 'node power'
  | 'node restart'
  | 'node pause'
  | 'node slow disk'
  | 'node sync failed'
  | 'node disk full'
  | 'node clock'
  | 'all nodes power'
>

const DOWN_MS = 6_000
const PAUSE_MS = 8_000

export function hubFaults(): Record<HubFault, FaultHandler> {
  return {
    'node kill': context => context.take(context.sim.nodes, node => bounce(context, node, 'kill', DOWN_MS)),
    'node power': context => context.take(context.sim.nodes, node => bounce(context, node, 'power', DOWN_MS)),
    'node restart': context =>
      context.take(context.sim.nodes, node => bounce(context, node, 'stop', DOWN_MS)),
    'node pause': context => context.take(context.sim.nodes, node => freeze(context, node, PAUSE_MS)),
    'node slow disk': context => slowDisk(context, context.sim.nodes),
    'node sync failed': async ({ sim, rng, pause }) => {
      const node = sim.nodes[rng.below(sim.nodes.length)]
      node?.disk.failSyncs(1 + rng.below(2))
      await pause(500, 3_000)
      return true
    },
    'node disk full': context => {
      context.sim.book.excuse('*', 'hub-full')
      return context.take(context.sim.nodes, node => fill(context, node))
    },
    'node clock': async context => {
      const { sim, rng } = context
      jumpClock(rng, sim.nodes[rng.below(sim.nodes.length)]?.clock)
      return true
    },
    // What was acked is there although none of them was spared.
    'all nodes power': async context => {
      const { sim, pause } = context
      const bounced = sim.nodes.map(() =>
        context.take(sim.nodes, node => bounce(context, node, 'power', 500)),
      )
      await pause(10, 100)
      return (await Promise.all(bounced)).every(isDone => isDone)
    },
  }
}

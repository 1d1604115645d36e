import type { Rng } from '../../common/env.ts'
import { requiredInSyncOf } from '../../hub/controller/types.ts'
import type { Ports } from '../../hub/ports.ts'
import type { HubHost } from './hub-host.ts'
import type { Sim } from './sim.ts'
import type { Fault } from './swarm.ts'

/** A cluster that is healed need not be whole: a minority of its nodes may stay away for good, and all must go on without it. */

/** Of the seeds that can do without. */
const SHARE = 0.4
/** The others notice, elect and take over in so long. */
const TAKE_OVER_MS = 30_000
/** After these the others may be too few before the cluster is whole again. */
const WEAKENING: readonly Fault[] = [
  'node wipe',
  'node rollback',
  'node clone',
  'bit flip',
  'node added',
  'node drained',
  'node removed',
]

/** Takes some nodes away, now that nothing else is wrong. Those that turn out to be needed come back. */
export async function loseMinority(sim: Sim, rng: Rng): Promise<void> {
  const { world, nodes } = sim
  if (nodes.length < 3 || rng.float() > SHARE || WEAKENING.some(fault => world.counters.has(fault))) return
  const count = 1 + rng.below(Math.ceil(nodes.length / 2) - 1)
  for (let left = count; left > 0; left--) {
    const there = nodes.filter(node => !sim.away.has(node))
    const node = there[rng.below(there.length)]
    if (node !== undefined) takeAway(sim, rng, node)
  }
  const startMs = world.nowMs()
  while (!isServed(sim) && world.nowMs() - startMs < TAKE_OVER_MS) await world.sleep(100)
  if (isServed(sim)) {
    world.count('a minority stays away')
    return
  }
  const ports = sim.controllerPorts()
  if (ports === null || !isNeeded(sim, ports))
    throw new Error(`the others do not take over: ${sim.describe()}`)
  world.count('a minority was needed')
  for (const node of sim.away) {
    node.powerOn()
    sim.network.heal()
  }
  sim.away.clear()
}

function takeAway(sim: Sim, rng: Rng, node: HubHost): void {
  const { network, nodes, edges, clients, world } = sim
  const kind = rng.below(4)
  world.say(
    () => `${node.host} goes away for good: ${['killed', 'off', 'cut off', 'cut off from nodes'][kind]}`,
  )
  sim.away.add(node)
  if (kind === 0) node.kill()
  else if (kind === 1) node.powerOff()
  else {
    for (const { host } of [...nodes, ...(kind === 2 ? [...edges, ...clients] : [])]) {
      if (host === node.host) continue
      network.block(node.host, host)
      network.block(host, node.host)
    }
  }
}

interface Seats {
  required: number
  leader: number | null
  isr: readonly number[]
  replicas: readonly number[]
}

function* seatsOf({ topics, cluster }: Ports): Iterable<Seats> {
  for (const { topicId, config } of topics.list()) {
    for (const place of cluster.placements(topicId)) {
      const { partition, leader, isr, replicas } = place
      const state = { ...place, topicId, partition, leaderIncarnation: 0, partitionEpoch: 0 }
      yield { leader, isr, replicas, required: requiredInSyncOf(config.minInsyncReplicas, state) }
    }
  }
}

/** All partitions are led by nodes that are there, and may be written to. */
function isServed(sim: Sim): boolean {
  const ports = sim.controllerPorts()
  if (ports === null) return false
  const away = idsOf(sim)
  return [...seatsOf(ports)].every(({ leader, isr, required }) => {
    return leader !== null && !away.has(leader) && isr.filter(id => !away.has(id)).length >= required
  })
}

/** Whether some partition can not do without those that are away, by the rules of replication. */
function isNeeded(sim: Sim, ports: Ports): boolean {
  const away = idsOf(sim)
  return [...seatsOf(ports)].some(({ isr, replicas, required }) => {
    return isr.every(id => away.has(id)) || replicas.filter(id => !away.has(id)).length < required
  })
}

function idsOf(sim: Sim): Set<number> {
  return new Set([...sim.away].map(({ nodeId }) => nodeId))
}

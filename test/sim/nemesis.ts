import type { Rng } from '../../common/env.ts'
import { clusterFaults } from './faults-cluster.ts'
import { edgeFaults } from './faults-edge.ts'
import { hubFaults } from './faults-hub.ts'
import { networkFaults } from './faults-network.ts'
import { topicFaults } from './faults-topic.ts'
import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import type { Sim } from './sim.ts'
import type { Fault } from './swarm.ts'

/** Makes the faults of a seed happen, and undoes them. */

export class Nemesis {
  readonly #sim: Sim
  readonly #rng: Rng
  readonly #busy = new Set<string>()
  readonly #undo = new Set<() => void>()
  readonly #handlers: Readonly<Record<Fault, FaultHandler>>
  #healing = false
  /** Faults under way. */
  #running = 0

  constructor(sim: Sim) {
    this.#sim = sim
    this.#rng = sim.world.stream()
    this.#handlers = {
      ...hubFaults(),
      ...clusterFaults(),
      ...edgeFaults(),
      ...networkFaults(),
      ...topicFaults(),
    }
  }

  /** Faults until the time is over. */
  async run(untilMs: number): Promise<void> {
    const { world, plan } = this.#sim
    while (plan.faults.length > 0) {
      await world.sleep(-Math.log(1 - this.#rng.float()) * plan.faultEveryMs)
      if (world.nowMs() >= untilMs) return
      const fault = this.#pick()
      const context = this.#context()
      this.#running++
      void this.#handlers[fault](context).then(
        isDone => {
          if (isDone) world.count(fault)
          this.#running--
        },
        error => world.fail(error),
      )
      world.say(() => `fault: ${fault}`)
    }
    await world.sleep(untilMs - world.nowMs())
  }

  #pick(): Fault {
    const { faults } = this.#sim.plan
    const total = faults.reduce((sum, [, weight]) => sum + weight, 0)
    let left = this.#rng.float() * total
    for (const [name, weight] of faults) {
      left -= weight
      if (left < 0) return name
    }
    return faults[0]?.[0] ?? 'link cut'
  }

  #context(): FaultContext {
    const { world } = this.#sim
    const rng = this.#rng
    return {
      sim: this.#sim,
      rng,
      take: async (machines, use) => {
        const free = machines.filter(({ host }) => !this.#busy.has(host))
        const machine = free[rng.below(Math.max(1, free.length))]
        if (machine === undefined) return false
        this.#busy.add(machine.host)
        await use(machine)
        this.#busy.delete(machine.host)
        return true
      },
      pause: (leastMs, mostMs) => {
        if (this.#healing) return Promise.resolve()
        const share = rng.float()
        // Undone at the latest when all is healed.
        return Promise.race([world.sleep(leastMs + (mostMs - leastMs) * share * share), this.#healed()])
      },
      onHeal: undo => this.#undo.add(undo),
    }
  }

  #healed(): Promise<void> {
    return new Promise(resolve => this.#undo.add(resolve))
  }

  /** Everything is well again, and all machines that should run do. */
  async heal(): Promise<void> {
    const sim = this.#sim
    this.#healing = true
    for (const undo of this.#undo) undo()
    this.#undo.clear()
    sim.network.heal()
    sim.isUnreliable = false
    await sim.until('the faults under way come to their end', () => this.#running === 0, 60_000)
    for (const undo of this.#undo) undo()
    for (const machine of [...sim.nodes, ...sim.edges]) {
      machine.slowness = 1
      machine.disk.setCapacity(Number.POSITIVE_INFINITY)
      machine.process?.resume()
      if (machine.isWanted) machine.start()
    }
    for (const client of sim.clients) client.start()
  }
}

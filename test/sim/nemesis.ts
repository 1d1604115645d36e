import type { Rng } from '../../common/env.ts'
import { clusterFaults } from './faults-cluster.ts'
import { edgeFaults } from './faults-edge.ts'
import { hubFaults } from './faults-hub.ts'
import { networkFaults } from './faults-network.ts'
import { topicFaults } from './faults-topic.ts'
import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import type { Sim } from './sim.ts'
import type { Fault } from './swarm.ts'

/** While one of these is under way a node may be taken for dead that is not. */
const DISRUPTIVE: ReadonlySet<Fault> = new Set([
  'node kill',
  'node power',
  'node restart',
  'node pause',
  'node slow disk',
  'node sync failed',
  'node disk full',
  'node clock',
  'all nodes power',
  'node added',
  'node drained',
  'node removed',
  'partition one way',
  'partition both ways',
  'node cut off',
  'link cut',
  'link stalled',
  'dials refused',
  'slow network',
  'followers uneven',
])
/** What a connection said may arrive after it was given up. */
const SLOWING: ReadonlySet<Fault> = new Set([
  'node pause',
  'partition one way',
  'partition both ways',
  'edge offline',
  'link stalled',
  'slow network',
])
/** So long quiet is waited for. */
const QUIET_MS = 10_000
const QUIET_POLL_MS = 100

/** Makes the faults of a seed happen, and undoes them. */

export class Nemesis {
  readonly #sim: Sim
  readonly #rng: Rng
  readonly #busy = new Set<string>()
  readonly #undo = new Set<() => void>()
  readonly #handlers: Readonly<Record<Fault, FaultHandler>>
  #healing = false
  /** Faults under way, and those of them that keep nodes from each other. */
  #running = 0
  #disrupting = 0
  #isQuiet = false

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
      this.#start(this.#pick())
    }
    await world.sleep(untilMs - world.nowMs())
  }

  #start(fault: Fault): void {
    const { world } = this.#sim
    const weight = DISRUPTIVE.has(fault) ? 1 : 0
    if (this.#isQuiet && weight > 0) return
    this.#running++
    this.#disrupting += weight
    if (SLOWING.has(fault)) this.#sim.book.excuse('*', 'stalled')
    world.say(() => `fault: ${fault}`)
    this.#handlers[fault](this.#context()).then(
      isDone => {
        if (isDone) world.count(fault)
        this.#running--
        this.#disrupting -= weight
      },
      error => world.fail(error),
    )
  }

  /** Does it while all nodes run and reach each other, as far as the faults go; false where that is not to be had soon. */
  async #quietly(work: () => Promise<boolean>): Promise<boolean> {
    const { world } = this.#sim
    if (this.#isQuiet) return false
    this.#isQuiet = true
    for (let waitedMs = 0; this.#disrupting > 0 && waitedMs < QUIET_MS; waitedMs += QUIET_POLL_MS) {
      await world.sleep(QUIET_POLL_MS)
    }
    const isDone = this.#disrupting === 0 && (await work())
    this.#isQuiet = false
    return isDone
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
      quietly: work => this.#quietly(work),
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

import type { Rng } from '../../common/env.ts'
import { KIB } from '../../common/limits.ts'
import type { ClientHost } from './client-host.ts'
import type { EdgeHost } from './edge-host.ts'
import type { Sim } from './sim.ts'
import { BRIEF_TOPIC, DOOMED_TOPIC, SMALL_TOPIC } from './sim.ts'

/** What devices, producers and readers do all the time. */

const EDGE_TOPICS = ['alpha', 'alpha', 'alpha', 'beta', DOOMED_TOPIC, SMALL_TOPIC] as const
const CLIENT_TOPICS = ['alpha', 'alpha', 'gamma', SMALL_TOPIC, BRIEF_TOPIC] as const
/** Of records. */
const USUAL_BYTES = 200
const LARGE_BYTES = 9 * KIB
const BRIEF_BYTES = 3 * KIB
const LARGE_SHARE = 0.01

/** Records come until it is stopped. */
export function startLoad(sim: Sim): { stop(): void } {
  let stopped = false
  const { world, plan } = sim

  async function publish(rng: Rng): Promise<void> {
    while (!stopped) {
      // In bursts, so that batches vary.
      const burst = 1 + rng.below(8)
      await world.sleep(((burst * 1_000) / plan.edgeRate) * 2 * rng.float())
      if (stopped) return
      for (const edge of sim.edges)
        for (let count = rng.below(burst * 2 + 1); count > 0; count--) offerOne(edge, rng)
    }
  }

  async function produce(client: ClientHost, rng: Rng): Promise<void> {
    while (!stopped) {
      const burst = 1 + rng.below(6)
      await world.sleep(((burst * 1_000) / plan.clientRate) * 2 * rng.float())
      if (stopped) return
      const topic = CLIENT_TOPICS[rng.below(CLIENT_TOPICS.length)] ?? 'alpha'
      produceSome(client, topic, burst, rng)
    }
  }

  void publish(world.stream())
  for (const client of sim.clients) void produce(client, world.stream())
  return {
    stop: () => {
      stopped = true
    },
  }
}

function produceSome(client: ClientHost, topic: string, burst: number, rng: Rng): void {
  const count = 1 + rng.below(burst * 2)
  const isSingle = topic === SMALL_TOPIC || topic === BRIEF_TOPIC || rng.below(2) === 0
  const acks = ([0, 1, 1] as const)[rng.below(15)] ?? 'all'
  client.produce(
    topic,
    count,
    rng.below(topic === BRIEF_TOPIC ? BRIEF_BYTES : USUAL_BYTES),
    isSingle ? 0 : null,
    acks,
  )
}

function offerOne(edge: EdgeHost, rng: Rng): void {
  if (edge.running === null || edge.process?.isPaused !== false) return
  const topic = EDGE_TOPICS[rng.below(EDGE_TOPICS.length)] ?? 'alpha'
  const isLarge = topic !== SMALL_TOPIC && rng.float() < LARGE_SHARE
  edge.offer(topic, rng.below(edge.lanes()), rng.below(isLarge ? LARGE_BYTES : USUAL_BYTES))
}

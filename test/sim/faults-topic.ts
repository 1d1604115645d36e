import { isTributaryError } from '../../common/errors.ts'
import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import type { Sim } from './sim.ts'
import { DOOMED_TOPIC } from './sim.ts'
import type { Fault } from './swarm.ts'

/** What operators do to topics while they are written to and read. */

type TopicFault = Extract<Fault, 'topic deleted' | 'topic altered'>

export function topicFaults(): Record<TopicFault, FaultHandler> {
  return {
    'topic deleted': deleteTopic,
    'topic altered': alterTopic,
  }
}

/** Errors of requests whose fate is unknown, or that came to a hub that has no room for them. */
export function isPassing(error: unknown): boolean {
  return isTributaryError(error) && (error.retriable || error.code === 'disk_failed')
}

async function deleteTopic({ sim, rng, pause }: FaultContext): Promise<boolean> {
  const ports = sim.ports()
  const topic = ports?.topics.list().find(({ name }) => name === DOOMED_TOPIC)
  if (topic === undefined) return false
  sim.book.excuse('*', 'deleted')
  sim.book.deletedTopics.add(topic.topicId)
  try {
    await sim.ask(({ topics }) => topics.delete(DOOMED_TOPIC))
  } catch (error) {
    if (!isPassing(error) && !isTributaryError(error, 'unknown_topic')) throw error
  }
  await pause(10, 3_000)
  if (rng.float() < 0.7) await createDoomed(sim)
  return true
}

/** Makes the topic again under its old name. */
export async function createDoomed(sim: Sim): Promise<void> {
  try {
    await sim.ask(({ topics }) => topics.create({ name: DOOMED_TOPIC }))
  } catch (error) {
    if (!isPassing(error) && !isTributaryError(error, 'topic_exists')) throw error
  }
}

async function alterTopic({ sim, rng }: FaultContext): Promise<boolean> {
  const name = rng.below(2) === 0 ? 'gamma' : 'beta'
  const topic = sim
    .ports()
    ?.topics.list()
    .find(each => each.name === name)
  if (topic === undefined) return false
  const change =
    rng.below(2) === 0 && topic.partitions < 6
      ? { partitions: topic.partitions + 1 }
      : { config: { maxRecordBytes: 64 * 1_024 + rng.below(1_024) } }
  try {
    await sim.ask(({ topics }) => topics.alter(name, change))
  } catch (error) {
    if (!isPassing(error) && !isTributaryError(error, 'invalid_argument')) throw error
  }
  return true
}

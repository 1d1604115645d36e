import { isTributaryError } from '../../common/errors.ts'
import { KIB } from '../../common/limits.ts'
import { isPassing } from './checkers/admin.ts'
import type { FaultContext, FaultHandler } from './nemesis-tools.ts'
import type { Sim } from './sim.ts'
import { DOOMED_TOPIC } from './sim.ts'
import type { Fault } from './swarm.ts'

/** What operators do to topics while they are written to and read. */

const MAX_PARTITIONS = 6

type TopicFault = Extract<Fault, 'topic deleted' | 'topic altered'>

export function topicFaults(): Record<TopicFault, FaultHandler> {
  return {
    'topic deleted': deleteTopic,
    'topic altered': alterTopic,
  }
}

async function deleteTopic({ sim, rng, pause }: FaultContext): Promise<boolean> {
  const ports = sim.ports()
  const topic = ports?.topics.list().find(({ name }) => name === DOOMED_TOPIC)
  if (topic === undefined) return false
  sim.book.excuse('*', 'deleted')
  sim.book.deletedTopics.add(topic.topicId)
  const deleted = sim.admin.deleting(DOOMED_TOPIC)
  try {
    const isDeleted = await sim.ask(({ topics }) => topics.delete(DOOMED_TOPIC).then(() => true))
    if (isDeleted === true) deleted([topic.topicId])
  } catch (error) {
    if (!isPassing(error) && !isTributaryError(error, 'unknown_topic')) throw error
  }
  await pause(10, 3_000)
  if (rng.float() < 0.7) await createDoomed(sim)
  return true
}

/** Makes the topic again under its old name. */
export async function createDoomed(sim: Sim): Promise<void> {
  const from = sim.admin.mark()
  try {
    const topic = await sim.ask(({ topics }) => topics.create({ name: DOOMED_TOPIC }))
    if (topic !== null) sim.admin.created(topic.topicId, topic.name, from)
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
  const { partitions } = topic
  const maxRecordBytes = 64 * KIB + rng.below(KIB)
  const grows = rng.below(2) === 0 && partitions < MAX_PARTITIONS
  const change = grows ? { partitions: partitions + 1 } : { config: { maxRecordBytes } }
  const values = grows
    ? { [`topic ${name} partitions`]: String(partitions + 1) }
    : { [`topic ${name} maxRecordBytes`]: String(maxRecordBytes) }
  try {
    await sim.admin.set(values, () => sim.ask(({ topics }) => topics.alter(name, change)))
  } catch (error) {
    if (!isPassing(error) && !isTributaryError(error, 'invalid_argument')) throw error
  }
  return true
}

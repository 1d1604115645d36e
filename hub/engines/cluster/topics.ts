import type { Env } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { ControllerSettings } from '../../controller/controller.ts'
import { alterTopic, createTopic, deleteTopic, topicForProducer } from '../../controller/controller.ts'
import type { Topic, Topics } from '../../ports.ts'
import { freshTopicId } from './fleet.ts'
import type { Metadata } from './metadata.ts'
import type { PartitionTable } from './partitions.ts'

/** Topics by the controller; a deleted one's logs go before `delete` resolves. */
export function createTopics(
  env: Env,
  metadata: Metadata,
  settings: ControllerSettings,
  partitions: PartitionTable,
): Topics {
  const nowMs = (): number => Math.round(env.clock.nowMs())
  return {
    list: () => metadata.image().topics(),
    byName: name => {
      const topic = metadata.image().topicByName(name)
      if (topic !== undefined) return topic
      throw new TributaryError('unknown_topic', `there is no topic "${name}"; see "tributary topics list"`)
    },
    forProducer: async name => {
      const known = metadata.image().topicByName(name)
      if (known !== undefined) return known
      const context = { nowMs: nowMs(), freshTopicId: freshTopicId(env) }
      return metadata.submit(image => topicForProducer(image, settings, name, context))
    },
    byId: topicId => knownTopic(metadata, topicId),
    create: request => {
      const context = { nowMs: nowMs(), freshTopicId: freshTopicId(env) }
      return metadata.submit(image => createTopic(image, settings, request, context))
    },
    alter: async (name, change) => {
      const topic = await metadata.submit(image => alterTopic(image, settings, name, change))
      partitions.configure(topic)
      return topic
    },
    delete: async name => {
      const topic = await metadata.submit(image => deleteTopic(image, name, nowMs()))
      await partitions.remove(topic)
    },
  }
}

/** Throws `unknown_topic`; `topic_deleted` where the id was deleted. */
export function knownTopic(metadata: Metadata, topicId: string): Topic {
  const image = metadata.image()
  const topic = image.topicById(topicId)
  if (topic !== undefined) return topic
  const deleted = image.deletedTopic(topicId)
  if (deleted !== undefined) {
    throw new TributaryError('topic_deleted', `topic "${deleted.name}" (${topicId}) was deleted`)
  }
  throw new TributaryError('unknown_topic', `there is no topic with id ${topicId}`)
}

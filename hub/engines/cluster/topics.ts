import { TributaryError } from '../../../common/errors.ts'
import type { Topic, Topics } from '../../ports.ts'
import type { PartitionTable } from './partitions.ts'
import type { Metadata } from './types.ts'

/** Topics by the controller; a deleted one's logs go before `delete` resolves. */
export function createTopics(metadata: Metadata, partitions: PartitionTable): Topics {
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
      return metadata.submit('topic-for-producer', { name })
    },
    byId: topicId => knownTopic(metadata, topicId),
    create: request => metadata.submit('create-topic', request),
    alter: async (name, change) => {
      const topic = await metadata.submit('alter-topic', { name, change })
      partitions.configure(topic)
      return topic
    },
    delete: async name => {
      const topic = await metadata.submit('delete-topic', { name })
      await partitions.remove(topic)
    },
  }
}

/** Throws `unknown_topic`; `topic_deleted` where the id was deleted. */
export function knownTopic(metadata: Pick<Metadata, 'image'>, topicId: string): Topic {
  const image = metadata.image()
  const topic = image.topicById(topicId)
  if (topic !== undefined) return topic
  const deleted = image.deletedTopic(topicId)
  if (deleted !== undefined) {
    throw new TributaryError('topic_deleted', `topic "${deleted.name}" (${topicId}) was deleted`)
  }
  throw new TributaryError('unknown_topic', `there is no topic with id ${topicId}`)
}

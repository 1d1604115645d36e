import { TributaryError } from '../../../common/errors.ts'
import type { Topic, Topics } from '../../ports.ts'
import type { PartitionTable } from './partitions.ts'
import type { Metadata } from './types.ts'

/**
 * Topics by the controller. What becomes of them is done to the logs of every node as it hears of it (replication.ts); on the node where
 * a topic is deleted its logs go before `delete` resolves.
 */
export function createTopics(
  metadata: Pick<Metadata, 'image' | 'submit'>,
  partitions: Pick<PartitionTable, 'remove'>,
): Topics {
  const image = metadata.image

  function byName(name: string): Topic {
    const topic = image().topicByName(name)
    if (topic !== undefined) return topic
    throw new TributaryError('unknown_topic', `there is no topic "${name}"; see "tributary topics list"`)
  }

  return {
    list: () => image().topics(),
    byName,
    find: async (name, partition = 0) => {
      const known = image().topicByName(name)
      if (known !== undefined && partition < known.partitions) return known
      await metadata.submit('sync', {})
      return byName(name)
    },
    forProducer: async name => image().topicByName(name) ?? metadata.submit('topic-for-producer', { name }),
    byId: topicId => knownTopic(metadata, topicId),
    create: request => metadata.submit('create-topic', request),
    alter: (name, change) => metadata.submit('alter-topic', { name, change }),
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

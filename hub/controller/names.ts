import { TributaryError } from '../../common/errors.ts'
import { MAX_TOPIC_NAME_LENGTH } from '../../common/limits.ts'

/** Names of topics and edges. */

/** One JSON record per declared gap, of all topics. */
export const GAPS_TOPIC = '_gaps'
/** Records that a topic refused for good. */
export const DEAD_TOPIC = '_dead'

/** Kafka's rule for legal characters (org.apache.kafka.common.internals.Topic). */
const LEGAL_NAME = /^[a-zA-Z0-9._-]+$/

/** Throws `invalid_argument` unless Kafka would take the name too. Names in `__` are kept for the hub's own logs. */
export function checkTopicName(name: string): void {
  const refuse = (why: string): never => {
    const shown = JSON.stringify(name.slice(0, MAX_TOPIC_NAME_LENGTH))
    throw new TributaryError('invalid_argument', `topic name ${shown} ${why}`)
  }
  if (name === '' || name === '.' || name === '..') refuse('is reserved; choose another')
  if (name.length > MAX_TOPIC_NAME_LENGTH) refuse(`is longer than ${MAX_TOPIC_NAME_LENGTH} characters`)
  if (!LEGAL_NAME.test(name)) refuse('may hold only letters, digits, ".", "_" and "-"')
  if (name.startsWith('__')) refuse('starts with "__", which is kept for the hub itself')
}

/** As the edge's config has it: the id stands in logs, keys, file names and URLs. */
const LEGAL_EDGE_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/

/** Throws `invalid_argument` unless the id is 1 to 128 letters, digits and `._-`, the first a letter or digit. */
export function checkEdgeId(edgeId: string): void {
  if (LEGAL_EDGE_ID.test(edgeId)) return
  throw new TributaryError(
    'invalid_argument',
    `edge id ${JSON.stringify(edgeId.slice(0, 130))} must be 1 to 128 letters, digits and "._-", starting with a letter or digit`,
  )
}

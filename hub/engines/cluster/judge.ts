import type { Env } from '../../../common/env.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { ControllerSettings, Plan } from '../../controller/controller.ts'
import * as rules from '../../controller/controller.ts'
import type { Image } from '../../controller/image.ts'
import type { CallName, CallRequest, CallResponse } from '../../controller/requests.ts'
import { freshTopicId } from './fleet.ts'
import type { Judge } from './quorum/asking.ts'

type Rules = {
  readonly [Name in CallName]?: (image: Image, request: CallRequest<Name>) => Plan<CallResponse<Name>>
}

/** The controller's rules with this node's settings, clock and chance. */
export function createJudge(env: Env, settings: ControllerSettings): Judge {
  const nowMs = (): number => Math.round(env.clock.nowMs())
  const context = (): rules.Context => ({ nowMs: nowMs(), freshTopicId: freshTopicId(env) })
  const known: Rules = {
    'create-topic': (image, request) => rules.createTopic(image, settings, request, context()),
    'topic-for-producer': (image, { name }) => rules.topicForProducer(image, settings, name, context()),
    'alter-topic': (image, { name, change }) => rules.alterTopic(image, settings, name, change),
    'delete-topic': (image, { name }) => rules.deleteTopic(image, name, nowMs()),
    'connect-edge': (image, request) => rules.connectEdge(image, settings, request, nowMs()),
    'confirm-edge': (image, { edgeId, session }) => rules.confirmEdge(image, edgeId, session),
    'remove-edge': (image, { edgeId }) => rules.removeEdge(image, edgeId),
    'bind-lane': (image, request) => rules.bindLane(image, settings, request, context()),
    'reserve-producer-ids': image => rules.reserveProducerIds(image),
  }
  return (image, name, request) => {
    const rule = known[name]
    if (rule !== undefined) return rule(image, request)
    throw new TributaryError('invalid_argument', `the controller has no rule for "${name}"`)
  }
}

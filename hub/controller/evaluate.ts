import type { Context, ControllerSettings, Plan } from './controller.ts'
import * as rules from './controller.ts'
import type { Image } from './image.ts'
import { changeIsr } from './isr.ts'
import { drainNode, leave, registerNode, removeNode } from './nodes.ts'
import { balance, electUnclean, reassignTopic } from './operator.ts'
import type { CallName, CallRequest, CallResponse } from './requests.ts'

/** What a rule may not find out by itself. */
export interface RequestContext extends Context {
  /** The node that judges: the active controller's. */
  controllerId: number
}

type Rule<Name extends CallName> = (
  image: Image,
  settings: ControllerSettings,
  request: CallRequest<Name>,
  context: RequestContext,
) => Plan<CallResponse<Name>>

const RULES: { readonly [Name in CallName]: Rule<Name> } = {
  'create-topic': rules.createTopic,
  'topic-for-producer': (image, settings, { name }, context) =>
    rules.topicForProducer(image, settings, name, context),
  'alter-topic': (image, settings, { name, change }) => rules.alterTopic(image, settings, name, change),
  'delete-topic': (image, _settings, { name }, { nowMs }) => rules.deleteTopic(image, name, nowMs),
  'connect-edge': (image, settings, request, { nowMs }) => rules.connectEdge(image, settings, request, nowMs),
  'confirm-edge': (image, _settings, { edgeId, session }) => rules.confirmEdge(image, edgeId, session),
  'remove-edge': (image, _settings, { edgeId }) => rules.removeEdge(image, edgeId),
  'bind-lane': rules.bindLane,
  'reserve-producer-ids': image => rules.reserveProducerIds(image),
  'register-node': (image, _settings, request, { nowMs, controllerId }) =>
    registerNode(image, request, nowMs, controllerId),
  leave: (image, _settings, request, { nowMs }) => leave(image, request, nowMs),
  'change-isr': (image, _settings, request) => changeIsr(image, request),
  'drain-node': (image, _settings, request) => drainNode(image, request),
  'remove-node': (image, _settings, { nodeId }, { nowMs }) => removeNode(image, nodeId, nowMs),
  'reassign-topic': (image, settings, request) => reassignTopic(image, request, settings.defaultReplication),
  balance: image => balance(image),
  sync: () => ({ records: [], response: null }),
  'elect-unclean': (image, _settings, request) => electUnclean(image, request),
}

/**
 * Judges a request against an image: the records that would make it so and the response to give once they are committed. Changes
 * nothing; a refusal is a TributaryError, thrown, and no record.
 */
export function evaluate<Name extends CallName>(
  image: Image,
  settings: ControllerSettings,
  name: Name,
  request: CallRequest<Name>,
  context: RequestContext,
): Plan<CallResponse<Name>> {
  return RULES[name](image, settings, request, context)
}

import type { Env } from '../../../common/env.ts'
import type { ControllerSettings } from '../../controller/controller.ts'
import { evaluate } from '../../controller/evaluate.ts'
import { freshTopicId } from './fleet.ts'
import type { Judge } from './quorum/asking.ts'

/** The controller's rules with this node's settings, clock and chance. */
export function createJudge(
  env: Pick<Env, 'clock' | 'rng'>,
  settings: ControllerSettings,
  controllerId: number,
): Judge {
  return (image, name, request) => {
    const context = {
      nowMs: Math.round(env.clock.nowMs()),
      freshTopicId: freshTopicId(env),
      controllerId,
    }
    return evaluate(image, settings, name, request, context)
  }
}

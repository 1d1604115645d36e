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
  const nowMs = (): number => Math.round(env.clock.nowMs())
  return (image, name, request) => {
    // Few requests make a topic, and an id costs more than all else.
    const context = {
      nowMs: nowMs(),
      controllerId,
      get freshTopicId(): string {
        return freshTopicId(env)
      },
    }
    return evaluate(image, settings, name, request, context)
  }
}

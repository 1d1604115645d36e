import type { Logger } from 'pino'
import type { Env, Timer } from '../../../common/env.ts'
import { messageOf } from '../../../common/errors.ts'
import { SECOND_MS } from '../../../common/limits.ts'
import type { HubTime } from '../../replica/hub-time.ts'
import type { PartitionTable } from './partitions.ts'

/** Between two rounds of snapshots, expiry and retention. */
const MAINTENANCE_MS = 30 * SECOND_MS

/** Rounds of snapshots, expiry and retention until `stop`, which waits for the one under way. */
export function startMaintenance(
  env: Pick<Env, 'clock'>,
  hubTime: HubTime,
  partitions: PartitionTable,
  log: Logger,
) {
  const { clock } = env
  let timer: Timer | null = null
  let running: Promise<void> = Promise.resolve()
  let paused = false

  async function round(): Promise<void> {
    const retentionTimeMs = hubTime.retentionTimeMs(clock.nowMs(), clock.monotonicMs())
    const jumpMs = hubTime.jumpMs()
    if (jumpMs !== null && !paused) {
      log.error(
        { jumpMs },
        'the wall clock jumped by over an hour: retention is paused until it is back; restart the hub if it is right now',
      )
    }
    paused = jumpMs !== null
    for (const partition of partitions.open()) {
      try {
        await partition.maintain(retentionTimeMs)
      } catch (error) {
        log.warn({ reason: messageOf(error) }, 'maintenance of a partition failed; it is tried again')
      }
    }
  }

  function schedule(): void {
    timer = clock.setTimer(() => {
      running = round().finally(() => {
        if (timer !== null) schedule()
      })
    }, MAINTENANCE_MS)
  }

  schedule()
  return {
    stop: async (): Promise<void> => {
      timer?.cancel()
      timer = null
      await running
    },
  }
}

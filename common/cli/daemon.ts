import type { Logger } from 'pino'
import type { Clock } from '../env.ts'
import type { TributaryError } from '../errors.ts'
import { isTributaryError } from '../errors.ts'
import { SECOND_MS } from '../limits.ts'

/** After a failure what can still be closed has so long; what can't, such as a disk that hangs, is left. */
const CLOSE_AFTER_FAILURE_MS = 5 * SECOND_MS

/** Null where it was told to stop while it waited for others to start with. */
async function startOrStop(start: () => Promise<Daemon>, stop: AbortSignal): Promise<Daemon | null> {
  try {
    return await start()
  } catch (error) {
    if (stop.aborted && isTributaryError(error, 'closed')) return null
    throw error
  }
}

/** A running hub or edge. */
export interface Daemon {
  /** Drains, flushes and releases everything. */
  close(): Promise<void>
  /** Resolves where the process can't go on, such as after a failed fdatasync. */
  failed: Promise<TributaryError>
}

/**
 * Keeps a daemon until it is told to stop or fails. Returns after its orderly end; throws the failure, after what can still be
 * closed is closed, so that the process exits non-zero.
 */
export async function runDaemon(
  start: () => Promise<Daemon>,
  stop: AbortSignal,
  clock: Clock,
  log: Logger,
): Promise<void> {
  const daemon = await startOrStop(start, stop)
  if (daemon === null) return
  const stopped = new Promise<null>(resolve => {
    if (stop.aborted) resolve(null)
    stop.addEventListener('abort', () => resolve(null), { once: true })
  })
  const failure = await Promise.race([daemon.failed, stopped])
  log.info(failure === null ? 'stopping: draining what is in flight' : 'stopping after a failure')
  if (failure === null) {
    await daemon.close()
    log.info('stopped')
    return
  }
  const closed = daemon.close().catch((error: unknown) => {
    log.debug({ err: error }, 'closing after the failure failed too')
  })
  const timeUp = new Promise<void>(resolve => {
    clock.setTimer(resolve, CLOSE_AFTER_FAILURE_MS)
  })
  await Promise.race([closed, timeUp])
  throw failure
}

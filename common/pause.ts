import type { Clock } from './env.ts'

/** Resolves after `delayMs`. Keeps the process alive meanwhile only where told to, as what a caller waits for must. */
export function pause(clock: Pick<Clock, 'setTimer'>, delayMs: number, keepAlive = false): Promise<void> {
  return new Promise(resolve => {
    clock.setTimer(resolve, delayMs, keepAlive)
  })
}

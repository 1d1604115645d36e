import type { Clock } from '../../../../common/env.ts'

/** Waiting until asking the controller may help. */

/** Where no controller is known, and after one answered that it is none, it is tried again after so long. */
const RETRY_MS = 50

interface Waiter {
  resolve(): void
  reject(error: unknown): void
}

/** Those who wait. */
export interface Attempts {
  /** How often something happened so far. */
  events(): number
  /** Resolves after a while, or as soon as more happened than that. Rejects where `fail` comes. */
  next(since: number): Promise<void>
  wake(): void
  fail(error: unknown): void
}

/** Nobody waits yet. */
export function createAttempts(clock: Clock): Attempts {
  const waiting = new Set<Waiter>()
  let events = 0

  function settle(act: (waiter: Waiter) => void): void {
    events++
    const woken = [...waiting]
    waiting.clear()
    for (const waiter of woken) act(waiter)
  }

  return {
    events: () => events,
    next: since => {
      if (events !== since) return Promise.resolve()
      return new Promise((resolve, reject) => {
        const timer = clock.setTimer(() => {
          waiting.delete(waiter)
          resolve()
        }, RETRY_MS)
        const waiter: Waiter = {
          resolve: () => {
            timer.cancel()
            resolve()
          },
          reject: error => {
            timer.cancel()
            reject(error)
          },
        }
        waiting.add(waiter)
      })
    },
    wake: () => settle(waiter => waiter.resolve()),
    fail: error => settle(waiter => waiter.reject(error)),
  }
}

/** The promise, or what `late` gives at the deadline. */
export function within<T>(clock: Clock, running: Promise<T>, deadlineMs: number, late: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = clock.setTimer(() => resolve(late()), deadlineMs - clock.monotonicMs())
    running.then(resolve, reject).finally(() => timer.cancel())
  })
}

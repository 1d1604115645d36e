import type { Clock } from '../common/env.ts'

/** Real time as a Clock, for tests that wait for conditions rather than steer time. */
export const liveClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer: (callback, delayMs) => {
    const handle = setTimeout(callback, delayMs)
    handle.unref()
    return { cancel: () => clearTimeout(handle) }
  },
  soon: callback => void setImmediate(callback),
}

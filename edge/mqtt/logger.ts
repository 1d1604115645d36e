import type { Clock } from '../../common/env.ts'

/** What we need of pino. */
export interface Logger {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
}

const PERIOD_MS = 10_000
/** Lines a period; a client that reconnects in a loop must not fill the disk with its refusals. */
const MAX_LINES_PER_PERIOD = 200

/** Passes on so many lines a period and counts the rest, told with the first line of the next. */
export function limitLog(log: Logger, clock: Clock): Logger {
  let periodStartMs = clock.monotonicMs()
  let lines = 0
  const limited = (level: 'info' | 'warn') => (facts: object, message: string) => {
    const nowMs = clock.monotonicMs()
    if (nowMs - periodStartMs >= PERIOD_MS) {
      if (lines > MAX_LINES_PER_PERIOD) {
        log.warn({ lines: lines - MAX_LINES_PER_PERIOD }, 'lines about MQTT connections were left out')
      }
      periodStartMs = nowMs
      lines = 0
    }
    if (++lines <= MAX_LINES_PER_PERIOD) log[level](facts, message)
  }
  return {
    debug: (facts, message) => log.debug(facts, message),
    info: limited('info'),
    warn: limited('warn'),
  }
}

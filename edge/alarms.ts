/** What an operator of this edge should look at; kept until restart, newest text first, told once each to the log. */

export interface Alarm {
  kind: string
  /** Topic and lane it is about; null for the edge as a whole. */
  lane: string | null
  message: string
  count: number
  firstMs: number
  lastMs: number
}

/** Kinds times lanes remembered; the one raised longest ago goes. */
const MAX_ALARMS = 100

export interface Alarms {
  raise(kind: string, message: string, lane?: string): void
  list(): Alarm[]
}

/** `tell` is called for each alarm that is not raised already. */
export function createAlarms(nowMs: () => number, tell: (alarm: Alarm) => void): Alarms {
  const raised = new Map<string, Alarm>()
  return {
    raise: (kind, message, lane) => {
      const key = `${kind} ${lane ?? ''}`
      const atMs = Math.floor(nowMs())
      const old = raised.get(key)
      const alarm = {
        kind,
        lane: lane ?? null,
        message,
        count: (old?.count ?? 0) + 1,
        firstMs: old?.firstMs ?? atMs,
        lastMs: atMs,
      }
      raised.delete(key)
      raised.set(key, alarm)
      if (old === undefined) tell(alarm)
      const [oldest] = raised.keys()
      if (raised.size > MAX_ALARMS && oldest !== undefined) raised.delete(oldest)
    },
    list: () => [...raised.values()].reverse(),
  }
}

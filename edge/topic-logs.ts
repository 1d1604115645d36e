import type { DataDir, Log, LogOptions } from '../common/log/types.ts'

/** The logs of topics that are being opened. */
export interface TopicLogs {
  /** Opens the log `name` of `topic`, or gives it as an attempt that failed left it. */
  open(topic: string, name: string): Promise<Log>
  /** All of the topic's logs are in use. */
  complete(topic: string): void
  /** How many topics, `topic` left out, have logs open or being opened and are not complete. */
  incompleteBeside(topic: string): number
}

/**
 * A topic has several logs, and a full disk may come between the first and the last. A log is opened once, so what an attempt that
 * failed has opened is kept for the next. One attempt at a time for each topic.
 */
export function createTopicLogs(directory: DataDir, options: LogOptions): TopicLogs {
  const opened = new Map<string, Map<string, Log>>()
  return {
    open: async (topic, name) => {
      const logs = opened.get(topic) ?? new Map<string, Log>()
      opened.set(topic, logs)
      try {
        const log = logs.get(name) ?? (await directory.openLog(name, options))
        logs.set(name, log)
        return log
      } finally {
        if (logs.size === 0) opened.delete(topic)
      }
    },
    complete: topic => {
      opened.delete(topic)
    },
    incompleteBeside: topic => opened.size - (opened.has(topic) ? 1 : 0),
  }
}

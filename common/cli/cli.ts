import type { Readable, Writable } from 'node:stream'
import type { Logger } from 'pino'
import type { LogLevel } from '../config-values.ts'
import type { Env } from '../env.ts'

/** What commands get of the process that runs them; main.ts makes it of the real one. */
export interface Cli {
  stdin: Readable
  /** Data only; whatever is for people alone goes to `stderr`. */
  stdout: Writable
  stderr: Writable
  environment: Readonly<Record<string, string | undefined>>
  /** The real clock, disk and network, loaded when first asked for. */
  env(): Promise<Env>
  /** Logs to `stderr`: pretty on a terminal, else JSON lines. */
  logger(level: LogLevel): Promise<Logger>
  /**
   * From the first call on SIGTERM and SIGINT don't end the process but abort the signal, once; the second one
   * ends it at once.
   */
  stopSignal(): AbortSignal
}

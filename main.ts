#!/usr/bin/env node
/** The `tributary` command: wires the commands and the process they run in. */

// libuv reads it when its pool first starts, which is at the first asynchronous use of files, DNS or zlib: all of them
// come after this, for modules are loaded synchronously (test/main.test.ts looks at the threads). Files, DNS and
// compression share the pool, so that four threads would let cold reads hold up commits.
process.env.UV_THREADPOOL_SIZE ??= '16'

import { Command, CommanderError } from 'commander'
import type { Logger } from 'pino'
import type { Cli } from './common/cli/cli.ts'
import { addClusterCommands } from './common/cli/cluster.ts'
import { addConfigCommands } from './common/cli/config.ts'
import { addConsumeCommand } from './common/cli/consume.ts'
import { addEdgesCommands } from './common/cli/edges.ts'
import { addLogCommands } from './common/cli/log.ts'
import { addProduceCommand } from './common/cli/produce.ts'
import { addTopicsCommands } from './common/cli/topics.ts'
import type { LogLevel } from './common/config-values.ts'
import type { Env } from './common/env.ts'
import { isTributaryError, messageOf, systemErrorCode } from './common/errors.ts'
import { VERSION } from './common/version.ts'
import { demoCommand } from './demo/commands.ts'
import { addEdgeCommands } from './edge/commands.ts'
import { addUsersCommands } from './edge/commands-users.ts'
import { addHubCommands } from './hub/commands.ts'

/** The real process. */
function processCli(): Cli {
  let env: Promise<Env> | undefined
  let stop: AbortController | undefined
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    environment: process.env,
    env: () => {
      env ??= import('./common/env-node.ts').then(({ nodeEnv }) => nodeEnv())
      return env
    },
    logger: createLogger,
    stopSignal: () => {
      stop ??= abortOnSignals()
      return stop.signal
    },
  }
}

function abortOnSignals(): AbortController {
  const stop = new AbortController()
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const) {
    process.on(signal, () => {
      // The shells' way to say which signal ended a process.
      if (stop.signal.aborted) process.exit(128 + number)
      stop.abort()
    })
  }
  return stop
}

async function createLogger(level: LogLevel): Promise<Logger> {
  const { pino } = await import('pino')
  const formatters = { level: (label: string) => ({ level: label }) }
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters }
  if (!process.stderr.isTTY) return pino(options, pino.destination(2))
  const { default: pretty } = await import('pino-pretty')
  return pino(options, pretty({ destination: 2, sync: true, translateTime: 'SYS:HH:MM:ss.l' }))
}

function createProgram(cli: Cli): Command {
  const program = new Command('tributary')
    .description('IoT edge-to-cloud event hub: sensor data into durable, ordered, replayable streams')
    .version(VERSION, '-V, --version', 'print the version')
    .exitOverride()
    // `edge status --http` is not `edge --http`.
    .enablePositionalOptions()
    .showHelpAfterError('(--help shows how to use it)')
  addHubCommands(program, cli)
  addEdgeCommands(program, cli)
  program.addCommand(demoCommand(import.meta.filename).copyInheritedSettings(program))
  addTopicsCommands(program, cli)
  addProduceCommand(program, cli)
  addConsumeCommand(program, cli)
  addEdgesCommands(program, cli)
  addClusterCommands(program, cli)
  addLogCommands(program, cli)
  addConfigCommands(program, cli)
  addUsersCommands(program, cli)
  return program
}

/** Says what failed and returns the exit code: 0 for help and version, 1 for failures, 2 for a command line that makes no sense. */
function explain(error: unknown): number {
  // Commander has said it already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (isTributaryError(error)) {
    for (const line of error.message.split('\n')) process.stderr.write(`error: ${line}\n`)
  } else if (systemErrorCode(error) !== undefined) {
    process.stderr.write(`error: ${messageOf(error)}\n`)
  } else {
    const details = error instanceof Error ? (error.stack ?? error.message) : String(error)
    process.stderr.write(`error: this is a bug in tributary ${VERSION}, please report it:\n${details}\n`)
  }
  return 1
}

async function main(): Promise<void> {
  // A reader that has seen enough (`| head`) ends the command, and that is no error.
  process.stdout.on('error', error => {
    process.exit(systemErrorCode(error) === 'EPIPE' ? 0 : 1)
  })
  process.once('beforeExit', () => {
    process.stderr.write('error: the command came to a standstill; this is a bug, please report it\n')
    process.exit(1)
  })
  // Compose files pass on what is not set as empty.
  for (const [name, value] of Object.entries(process.env)) {
    if (name.startsWith('TRIBUTARY_') && value === '') delete process.env[name]
  }
  try {
    await createProgram(processCli()).parseAsync()
  } catch (error) {
    process.exitCode = explain(error)
  }
  // What is written to pipes is written later; exiting at once would cut it off.
  process.stdout.write('', () => process.stderr.write('', () => process.exit()))
}

await main()

/** `tributary demo`: the whole way from sensor to subscriber on this machine, and a proof that nothing was lost. */

import { Command, InvalidArgumentError, Option } from 'commander'

const positive = (text: string): number => {
  const value = Number(text)
  if (!(value > 0) || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number above 0.')
  return value
}

/** More would crowd one machine. */
const MAX_NODES = 9

const nodes = (text: string): number => {
  const value = Number(text)
  if (Number.isInteger(value) && value >= 1 && value <= MAX_NODES) return value
  throw new InvalidArgumentError(`Expected a whole number from 1 to ${MAX_NODES}.`)
}

interface Flags {
  seconds?: number
  csv?: string
  speed?: number
  kill?: true
  json?: true
  nodes: number
  qos: '0' | '1' | '2'
}

/** The demo command; `script` is what child processes are started from. */
export function demoCommand(script: string): Command {
  return new Command('demo')
    .description('Run hub, edge and MQTT publishers of real sensors here, and show that nothing is lost')
    .option('--seconds <n>', 'stop after n seconds', positive)
    .option('--csv <dir>', 'replay CSV files "timestamp,value" (one device a file, times in UTC) instead')
    .option('--speed <x>', 'replay x seconds of event time a second (default: as fast as it goes)', positive)
    .option('--kill', 'kill -9 hub and edge several times in mid-run and start them again')
    .option('--nodes <n>', 'hub nodes; with --kill the leader is killed, then others lead', nodes, 1)
    .option('--json', 'end with one line of JSON')
    .addOption(
      new Option('--qos <n>', 'MQTT quality of service of the publishers')
        .choices(['0', '1', '2'])
        .default('2'),
    )
    .addHelpText(
      'after',
      `
Examples:
  $ tributary demo
  $ tributary demo --seconds 15 --json
  $ tributary demo --csv readings/ --kill
  $ tributary demo --nodes 3 --kill

Exits 1 if a reading was lost, repeated or reordered.`,
    )
    .action(async (flags: Flags) => {
      const stop = new AbortController()
      const onSignal = (): void => {
        if (stop.signal.aborted) process.exit(130)
        stop.abort()
      }
      process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
      // Loaded here, so that the other commands don't carry an MQTT client and readers of sensors.
      const [{ nodeEnv }, { runDemo }] = await Promise.all([
        import('../common/env-node.ts'),
        import('./run.ts'),
      ])
      const report = await runDemo(
        {
          script,
          seconds: flags.seconds ?? null,
          csvDirectory: flags.csv ?? null,
          speed: flags.speed ?? null,
          kill: flags.kill === true,
          nodes: flags.nodes,
          qos: flags.qos === '0' ? 0 : flags.qos === '1' ? 1 : 2,
          out: process.stdout,
          signal: stop.signal,
        },
        nodeEnv(),
      )
      const bad = report.lost + report.duplicated + report.reordered
      if (flags.json === true) process.stdout.write(`${JSON.stringify(report)}\n`)
      else process.stdout.write(`${verdict(report.stored, report)}\n`)
      process.exitCode = bad === 0 ? 0 : 1
    })
}

function verdict(
  stored: number,
  report: { acked: number; lost: number; duplicated: number; reordered: number },
): string {
  return `${report.acked} readings acked, ${stored} stored: ${report.lost} lost, ${report.duplicated} duplicated, ${report.reordered} reordered`
}

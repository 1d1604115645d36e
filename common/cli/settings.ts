import type { Command } from 'commander'
import { Option } from 'commander'
import type { ConfigFlag, ConfigSources } from '../config.ts'
import type { Cli } from './cli.ts'

/** A flag of `hub` or `edge` and the keys of the config it sets. */
export interface SettingFlag {
  /** As commander writes it: `--mqtt <host:port>`. */
  flags: string
  description: string
  /** Usually one; a flag without argument sets them all to true. */
  paths: readonly string[]
}

/** Adds the flags of settings and `--config`. They have no defaults of commander's: those are the config's. */
export function withSettings(command: Command, settings: readonly SettingFlag[]): Command {
  for (const { flags, description } of settings) command.option(flags, description)
  return command.addOption(
    new Option('--config <file>', 'YAML file with the settings that have no flag').env('TRIBUTARY_CONFIG'),
  )
}

/** What was given on the command line and around it, for config.ts. */
export async function settingsFrom(
  command: Command,
  settings: readonly SettingFlag[],
  cli: Cli,
): Promise<ConfigSources> {
  const given: Record<string, unknown> = command.opts()
  const flags: ConfigFlag[] = []
  for (const setting of settings) {
    const option = new Option(setting.flags)
    const value = given[option.attributeName()]
    if (value === undefined) continue
    for (const path of setting.paths) flags.push({ flag: option.long ?? setting.flags, path, value })
  }
  const { disk } = await cli.env()
  const file = typeof given.config === 'string' ? given.config : undefined
  return { file, env: cli.environment, flags, readFile: path => disk.readFile(path) }
}

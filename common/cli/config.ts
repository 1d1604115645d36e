import type { Command } from 'commander'
import type { Cli } from './cli.ts'
import { examples } from './options.ts'
import { printJson } from './output.ts'

/** Adds `tributary config check`. */
export function addConfigCommands(program: Command, cli: Cli): void {
  const config = program
    .command('config')
    .description('Check config files')
    .addHelpText('after', examples('tributary config check edge.yaml'))
  config
    .command('check')
    .argument('<file>')
    .description('Check a config file and show the settings that a start with it would have')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${examples('tributary config check edge.yaml', 'tributary config check hub.yaml --json')}

A file has a section edge:, a section hub: or both:
  edge:
    hub: wss://hub.example:7600
    mqtt:
      maxPacketBytes: 512KiB`,
    )
    .action(async (file: string, flags: { json?: true }) => {
      const { checkConfigFile } = await import('../config.ts')
      const { disk } = await cli.env()
      const readFile = (path: string) => disk.readFile(path)
      const sections = await checkConfigFile({ file, env: cli.environment, flags: [], readFile })
      const settings = Object.fromEntries(sections.map(section => [section.role, section.settings]))
      if (flags.json) return printJson(cli.stdout, settings)
      const { stringify } = await import('yaml')
      cli.stdout.write(`# ${file}: OK; in effect:\n${stringify(settings)}`)
    })
}

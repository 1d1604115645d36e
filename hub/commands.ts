import type { Command } from 'commander'
import type { Cli } from '../common/cli/cli.ts'
import { runDaemon } from '../common/cli/daemon.ts'
import { examples } from '../common/cli/options.ts'
import type { SettingFlag } from '../common/cli/settings.ts'
import { settingsFrom, withSettings } from '../common/cli/settings.ts'

const SETTINGS: readonly SettingFlag[] = [
  { flags: '--data <dir>', description: 'data directory (default: ./data/hub)', paths: ['data'] },
  {
    flags: '--http <host:port>',
    description: 'where edges, subscribers, REST and metrics are served (default: 127.0.0.1:7600)',
    paths: ['http'],
  },
  {
    flags: '--token-file <file>',
    description: 'tokens that let clients and edges in, one a line',
    paths: ['tokenFile'],
  },
  {
    flags: '--allow-anonymous',
    description: 'listen beyond loopback without tokens',
    paths: ['allowAnonymous'],
  },
  {
    flags: '--log-level <level>',
    description: 'trace, debug, info, warn, error (default: info)',
    paths: ['logLevel'],
  },
]

/** Adds `tributary hub`. */
export function addHubCommands(program: Command, cli: Cli): void {
  const hub = program.command('hub').description('Run a hub node: it keeps the streams and serves them')
  withSettings(hub, SETTINGS)
    .addHelpText(
      'after',
      examples(
        'tributary hub',
        'tributary hub --data /var/lib/tributary --http 0.0.0.0:7600 --token-file tokens',
      ),
    )
    .action(() => runHub(hub, cli))
}

async function runHub(command: Command, cli: Cli): Promise<void> {
  const stop = cli.stopSignal()
  const { loadHubConfig } = await import('../common/config.ts')
  const config = await loadHubConfig(await settingsFrom(command, SETTINGS, cli))
  const [env, log, { startHub }] = await Promise.all([
    cli.env(),
    cli.logger(config.logLevel),
    import('./node.ts'),
  ])
  await runDaemon(() => startHub(config, env, log), stop, env.clock, log)
}

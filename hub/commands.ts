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
  { flags: '--node <id>', description: "this node's id in its cluster (default: 1)", paths: ['nodeId'] },
  {
    flags: '--peers <id@host:port,...>',
    description: 'nodes to found or join a cluster with, this one among them',
    paths: ['cluster.peers'],
  },
  {
    flags: '--peer-listen <host:port>',
    description: 'where to listen for other nodes (default: its entry in --peers, which is what they dial)',
    paths: ['cluster.peerListen'],
  },
  {
    flags: '--peer-secret-file <file>',
    description: 'what nodes prove to each other that they belong together by',
    paths: ['cluster.peerSecretFile'],
  },
  {
    flags: '--advertised-http <host:port>',
    description: 'where clients and edges are told to find this node (default: --http)',
    paths: ['cluster.advertisedHttp'],
  },
  { flags: '--rack <name>', description: 'replicas are spread over racks', paths: ['cluster.rack'] },
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
        'tributary hub --node 2 --peers 1@10.0.0.1:7700,2@10.0.0.2:7700,3@10.0.0.3:7700 --peer-secret-file secret',
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
  await runDaemon(() => startHub(config, env, log, stop), stop, env.clock, log)
}

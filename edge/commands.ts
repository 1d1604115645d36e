import type { Command } from 'commander'
import { Option } from 'commander'
import type { Cli } from '../common/cli/cli.ts'
import { runDaemon } from '../common/cli/daemon.ts'
import { examples } from '../common/cli/options.ts'
import type { SettingFlag } from '../common/cli/settings.ts'
import { settingsFrom, withSettings } from '../common/cli/settings.ts'
import { nearest } from '../common/suggest.ts'
import { printEdgeStatus } from './commands-status.ts'
import { growUnderLoad, startSmall } from './heap.ts'

const SETTINGS: readonly SettingFlag[] = [
  {
    flags: '--id <id>',
    description: 'name of this edge (default: <hostname>-<random>, made once)',
    paths: ['id'],
  },
  { flags: '--data <dir>', description: 'data directory (default: ./data/edge)', paths: ['data'] },
  {
    flags: '--hub <url,...>',
    description: 'the hub, by one of its nodes or several (default: ws://127.0.0.1:7600)',
    paths: ['hub'],
  },
  {
    flags: '--mqtt <host:port>',
    description: 'MQTT over TCP, or off (default: 127.0.0.1:1883)',
    paths: ['mqtt.listen'],
  },
  { flags: '--mqtt-tls <host:port>', description: 'MQTT over TLS', paths: ['mqtt.tls.listen'] },
  {
    flags: '--mqtt-tls-cert <file>',
    description: 'certificate chain for it (PEM)',
    paths: ['mqtt.tls.certFile'],
  },
  { flags: '--mqtt-tls-key <file>', description: 'private key for it (PEM)', paths: ['mqtt.tls.keyFile'] },
  {
    flags: '--mqtt-users <file>',
    description: 'MQTT users and passwords, made by tributary mqtt-users add',
    paths: ['mqtt.usersFile'],
  },
  {
    flags: '--http <host:port>',
    description: 'status, health and metrics, or off (default: 127.0.0.1:7601)',
    paths: ['http'],
  },
  { flags: '--token-file <file>', description: 'file with the token for the hub', paths: ['tokenFile'] },
  {
    flags: '--ca <file>',
    description: 'certificate authorities (PEM) to trust for a wss: hub',
    paths: ['ca'],
  },
  {
    flags: '--allow-anonymous',
    description: 'listen beyond loopback without users',
    paths: ['mqtt.allowAnonymous', 'httpAllowAnonymous'],
  },
  {
    flags: '--log-level <level>',
    description: 'trace, debug, info, warn, error (default: info)',
    paths: ['logLevel'],
  },
]

/** Adds `tributary edge` and `edge status`. */
export function addEdgeCommands(program: Command, cli: Cli): void {
  const edge = program
    .command('edge')
    .description('Run an edge agent: it takes MQTT and forwards it to a hub')
  withSettings(edge, SETTINGS)
    // Excess arguments are a mistyped `status`; commander would call them too many.
    .allowExcessArguments(true)
    .addHelpText(
      'after',
      examples(
        'tributary edge --hub wss://hub.example:7600 --token-file token --ca ca.pem',
        'tributary edge --mqtt 0.0.0.0:1883 --mqtt-users users --config edge.yaml',
        'tributary edge status',
      ),
    )
    .action(() => {
      refuseArguments(edge)
      return runEdge(edge, cli)
    })
  edge
    .command('status')
    .description('Show what a running edge has taken, sent and still holds; works while the hub is down')
    .addOption(
      new Option('--http <host:port>', "the edge's --http").env('TRIBUTARY_HTTP').default('127.0.0.1:7601'),
    )
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples('tributary edge status', 'tributary edge status --http 127.0.0.1:7701 --json'),
    )
    .action((_, status: Command) => {
      const { http, json }: { http: string; json?: true } = status.opts()
      return printEdgeStatus(cli, http, json === true)
    })
}

function refuseArguments(command: Command): void {
  const [unknown] = command.args
  if (unknown === undefined) return
  const near = nearest(unknown, ['status'])
  command.error(`error: unknown command '${unknown}'${near === null ? '' : `\n(Did you mean ${near}?)`}`, {
    code: 'commander.unknownCommand',
  })
}

async function runEdge(command: Command, cli: Cli): Promise<void> {
  startSmall()
  const stop = cli.stopSignal()
  const { loadEdgeConfig } = await import('../common/config.ts')
  const config = await loadEdgeConfig(await settingsFrom(command, SETTINGS, cli))
  const [env, log, { startEdge }] = await Promise.all([
    cli.env(),
    cli.logger(config.logLevel),
    import('./agent.ts'),
  ])
  growUnderLoad()
  await runDaemon(() => startEdge(config, env, log), stop, env.clock, log)
}

import type { Command } from 'commander'
import { InvalidArgumentError } from 'commander'
import type { TributaryClient } from '../client.ts'
import type { ClusterSummary, NodeSummary } from '../client-cluster.ts'
import { MAX_NODE_ID } from '../config-cluster.ts'
import { isTributaryError } from '../errors.ts'
import { SECOND_MS } from '../limits.ts'
import { pause } from '../pause.ts'
import type { Cli } from './cli.ts'
import type { ClientFlags } from './options.ts'
import { examples, positiveNumber, wholeNumber, withClient, withClientOptions } from './options.ts'
import { printJson, printTable } from './output.ts'
import { createProgress } from './progress.ts'

/** Between two looks at how far something is. */
const POLL_MS = SECOND_MS / 2

interface LongFlags extends ClientFlags {
  json?: true
  /** `--no-wait`. */
  wait: boolean
}

/** Adds `tributary cluster status|nodes|drain|remove|balance|reassign|elect-unclean`. */
export function addClusterCommands(program: Command, cli: Cli): void {
  const cluster = program
    .command('cluster')
    .description('Look at a cluster, and add, drain and remove its nodes')
    .addHelpText(
      'after',
      `${examples('tributary cluster status', 'tributary cluster drain 1', 'tributary cluster reassign telemetry --replication 3')}

A node is added by starting it: tributary hub --node 4 --peers 1@HOST:PORT,4@HOST:PORT`,
    )
  addStatus(cluster, cli)
  addNodes(cluster, cli)
  addDrain(cluster, cli)
  addRemove(cluster, cli)
  addBalance(cluster, cli)
  addReassign(cluster, cli)
  addElect(cluster, cli)
}

function addStatus(cluster: Command, cli: Cli): void {
  const status = cluster
    .command('status')
    .description('Show whether the cluster is well, and which partitions are not')
  withClientOptions(status)
    .option('--json', 'print JSON')
    .option('--wait', 'wait until every replica is in sync, as between the restarts of two nodes')
    .addHelpText(
      'after',
      examples(
        'tributary cluster status',
        'tributary cluster status --json',
        'tributary cluster status --wait',
      ),
    )
    .action((flags: ClientFlags & { json?: true; wait?: true }) =>
      withClient(cli, flags, async client => {
        if (flags.wait) await waitUntilNone(cli, 'bringing replicas in sync', () => outOfSync(client))
        const now = await client.cluster.status()
        if (flags.json) return printJson(cli.stdout, now)
        await printStatus(cli, now)
      }),
    )
}

async function outOfSync(client: TributaryClient): Promise<number> {
  const { leaderless, underReplicated, reassigning } = await client.cluster.status()
  return Math.max(leaderless, underReplicated, reassigning)
}

async function printStatus(cli: Cli, now: ClusterSummary): Promise<void> {
  const rows: [string, string | number][] = [
    ['cluster', now.clusterId],
    ['well', verdictOf(now)],
    ['controller', now.controllerId === null ? 'none' : `node ${now.controllerId} (term ${now.term})`],
    ['nodes active', `${now.activeNodes} of ${now.nodes}`],
    ['partitions', now.partitions],
    ['  without a leader', now.leaderless],
    ['  below min in-sync', now.belowMinInSync],
    ['  under-replicated', now.underReplicated],
    ['  being reassigned', now.reassigning],
  ]
  for (const [name, value] of rows) cli.stdout.write(`${name.padEnd(20)} ${value}\n`)
  if (now.unwell.length === 0) return
  const headings = ['topic', 'partition', 'leader', 'replicas', 'in sync', 'min in-sync']
  const unwell = now.unwell.map(({ topic, partition, leader, replicas, isr, minInSync }) => [
    ...[topic, partition, leader ?? 'none', replicas.join(' ')],
    ...[isr.join(' ') || 'none', minInSync],
  ])
  cli.stdout.write('\n')
  await printTable(cli.stdout, headings, unwell)
  if (!now.unwell.some(({ isr }) => isr.length === 0)) return
  cli.stdout.write(
    '\nWhere none is in sync, whoever had all records came back without them: start that node with the directory it had,\n' +
      'or let a replica go on with what it has: tributary cluster elect-unclean TOPIC PARTITION\n',
  )
}

/** The worst first, with what to do. */
function verdictOf(now: ClusterSummary): string {
  if (now.controllerId === null)
    return 'no: this node knows no controller; a majority of the voters must be up'
  if (now.leaderless > 0)
    return 'no: partitions without a leader are neither written nor read; start the nodes that hold them'
  if (now.belowMinInSync > 0)
    return 'no: partitions below min in-sync take no records; start the nodes that are missing'
  if (now.activeNodes < now.nodes) return 'no: nodes are missing; all partitions are served'
  return now.underReplicated > 0 ? 'not yet: replicas catch up' : 'yes'
}

function stateOf(node: NodeSummary): string {
  const roles = [node.isController ? 'controller' : node.isVoter ? 'voter' : '']
  return [node.state, ...roles].filter(word => word !== '').join(', ')
}

function addNodes(cluster: Command, cli: Cli): void {
  const nodes = cluster.command('nodes').description('List the nodes and what they hold')
  withClientOptions(nodes)
    .option('--json', 'print JSON')
    .addHelpText('after', examples('tributary cluster nodes', 'tributary cluster nodes --json'))
    .action((flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        const all = await client.cluster.nodes()
        if (flags.json) return printJson(cli.stdout, all)
        const headings = [
          'node',
          'state',
          'http',
          'peers',
          'rack',
          'leaders',
          'replicas',
          'out of sync',
          'software',
        ]
        const rows = all.map(node => [
          node.nodeId,
          stateOf(node),
          node.httpAddress,
          node.peerAddress ?? '',
          node.rack ?? '',
          node.leaders,
          node.replicas,
          node.outOfSync,
          node.software,
        ])
        await printTable(cli.stdout, headings, rows)
      }),
    )
}

function addDrain(cluster: Command, cli: Cli): void {
  const drain = cluster
    .command('drain')
    .argument('<node>', 'node id', nodeId)
    .description('Give all replicas of a node to the others; it goes on serving until it is removed')
  withLongOptions(drain)
    .option('--stop', 'let the node have replicas again')
    .addHelpText('after', examples('tributary cluster drain 1', 'tributary cluster drain 1 --stop'))
    .action((id: number, flags: LongFlags & { stop?: true }) =>
      withClient(cli, flags, async client => {
        await client.cluster.drain(id, !flags.stop)
        if (flags.stop)
          return say(cli, flags, { node: id, draining: false }, `node ${id} takes replicas again`)
        const left = async (): Promise<number> =>
          (await client.cluster.nodes()).find(node => node.nodeId === id)?.replicas ?? 0
        if (flags.wait) await waitUntilNone(cli, `draining node ${id}`, left)
        say(
          cli,
          flags,
          { node: id, replicasLeft: await left() },
          doneOr(flags, `node ${id} holds no replicas`),
        )
      }),
    )
}

function addRemove(cluster: Command, cli: Cli): void {
  const remove = cluster
    .command('remove')
    .argument('<node>', 'node id', nodeId)
    .description('Forget a node that is drained and stopped, or lost for good with its replicas elsewhere')
  withClientOptions(remove)
    .option('--json', 'print JSON')
    .addHelpText('after', examples('tributary cluster remove 1'))
    .action((id: number, flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        await client.cluster.remove(id)
        say(cli, flags, { node: id, removed: true }, `removed node ${id}`)
      }),
    )
}

function addBalance(cluster: Command, cli: Cli): void {
  const balance = cluster.command('balance').description('Give partitions back to their preferred leaders')
  withClientOptions(balance)
    .option('--json', 'print JSON')
    .addHelpText('after', examples('tributary cluster balance'))
    .action((flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        const answer = await client.cluster.balance()
        say(cli, flags, answer, `moved ${answer.moved} leaderships`)
      }),
    )
}

function addReassign(cluster: Command, cli: Cli): void {
  const reassign = cluster
    .command('reassign')
    .argument('<topic>')
    .description("Spread a topic's replicas over the nodes anew")
  withLongOptions(reassign)
    .option('--replication <n>', 'replicas of each partition (default: as many as now)', positiveNumber)
    .addHelpText('after', examples('tributary cluster reassign telemetry --replication 3'))
    .action((topic: string, flags: LongFlags & { replication?: number }) =>
      withClient(cli, flags, async client => {
        const answer = await client.cluster.reassign(topic, flags.replication)
        if (flags.wait) await waitUntilNone(cli, `reassigning ${topic}`, () => moving(client, topic))
        const text = doneOr(flags, `${answer.partitions} partitions of ${topic} are at their new places`)
        say(cli, flags, { topic, ...answer, moving: await moving(client, topic) }, text)
      }),
    )
}

async function moving(client: TributaryClient, topic: string): Promise<number> {
  const placements = await client.cluster.placement(topic)
  return placements.filter(({ adding, removing }) => adding.length + removing.length > 0).length
}

function addElect(cluster: Command, cli: Cli): void {
  const elect = cluster
    .command('elect-unclean')
    .argument('<topic>')
    .argument('<partition>', 'partition number', wholeNumber)
    .description('Let a partition go on that lost its last in-sync replica: what only others held is lost')
  withClientOptions(elect)
    .option('--json', 'print JSON')
    .addHelpText('after', examples('tributary cluster elect-unclean telemetry 7'))
    .action((topic: string, partition: number, flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        const answer = await client.cluster.electUnclean(topic, partition)
        say(cli, flags, answer, `node ${answer.leader} leads ${topic}/${partition}`)
      }),
    )
}

function withLongOptions(command: Command): Command {
  return withClientOptions(command)
    .option('--json', 'print JSON at the end')
    .option('--no-wait', 'return at once; cluster nodes and cluster status show how far it is')
}

function doneOr(flags: LongFlags, text: string): string {
  return flags.wait ? text : 'begun'
}

function say(cli: Cli, flags: { json?: true }, value: unknown, text: string): void {
  if (flags.json) printJson(cli.stdout, value)
  else cli.stdout.write(`${text}\n`)
}

/** Shows a bar on standard error until `left` gives 0. A node that can't answer just now is asked again. */
async function waitUntilNone(cli: Cli, what: string, left: () => Promise<number>): Promise<void> {
  const { clock } = await cli.env()
  const progress = createProgress(cli.stderr, clock, what)
  let total = 0
  for (;;) {
    const now = await leftNow(left)
    if (now !== null) {
      total = Math.max(total, now)
      progress.show(total - now, total)
      if (now === 0) break
    }
    await pause(clock, POLL_MS, true)
  }
  progress.end()
}

async function leftNow(left: () => Promise<number>): Promise<number | null> {
  try {
    return await left()
  } catch (error) {
    if (isTributaryError(error) && error.retriable) return null
    throw error
  }
}

function nodeId(text: string): number {
  const id = wholeNumber(text)
  if (id < 1 || id > MAX_NODE_ID) throw new InvalidArgumentError('Expected a node id, a whole number from 1.')
  return id
}

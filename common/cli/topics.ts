import type { Command } from 'commander'
import { Option } from 'commander'
import type { TopicSettings } from '../client-admin.ts'
import { TributaryError } from '../errors.ts'
import { formatDuration, formatSize } from '../units.ts'
import type { Cli } from './cli.ts'
import type { ClientFlags } from './options.ts'
import {
  durationOrOff,
  examples,
  positiveNumber,
  size,
  sizeOrOff,
  withClient,
  withClientOptions,
} from './options.ts'
import { printJson, printTable, showTime } from './output.ts'

interface SettingFlags extends ClientFlags {
  partitions?: number
  retentionMs?: number | 'off'
  retentionBytes?: number | 'off'
  segmentBytes?: number
  maxRecordBytes?: number
  minInsyncReplicas?: number | 'off'
  uncleanLeaderElection?: 'on' | 'off'
}

/** Adds `tributary topics list|create|describe|alter|delete`. */
export function addTopicsCommands(program: Command, cli: Cli): void {
  const topics = program
    .command('topics')
    .description('List, create, describe, alter and delete the topics of a hub')
    .addHelpText('after', examples('tributary topics list', 'tributary topics describe telemetry --json'))
  addList(topics, cli)
  addCreate(topics, cli)
  addDescribe(topics, cli)
  addAlter(topics, cli)
  addDelete(topics, cli)
}

function addList(topics: Command, cli: Cli): void {
  const list = topics.command('list').description('List topics')
  withClientOptions(list)
    .option('--json', 'print JSON')
    .addHelpText('after', examples('tributary topics list', 'tributary topics list --json'))
    .action((flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        const all = await client.topics.list()
        if (flags.json) return printJson(cli.stdout, all)
        const rows = all.map(topic => [
          topic.name,
          topic.partitions,
          topic.config.retentionMs === null ? 'for ever' : formatDuration(topic.config.retentionMs),
          formatSize(topic.config.maxRecordBytes),
          showTime(topic.createdMs),
        ])
        await printTable(cli.stdout, ['topic', 'partitions', 'retention', 'max record', 'created'], rows)
      }),
    )
}

function withSettingOptions(command: Command): Command {
  return withClientOptions(command)
    .option('--partitions <n>', 'number of partitions', positiveNumber)
    .option(
      '--retention-ms <duration>',
      'delete records older than this, such as 7d; off keeps them',
      durationOrOff,
    )
    .option(
      '--retention-bytes <size>',
      'keep at most this in each partition, such as 10GiB, or off',
      sizeOrOff,
    )
    .option('--segment-bytes <size>', 'size of the files of the log', size)
    .option('--max-record-bytes <size>', 'the largest record taken', size)
    .option(
      '--min-insync-replicas <n>',
      'replicas that must have a record before it is acked; off: two of three and more, one of fewer',
      countOrOff,
    )
    .addOption(
      new Option(
        '--unclean-leader-election <on|off>',
        'let a replica lead that lacks acked records when no other can: they are lost',
      ).choices(['on', 'off']),
    )
}

function countOrOff(text: string): number | 'off' {
  return text === 'off' ? 'off' : positiveNumber(text)
}

function settingsOf(flags: SettingFlags): Partial<TopicSettings> {
  const { retentionMs, retentionBytes, segmentBytes, maxRecordBytes, minInsyncReplicas } = flags
  const { uncleanLeaderElection } = flags
  return {
    ...(retentionMs === undefined ? {} : { retentionMs: orNull(retentionMs) }),
    ...(retentionBytes === undefined ? {} : { retentionBytes: orNull(retentionBytes) }),
    ...(segmentBytes === undefined ? {} : { segmentBytes }),
    ...(maxRecordBytes === undefined ? {} : { maxRecordBytes }),
    ...(minInsyncReplicas === undefined ? {} : { minInsyncReplicas: orNull(minInsyncReplicas) }),
    ...(uncleanLeaderElection === undefined ? {} : { uncleanLeaderElection: uncleanLeaderElection === 'on' }),
  }
}

function orNull(value: number | 'off'): number | null {
  return value === 'off' ? null : value
}

function addCreate(topics: Command, cli: Cli): void {
  const create = topics.command('create').argument('<topic>').description('Create a topic')
  withSettingOptions(create)
    .option(
      '--replication <n>',
      'replicas of each partition (default: what the hub is set to)',
      positiveNumber,
    )
    .addHelpText(
      'after',
      examples(
        'tributary topics create alarms',
        'tributary topics create telemetry --partitions 24 --retention-ms 30d --replication 3',
      ),
    )
    .action((name: string, flags: SettingFlags & { replication?: number }) =>
      withClient(cli, flags, async client => {
        const { partitions, replication } = flags
        const config = settingsOf(flags)
        const topic = await client.topics.create({
          name,
          config,
          ...(partitions === undefined ? {} : { partitions }),
          ...(replication === undefined ? {} : { replication }),
        })
        cli.stdout.write(`created ${topic.name} with ${topic.partitions.length} partitions\n`)
      }),
    )
}

function addDescribe(topics: Command, cli: Cli): void {
  const describe = topics
    .command('describe')
    .argument('<topic>')
    .description('Show a topic, its settings, how far each partition is and where its replicas are')
  withClientOptions(describe)
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples('tributary topics describe telemetry', 'tributary topics describe telemetry --json'),
    )
    .action((name: string, flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        const topic = await client.topics.describe(name)
        if (flags.json) return printJson(cli.stdout, topic)
        const { config } = topic
        const retention = config.retentionMs === null ? 'for ever' : formatDuration(config.retentionMs)
        const bytes =
          config.retentionBytes === null ? '' : ` and ${formatSize(config.retentionBytes)} a partition`
        cli.stdout.write(
          `${topic.name}  id ${topic.topicId}  created ${showTime(topic.createdMs)}\n` +
            `retention ${retention}${bytes}; segments ${formatSize(config.segmentBytes)}; ` +
            `records up to ${formatSize(config.maxRecordBytes)}\n` +
            `replication ${topic.replication ?? 'by default'}; ` +
            `in-sync replicas at least ${config.minInsyncReplicas ?? 'by default'}; ` +
            `unclean leader election ${config.uncleanLeaderElection ? 'on' : 'off'}\n\n`,
        )
        const headings = [
          ...['partition', 'start offset', 'end offset', 'high watermark', 'bytes'],
          ...['leader', 'replicas', 'in sync'],
        ]
        const known = (count: number): number | string => (count < 0 ? '?' : count)
        const rows = topic.partitions.map(partition => [
          partition.partition,
          known(partition.startOffset),
          known(partition.endOffset),
          known(partition.highWatermark),
          known(partition.sizeBytes),
          partition.leader ?? 'none',
          partition.replicas.join(' '),
          partition.isr.join(' '),
        ])
        await printTable(cli.stdout, headings, rows)
      }),
    )
}

function addAlter(topics: Command, cli: Cli): void {
  const alter = topics
    .command('alter')
    .argument('<topic>')
    .description('Change settings of a topic; partitions may only grow')
  withSettingOptions(alter)
    .addHelpText(
      'after',
      examples('tributary topics alter telemetry --retention-ms 90d --retention-bytes off'),
    )
    .action((name: string, flags: SettingFlags) => {
      const { partitions } = flags
      const config = settingsOf(flags)
      if (partitions === undefined && Object.keys(config).length === 0) {
        throw new TributaryError(
          'invalid_argument',
          'nothing to change: give at least one setting, see --help',
        )
      }
      return withClient(cli, flags, async client => {
        await client.topics.alter(name, { config, ...(partitions === undefined ? {} : { partitions }) })
        cli.stdout.write(`altered ${name}\n`)
      })
    })
}

function addDelete(topics: Command, cli: Cli): void {
  const remove = topics
    .command('delete')
    .argument('<topic>')
    .description('Delete a topic with all its records')
  withClientOptions(remove)
    .addHelpText('after', examples('tributary topics delete alarms'))
    .action((name: string, flags: ClientFlags) =>
      withClient(cli, flags, async client => {
        await client.topics.delete(name)
        cli.stdout.write(`deleted ${name}\n`)
      }),
    )
}

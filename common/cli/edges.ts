import type { Command } from 'commander'
import type { Cli } from './cli.ts'
import type { ClientFlags } from './options.ts'
import { examples, withClient, withClientOptions } from './options.ts'
import { printJson, printTable, showTime } from './output.ts'

/** Adds `tributary edges list|remove`. */
export function addEdgesCommands(program: Command, cli: Cli): void {
  const edges = program
    .command('edges')
    .description('List the edges that a hub knows, with their lag, and remove one')
    .addHelpText('after', examples('tributary edges list', 'tributary edges remove plant-7'))
  const list = edges.command('list').description('List edges')
  withClientOptions(list)
    .option('--json', 'print JSON')
    .addHelpText('after', examples('tributary edges list', 'tributary edges list --json'))
    .action((flags: ClientFlags & { json?: true }) =>
      withClient(cli, flags, async client => {
        const all = await client.edges.list()
        if (flags.json) return printJson(cli.stdout, all)
        const rows = all.map(edge => {
          const dropped = edge.report?.lanes.reduce((sum, lane) => sum + lane.droppedRecords, 0)
          return [
            edge.id,
            edge.connected ? 'connected' : 'away',
            edge.address,
            edge.software,
            showTime(edge.lastSeenMs),
            edge.lag?.records ?? '?',
            dropped ?? '?',
            edge.clockOffsetMs,
            edge.alarms.map(alarm => alarm.kind).join(' '),
          ]
        })
        const headings = [
          'edge',
          'state',
          'address',
          'software',
          'last seen',
          'lag records',
          'dropped',
          'clock offset ms',
          'alarms',
        ]
        await printTable(cli.stdout, headings, rows)
        for (const { id, alarms } of all) {
          for (const { kind, message } of alarms) cli.stdout.write(`alarm ${kind} of ${id}: ${message}\n`)
        }
      }),
    )
  const remove = edges
    .command('remove')
    .argument('<edge>')
    .description('Forget an edge and how far its records are; refused while it is connected')
  withClientOptions(remove)
    .addHelpText('after', examples('tributary edges remove plant-7'))
    .action((id: string, flags: ClientFlags) =>
      withClient(cli, flags, async client => {
        await client.edges.remove(id)
        cli.stdout.write(`removed ${id}\n`)
      }),
    )
}

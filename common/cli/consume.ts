import type { Command } from 'commander'
import { InvalidArgumentError, Option } from 'commander'
import type { TributaryClient } from '../client.ts'
import type { ConsumedGap, ConsumedRecord } from '../client-consume.ts'
import type { StartFrom } from '../client-cursors.ts'
import { isTributaryError, TributaryError } from '../errors.ts'
import type { Position } from '../position.ts'
import { POSITION_FORMS, parsePosition } from '../position.ts'
import { recordJson } from '../record-json.ts'
import type { Cli } from './cli.ts'
import type { ClientFlags } from './options.ts'
import { examples, positiveNumber, wholeNumber, withClient, withClientOptions } from './options.ts'
import { createOutput } from './output.ts'

const FORMATS = ['json', 'value', 'raw'] as const
type Format = (typeof FORMATS)[number]

interface ConsumeFlags extends ClientFlags {
  from: Position
  follow?: true
  count?: number
  partition?: number
  format: Format
}

/** Adds `tributary consume`. */
export function addConsumeCommand(program: Command, cli: Cli): void {
  const consume = program
    .command('consume')
    .argument('<topic>')
    .description('Print the records of a topic, up to its end as it stands now or, with --follow, on and on')
  withClientOptions(consume)
    .addOption(
      new Option('--from <position>', POSITION_FORMS)
        .argParser(position)
        .default({ kind: 'earliest' } satisfies Position, 'earliest'),
    )
    .option('-f, --follow', 'go on with new records until interrupted')
    .option('-n, --count <n>', 'end after so many records', positiveNumber)
    .option('-p, --partition <n>', 'only this partition', wholeNumber)
    .addOption(
      new Option(
        '--format <format>',
        'json: one object a line; value: one value a line; raw: values as they are',
      )
        .choices(FORMATS)
        .default('json'),
    )
    .addHelpText(
      'after',
      examples(
        'tributary consume telemetry --follow',
        'tributary consume telemetry --from 2026-01-31T12:00:00Z --count 10',
        'tributary consume telemetry --partition 0 --from 1200 --format value',
      ),
    )
    .action((topic: string, flags: ConsumeFlags) =>
      withClient(cli, flags, client => printRecords(topic, flags, client, cli)),
    )
}

async function printRecords(
  topic: string,
  flags: ConsumeFlags,
  client: TributaryClient,
  cli: Cli,
): Promise<void> {
  const { clock } = await cli.env()
  const output = createOutput(cli.stdout, clock)
  // By REST, which fails at once where the hub or the topic is not there; reading then outlasts restarts of the hub.
  const { partitions } = await client.topics.describe(topic)
  const batches = client.consumeBatches(topic, {
    from: startFrom(flags, partitions),
    follow: flags.follow === true,
    signal: cli.stopSignal(),
    onGap: gap => cli.stderr.write(`${describeGap(gap)}\n`),
    ...(flags.follow === true ? { unreachableMs: Number.POSITIVE_INFINITY } : {}),
    ...(flags.count === undefined ? {} : { count: flags.count }),
    ...(flags.partition === undefined ? {} : { partitions: [flags.partition] }),
  })
  const print = PRINTERS[flags.format]
  try {
    for await (const records of batches) {
      for (const record of records) {
        for (const piece of print(record)) {
          const full = output.write(piece)
          if (full !== undefined) await full
        }
      }
    }
  } catch (error) {
    throw inTermsOfFlags(error, topic)
  } finally {
    await output.flush()
  }
}

/** The SDK speaks of its options. */
function inTermsOfFlags(error: unknown, topic: string): unknown {
  if (!isTributaryError(error, 'offset_out_of_range')) return error
  const { partition, offset, startOffset, highWatermark } = error.details
  return new TributaryError(
    'offset_out_of_range',
    `${topic} partition ${partition} has no offset ${offset}: its first is ${startOffset}, its next will be ${highWatermark}. ` +
      'Choose --from earliest, latest, or one from the first to the next',
    { cause: error, details: error.details },
  )
}

/** An offset counts in each partition; where all are read, one that does not reach so far is read from its nearest end. */
function startFrom(
  { from, partition }: ConsumeFlags,
  partitions: readonly { partition: number; startOffset: number; highWatermark: number }[],
): StartFrom | Map<number, StartFrom> {
  if (from.kind === 'time') return new Date(from.timeMs)
  if (from.kind !== 'offset') return from.kind
  if (partition !== undefined) return from.offset
  return new Map(
    partitions.map(({ partition, startOffset, highWatermark }) => [
      partition,
      Math.min(Math.max(from.offset, startOffset), highWatermark),
    ]),
  )
}

function describeGap(gap: ConsumedGap): string {
  const count = gap.count === null ? 'an unknown number of' : String(gap.count)
  const where = `partition ${gap.partition} at offset ${gap.offset}`
  return `gap: ${count} records of edge ${gap.edge ?? '?'} are missing in ${gap.topic}, ${where}: ${gap.reason ?? '?'}`
}

const PRINTERS: Record<Format, (record: ConsumedRecord) => (string | Uint8Array)[]> = {
  json: record => [recordJson(record.topic, record.partition, record), '\n'],
  value: record => [record.value ?? '', '\n'],
  raw: record => (record.value === null ? [] : [record.value]),
}

function position(text: string): Position {
  const parsed = parsePosition(text)
  if (parsed === null) throw new InvalidArgumentError(`Expected ${POSITION_FORMS}.`)
  return parsed
}
